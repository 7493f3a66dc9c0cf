"""Say where a text stops being TOML, and what to write there instead.

The parser names a line and little more; what people get wrong shows in the line itself.
"""

from __future__ import annotations

import re
import tomllib

from pillarbox.config.strict import Problem

_POSITION = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
_PAIR = re.compile(
    r"""\s*(?P<key>[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*)\s*(?P<sign>[=:])\s*(?P<value>[^#]*?)\s*(?:#.*)?"""
)
_HEADER = re.compile(r"\s*\[[^\[\]]*\]\s*(?:#.*)?")
_BARE = re.compile(r"""[^\s"'\[\]{},=]+(?: +[^\s"'\[\]{},=]+)*""")  # words, such as smtp://host or 10.0.0.0/8
_CURLY = str.maketrans("\u201c\u201d\u201e\u2018\u2019", '"""\'\'')  # the quotes of word processors
_WORDS = {"True": "true", "False": "false", "yes": "true", "no": "false", "on": "true", "off": "false"}
_BOM = "\ufeff"


def explain_syntax(error: tomllib.TOMLDecodeError, text: str, file: str) -> Problem:
    """Put an error of the parser into words, with its line, the key on it, and advice."""
    found = _POSITION.search(str(error))
    lines = text.split("\n")
    number = int(found[1]) if found is not None and found[1] else len(text.rstrip().splitlines())
    said = str(error)[: found.start()] if found is not None else str(error)
    line = lines[number - 1].rstrip("\r") if 0 < number <= len(lines) else ""
    pair = _PAIR.fullmatch(line)
    if said.startswith("Cannot"):
        problem, advice = _twice(lines, number)
    else:
        problem = f"not TOML: {said[:1].lower()}{said[1:]}"
        advice = _advice(line, pair, said)
    return Problem(file, number, pair["key"] if pair is not None else "", problem, advice)


def _advice(line: str, pair: re.Match[str] | None, said: str) -> str:
    """What to write instead of a line; "" if it does not show."""
    if line.startswith(_BOM):
        return "save the file as UTF-8 without a byte order mark (BOM)"
    if line != line.translate(_CURLY):
        return f"use straight quotes: {line.translate(_CURLY).strip()}"
    if said == "Unclosed array":
        return "put a comma between the elements, and ] behind the last"
    if said == "Unclosed inline table":
        return "put a comma between the pairs, and } behind the last"
    if said.startswith("Unescaped"):
        return "write each \\ twice, or the text in single quotes"
    if pair is None:
        return ""
    key, value = pair["key"], pair["value"]
    if pair["sign"] == ":":
        return f"write {key} = {_quoted(value)}"
    if not value:
        return f'write a value, such as {key} = "..."'
    if _BARE.fullmatch(value):
        return f"write {key} = {_quoted(value)}"
    if value[0] in "\"'" and value.count(value[0]) == 1:
        return f"close the quote: {key} = {value}{value[0]}"
    if value[0] == "[" and not set("\"'") & set(value):
        return f"put quotes around each text: {key} = [{', '.join(map(_quoted, _elements(value)))}]"
    return ""


def _quoted(value: str) -> str:
    """A value as TOML writes it: words in quotes, but for what stands for true or false."""
    if value in _WORDS:
        return _WORDS[value]
    return f'"{value}"' if _BARE.fullmatch(value) and not _is_value(value) else value


def _is_value(text: str) -> bool:
    try:
        tomllib.loads(f"x = {text}")
    except tomllib.TOMLDecodeError:
        return False
    return True


def _elements(array: str) -> list[str]:
    return [one.strip() for one in array.strip("[] ").split(",") if one.strip()]


def _twice(lines: list[str], number: int) -> tuple[str, str]:
    """What stands in a file a second time, and where it stood first."""
    again = lines[number - 1].strip()
    pair = _PAIR.fullmatch(again)
    for before in range(number - 1, 0, -1):
        line = lines[before - 1]
        if pair is None and line.strip() == again:
            return f"{again} stands here a second time", f"write its keys below line {before}"
        if pair is not None:
            first = _PAIR.fullmatch(line)
            if first is not None and first["key"] == pair["key"]:
                return f"it stands here a second time, first on line {before}", "remove one of them"
            if _HEADER.fullmatch(line):
                break
    return "it stands here a second time, in another form", "remove one of them"
