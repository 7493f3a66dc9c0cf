"""Turn a parsed document into settings, and say for everything that is wrong where it stands and what to write instead.

It knows no setting by name: those are declared where they are used, and gathered in `config.settings`.
"""

from __future__ import annotations

import math
import re
import types
import typing
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec

from pillarbox.config.others import OTHER_NAMES
from pillarbox.config.source import Path, format_key, parse_key
from pillarbox.mail.spelling import nearest
from pillarbox.mail.units import AtLeast, Settings, decode_unit, format_number

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

S = TypeVar("S", bound=Settings)

_WORDS = {
    "str": "text in quotes", "int": "a whole number", "float": "a number", "bool": "true or false",
    "array": "a list in [ ]", "list": "a list in [ ]", "dict": "a table", "object": "a table",
    "datetime": "a date", "date": "a date", "time": "a time",
}  # fmt: skip
_EXPECTED = re.compile(r"Expected `([^`]*)`, got `([^`]*)`")
_INSIDE = re.compile(r" - at `\$\[(\d+)\]")


class Finding(msgspec.Struct, frozen=True):
    """Something wrong with the setting at `path`, before its line is known."""

    path: Path
    problem: str
    suggestion: str = ""


def objection(path: Path, text: str) -> Finding:
    """Make a finding of a ValueError's text, in which the advice stands behind a semicolon."""
    problem, _, suggestion = text.partition("; ")
    return Finding(path, problem, suggestion)


class Problem(msgspec.Struct, frozen=True):
    """Something wrong in a configuration file; `line` is 0 if it stands nowhere."""

    file: str
    line: int
    key: str
    problem: str
    suggestion: str = ""

    def __str__(self) -> str:
        """All of it on one line, as compilers do."""
        place = f"{self.file}:{self.line}" if self.line else self.file
        key = f" {self.key}:" if self.key else ""
        advice = f" ({self.suggestion})" if self.suggestion else ""
        return f"{place}:{key} {self.problem}{advice}"


class ConfigError(Exception):
    """A configuration that cannot be used; `problems` names everything that was found, in the order of the file."""

    def __init__(self, problems: list[Problem]) -> None:
        """Keep at least one problem."""
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


class _Reader:
    """One pass over a document; it goes on after an error, so that all are found."""

    def __init__(self, root: type[Settings]) -> None:
        self.findings: list[Finding] = []
        self._root = root

    def table(self, document: object, kind: type[S], path: Path, *, named: bool = False) -> S | None:
        """Read one table; None if anything in it is wrong. `named` tells that the last of its path is no setting's name."""
        if not isinstance(document, dict):
            self._refuse(path, f"must be a table, not {_word_of(document)}", f"write [{format_key(path)}]")
            return None
        fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
        before = len(self.findings)
        values: dict[str, Any] = {}
        for key, value in document.items():
            if key not in fields and named and isinstance(value, dict):
                self._refuse_dotted(value, list(fields), (*path, key))
            elif key not in fields:
                self._refuse_unknown(key, list(fields), path)
            elif isinstance(value, list) and _is_plural(key, fields):
                self._refuse((*path, key), "must be a table, not a list in [ ]", f'did you mean "{key}s"?')
            else:
                values[fields[key].name] = self._value(value, fields[key].type, (*path, key))
        for key, field in fields.items():
            if field.required and key not in document:
                self._refuse(path, f"the key {key!r} is missing", f"write {key} = ... below this line")
        if len(self.findings) > before:
            return None
        try:
            return kind(**values)
        except ValueError as error:
            self.findings.append(_objection_in(path, str(error), fields))
            return None

    def _value(self, value: object, kind: Any, path: Path) -> object:
        inner = _settings_inside(kind)
        if inner is None:
            return self._leaf(value, kind, path)
        if kind is inner:
            return self.table(value, inner, path)
        if typing.get_origin(kind) is dict:
            if isinstance(value, dict):
                return {
                    name: self.table(one, inner, (*path, name), named=True) for name, one in value.items()
                }
            self._refuse(
                path,
                f"must be a table, not {_word_of(value)}",
                f'write [{format_key(path)}."NAME"], a name with dots in quotes',
            )
        elif isinstance(value, list):
            return tuple(self.table(one, inner, (*path, number)) for number, one in enumerate(value))
        else:
            self._refuse(
                path, f"must be a list of tables, not {_word_of(value)}", f"write [[{format_key(path)}]]"
            )
        return None

    def _leaf(self, value: object, kind: Any, path: Path) -> object:
        try:
            found = msgspec.convert(value, kind, dec_hook=decode_unit)
        except msgspec.ValidationError as error:
            self.findings.append(_explain(str(error), value, kind, path))
            return None
        if isinstance(found, int | float) and not isinstance(found, bool):
            least = _bound_of(kind).least
            if not least <= found < math.inf:
                self._refuse(path, f"must be at least {format_number(type(found), least)}")
        return found

    def _refuse(self, path: Path, problem: str, suggestion: str = "") -> None:
        self.findings.append(Finding(path, problem, suggestion))

    def _refuse_dotted(self, value: dict[str, object], known: list[str], path: Path) -> None:
        """A name such as example.org without its quotes: TOML reads a table inside another."""
        name = path[1:]
        while len(value) == 1 and not value.keys() & set(known):
            key, inner = next(iter(value.items()))
            if not isinstance(inner, dict):
                break
            name, value = (*name, key), inner
        quoted = format_key((path[0], ".".join(map(str, name))))
        self._refuse(path, "there is no such setting", f"a name with dots needs quotes: [{quoted}]")

    def _refuse_unknown(self, key: str, known: list[str], path: Path) -> None:
        close = nearest(key, known)
        elsewhere = [place for place in _places(self._root).get(key, ()) if place != path]
        if key in OTHER_NAMES:
            suggestion = f"here it is called {format_key(OTHER_NAMES[key])}"
        elif close:
            suggestion = f'did you mean "{close}"?'
        elif () in elsewhere:
            suggestion = f"{key} belongs to the top of the file, above the first [table]"
        elif elsewhere:
            suggestion = f"{key} belongs into [{format_key(elsewhere[0])}]"
        else:
            suggestion = f"the keys here are: {', '.join(sorted(known))}"
        self._refuse((*path, key), "there is no such setting", suggestion)


def read_settings(document: Mapping[str, object], kind: type[S]) -> S | list[Finding]:
    """Make settings of a document, or tell everything that is wrong with it."""
    reader = _Reader(kind)
    settings = reader.table(document, kind, ())
    return settings if settings is not None else reader.findings


def unwise_numbers(settings: Settings, path: Path = ()) -> Iterator[Finding]:
    """Numbers that are possible and less than is wise, in settings and all below them."""
    for field in msgspec.structs.fields(type(settings)):
        value, at = getattr(settings, field.name), (*path, field.encode_name)
        if isinstance(value, Settings):
            yield from unwise_numbers(value, at)
        elif isinstance(value, int | float) and value < (bound := _bound_of(field.type)).wise:
            shown, wise = (format_number(type(value), one) for one in (value, bound.wise))
            yield Finding(at, f"{shown} is little: {bound.because}", f"write {wise} or more")


def locate(finding: Finding, lines: Mapping[Path, int], file: str) -> Problem:
    """Give a finding its line: that of the nearest part of its path that stands in the file."""
    path = finding.path
    while path and path not in lines:
        path = path[:-1]
    return Problem(file, lines.get(path, 0), format_key(finding.path), finding.problem, finding.suggestion)


def _bound_of(kind: Any) -> AtLeast:
    """The least that the number of a field may be."""
    notes = (note for part in (kind, *typing.get_args(kind)) for note in getattr(part, "__metadata__", ()))
    return next((note for note in notes if isinstance(note, AtLeast)), AtLeast())


def _objection_in(path: Path, text: str, fields: Mapping[str, object]) -> Finding:
    """Make a finding of an objection of the settings at `path`; it may begin with a key below it, such as `levels.x: `."""
    key, colon, rest = text.partition(": ")
    if colon:
        try:
            below = parse_key(key)
        except ValueError:
            below = ()
        if below and below[0] in fields:
            return objection((*path, *below), rest)
    first_word = text.partition(" ")[0].strip("`'\":")
    return objection((*path, first_word) if first_word in fields else path, text)


def _is_plural(key: str, fields: Mapping[str, Any]) -> bool:
    """Whether a list was meant for the setting with an s behind `key`, which is a table of tables itself."""
    return f"{key}s" in fields and typing.get_origin(fields[key].type) is dict


def _settings_inside(kind: Any) -> type[Settings] | None:
    """The settings class that a field holds, be it one, or many in a dict, list or tuple."""
    for candidate in (kind, *typing.get_args(kind)):
        if (
            isinstance(candidate, type)
            and not typing.get_origin(candidate)
            and issubclass(candidate, Settings)
        ):
            return candidate
    return None


def _places(kind: type[Settings], path: Path = ()) -> dict[str, list[Path]]:
    """For each key, the tables below `kind` that know it."""
    places: dict[str, list[Path]] = {}
    for field in msgspec.structs.fields(kind):
        places.setdefault(field.encode_name, []).append(path)
        inner = _settings_inside(field.type)
        if inner is not None:
            below = (*path, field.encode_name) if inner is field.type else (*path, field.encode_name, "NAME")
            for key, found in _places(inner, below).items():
                places.setdefault(key, []).extend(found)
    return places


def _explain(error: str, value: object, kind: Any, path: Path) -> Finding:
    """Put an error of the converter into words."""
    inside = _INSIDE.search(error)
    if inside is not None and isinstance(value, list):
        number = int(inside[1])
        return _explain(error[: inside.start()], value[number], typing.get_args(kind)[0], (*path, number))
    choices = list(_choices(kind))
    if choices and isinstance(value, str):
        close = nearest(value, choices)
        quoted = ", ".join(f'"{choice}"' for choice in choices)
        if _takes_list(kind):
            return Finding(path, f'"{value}" alone is not possible here', f'write ["{value}"], or {quoted}')
        return Finding(
            path, f'"{value}" is not possible here', f'write "{close}"' if close else f"write one of {quoted}"
        )
    found = _EXPECTED.search(error)
    if found is None:
        return objection(path, error.partition(" - at `$")[0])
    wanted = " or ".join(
        dict.fromkeys(_WORDS.get(name, name) for name in found[1].split(" | ") if name != "null")
    )
    advice = f'write ["{value}"]' if isinstance(value, str) and _takes_list(kind) else ""
    return Finding(path, f"must be {wanted}, not {_WORDS.get(found[2], found[2])}", advice)


def _takes_list(kind: Any) -> bool:
    """Whether a field may be a list of texts."""
    return any(typing.get_origin(part) in (list, tuple) for part in (kind, *typing.get_args(kind)))


def _choices(kind: Any) -> Iterator[str]:
    """The words that a field may have."""
    if typing.get_origin(kind) is Literal:
        yield from map(str, typing.get_args(kind))
    elif isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        for part in typing.get_args(kind):
            yield from _choices(part)
    elif isinstance(kind, type) and issubclass(kind, Enum):
        yield from (str(member.value) for member in kind)


def _word_of(value: object) -> str:
    name = type(value).__name__
    return _WORDS.get(name, name)
