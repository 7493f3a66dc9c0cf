"""Read XML of strangers in pieces: no document type, so no entities; bounded in depth, number and length.

What the elements mean is the business of who asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.parsers import expat

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_MAX_DEPTH = 12
_MAX_TEXT = 2000  # characters of one element; the rest is dropped
_MAX_ELEMENTS = 5000  # of one child of the root
_MAX_TOKEN = 1 << 20  # octets of one tag or comment: the parser may begin anew with each piece of it


class XmlError(ValueError):
    """What can't be read; the text says why and in which line."""


class Element:
    """One element: its name without namespace, its text, and what is inside of it."""

    __slots__ = ("children", "name", "text")

    def __init__(self, name: str) -> None:
        """Nothing is in it yet."""
        self.name = name
        self.text = ""
        self.children: list[Element] = []

    def find(self, name: str) -> Element | None:
        """The first child of a name."""
        return next((one for one in self.children if one.name == name), None)

    def find_all(self, name: str) -> list[Element]:
        """All children of a name."""
        return [one for one in self.children if one.name == name]

    def text_of(self, name: str) -> str:
        """The text of the first child of a name; "" if there is none."""
        found = self.find(name)
        return found.text if found is not None else ""


def children_of(root: str, pieces: Iterable[bytes]) -> Iterator[Element]:
    """Each child of the root element when it is complete. Raises XmlError, also if the root has another name."""
    builder = _Builder(root)
    for piece in pieces:
        builder.feed(piece)
        yield from builder.take()
    builder.feed(b"", last=True)
    yield from builder.take()


class _Builder:
    """Collects one child of the root after the other; what belongs to a foreign namespace is left out."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._complete: list[Element] = []
        self._open: list[Element | None] = []  # None for the root, and for what is left out
        self._text: list[str] = []
        self._length = 0
        self._elements = 0
        self._fed = 0
        self._parser = parser = expat.ParserCreate(namespace_separator=" ")
        parser.StartDoctypeDeclHandler = self._refuse
        parser.EntityDeclHandler = self._refuse
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._add

    def feed(self, piece: bytes, *, last: bool = False) -> None:
        self._fed += len(piece)
        if self._fed - max(self._parser.CurrentByteIndex, 0) > _MAX_TOKEN:
            raise self._fail("a tag or comment has no end")
        try:
            self._parser.Parse(piece, last)
        except expat.ExpatError as error:
            raise XmlError(f"line {error.lineno}: {expat.ErrorString(error.code)}") from error
        except (ValueError, LookupError) as error:
            if isinstance(error, XmlError):
                raise
            raise XmlError(
                f"line {self._parser.CurrentLineNumber}: {error}"
            ) from error  # an unknown encoding

    def take(self) -> Iterator[Element]:
        complete, self._complete = self._complete, []
        yield from complete

    def _fail(self, problem: str) -> XmlError:
        return XmlError(f"line {self._parser.CurrentLineNumber}: {problem}")

    def _refuse(self, *_: object) -> None:
        raise self._fail("it has a document type, which no report needs")

    def _start(self, name: str, _attributes: dict[str, str]) -> None:
        namespace, _, local = name.rpartition(" ")
        if len(self._open) >= _MAX_DEPTH:
            raise self._fail("it is nested too deep")
        if not self._open:
            if local != self._root:
                raise self._fail(f"it is <{local[:40]}>, not <{self._root}>")
            self._open.append(None)
            return
        foreign = bool(namespace) and "dmarc" not in namespace.lower()
        parent = self._open[-1]
        if foreign or (parent is None and len(self._open) > 1):
            self._open.append(None)
            return
        self._elements = self._elements + 1 if len(self._open) > 1 else 1
        if self._elements > _MAX_ELEMENTS:
            raise self._fail("one of its parts has too many elements")
        element = Element(local)
        if parent is not None:
            parent.children.append(element)
        self._open.append(element)
        self._text.clear()
        self._length = 0

    def _end(self, _name: str) -> None:
        element = self._open.pop()
        if element is None:
            return
        if not element.children:
            element.text = "".join(self._text).strip()[:_MAX_TEXT]
        self._text.clear()
        self._length = 0
        if len(self._open) == 1:
            self._complete.append(element)

    def _add(self, text: str) -> None:
        if self._length < _MAX_TEXT:
            self._text.append(text)
            self._length += len(text)
