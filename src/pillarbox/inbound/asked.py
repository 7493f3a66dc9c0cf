"""Ask DNS what the plans of one check want to know, together and within a time limit, and keep what was answered as evidence.

What plans came to is remembered as long as the answers are. Which plans there are is the business of `inbound.case`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from pillarbox.mailauth.dns import (
    Answer,
    Conclusions,
    Done,
    Lookup,
    Plan,
    Query,
    Recall,
    begin,
    follow,
    format_answer,
)

LATE = "no answer in time"
_LIMIT_S = 20.0  # for all look-ups of one plan (RFC 7208 4.6.4)
_MAX_EVIDENCE = 40  # answers that are kept of one message
_MAX_KEPT = 16_384  # characters of the answers of one check that are kept together
_MAX_LINES = 4096  # answers whose line in the trace is remembered


class Work(NamedTuple):
    """One plan of a check."""

    plan: Plan[Any]
    late: Callable[[], Any]  # what it comes to if DNS takes too long
    key: Hashable = None  # for whom it comes to the same; None if for nobody else


class Begun(NamedTuple):
    """Plans that were begun."""

    results: list[Any]
    waiting: dict[int, Coroutine[Any, Any, Any]]  # whose results are still to come; to be awaited


class Asked:
    """The questions of one check, and what was answered."""

    def __init__(self, lookup: Lookup, recall: Recall, conclusions: Conclusions) -> None:
        self._lookup = lookup
        self._recall = recall
        self._conclusions = conclusions
        self._trails: list[dict[Query, Answer]] = []

    def begin(self, works: Sequence[Work]) -> Begun:
        """Run plans together as far as memory answers; those for which it is enough cost no task."""
        results: list[Any] = []
        waiting: dict[int, Coroutine[Any, Any, Any]] = {}
        for number, work in enumerate(works):
            known = self._conclusions.find(work.key) if work.key is not None else None
            if known is not None:
                results.append(known.result)
                self._trails.append(known.trail)
                continue
            trail: dict[Query, Answer] = {}
            begun = begin(work.plan, self._recall, trail)
            if isinstance(begun, Done):
                results.append(self._conclude(work, begun.result, trail))
            else:
                results.append(None)
                waiting[number] = self._within_limit(work, begun, trail)
        return Begun(results, waiting)

    @staticmethod
    async def finish(begun: Begun) -> list[Any]:
        """The results of all, once DNS has answered."""
        if begun.waiting:
            done = await asyncio.gather(*begun.waiting.values())
            for number, result in zip(begun.waiting, done, strict=True):
                begun.results[number] = result
        return begun.results

    async def _within_limit(self, work: Work, query: Query, trail: dict[Query, Answer]) -> Any:
        """The result of a plan that waits for an answer."""

        async def ask(query: Query) -> Answer:
            answer = trail[query] = await self._lookup(query)
            return answer

        try:
            async with asyncio.timeout(_LIMIT_S):
                result = await follow(work.plan, ask, query)
        except TimeoutError:
            self._trails.append(trail)
            return work.late()
        return self._conclude(work, result, trail)

    def _conclude(self, work: Work, result: Any, trail: dict[Query, Answer]) -> Any:
        self._trails.append(trail)
        if work.key is not None and getattr(result, "shared", True) and len(trail) <= _MAX_EVIDENCE:
            self._conclusions.keep(work.key, result, trail)
        return result

    def evidence(self) -> dict[Query, Answer]:
        """What was asked and answered; of very much not all."""
        found: dict[Query, Answer] = {}
        for trail in self._trails:
            found.update(trail)
        return found if len(found) <= _MAX_EVIDENCE else dict(islice(found.items(), _MAX_EVIDENCE))

    def proof(self) -> dict[Query, Answer] | None:
        """All that was asked and answered, if it is so little that it may be kept for long."""
        if sum(map(len, self._trails)) > _MAX_EVIDENCE:
            return None
        found = self.evidence()
        octets = sum(len(str(record)) for answer in found.values() for record in answer.records)
        return found if octets <= _MAX_KEPT else None


class Lines:
    """Answers as the trace shows them, a line each; most come again and again."""

    def __init__(self) -> None:
        self._kept: dict[Query, tuple[Answer, str]] = {}

    def of(self, evidence: Mapping[Query, Answer]) -> Iterator[str]:
        """The lines of these answers."""
        for query, answer in evidence.items():
            kept = self._kept.get(query)
            if kept is None or kept[0] is not answer:
                if len(self._kept) >= _MAX_LINES:
                    self._kept.clear()
                kept = self._kept[query] = (answer, format_answer(query, answer))
            yield kept[1]
