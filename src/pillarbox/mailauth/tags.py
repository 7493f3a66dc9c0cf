"""Read lists of `tag=value` pairs, the form of DKIM, ARC and DMARC records and fields (RFC 6376 3.2).

What the tags mean is the business of the modules that read them.
"""

from __future__ import annotations

import re

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_SPACE = " \t\r\n"
_NAMES = re.compile(r"[A-Za-z][A-Za-z0-9_]*+(?:;[A-Za-z][A-Za-z0-9_]*+)*+")


class TagError(ValueError):
    """A list that breaks the grammar; the text says where."""


def parse_tags(text: str) -> dict[str, str]:
    """The tags in their order; values are stripped, folding inside of them stays. Raises TagError."""
    text = text.rstrip(_SPACE).removesuffix(";")
    sections = text.split(";")
    tags: dict[str, str] = {}
    for section in sections:
        name, equals, value = section.partition("=")
        if not equals:
            return _parse_slowly(text)
        tags[name.strip(_SPACE)] = value.strip(_SPACE)
    usual = len(tags) == len(sections) and _NAMES.fullmatch(";".join(tags)) is not None
    return tags if usual else _parse_slowly(text)


def _parse_slowly(text: str) -> dict[str, str]:
    """The same, piece by piece, to say where the grammar is broken."""
    tags: dict[str, str] = {}
    sections = text.split(";")
    if not sections[-1].strip(_SPACE):
        sections.pop()
    for section in sections:
        name, equals, value = section.partition("=")
        name = name.strip(_SPACE)
        if not equals or not _NAME.fullmatch(name):
            raise TagError(f"not a tag: {section.strip(_SPACE)[:40]!r}")
        if name in tags:
            raise TagError(f"{name}= stands there twice")
        tags[name] = value.strip(_SPACE)
    return tags


def unspaced(value: str) -> str:
    """A value without the white space that folding put into it."""
    return "".join(value.split())
