"""The patterns by which other hosts' replies are known, read from `dialects.toml` and indexed for quick search.

A text is reduced to its words first (`Words`), so punctuation, line ends and capitals never matter. Which pattern counts
for a reply, and what follows from it, is `classify`'s business.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import msgspec

from pillarbox.diagnose.causes import PeerCause, Retry, Suppress, peer_causes
from pillarbox.mail.reply import Stage

ANYBODY = "any"
MAX_TEXT = 8192
_WORD = re.compile(r"[^\W_]+")
_ADDRESS = re.compile(r"[\w.+=~/-]{1,64}@[\w.-]{1,255}")
_GAP = " ... "
_START = 3  # so many letters of a word tell it from most others


class Words(msgspec.Struct, frozen=True):
    """A text as its words in lower case; `text` has one blank before, between and behind them."""

    text: str
    found: frozenset[str]
    starts: frozenset[str]  # their first letters

    @classmethod
    def of(cls, text: str) -> Words:
        """The words of at most the first 8 KiB. Those of an address say who, never why: they do not count."""
        text = text[:MAX_TEXT].lower()
        if "@" in text:
            text = _ADDRESS.sub(" ", text)
        words = _WORD.findall(text)
        return cls(f" {' '.join(words)} ", frozenset(words), frozenset(word[:_START] for word in words))


class Fragment(msgspec.Struct, frozen=True):
    """Words that have to stand in a text in this order; between the `parts` anything may stand."""

    parts: tuple[str, ...]
    anchors: tuple[str, ...]  # the whole words in it

    @classmethod
    def of(cls, text: str) -> Fragment:
        """Read it as it is written in the data: " ... " is a gap, a star the rest of a word."""
        parts, anchors = [], []
        for part in text.lower().split(_GAP):
            words = []
            for word in part.split():
                stem, star = word.removesuffix("*"), word.endswith("*")
                pieces = _WORD.findall(stem)
                words += pieces
                anchors += pieces[:-1] if star else pieces
            parts.append(f" {' '.join(words)}" + ("" if part.endswith("*") else " "))
        return cls(tuple(parts), tuple(anchors))

    def fits(self, text: str) -> bool:
        """Whether it is in the text of `Words`."""
        if len(self.parts) == 1:
            return self.parts[0] in text
        at = 0
        for part in self.parts:
            at = text.find(part, at)
            if at < 0:
                return False
            at += len(part) - 1  # the blank behind may be the one before the next
        return True


class Numbers(msgspec.Struct, frozen=True):
    """A condition on code and status: "5", "450 451"; "x.7.26", "5.7.606-649", "x.7.*". Empty is all."""

    codes: tuple[str, ...]
    statuses: tuple[tuple[str, str, range], ...]  # class or "x", subject or "*", details

    @classmethod
    def of(cls, codes: str, statuses: str) -> Numbers:
        """Read it as it is written in the data."""
        return cls(tuple(codes.split()), tuple(_status(one) for one in statuses.split()))

    def fit(self, code: int, first: int, status: str) -> bool:
        """Whether these numbers meet it; `first` is the class that counts, and 0 if nothing tells one."""
        return (not self.codes or self._fits_code(code, first)) and (
            not self.statuses or self._fits_status(first, status)
        )

    def _fits_code(self, code: int, first: int) -> bool:
        if code:
            return str(code).startswith(self.codes)
        return not first or str(first) in self.codes

    def _fits_status(self, first: int, status: str) -> bool:
        if not status:
            return False
        _, subject, detail = status.split(".")
        return any(
            wanted in ("x", str(first)) and about == subject and int(detail) in details
            for wanted, about, details in self.statuses
        )


def _status(text: str) -> tuple[str, str, range]:
    first, subject, detail = text.split(".")
    if detail == "*":
        return first, subject, range(1000)
    low, _, high = detail.partition("-")
    return first, subject, range(int(low), int(high or low) + 1)


class Dialect(msgspec.Struct, frozen=True):
    """Somebody who words replies in a way of their own."""

    id: str
    title: str
    hosts: tuple[str, ...]  # ends of the names of its mail exchangers
    signs: tuple[Fragment, ...]
    source: str
    redefines: Numbers | None = None  # statuses that mean other things here than in the registry


class Pattern(msgspec.Struct, frozen=True, eq=False):
    """One entry of the data: how a certain reply is known, and its cause."""

    id: str
    dialect: str
    numbers: Numbers
    words: tuple[Fragment, ...]
    cause: PeerCause
    retry: Retry | None
    wait_s: float | None
    suppress: Suppress | None
    own: bool
    weak: bool
    source: str
    written: tuple[str, ...]  # the words as they stand in the data
    condition: str  # code and status, as they stand in the data
    samples: tuple[str, ...]


class Default(msgspec.Struct, frozen=True):
    """What numbers mean without words."""

    numbers: Numbers
    stages: frozenset[Stage]
    cause: PeerCause
    weak: bool
    code: str  # as it stands in the data, like the status
    status: str


class _Index:
    """Things by a word that their fragment needs, so that most are never looked at."""

    def __init__(self, entries: Iterable[tuple[int, Fragment]]) -> None:
        entries = list(entries)
        usual = Counter(word for _, fragment in entries for word in fragment.anchors)
        self._by_word: dict[str, list[tuple[int, Fragment]]] = {}
        self._by_start: dict[str, list[tuple[int, Fragment]]] = {}
        for number, fragment in entries:
            if fragment.anchors:
                rarest = min(fragment.anchors, key=lambda word: (usual[word], -len(word)))
                self._by_word.setdefault(rarest, []).append((number, fragment))
            else:
                start = fragment.parts[0].strip()[:_START]
                self._by_start.setdefault(start, []).append((number, fragment))

    def find(self, words: Words) -> set[int]:
        """The numbers of those that are in the text."""
        text = words.text
        found: set[int] = set()
        near = [self._by_word[word] for word in words.found & self._by_word.keys()]
        near += [self._by_start[start] for start in words.starts & self._by_start.keys()]
        for candidates in near:
            for number, fragment in candidates:
                if number not in found and fragment.fits(text):
                    found.add(number)
        return found


class Book:
    """All patterns, dialects and defaults, ready for search."""

    def __init__(self, data: dict[str, Any]) -> None:
        """Take the parsed TOML. Raises KeyError, ValueError or TypeError for what can't be meant; a test reads it."""
        causes = peer_causes()
        self.dialects = {key: _dialect(key, entry) for key, entry in data["dialect"].items()}
        self.patterns = [_pattern(entry, self.dialects, causes) for entry in data["pattern"]]
        self.defaults = [_default(entry, causes) for entry in data["default"]]
        self._of_host = {host: one.id for one in self.dialects.values() for host in one.hosts}
        self._names = list(self.dialects)
        self._signs = _Index(
            (number, sign) for number, one in enumerate(self.dialects.values()) for sign in one.signs
        )
        numbered = list(enumerate(self.patterns))
        self._worded = {
            weak: _Index(
                (number, words) for number, one in numbered if one.weak is weak for words in one.words
            )
            for weak in (False, True)
        }
        self._wordless: dict[str, list[int]] = {}
        for number, one in numbered:
            if not one.words:
                self._wordless.setdefault(one.dialect, []).append(number)
        self.default = lru_cache(maxsize=2048)(self._default)

    def dialect_of(self, host: str, words: Words) -> str:
        """Whose words they are, by the name of the host or by signs in the text; "" if that can't be told."""
        labels = host.lower().rstrip(".").split(".")[-6:]
        for start in range(len(labels) - 1):
            if found := self._of_host.get(".".join(labels[start:])):
                return found
        first = min(self._signs.find(words), default=-1)
        return self._names[first] if first >= 0 else ""

    def first(
        self, words: Words, numbers: tuple[int, int, str], dialect: str, *, weak: bool
    ) -> Pattern | None:
        """The first pattern that fits, those of the dialect before all others. `numbers`: code, class, status."""
        fitting = self._worded[weak].find(words)
        if not weak:
            fitting.update(self._wordless.get(dialect, ()))
        abroad = None
        for number in sorted(fitting):
            one = self.patterns[number]
            at_home = one.dialect == dialect
            if (at_home or (abroad is None and not one.own)) and one.numbers.fit(*numbers):
                if at_home:
                    return one
                abroad = one
        return abroad

    def _default(self, numbers: tuple[int, int, str], stage: Stage | None, *, weak: bool) -> Default | None:
        """What the numbers mean by themselves at this stage; `default` remembers it."""
        for one in self.defaults:
            spoken = numbers[0] or not one.numbers.codes  # a code that nobody said stands for nothing
            here = not one.stages or stage in one.stages
            if one.weak is weak and spoken and here and one.numbers.fit(*numbers):
                return one
        return None


@cache
def book() -> Book:
    """The patterns. The data is read once, at the first question."""
    text = Path(__file__).with_suffix(".toml").read_text("utf-8")
    return Book(tomllib.loads(text))


def _dialect(key: str, entry: dict[str, Any]) -> Dialect:
    return Dialect(
        key,
        entry["title"],
        tuple(entry["hosts"]),
        tuple(Fragment.of(sign) for sign in entry["signs"]),
        entry["source"],
        Numbers.of("", entry["redefines"]) if "redefines" in entry else None,
    )


def _pattern(entry: dict[str, Any], dialects: dict[str, Dialect], causes: dict[str, PeerCause]) -> Pattern:
    dialect = dialects[entry["id"].partition(".")[0]]
    written = tuple(entry.get("words", ()))
    code, status = entry.get("code", ""), entry.get("status", "")
    return Pattern(
        id=entry["id"],
        dialect=dialect.id,
        numbers=Numbers.of(code, status),
        words=tuple(Fragment.of(one) for one in written),
        cause=causes[entry["cause"]],
        retry=Retry[entry["retry"]] if "retry" in entry else None,
        wait_s=entry.get("wait_s"),
        suppress=Suppress[entry["suppress"]] if "suppress" in entry else None,
        own=entry.get("own", not written),
        weak=entry.get("weak", False),
        source=entry.get("source", dialect.source),
        written=written,
        condition=f"{code} {status}".strip(),
        samples=tuple(entry["samples"]),
    )


def _default(entry: dict[str, Any], causes: dict[str, PeerCause]) -> Default:
    return Default(
        Numbers.of(entry.get("code", ""), entry.get("status", "")),
        frozenset(Stage(one) for one in entry.get("stages", ())),
        causes[entry["cause"]],
        entry.get("weak", False),
        entry.get("code", ""),
        entry.get("status", ""),
    )
