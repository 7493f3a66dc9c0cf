"""The reference of replies as its readers use it: whole, linked, searched in a real browser, safe to open."""

import html.parser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pillarbox.console import site
from pillarbox.diagnose.dialects import book
from pillarbox.mail.catalogue import CAUSES, is_outward, registry

TRANSCRIPTS = Path(__file__).parents[2] / "docs/transcripts"
BROWSER = shutil.which("chromium")
SILENT = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("site") / "reference"
    site.build(TRANSCRIPTS, target)
    return target


class Page(html.parser.HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, text):
        super().__init__()
        self.links, self.anchors = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if "id" in values:
            self.anchors.add(values["id"])
        self.links += [values[name] for name in ("href", "src") if name in values]


def test_every_code_status_and_receiver_has_its_page(folder):
    for code in registry.codes():
        assert (folder / f"code/{code}.html").exists()
    for key in registry.statuses():
        assert (folder / f"status/x.{key}.html").exists()
    for dialect in book().dialects:
        assert (folder / f"receiver/{dialect}.html").exists()


def test_all_links_lead_somewhere_and_nowhere_outside(folder):
    pages = {path: Page(path.read_text()) for path in folder.rglob("*.html")}
    for path, page in pages.items():
        for link in page.links:
            name, _, anchor = link.partition("#")
            target = (path.parent / name).resolve() if name else path
            assert target.is_relative_to(folder.resolve())
            assert target.exists(), f"{path.name}: {link}"
            assert not anchor or anchor in pages[target].anchors, f"{path.name}: {link}"


def test_what_the_search_finds_exists(folder):
    pages = {path.relative_to(folder).as_posix(): Page(path.read_text()) for path in folder.rglob("*.html")}
    for link in re.findall(r'"u":"([^"]*)"', (folder / "search-index.js").read_text()):
        name, _, anchor = link.partition("#")
        assert name in pages
        assert not anchor or anchor in pages[name].anchors


def test_each_scenario_has_its_recorded_transcript_in_which_its_code_is_said(folder):
    spoken = [cause for cause in CAUSES.values() if not is_outward(cause)]  # the others are recorded
    known = {scenario for cause in spoken for scenario in cause.scenarios}
    recorded = site.read_dialogues(TRANSCRIPTS)
    assert sorted(known - recorded.keys()) == [], "run `make transcripts`"
    assert sorted(recorded.keys() - known) == [], "run `make transcripts`"
    for scenario, dialogue in recorded.items():
        codes = tuple(str(cause.code) for cause in spoken if scenario in cause.scenarios)
        assert any(mark == "S" and text.startswith(codes) for mark, text in dialogue.lines), scenario
    for cause in spoken:
        page = (folder / f"code/{cause.code}.html").read_text()
        assert all(f"{scenario}, recorded by" in page for scenario in cause.scenarios)


def test_hostile_words_in_a_transcript_stay_words(tmp_path):
    talk = tmp_path / "talk"
    talk.mkdir()
    (talk / "E550-1.txt").write_text('# a test\nC: <script>alert(1)</script>\nS: 550 5.1.1 "><img src=x>\n')
    site.build(talk, tmp_path / "out")
    text = (tmp_path / "out/code/550.html").read_text()
    assert "<script>alert" not in text
    assert "<img" not in text
    assert "&lt;script&gt;alert(1)" in text


@pytest.mark.skipif(BROWSER is None, reason="chromium is not installed")
@pytest.mark.parametrize(
    ("question", "link"),
    [
        ("550", "code/550.html"),
        ("5.7.30", "status/x.7.30.html"),
        ("TSS04", "receiver/yahoo.html"),
        ("S3150", "receiver/"),
        ("relaying denied", "code/550.html#envelope.relay_denied"),
        ("E452-2", "code/452.html"),
    ],
)
def test_a_reader_finds_pages_by_code_phrase_and_token(folder, tmp_path, question, link):
    url = f"file://{folder}/index.html?q={question.replace(' ', '%20')}"
    done = subprocess.run(
        [BROWSER, *SILENT, f"--user-data-dir={tmp_path}", "--dump-dom", url],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found = re.search(r'<ol id="found"[^>]*>(.*?)</ol>', done.stdout, re.DOTALL)[1]
    assert link in re.search(r'href="([^"]*)"', found)[1]
