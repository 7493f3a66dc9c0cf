"""Build the server from its configuration, connect its parts, and run it until it is told to stop.

Each part does its own work; starting several workers and watching over them is the business of `supervisor`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import resource
from pathlib import Path
from typing import TYPE_CHECKING

from pillarbox import observe
from pillarbox.inbound.accept import Door
from pillarbox.inbound.session import Desk, SmtpProtocol
from pillarbox.mail.address import AddressError, parse_address
from pillarbox.net.listener import Connections, bind, listen
from pillarbox.net.resolver import Resolver
from pillarbox.net.tls import server_context
from pillarbox.policy.accounts import Accounts
from pillarbox.policy.directory import Directory
from pillarbox.policy.hooks import Hooks
from pillarbox.policy.rules import Role, Rules
from pillarbox.queue.manager import Manager
from pillarbox.queue.sqlite import SqliteSpool
from pillarbox.relay.couriers import Couriers
from pillarbox.relay.local import LocalCouriers, LocalSettings
from pillarbox.smtp.profile import Profile

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Sequence

    from pillarbox.config import Config, ListenSettings
    from pillarbox.console.api import Console
    from pillarbox.mail.envelope import Envelope
    from pillarbox.mail.route import Route
    from pillarbox.queue.spool import Draft, Entry

_SPARE_FILES = 128  # kept for the store, the log and deliveries when connections are counted


def most_connections() -> int:
    """How many connections the limit of open files leaves room for; each may also hold a body file open."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(soft - _SPARE_FILES, 1)


class Policy:
    """What a reload replaces as a whole: directory, accounts, rules, hooks and certificates."""

    def __init__(self, config: Config, plugins: Sequence[object] = ()) -> None:
        """Raises config.ConfigError, OSError or ssl.SSLError for what can't work."""
        self.directory = Directory(config.directory)
        self.accounts = Accounts(config.accounts)
        self.rules = Rules(config.policy, self.directory, self.accounts)
        self.hooks = Hooks([*map(importlib.import_module, config.hooks), *plugins])
        self.tls: ssl.SSLContext | None = None
        if config.tls.certificate:
            self.tls = server_context(Path(config.tls.certificate), Path(config.tls.key))


class Service:
    """One worker: all its parts, from the listening sockets to the couriers."""

    def __init__(self, config: Config, *, plugins: Sequence[object] = ()) -> None:
        """Prepare; nothing is opened before `start`."""
        self.config = config
        self._plugins = plugins
        self._servers: list[asyncio.Server] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._console: Console | None = None
        self.addresses: list[tuple[str, int]] = []  # where it listens, in the order of the configuration

    async def start(
        self, sockets: Sequence[socket.socket] = (), console: socket.socket | None = None
    ) -> None:
        """Open the store, begin to deliver and listen; on `sockets` and `console`, or on ones bound here.

        Raises OSError, SpoolError or ConfigError.
        """
        config = self.config
        if config.console.address:
            observe.start_counting()
        observe.write_behind(asyncio.get_running_loop())
        self._policy = Policy(config, self._plugins)
        self.spool = SqliteSpool(Path(config.data))
        self._local = LocalCouriers(
            LocalSettings(
                program=config.programs, webhook=config.webhooks, handler_limit_s=config.handler_limit_s
            ),
            hostname=config.hostname,
            recipient_delimiter=config.recipient_delimiter,
        )
        couriers = Couriers(
            settings=config.relay, resolver=Resolver(config.dns), hostname=config.hostname, local=self._local
        )
        self.manager = Manager(
            self.spool,
            settings=config.queue,
            couriers=couriers,
            route=self._route,
            prepare_report=self._prepare_report,
            hostname=config.hostname,
        )
        self.connections = Connections(config.connections, most=most_connections())
        self._open_desks()
        for number, settings in enumerate(config.listen):
            bound = sockets[number] if sockets else bind(settings.address, shared=False)
            await self._listen(number, settings, bound)
        self._tasks = [
            asyncio.create_task(self.connections.watch()),
            asyncio.create_task(self.manager.run()),
        ]
        if config.console.address:
            await self._open_console(console)
        # What lives now lives for ever: the collector need not look at it again, and cycles are rare here.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)

    async def _open_console(self, bound: socket.socket | None) -> None:
        from pillarbox.console.api import Console, create_app  # noqa: PLC0415 - it costs start-up time

        self._console = Console(create_app(lambda: not self.connections.draining, Path(self.config.data)))
        self._console.start(bound or bind(self.config.console.address, shared=False))

    async def _listen(self, number: int, settings: ListenSettings, bound: socket.socket) -> None:
        tls = self._policy.tls if settings.tls == "implicit" else None
        self._servers.append(await listen(bound, lambda: SmtpProtocol(self._desks[number]), tls=tls))
        self.addresses.append(bound.getsockname()[:2])

    def _open_desks(self) -> None:
        """Give each listener what its sessions share; sessions that are open keep what they had."""
        config, policy = self.config, self._policy
        self.door = Door(
            self.spool,
            policy.directory,
            policy.hooks,
            hostname=config.hostname,
            limits=config.limits,
            offer=self.manager.offer,
        )
        self._desks = [self._desk(settings) for settings in config.listen]

    def _desk(self, settings: ListenSettings) -> Desk:
        config, policy = self.config, self._policy
        submission = settings.role is Role.SUBMISSION
        profile = Profile(
            hostname=config.hostname,
            limits=config.limits,
            lmtp=settings.role is Role.LMTP,
            offers_tls=policy.tls is not None and settings.tls == "starttls",
            offers_login=bool(policy.accounts) and settings.role is not Role.LMTP,
            needs_tls=settings.require_tls,
            needs_login=submission,
            login_in_clear=settings.login_in_clear,
        )
        return Desk(
            role=settings.role,
            profile=profile,
            rules=policy.rules,
            accounts=policy.accounts,
            hooks=policy.hooks,
            door=self.door,
            connections=self.connections,
            tls=policy.tls,
            implicit_tls=settings.tls == "implicit",
        )

    def _prepare_report(self, envelope: Envelope, octets: bytes, now: float) -> tuple[Draft, Entry]:
        """The door of the present configuration takes our own reports."""
        return self.door.prepare_report(envelope, octets, now)

    def _route(self, address: str) -> Route | None:
        """The way that mail for an address takes now; asked again at each attempt, so a reload moves queued mail."""
        with contextlib.suppress(AddressError):
            return self._policy.directory.route(parse_address(address))
        return None

    def reload(self, config: Config) -> None:
        """Take a new configuration without dropping a session. Raises what `Policy` raises, and keeps the old one.

        Addresses to listen on and the data folder stay as they were until the next start.
        """
        policy = Policy(config, self._plugins)
        self.config, self._policy = config, policy
        self._open_desks()

    async def stop(self) -> None:
        """Drain: sessions end at the next command boundary, deliveries finish or are released, the store is closed."""
        for server in self._servers:
            server.close()
        limit_s = self.config.drain_s
        await asyncio.gather(self.connections.drain(limit_s), self.manager.drain(limit_s))
        if self._console is not None:
            await self._console.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._policy.accounts.close()
        await self._local.close()
        await self.spool.close()
        observe.write_behind(None)
