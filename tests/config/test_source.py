"""The line of every key, however TOML lets one write it."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.config.source import find_lines, format_key, parse_key

TEXT = '''\
# a comment with [brackets] and "quotes
hostname = "mx.example.org" # behind
text = """
[not.a.table]
x = 1 \\""" still
"""""
raw = \'\'\'
]]
\'\'\'
a.b . "c d" = 3
list = [ # one
  "a]", # two
  { x = 1, "y z" = [2,
    3] },
]
inline = { p = "}", q.r = 2 }

[retry]
first = "5m"
'max' = 07:32:00

[[listen]]
address = "0.0.0.0:25"
[listen.tls]
mode = "x"
[[listen]]
address = ":587"

[domain."example.org".aliases]
a = ["b", "c"]
[domain.'other\\']
deliver = "x"
'''


def test_each_key_has_its_line() -> None:
    tomllib.loads(TEXT)
    lines = find_lines(TEXT)
    assert {format_key(path): line for path, line in lines.items()} == {
        "hostname": 2, "text": 3, "raw": 7, "a": 10, "a.b": 10, 'a.b."c d"': 10,
        "list": 11, "list[1]": 12, "list[2]": 13, "list[2].x": 13, 'list[2]."y z"': 13, 'list[2]."y z"[1]': 13,
        'list[2]."y z"[2]': 14, "inline": 16, "inline.p": 16, "inline.q": 16, "inline.q.r": 16,
        "retry": 18, "retry.first": 19, "retry.max": 20,
        "listen": 22, "listen[1]": 22, "listen[1].address": 23, "listen[1].tls": 24, "listen[1].tls.mode": 25,
        "listen[2]": 26, "listen[2].address": 27,
        "domain": 29, 'domain."example.org"': 29, 'domain."example.org".aliases': 29,
        'domain."example.org".aliases.a': 30, 'domain."example.org".aliases.a[1]': 30,
        'domain."example.org".aliases.a[2]': 30, 'domain."other\\\\"': 31, 'domain."other\\\\".deliver': 32,
    }  # fmt: skip


def paths(value: object, path: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    """All paths of a parsed document."""
    found = {path} if path else set()
    if isinstance(value, dict):
        found |= {deeper for key, inner in value.items() for deeper in paths(inner, (*path, key))}
    elif isinstance(value, list):
        found |= {deeper for number, inner in enumerate(value) for deeper in paths(inner, (*path, number))}
    return found


def test_what_the_parser_finds_is_found_here_too() -> None:
    assert set(find_lines(TEXT)) == paths(tomllib.loads(TEXT))
    assert set(find_lines(TEXT.replace("\n", "\r\n"))) == paths(tomllib.loads(TEXT.replace("\n", "\r\n")))


@given(st.text(alphabet="ab=\"'[]{}.,#\n\\ 1", max_size=40))
def test_no_text_that_the_parser_accepts_misleads(text: str) -> None:
    try:
        parsed = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    assert set(find_lines(text)) == paths(parsed)


@pytest.mark.parametrize("key", ["a", 'domain."example.org".deliver', "a.b-c.d_e", '"x \\"y\\" \\\\"'])
def test_keys_are_read_and_written_alike(key: str) -> None:
    assert format_key(parse_key(key)) == key
