"""Make one attempt through a courier, whatever the courier does: the outcome is always a result per recipient.

What follows from the results is `queue.manager`'s business.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from pillarbox import observe
from pillarbox.mail.catalogue import delivery
from pillarbox.mail.reply import Origin, Result, Stage
from pillarbox.queue.spool import format_id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pillarbox.mail.reply import Cause
    from pillarbox.mail.route import Route
    from pillarbox.queue.spool import Queued


class Courier(Protocol):
    """Carries messages of one route; one lane uses it, for one message after another."""

    async def deliver(self, queued: Queued) -> Mapping[int, Result]:
        """Attempt one message, its content loaded: a result for each `Pending.number`. Raises only CancelledError."""

    async def close(self) -> None:
        """Give up what is held open."""


class Carrier:
    """The courier of one lane, made when it is first needed."""

    def __init__(self, factory: Callable[[Route], Courier], route: Route) -> None:
        """Carry messages of `route`."""
        self._factory = factory
        self._route = route
        self._courier: Courier | None = None

    async def deliver(self, queued: Queued) -> Mapping[int, Result]:
        """Attempt a message; a bug in the courier becomes a result with an incident. Raises only CancelledError."""
        try:
            if self._courier is None:
                self._courier = self._factory(self._route)
            results = await self._courier.deliver(queued)
            missing = [one for one in queued.pending if one.number not in results]
            if not missing:
                return results
            raise KeyError(f"no result for recipients {[one.number for one in missing]}")  # noqa: TRY301
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the recipients need a result
            incident = observe.report_incident(error, message=format_id(queued.id), route=str(self._route))
            return local_results(queued, delivery.INTERNAL_ERROR, incident=incident)

    async def close(self) -> None:
        """Close the courier, if there is one."""
        if self._courier is not None:
            try:
                await self._courier.close()
            except Exception as error:  # noqa: BLE001 - it is gone anyway
                observe.report_incident(error, route=str(self._route))


def local_results(queued: Queued, cause: Cause, **fields: object) -> dict[int, Result]:
    """The same result of our own for all recipients of a message."""
    result = Result(cause.reply(**fields), Stage.LOCAL, Origin.LOCAL)
    return {one.number: result for one in queued.pending}
