"""The generated pages follow the code, and what the README shows works."""

import importlib.util
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pillarbox.config import parse
from pillarbox.service import _FIXED

ROOT = Path(__file__).resolve().parents[2]


def generator():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs/generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", generator().pages())
def test_generated_pages_are_up_to_date(name):
    assert (ROOT / "docs/reference" / name).read_text() == generator().pages()[name], "run `make docs`"


def test_the_readme_is_short_and_its_links_lead_somewhere():
    text = (ROOT / "README.md").read_text()
    assert len(text.split("\n")) <= 101
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / target).exists(), target


def test_the_example_in_the_readme_refuses_the_message():
    program = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    assert "No raffles here" in done.stdout


def test_the_metrics_that_the_guides_name_exist():
    known = set(re.findall(r"`(pillarbox_\w+)`", generator().pages()["metrics.md"]))
    for page in (ROOT / "docs/howto").glob("*.md"):
        for name in re.findall(r"\bpillarbox_\w+", page.read_text()):
            assert re.sub(r"_(bucket|sum|count)$", "", name) in known, (page.name, name)


def test_the_threat_model_names_tests_that_exist():
    for file, name in re.findall(
        r"`(\w+/test_\w+\.py)(?:::(\w+))?`", (ROOT / "docs/explanation/threat-model.md").read_text()
    ):
        assert f"def {name or 'test_'}" in (ROOT / "tests" / file).read_text(), (file, name)


def test_the_examples_of_explain_and_lint_print_what_is_shown(tmp_path):
    page = (ROOT / "docs/howto/understand-a-refusal.md").read_text()
    for block in re.findall(r"^```\n(.*?)\n```$", page, re.DOTALL | re.MULTILINE):
        command, _, shown = block.removeprefix("$ ").partition("\n")
        if command.startswith("cat "):
            (tmp_path / command.removeprefix("cat ")).write_text(shown + "\n")
            continue
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["/bin/sh", "-c", f"{command} 2>&1"],
            cwd=tmp_path,
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.stdout.rstrip() == shown


def test_the_guide_to_reloading_names_all_that_needs_a_restart():
    page = (ROOT / "docs/howto/run-under-systemd.md").read_text()
    row = re.search(r"^\| by a restart \|.*$", page, re.MULTILINE)[0]
    assert {name for name in re.findall(r"`\[*(\w+)\]*`", row) if name != "proxy_protocol"} == set(_FIXED)


def toml_blocks():
    """Each TOML example of the documents, with the place where it stands."""
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for block in re.finditer(r"^( *)```toml\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE):
            line = page.read_text()[: block.start()].count("\n") + 2
            yield pytest.param(textwrap.dedent(block[2]), id=f"{page.relative_to(ROOT)}:{line}")


@pytest.mark.parametrize("text", list(toml_blocks()))
def test_an_example_of_a_configuration_can_be_used(text):
    parse(text, "example")


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target
