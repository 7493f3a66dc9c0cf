"""Find the line of every key in a TOML text, because the standard parser tells values but not where they stand.

Whether the text is TOML at all is the parser's business: only texts that it accepted are looked at here.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right

Path = tuple[str | int, ...]  # keys, and the numbers of elements of arrays

_SPACE = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_BLANK = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"""(?:"{0,2})' r"|'''.*?'''(?:'{0,2})" r'|"(?:\\.|[^"\\\n])*"' r"|'[^'\n]*'",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}#\n]+")


def find_lines(text: str) -> dict[Path, int]:
    """The line, from 1, on which each table, key and array element of `text` begins."""
    finder = _Finder(text)
    finder.read_document()
    return finder.lines


def parse_key(text: str) -> Path:
    """Read a dotted key as TOML writes it: `domain."example.org".deliver`. Raises ValueError."""
    finder = _Finder(text)
    path = finder.read_key()
    if not finder.at_end:
        raise ValueError("more than a key")
    return path


def format_key(path: Path) -> str:
    """Write a path as TOML spells it; elements of arrays are numbered from 1, as people count."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part + 1}]"
        else:
            quoted = (
                part
                if _BARE_KEY.fullmatch(part)
                else '"' + part.replace("\\", "\\\\").replace('"', '\\"') + '"'
            )
            text += f".{quoted}" if text else quoted
    return text


class _Finder:
    """A cursor over the text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._starts = [0, *(found.end() for found in re.finditer("\n", text))]
        self._counts: dict[Path, int] = {}  # of the elements of each array of tables so far
        self.lines: dict[Path, int] = {}

    @property
    def at_end(self) -> bool:
        return self._at >= len(self._text)

    def read_document(self) -> None:
        table: Path = ()
        self._skip(_SPACE)
        while not self.at_end:
            if self._text[self._at] == "[":
                table = self._read_header()
            else:
                self._read_pair(table)
            self._skip(_SPACE)

    def _read_header(self) -> Path:
        """`[table]`, or `[[table]]`, which begins another element of an array."""
        start = self._at
        array = self._text.startswith("[[", start)
        self._at += 2 if array else 1
        key = self.read_key()
        self._at += 2 if array else 1
        path: Path = ()
        for number, part in enumerate(key):
            path += (part,)
            if array and number == len(key) - 1:
                self._counts[path] = self._counts.get(path, 0) + 1
            self._note(path, start)
            if path in self._counts:
                path += (self._counts[path] - 1,)
                self._note(path, start)
        return path

    def _read_pair(self, table: Path) -> None:
        """`key = value`."""
        start = self._at
        path = table
        for part in self.read_key():
            path += (part,)
            self._note(path, start)
        self._at += 1  # the equals sign
        self._skip(_BLANK)
        self._read_value(path)

    def read_key(self) -> Path:
        """A dotted key, and the blanks around it."""
        parts: list[str | int] = []
        while True:
            self._skip(_BLANK)
            found = _BARE_KEY.match(self._text, self._at)
            if found is not None:
                parts.append(found[0])
                self._at = found.end()
            else:
                parts.append(self._read_quoted_key())
            self._skip(_BLANK)
            if not self._text.startswith(".", self._at):
                return tuple(parts)
            self._at += 1

    def _read_quoted_key(self) -> str:
        found = _STRING.match(self._text, self._at)
        if found is None:
            raise ValueError("not a key")
        self._at = found.end()
        return str(tomllib.loads(f"key = {found[0]}")["key"])

    def _read_value(self, path: Path) -> None:
        if self._text.startswith("[", self._at):
            self._read_array(path)
        elif self._text.startswith("{", self._at):
            self._read_inline_table(path)
        else:
            found = _STRING.match(self._text, self._at) or _SCALAR.match(self._text, self._at)
            self._at = found.end() if found is not None else len(self._text)

    def _read_array(self, path: Path) -> None:
        self._at += 1
        number = 0
        while not self._closes("]"):
            self._note((*path, number), self._at)
            self._read_value((*path, number))
            number += 1
            self._skip_comma()

    def _read_inline_table(self, path: Path) -> None:
        self._at += 1
        while not self._closes("}"):
            self._read_pair(path)
            self._skip_comma()

    def _closes(self, bracket: str) -> bool:
        """Whether the array or inline table ends here, or the text does."""
        self._skip(_SPACE)
        if self._text.startswith(bracket, self._at):
            self._at += 1
            return True
        return self.at_end

    def _skip_comma(self) -> None:
        self._skip(_SPACE)
        if self._text.startswith(",", self._at):
            self._at += 1

    def _skip(self, blanks: re.Pattern[str]) -> None:
        found = blanks.match(self._text, self._at)
        if found is not None:
            self._at = found.end()

    def _note(self, path: Path, at: int) -> None:
        self.lines.setdefault(path, bisect_right(self._starts, at))
