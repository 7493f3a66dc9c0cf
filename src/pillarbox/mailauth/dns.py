"""Say what is to be asked of DNS and what it answered, and let a check be written as a plan that asks step by step.

A plan is a generator: it yields a `Query`, is sent the `Answer`, and returns its result. Who asks is `net.resolver`'s business.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias, TypeVar

T = TypeVar("T")


class Query(NamedTuple):
    """One question; the name in A-labels without final dot."""

    name: str
    kind: str  # "A", "AAAA", "MX", "TXT", "PTR", "CNAME", "TLSA"


@dataclass(frozen=True, slots=True)
class Answer:
    """What DNS said. No records, and neither of the flags set: the name exists and has nothing of this kind (NODATA)."""

    # MX: (preference, host); TLSA: (usage, selector, matching type, data); addresses, host names and strings: text
    records: tuple[Any, ...] = ()
    no_domain: bool = False  # NXDOMAIN
    failed: bool = False  # SERVFAIL, a time-out: temporary, never to be taken for "not there"
    detail: str = ""  # why it failed
    ttl_s: float = field(
        default=0.0, compare=False
    )  # how long it was remembered when it came, within our limits
    secure: bool = False  # checked by DNSSEC, by a name server that can be believed
    name: str = ""  # what the name asked for turned out to be an alias of, "" if of nothing


Plan: TypeAlias = Generator[Query, Answer, T]
Lookup: TypeAlias = Callable[[Query], Awaitable[Answer]]
Recall: TypeAlias = Callable[[Query], Answer | None]  # the answer, if it is remembered


class Done(NamedTuple):
    """A plan's result."""

    result: Any


def begin(plan: Plan[Any], recall: Recall) -> Done | Query:
    """Run a plan as far as memory answers: to its result, or to the first question that has to be asked."""
    try:
        query = next(plan)
        while (answer := recall(query)) is not None:
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
