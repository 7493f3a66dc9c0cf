"""Bring domain names into the form that DNS is asked in (RFC 8616), and say which can't be asked for at all.

Addresses of an envelope are `mail.address`' business; names here come out of records and header fields, and may be anything.
"""

from __future__ import annotations

from functools import lru_cache

MAX_NAME = 253
_MAX_REMEMBERED = 300


def a_labels(name: str) -> str:
    """The name in lower case and A-labels, without final dot; "" if DNS can't know it."""
    if len(name) > _MAX_REMEMBERED:
        return ""
    return _a_labels(name)


@lru_cache(maxsize=4096)
def _a_labels(name: str) -> str:
    name = name.removesuffix(".").lower()
    if not name.isascii():
        import idna  # noqa: PLC0415 - few names need it, and a start would have to wait

        try:
            name = ".".join(
                label if label.isascii() else idna.encode(label, uts46=True).decode("ascii")
                for label in name.replace("\u3002", ".").split(".")
            )
        except (idna.IDNAError, UnicodeError):
            return ""
    return name if is_askable(name) else ""


def is_askable(name: str) -> bool:
    """Whether the labels have the lengths that DNS allows."""
    return len(name) <= MAX_NAME and all(0 < len(label) < 64 for label in name.split("."))
