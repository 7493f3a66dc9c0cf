"""Say what is to be asked of DNS and what it answered, and let a check be written as a plan that asks step by step.

A plan is a generator: it yields a `Query`, is sent the `Answer`, and returns its result. Who asks is `net.resolver`'s business.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Generator, Hashable
from typing import Any, NamedTuple, TypeAlias, TypeVar

import msgspec

from pillarbox.mail.reply import printable

T = TypeVar("T")


class Query(NamedTuple):
    """One question; the name in A-labels without final dot."""

    name: str
    kind: str  # "A", "AAAA", "MX", "TXT", "PTR", "CNAME", "TLSA"


class Answer(msgspec.Struct, frozen=True):
    """What DNS said. No records, and neither of the flags set: the name exists and has nothing of this kind (NODATA)."""

    # MX: (preference, host); TLSA: (usage, selector, matching type, data); addresses, host names and strings: text
    records: tuple[Any, ...] = ()
    no_domain: bool = False  # NXDOMAIN
    failed: bool = False  # SERVFAIL, a time-out: temporary, never to be taken for "not there"
    detail: str = ""  # why it failed
    ttl_s: float = 0.0  # how long it was remembered when it came, within our limits
    secure: bool = False  # checked by DNSSEC, by a name server that can be believed
    name: str = ""  # what the name asked for turned out to be an alias of, "" if of nothing


def format_answer(query: Query, answer: Answer) -> str:
    """One answer as the trace shows it."""
    if answer.failed:
        said = f"no answer: {answer.detail}"
    elif answer.no_domain:
        said = "no such domain"
    else:
        said = " | ".join(_shown(record) for record in answer.records[:5]) or "nothing"
    return printable(f"{query.kind} {query.name}: {said}", 400)


def _shown(record: object) -> str:
    return " ".join(str(part) or "." for part in record) if isinstance(record, tuple) else str(record)


Plan: TypeAlias = Generator[Query, Answer, T]
Lookup: TypeAlias = Callable[[Query], Awaitable[Answer]]
Recall: TypeAlias = Callable[[Query], Answer | None]  # the answer, if it is remembered


class Done(NamedTuple):
    """A plan's result."""

    result: Any


def begin(plan: Plan[Any], recall: Recall, trail: dict[Query, Answer]) -> Done | Query:
    """Run a plan as far as memory answers: to its result, or to the first question that has to be asked.

    `trail` takes down what was asked and answered.
    """
    try:
        query = next(plan)
        while (answer := recall(query)) is not None:
            trail[query] = answer
            query = plan.send(answer)
    except StopIteration as done:
        return Done(done.value)
    return query


async def follow(plan: Plan[T], lookup: Lookup, query: Query | None = None) -> T:
    """Ask what a plan wants to know, one question after the other, until it has its result; go on at `query` if it began."""
    try:
        query = query or next(plan)
        while True:
            query = plan.send(await lookup(query))
    except StopIteration as done:
        result: T = done.value
        return result


class Concluded(NamedTuple):
    """What a plan came to, and all that it was told."""

    result: Any
    trail: dict[Query, Answer]


class Conclusions:
    """What plans came to that were asked the same before. One stands as long as each answer that it rests on is remembered."""

    def __init__(self, recall: Recall, size: int = 4096) -> None:
        """`size` is how many are kept."""
        self._recall = recall
        self._size = size
        self._kept: OrderedDict[Hashable, Concluded] = OrderedDict()

    def find(self, key: Hashable) -> Concluded | None:
        """The conclusion that was kept under a key, if nothing has changed since."""
        found = self._kept.get(key)
        if found is None:
            return None
        for query, answer in found.trail.items():
            if self._recall(query) is not answer:
                return None
        self._kept.move_to_end(key)
        return found

    def keep(self, key: Hashable, result: Any, trail: dict[Query, Answer]) -> None:
        """Keep what a plan came to; `trail` must not be changed any more."""
        self._kept[key] = Concluded(result, trail)
        self._kept.move_to_end(key)
        if len(self._kept) > self._size:
            self._kept.popitem(last=False)
