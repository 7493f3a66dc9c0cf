"""Make the couriers that end on this host: folders, programs, web services, Python functions, and none at all.

What goes out by SMTP or LMTP is the business of `transaction`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec

from pillarbox.mail.catalogue import CAUSES, delivery
from pillarbox.mail.route import Route, Transport
from pillarbox.mail.units import Seconds, Settings
from pillarbox.relay.final import FinalCourier, here
from pillarbox.relay.handler import Handler
from pillarbox.relay.maildir import Maildir
from pillarbox.relay.pipe import Pipe, ProgramSettings
from pillarbox.relay.webhook import Webhook, WebhookSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pillarbox.mail.reply import Result
    from pillarbox.policy.report_store import ReportStore
    from pillarbox.policy.users import Mailbox
    from pillarbox.queue.spool import Queued
    from pillarbox.relay.final import FinalDelivery

_MAILBOX_THREADS = 8  # so many mailboxes are written to at the same time
_HANDLER_THREADS = 8


class LocalSettings(Settings, frozen=True):
    """Deliveries that end on this host."""

    program: dict[str, ProgramSettings] = msgspec.field(default_factory=dict)
    """Programs by the name that "pipe:NAME" uses."""
    webhook: dict[str, WebhookSettings] = msgspec.field(default_factory=dict)
    """Web services by the name that "webhook:NAME" uses."""
    handler_limit_s: Seconds = Seconds(60)
    """How long a Python function may work on one message."""


class LocalCouriers:
    """Makes couriers; they share threads and connections."""

    def __init__(
        self,
        settings: LocalSettings,
        *,
        hostname: str,
        recipient_delimiter: str = "+",
        mailbox_of: Callable[[str], Mailbox | None] | None = None,
        junk_folder: str = "",
        report_store: Callable[[], ReportStore] | None = None,
    ) -> None:
        """`hostname` becomes part of file names; `recipient_delimiter` is the directory's.

        `mailbox_of` tells the limits of the mailbox that an address stands for, if there are mailboxes with limits.
        Without `junk_folder` junk goes where all mail goes. `report_store` gives the store of reports that are read.
        """
        self._report_store = report_store
        self._mailbox_of = mailbox_of
        self._junk_folder = junk_folder
        self._settings = settings
        self._hostname = hostname
        self._delimiters = recipient_delimiter
        self._disk = ThreadPoolExecutor(_MAILBOX_THREADS, "mailbox")
        self._handlers = ThreadPoolExecutor(_HANDLER_THREADS, "handler")
        self._webhooks: dict[str, Webhook] = {}

    def __call__(self, route: Route) -> FinalCourier | DiscardCourier | RefusingCourier:
        """A courier for `route`. Raises ValueError if there is none, also when what it names is not configured."""
        if route.transport is Transport.DISCARD:
            return DiscardCourier()
        if route.transport is Transport.REFUSE:
            return RefusingCourier(route.target)
        return FinalCourier(self._way(route))

    def _way(self, route: Route) -> FinalDelivery:
        match route.transport:
            case Transport.MAILDIR:
                return Maildir(route.target, self._disk, self._hostname, self._mailbox_of, self._junk_folder)
            case Transport.PIPE if route.target in self._settings.program:
                return Pipe(self._settings.program[route.target], self._delimiters)
            case Transport.WEBHOOK if route.target in self._settings.webhook:
                known = self._webhooks.get(route.target)
                if known is None:
                    known = self._webhooks[route.target] = Webhook(self._settings.webhook[route.target])
                return known
            case Transport.REPORTS if self._report_store is not None:
                from pillarbox.relay.reports import ReportReader  # noqa: PLC0415 - few servers read reports

                return ReportReader(self._report_store())
            case Transport.PYTHON:
                return Handler(route.target, self._handlers, self._settings.handler_limit_s)
        raise ValueError(f"nothing on this host delivers to {route}")

    async def close(self) -> None:
        """Give threads and connections back. A plain function that still runs is not waited for."""
        for webhook in self._webhooks.values():
            await webhook.close()
        self._disk.shutdown(wait=False)
        self._handlers.shutdown(wait=False, cancel_futures=True)


class DiscardCourier:
    """Throws messages away, because the configuration says so."""

    async def deliver(self, queued: Queued) -> Mapping[int, Result]:
        """Count every recipient as delivered."""
        result = here(delivery.DELIVERED.reply(detail="Thrown away, as configured"))
        return {pending.number: result for pending in queued.pending}

    async def close(self) -> None:
        """Nothing is held."""


class RefusingCourier:
    """Takes nothing, because of the state of the account that the mail is for."""

    def __init__(self, cause: str) -> None:
        self._reply = CAUSES[cause].reply()

    async def deliver(self, queued: Queued) -> Mapping[int, Result]:
        """The same answer for every recipient."""
        return {pending.number: here(self._reply) for pending in queued.pending}

    async def close(self) -> None:
        """Nothing is held."""
