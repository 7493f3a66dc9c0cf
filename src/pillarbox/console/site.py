"""Write the reference of replies as a static site: a page a code, a status and a receiver, a matrix, and a search.

What the pages say comes from the catalogue, the registry, the patterns of other hosts and the recorded transcripts; how
they look from the templates beside. Serving them is `console.api`'s business.
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from importlib import resources
from typing import TYPE_CHECKING

import jinja2
import msgspec

from pillarbox.diagnose.dialects import ANYBODY, Dialect, Pattern, book
from pillarbox.mail.catalogue import CAUSES, registry
from pillarbox.mail.catalogue.registry import Meaning
from pillarbox.mail.reply import Cause, Reply, Stage, parse_reply

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

ASSETS = ("site.css", "search.js")
CLASSES = {
    2: ("Done", "The command was carried out."),
    3: ("Go on", "The server waits for more."),
    4: ("Try again", "Not now; the same may work later."),
    5: ("Never", "Refused for good; the same again will not help."),
}
SUBJECTS = {
    "0": "No detail",
    "1": "The address",
    "2": "The mailbox",
    "3": "The mail system",
    "4": "Network and routing",
    "5": "The protocol",
    "6": "The content",
    "7": "Security and policy",
}
# The order in which a session comes to them.
STAGES = tuple(stage for stage in Stage if stage not in (Stage.LOCAL, Stage.DNS, Stage.CONNECT, Stage.TLS))


class Dialogue(msgspec.Struct, frozen=True):
    """What a client and this server really said to each other in the test of a scenario."""

    test: str
    lines: tuple[tuple[str, str], ...]  # ("C" or "S" or a remark's "#", text)


class Material(msgspec.Struct, frozen=True):
    """All that the pages are made of."""

    dialogues: dict[str, Dialogue]
    by_code: dict[int, list[Cause]] = msgspec.field(default_factory=lambda: defaultdict(list))
    by_status: dict[str, list[Cause]] = msgspec.field(default_factory=lambda: defaultdict(list))  # "1.1"
    heard_code: dict[int, list[Pattern]] = msgspec.field(default_factory=lambda: defaultdict(list))
    heard_status: dict[str, list[Pattern]] = msgspec.field(default_factory=lambda: defaultdict(list))
    by_dialect: dict[str, list[Pattern]] = msgspec.field(default_factory=lambda: defaultdict(list))


def read_dialogues(folder: Path) -> dict[str, Dialogue]:
    """The recorded transcripts in a folder, by scenario: "E550-1". The first line of each file names its test."""
    found = {}
    for file in sorted(folder.glob("E*.txt")):
        test, *lines = file.read_text("utf-8").splitlines()
        said = [line.partition(" ")[::2] for line in lines]
        found[file.stem] = Dialogue(
            test.removeprefix("# "), tuple((mark.rstrip(":"), text) for mark, text in said)
        )
    return found


def gather(dialogues: dict[str, Dialogue]) -> Material:
    """Sort everything that is known by the pages it belongs to."""
    material = Material(dialogues)
    for cause in CAUSES.values():
        material.by_code[cause.code].append(cause)
        if cause.status:
            material.by_status[cause.status.partition(".")[2]].append(cause)
    for pattern in book().patterns:
        material.by_dialect[pattern.dialect].append(pattern)
        samples = [reply for sample in pattern.samples if (reply := _reply(sample)) is not None]
        for code in dict.fromkeys(reply.code for reply in samples):
            material.heard_code[code].append(pattern)
        for key in dict.fromkeys(reply.status.partition(".")[2] for reply in samples if reply.status):
            material.heard_status[key].append(pattern)
    return material


def _reply(sample: str) -> Reply | None:
    """A sample as a reply; None for words without a code, as bounces have them."""
    try:
        return parse_reply([line.encode() for line in sample.split("\n")])
    except ValueError:
        return None


def build(transcripts: Path, target: Path) -> int:
    """Write the whole site into the folder `target`, replacing what is there; how many pages. Raises OSError."""
    material = gather(read_dialogues(transcripts))
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    site = _Site(target, material)
    site.write_all()
    return site.pages


class _Site:
    """The pages that are written one after another, and the words under which the search finds them."""

    def __init__(self, target: Path, material: Material) -> None:
        self._target = target
        self._material = material
        self._index: list[dict[str, str]] = []
        self.pages = 0
        self._templates = jinja2.Environment(
            loader=jinja2.PackageLoader("pillarbox.console", "templates"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )
        self._templates.globals.update(
            classes=CLASSES,
            subjects=SUBJECTS,
            dialogues=material.dialogues,
            codes=registry.codes(),
            registered=registry.statuses(),
            dialects=book().dialects,
        )

    def write_all(self) -> None:
        for code, meaning in registry.codes().items():
            self._write_code(code, meaning)
        for key, meaning in registry.statuses().items():
            self._write_status(key, meaning)
        for dialect in book().dialects.values():
            self._write_dialect(dialect)
        self._write_matrix()
        self._write("index.html", "index", "")
        for name in ASSETS:
            text = resources.files("pillarbox.console").joinpath("templates", name).read_text("utf-8")
            (self._target / name).write_text(text, "utf-8")
        # A script and no JSON file, because pages that are opened from a disk may not fetch.
        entries = json.dumps(self._index, ensure_ascii=True, separators=(",", ":"))
        (self._target / "search-index.js").write_text(f"window.SEARCH_INDEX={entries};\n", "utf-8")

    def _write(self, name: str, template: str, root: str, **values: object) -> None:
        page = self._templates.get_template(f"{template}.html").render(root=root, **values)
        path = self._target / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(page, "utf-8")
        self.pages += 1

    def _find(self, key: str, title: str, url: str, words: Iterable[str], names: str = "") -> None:
        """Enter a page. `names` are what it is about as well as `key`: whoever types one of them means this page."""
        self._index.append({"k": key, "t": title, "u": url, "n": names, "w": " ".join(words).lower()})

    def _write_code(self, code: int, meaning: Meaning) -> None:
        causes, heard = self._material.by_code[code], self._material.heard_code[code]
        url = f"code/{code}.html"
        self._write(url, "code", "../", code=code, meaning=meaning, causes=causes, heard=heard)
        self._find(str(code), meaning.name, url, (meaning.meaning, meaning.explanation))
        for cause in causes:
            words = (cause.id, cause.text, cause.meaning, cause.setting, *cause.scenarios)
            self._find(f"{code} {cause.status}".strip(), cause.meaning, f"{url}#{cause.id}", words)

    def _write_status(self, key: str, meaning: Meaning) -> None:
        causes, heard = self._material.by_status[key], self._material.heard_status[key]
        others = [one.title for one in book().dialects.values() if _redefines(one, key)]
        url = f"status/x.{key}.html"
        self._write(url, "status", "../", key=key, meaning=meaning, causes=causes, heard=heard, others=others)
        numbers = " ".join(f"{first}.{key}" for first in "245")
        self._find(
            f"X.{key}", meaning.name, url, (meaning.meaning, meaning.explanation), f"x.{key} {numbers}"
        )

    def _write_dialect(self, dialect: Dialect) -> None:
        heard = self._material.by_dialect[dialect.id]
        url = f"receiver/{dialect.id}.html"
        self._write(url, "receiver", "../", dialect=dialect, heard=heard, anybody=dialect.id == ANYBODY)
        self._find(dialect.title, "what this receiver says", url, (dialect.id, *dialect.hosts))
        for pattern in heard:
            words = (*pattern.samples, *pattern.written, pattern.condition, dialect.title)
            self._find(dialect.title, pattern.cause.meaning, f"{url}#{pattern.id}", words)

    def _write_matrix(self) -> None:
        causes = self._material.by_code
        ours = {
            code: {stage for cause in causes[code] for stage in cause.stages} for code in registry.codes()
        }
        self._write("matrix.html", "matrix", "", stages=STAGES, ours=ours)


def _redefines(dialect: Dialect, key: str) -> bool:
    """Whether this receiver means something else by a status than the registry does."""
    redefined = dialect.redefines
    return redefined is not None and any(redefined.fit(0, first, f"{first}.{key}") for first in (4, 5))
