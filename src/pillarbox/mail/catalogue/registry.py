"""What reply codes and enhanced status codes mean, whoever sends them: the standards' registry in plain words.

The text itself is in `registry.toml`. Why *this* server sends a reply is in the causes of the modules beside this one.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import msgspec

from pillarbox.mail.reply import Stage, Who

if TYPE_CHECKING:
    from pillarbox.mail.reply import Reply


class Meaning(msgspec.Struct, frozen=True):
    """One entry of the registry; `key` is a code ("550"), a status ("X.1.1") or a class ("5xx")."""

    key: str
    name: str
    meaning: str  # one line
    explanation: str  # a few sentences
    who: Who
    advice: str
    clause: str
    client: str = ""  # what a sending host does; codes and classes only
    stages: tuple[Stage, ...] = ()  # where it may stand; codes only
    codes: tuple[int, ...] = ()  # reply codes the registry pairs it with; statuses only
    note: str = ""  # where the standards contradict each other, or many hosts the standards


class _Registry(msgspec.Struct, frozen=True):
    codes: dict[int, Meaning]
    statuses: dict[str, Meaning]  # by "subject.detail"
    classes: dict[int, Meaning]


@cache
def _load() -> _Registry:
    """Read the data, once, at the first question."""
    data = tomllib.loads(
        resources.files("pillarbox.mail.catalogue").joinpath("registry.toml").read_text("utf-8")
    )
    return _Registry(
        {int(code): _meaning(code, entry) for code, entry in data["code"].items()},
        {status: _meaning(f"X.{status}", entry) for status, entry in data["status"].items()},
        {int(first): _meaning(f"{first}xx", entry) for first, entry in data["class"].items()},
    )


def _meaning(key: str, entry: dict[str, Any]) -> Meaning:
    values = entry | {
        "who": Who[entry["who"]],
        "stages": tuple(Stage(stage) for stage in entry.get("stages", ())),
        "codes": tuple(entry.get("codes", ())),
    }
    return Meaning(key, **values)


def codes() -> dict[int, Meaning]:
    """All known reply codes in order."""
    return _load().codes


def statuses() -> dict[str, Meaning]:
    """All registered enhanced status codes in order, without their class: "1.1" for 2.1.1, 4.1.1 and 5.1.1."""
    return _load().statuses


def of_code(code: int) -> Meaning | None:
    """What a reply code means; for one that is in no standard, what its first digit says. None outside 200 to 599."""
    return _load().codes.get(code) or _load().classes.get(code // 100)


def of_class(first: str) -> Meaning:
    """What the first digit of a code or status alone says: "2", "3", "4" or "5"."""
    return _load().classes[int(first)]


def of_status(status: str) -> Meaning | None:
    """What an enhanced status code such as the one of RFC 3463 means, apart from its class; None if unregistered."""
    return _load().statuses.get(status.partition(".")[2])


def of_reply(reply: Reply) -> Meaning | None:
    """The best that can be told of a peer's reply from its numbers: the status, unless it says nothing, else the code."""
    found = of_status(reply.status) if reply.status else None
    if found is None or found.key == "X.0.0":
        return of_code(reply.code) or found
    return found
