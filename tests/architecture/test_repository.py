"""What lies in the repository works on any machine: no path of one machine, no package registry by name.

Patterns are spelt so that they do not find themselves.
"""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

FORBIDDEN = {
    "a path of somebody's machine": re.compile(rb"(?<![\w.}~])/(?:wor[k]|roo[t])/"),
    "the name of a package registry": re.compile(
        rb"py[p]i\.org|python[h]osted\.org|registry\.np[m]js|registry\.yar[n]pkg|proxy\.gol[a]ng",
        re.IGNORECASE,
    ),
    "a number in somebody's issue tracker": re.compile(rb"\bissue #?\d", re.IGNORECASE),
}


def tracked() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name.decode() for name in listing.stdout.split(b"\0") if name]
    return [path for path in paths if path.is_file()]


def forbidden(text: bytes) -> list[str]:
    return [what for what, pattern in FORBIDDEN.items() if pattern.search(text)]


@pytest.mark.parametrize(
    "parts",
    [("open /wo", "rk/main"), ("https://PyPI", ".org/simple"), ("see is", "sue #12"), ("cd /ro", "ot/x")],
)
def test_a_forbidden_word_is_found(parts):
    assert forbidden("".join(parts).encode())


@pytest.mark.parametrize("text", [b"/var/work/x", b"{data}/work/", b"~/root/", b"an issue of 3", b"chroot/"])
def test_an_innocent_word_is_not(text):
    assert not forbidden(text)


def test_files_name_no_machine_and_no_registry():
    found = [
        f"{path.relative_to(ROOT)}: {what}" for path in tracked() for what in forbidden(path.read_bytes())
    ]
    assert not found, "\n".join(found)


def test_nothing_generated_is_tracked():
    generated = [
        path.relative_to(ROOT).as_posix()
        for path in tracked()
        if {"node_modules", "__pycache__", ".venv", "dist"} & set(path.parts)
    ]
    assert not generated
