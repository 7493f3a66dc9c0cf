"""Take down what DNS answered to a built-in check, so that the trace of a message tells what each verdict rests on.

What becomes of an opinion is the business of `policy.hooks`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pillarbox.mailauth.dns import Answer, Query, follow, format_answer

if TYPE_CHECKING:
    from pillarbox.mail.reply import Reply
    from pillarbox.mailauth.dns import Lookup, Plan

MAX_SAID = 40  # answers that are kept of one message


class Said(str):
    """One answer of DNS, among what is to be told of a message."""

    __slots__ = ()


class Proven(NamedTuple):
    """An opinion with the answers that it rests on, a line each."""

    opinion: Reply | None
    answers: tuple[Said, ...]


class Asking:
    """A look-up that takes down what was answered."""

    def __init__(self, lookup: Lookup) -> None:
        """Ask by `lookup`."""
        self._lookup = lookup
        self._answers: list[Said] = []

    async def __call__(self, query: Query) -> Answer:
        """The answer to one question."""
        answer = await self._lookup(query)
        self.note(query, answer)
        return answer

    def note(self, query: Query, answer: Answer) -> None:
        """Take down an answer."""
        self._answers.append(Said(format_answer(query, answer)))

    def prove(self, opinion: Reply | None) -> Proven:
        """The opinion with all answers so far."""
        return Proven(opinion, tuple(self._answers))


async def ask(plan: Plan[Reply | None], lookup: Lookup) -> Proven:
    """What a plan comes to, and what it was told."""
    asking = Asking(lookup)
    return asking.prove(await follow(plan, asking))
