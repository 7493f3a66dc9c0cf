"""Build the server from its configuration, connect its parts, and run it until it is told to stop.

Each part does its own work; starting several workers and watching over them is the business of `supervisor`.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakSet

import msgspec

from pillarbox import observe
from pillarbox.config.certificates import certificates_of
from pillarbox.config.checks import check
from pillarbox.inbound.accept import Door
from pillarbox.inbound.desk import Desk
from pillarbox.inbound.etrn import Etrn
from pillarbox.inbound.greeting import SlowGreeting
from pillarbox.inbound.report_office import Outside, ReportOffice
from pillarbox.inbound.session import SmtpProtocol
from pillarbox.inbound.status import StatusBoard
from pillarbox.mail.address import AddressError, parse_address
from pillarbox.mail.catalogue.auth import TLS_EXPECTED
from pillarbox.net.handshakes import ListenersTls, new_contexts
from pillarbox.net.listener import Connections, Listener, bind, comes_here, listen
from pillarbox.net.renewal import Renewal
from pillarbox.net.resolver import Resolver
from pillarbox.policies import Policy, get_tools
from pillarbox.policy.checks import Tools
from pillarbox.policy.forwarding import Leaving
from pillarbox.policy.memory import Memory
from pillarbox.policy.quota import mailbox_of
from pillarbox.policy.rules import Role
from pillarbox.policy.tarpit import Tarpit
from pillarbox.policy.terms import TermRules
from pillarbox.policy.verify import VerifyPolicy
from pillarbox.queue.ledger import Ledger
from pillarbox.queue.manager import Manager
from pillarbox.queue.returned import Returns
from pillarbox.queue.spool import SpoolError, format_id, parse_id
from pillarbox.queue.sqlite import SqliteSpool
from pillarbox.queue.suppressing import Suppressions
from pillarbox.relay.connection import client_context
from pillarbox.relay.couriers import Couriers, PresentCouriers
from pillarbox.relay.hosts import Hosts
from pillarbox.relay.local import LocalCouriers, LocalSettings
from pillarbox.relay.plan import Tls
from pillarbox.relay.protection import Protection
from pillarbox.relay.tls_watch import TlsWatch
from pillarbox.smtp.profile import Profile

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Awaitable, Callable, Sequence

    from pillarbox.config import Config, ListenSettings
    from pillarbox.mail.envelope import Envelope, Recipient
    from pillarbox.mail.reply import Result
    from pillarbox.mail.route import Route
    from pillarbox.mailauth.dns import Answer, Query
    from pillarbox.net.arrivals import Arrivals
    from pillarbox.net.tls import ListenerContext
    from pillarbox.policy.users import Mailbox
    from pillarbox.queue.attempt import Courier
    from pillarbox.queue.spool import Draft, Entry, Queued
    from pillarbox.queue.workplace import InProcess
    from pillarbox.relay.demand import StsFinding
    from pillarbox.relay.sts import StsPolicies

_FRESH_S = 1.0  # how soon a server knows what a command has changed
_SPARE_FILES = 128  # kept for the store, the log and deliveries when connections are counted
# Settings of parts that live as long as the worker; of `listen` all but addresses and how connections begin can change.
_FIXED = (
    "hostname",
    "user",
    "data",
    "workers",
    "event_loop",
    "listen",
    "connections",
    "acme",
    "queue",
    "suppression",
    "console",
)
_OF_COURIERS = (
    "junk_folder",
    "programs",
    "webhooks",
    "handler_limit_s",
    "recipient_delimiter",
    "relay",
    "dns",
    "reports",
    "srs",
    "routes",
)


def most_connections() -> int:
    """How many connections the limit of open files leaves room for; each may also hold a body file open."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(soft - _SPARE_FILES, 1)


def take_over(running: Config, new: Config) -> tuple[Config, list[str]]:
    """The new settings, but those that a running server can't change as they are; and the names of these if they differ.

    Raises ValueError if the two do not go together.
    """
    kept = [name for name in _FIXED if getattr(running, name) != getattr(new, name)]
    if "listen" in kept and _sockets(running) == _sockets(new):
        kept.remove("listen")
    if not kept:
        return new, []
    merged = msgspec.structs.replace(new, **{name: getattr(running, name) for name in kept})
    problems = [finding.problem for finding in check(merged)]
    if problems:
        raise ValueError(f"it needs a restart: {', '.join(kept)} changed, and without that {problems[0]}")
    return merged, kept


def _sockets(config: Config) -> list[tuple[str, bool, bool]]:
    """What of the listeners is settled once they are open: where, and whether they begin with TLS or a PROXY header."""
    return [(one.address, one.tls == "implicit", one.proxy_protocol) for one in config.listen]


class Service:
    """One worker: all its parts, from the listening sockets to the couriers."""

    def __init__(
        self,
        config: Config,
        *,
        plugins: Sequence[object] = (),
        contexts: Sequence[ListenerContext | None] = (),
        writer: InProcess | None = None,
    ) -> None:
        """Prepare; nothing is opened before `start`. `contexts` are those of the listeners, if several workers share them.

        Without a `writer` in a process of its own, a thread writes to the store.
        """
        self.config = config
        self._writer = writer
        self._plugins = plugins
        contexts = contexts or new_contexts(config.tls_manners, config.tls.client_ca)
        self._tls = ListenersTls(certificates_of(config), config.tls_manners, contexts)
        self._hosts = Hosts()
        self._suspended: set[str] = set()  # keywords of extensions, for all sessions
        self._servers: list[Listener | Arrivals] = []
        # The desks of all sessions, also of those begun before a reload.
        self._manned: WeakSet[Desk] = WeakSet()
        self._sts: StsPolicies | None = None  # until mail goes to an exchanger
        self._reports = ReportOffice(config.reports, Path(config.data), hostname=config.hostname)
        self._open = contextlib.AsyncExitStack()  # closes what was opened, the last first
        self.addresses: list[tuple[str, int]] = []  # where it listens, in the order of the configuration
        self.console_address: tuple[str, int] | None = None

    async def start(
        self,
        sockets: Sequence[socket.socket] = (),
        console: socket.socket | None = None,
        answers: socket.socket | None = None,
    ) -> None:
        """Open the store, begin to deliver and listen; on `sockets`, `console` and `answers`, or on ones bound here.

        Raises OSError, apsw.Error, StoreError, ValueError or ImportError; then nothing stays open.
        """
        try:
            self._open_queue()
            await self._open_listeners(sockets)
            watches = (self.connections.watch(), self._keep_fresh(), self._tls.watch())
            for work in (*watches, self.manager.run(), self._reports.run(self._outside)):
                self._open.push_async_callback(_cancel, asyncio.create_task(work))
            if self.config.acme.directory:
                await self._open_acme(answers or bind(self.config.acme.listens_on))
            if self.config.console.address:
                self._open_console(console or bind(self.config.console.address))
        except BaseException:
            await self._open.aclose()
            raise

    def _open_queue(self) -> None:
        config = self.config
        if config.console.address:
            observe.start_counting()
        observe.write_behind(asyncio.get_running_loop())
        self._open.callback(observe.write_behind, None)
        self._resolver = Resolver(config.dns)
        self._memory = Memory(Path(config.data))
        self._open.push_async_callback(self._memory.close)
        self._open.push_async_callback(self._reports.close)
        self._policy = Policy(config, self._get_tools(config, self._resolver), self._plugins, self._reports)
        self._open.push_async_callback(self._close_accounts)
        self.spool = SqliteSpool(Path(config.data), self._writer)
        self._open.push_async_callback(self._close_spool)
        self._couriers = PresentCouriers(*self._courier_makers(config))
        self._open.push_async_callback(self._couriers.close)
        suppressions = Suppressions(self.spool, config.suppression)
        self._returns = Returns(self.spool, suppressions, hostname=config.hostname)
        self._open.push_async_callback(self._returns.close)
        self.manager = Manager(
            self.spool,
            settings=config.queue,
            suppressions=suppressions,
            couriers=self._couriers,
            route=self._route,
            prepare_report=self._prepare_report,
            revive=self._hosts.revive,
            hostname=config.hostname,
        )

    def _outside(self) -> Outside:
        """How reports reach others."""
        from pillarbox.inbound.origin import find_organization  # noqa: PLC0415 - only where reports are sent

        return Outside(self._look_up, self._send_report, find_organization(self.config.dmarc.organization))

    async def _look_up(self, query: Query) -> Answer:
        """Ask the present resolver: a reload may replace it."""
        return await self._resolver.lookup(query)

    async def _send_report(self, envelope: Envelope, octets: bytes) -> str:
        """Hand a report to the queue; its id, "" if none of its recipients is known here."""
        draft, entry = self.door.prepare_report(envelope, octets, time.time())
        if not entry.routes:
            draft.discard()
            return ""
        self.manager.offer(await self.spool.commit(draft, entry))
        return format_id(entry.id)

    def _courier_makers(
        self, config: Config
    ) -> tuple[Callable[[Route], Courier], Callable[[], Awaitable[None]]]:
        """Who makes couriers by these settings, and what gives back the threads and connections that they share."""
        local = LocalCouriers(
            LocalSettings(
                program=config.programs, webhook=config.webhooks, handler_limit_s=config.handler_limit_s
            ),
            hostname=config.hostname,
            recipient_delimiter=config.recipient_delimiter,
            mailbox_of=self._mailbox_of,
            junk_folder=config.junk_folder,
            report_store=self._reports.store,
        )
        self._network = Couriers(
            config.relay,
            self._resolver,
            hostname=config.hostname,
            local=local,
            hosts=self._hosts,
            is_us=lambda address, port: comes_here(address, port, self.addresses),
            sender_for=self._sender_for if config.srs.rewrite else None,
            protection=self._protection(config),
            level_of=self._level_of,
        )
        return self._network, local.close

    def _protection(self, config: Config) -> Protection:
        """What finds out how hosts prove who they are, and hears what comes of it."""
        relay = config.relay
        watch = TlsWatch(
            self._memory,
            self._reports.session_counting(config.reports),
            downgrade=relay.tls_downgrade,
            alarms=self._hosts.alarms,
        )
        return Protection(
            self._resolver.lookup if relay.dane else None,
            self._find_policy if relay.mta_sts else None,
            verify=relay.verify_certificates,
            watch=watch,
        )

    def _level_of(self, domain: str) -> Tls | None:
        """What the routes demand of a domain's exchangers now."""
        level = self._policy.directory.tls_of_route(domain)
        return Tls(level) if level else None

    async def _find_policy(self, domain: str) -> StsFinding:
        """The MTA-STS policy of a domain. What knows them is made when the first is asked for."""
        if self._sts is None:
            from pillarbox.relay.sts import StsPolicies  # noqa: PLC0415 - not before mail goes to an exchanger
            from pillarbox.relay.sts_store import StsStore  # noqa: PLC0415 - the same

            sts = self._sts = StsPolicies(
                lambda: self._resolver,
                StsStore(Path(self.config.data)),
                lambda: client_context(verify=True, ca_file=self.config.relay.ca_file),
            )
            self._open.push_async_callback(sts.close)
            self._open.push_async_callback(_cancel, asyncio.create_task(sts.keep_fresh()))
        return await self._sts.find(domain)

    async def _keep_fresh(self) -> None:
        """Learn of domains and mailboxes that commands add, and of files that change."""
        while True:
            await asyncio.sleep(_FRESH_S)
            try:
                await self._policy.keep_fresh()
            except Exception as error:  # noqa: BLE001 - a bug; what is known stays in use
                observe.report_incident(error)

    async def _close_accounts(self) -> None:
        await self._policy.close()

    async def _close_spool(self) -> None:
        await self.spool.close()

    async def _open_listeners(self, sockets: Sequence[socket.socket]) -> None:
        self.connections = Connections(self.config.connections, most=most_connections())
        self._open_desks()
        for number, settings in enumerate(self.config.listen):
            bound = sockets[number] if sockets else bind(settings.address)
            await self._listen(number, settings, bound)

    async def _listen(self, number: int, settings: ListenSettings, bound: socket.socket) -> None:
        self.addresses.append(bound.getsockname()[:2])
        server = await self._serve(number, settings, bound)
        self._servers.append(server)
        self._open.callback(server.close)

    async def _serve(
        self, number: int, settings: ListenSettings, bound: socket.socket
    ) -> Listener | Arrivals:
        speaks_http = settings.role is Role.POLICY
        if settings.tls != "implicit" and not settings.proxy_protocol:
            return await listen(
                bound, self._policy_host() if speaks_http else lambda: SmtpProtocol(self._desks[number])
            )
        from pillarbox.net.arrivals import Arrivals  # noqa: PLC0415 - it costs start-up time

        if speaks_http:
            make = self._policy_host()
            return Arrivals(bound, lambda _peer: make(), self.connections, tls=self._context_of(number))
        return Arrivals(
            bound,
            lambda peer: SmtpProtocol(self._desks[number], peer),
            self.connections,
            proxies=(lambda: self._policy.proxies) if settings.proxy_protocol else None,
            tls=self._context_of(number) if settings.tls == "implicit" else None,
            advice=TLS_EXPECTED.reply(hostname=self.config.hostname).bare_wire,
        )

    def _context_of(self, number: int) -> Callable[[], ssl.SSLContext]:
        """What a listener's handshakes begin with now: a reload may change it."""

        def find() -> ssl.SSLContext:
            tls = self._tls.one(number)
            assert tls is not None  # a listener that begins with TLS has some: `config.checks` sees to it
            return tls.context

        return find

    def _policy_host(self) -> Callable[[], asyncio.Protocol]:
        """What serves the MTA-STS policies of our domains, as they are when somebody asks."""
        from pillarbox.inbound.sts_host import StsHost, StsProtocol, policy_of  # noqa: PLC0415 - few serve any

        def find(domain: str) -> str:
            settings = self._policy.directory.settings_of(domain)
            found = policy_of(settings.mta_sts, self.config.hostname) if settings is not None else None
            return str(found) if found is not None else ""

        host = StsHost(find)
        return lambda: StsProtocol(host)

    async def _open_acme(self, bound: socket.socket) -> None:
        """Answer the authority, and renew what it issued."""
        from pillarbox.net.challenges import answer  # noqa: PLC0415 - it costs start-up time

        renewal = Renewal(self.config.acme, self.config.hostname, Path(self.config.data))
        server = await answer(bound, self.config.acme.challenge, renewal.answers, self.connections)
        self._open.callback(server.close)
        self._open.push_async_callback(_cancel, asyncio.create_task(renewal.run()))

    def _open_console(self, bound: socket.socket) -> None:
        from pillarbox.console.api import Console, create_app  # noqa: PLC0415 - it costs start-up time

        console = Console(create_app(lambda: not self.connections.draining, Path(self.config.data)))
        self.console_address = bound.getsockname()[:2]
        console.start(bound)
        self._open.push_async_callback(console.stop)

    def _open_desks(self) -> None:
        """Give each listener what its sessions share. What decides there does so for sessions that are open, too."""
        config, policy = self.config, self._policy
        if config.tls.self_signed and any(one.role is not Role.SANDBOX for one in config.listen):
            observe.CERTIFICATE_FOR_TESTS.note()
        self._terms = TermRules(
            config.extensions, policy.rules, policy.directory, delay_s=self.manager.delay_s
        )
        self.door = Door(
            self.spool,
            policy.directory,
            policy.hooks,
            hostname=config.hostname,
            limits=config.limits,
            offer=self._offer,
            max_messages=config.queue.max_messages,
            origin=policy.origin,
            keys=policy.keys,
            terms=self._terms if config.extensions.rrvs == "on" else None,
        )
        self.door.check_from = config.auth.check_from
        self._etrn = Etrn(
            config.etrn, policy.directory, busy=lambda: self.manager.busy, start=self._start_route
        )
        self._suspended.clear()
        self._suspended |= config.extensions.suspended
        self._desks = [self._desk(number, settings) for number, settings in enumerate(config.listen)]
        for desk in self._manned:
            desk.follow(self._desks[0])
        self._manned.update(self._desks)

    async def _start_route(self, route: Route, below: bool) -> int:  # noqa: FBT001 - a callback
        """Have what waits for a route tried now; how many messages."""
        return await asyncio.to_thread(_start_route, Path(self.config.data), route, below=below)

    def _desk(self, number: int, settings: ListenSettings) -> Desk:
        config, policy, tls = self.config, self._policy, self._tls.one(number)
        submission = settings.role is Role.SUBMISSION
        mechanisms = policy.accounts.mechanisms(certificates=tls is not None and tls.manner.asks)
        profile = Profile(
            hostname=config.hostname,
            limits=config.limits,
            helps=config.help.enabled,
            strict_pipelining=config.greet.strict_pipelining and settings.role is Role.MX,
            lmtp=settings.role is Role.LMTP,
            offers_tls=tls is not None and settings.tls == "starttls",
            offers_login=bool(mechanisms) and settings.role is not Role.LMTP,
            login_needs_tls=config.auth.require_tls,
            mechanisms=mechanisms,
            min_strength=policy.accounts.min_strength,
            random=secrets.token_bytes,
            needs_tls=settings.require_tls,
            needs_login=submission,
            login_in_clear=settings.login_in_clear,
            extensions=config.extensions,
            suspended=self._suspended,
            starts_queue=bool(config.etrn.allow) and settings.role is not Role.LMTP,
            verifies=config.policy.vrfy is not VerifyPolicy.OFF,
            expands=config.policy.vrfy is VerifyPolicy.OPEN,
            expands_for_logins=config.policy.vrfy is VerifyPolicy.AUTH,
            knows_since=policy.directory.knows_since,
            peer_verbs=config.proxy.verbs,
        )
        slow = bool(config.greet.delay_s) and settings.role is Role.MX
        return Desk(
            role=settings.role,
            profile=profile,
            rules=policy.rules,
            accounts=policy.accounts,
            hooks=policy.hooks,
            door=self.door,
            connections=self.connections,
            board=StatusBoard(config.help, self.connections, Path(config.data)),
            slow_greeting=SlowGreeting(config.greet, profile, policy.hooks) if slow else None,
            terms=self._terms,
            etrn=self._etrn,
            handshakes=policy.handshakes,
            tls=tls,
            implicit_tls=settings.tls == "implicit",
            proxies=policy.proxies if config.proxy.verbs else None,
            tarpit=Tarpit(config.tarpit) if config.tarpit.delay_s else None,
            on_refusal=policy.harvest.note if policy.harvest is not None else None,
        )

    def _offer(self, queued: Queued) -> None:
        """A message was stored: it may be a bounce of one of ours, and is delivered like all others."""
        if not queued.envelope.sender:
            self._returns.look_at(queued)
        self.manager.offer(queued)

    def _prepare_report(self, envelope: Envelope, octets: bytes, now: float) -> tuple[Draft, Entry]:
        """The door of the present configuration takes our own reports."""
        return self.door.prepare_report(envelope, octets, now)

    def _get_tools(self, config: Config, resolver: Resolver) -> Tools:
        return get_tools(config, resolver, self._memory, self._probe, self._find_sender)

    async def _probe(self, route: Route, address: str) -> Result:
        """Ask the hosts of a route about an address, by the present settings."""
        return await self._network.probe(route, address)

    def _sender_for(self, sender: str, queue_id: str, recipient: Recipient) -> Leaving:
        """The reverse-path of a copy, by the present settings and keys."""
        forwarding = self._policy.directory.forwarding
        return Leaving(sender) if forwarding is None else forwarding.sender_for(sender, queue_id, recipient)

    async def _find_sender(self, queue_id: str) -> str:
        """Who sent a message; "" if it is not known any more. Raises LookupError if the store can't tell now."""
        try:
            sent = await self.spool.find_sent([parse_id(queue_id)], [])
        except SpoolError as error:
            raise LookupError(str(error)) from error
        except ValueError:
            return ""
        return "" if sent is None else sent.sender

    def _mailbox_of(self, address: str) -> Mailbox | None:
        """What is known of a mailbox now, if any has limits."""
        directory = self._policy.directory
        return mailbox_of(directory, address) if directory.has_limits else None

    def _route(self, address: str) -> Route | None:
        """The way that mail for an address takes now; asked again at each attempt, so a reload moves queued mail."""
        with contextlib.suppress(AddressError):
            return self._policy.directory.route(parse_address(address))
        return None

    def reload(self, config: Config) -> list[str]:
        """Take a new configuration without dropping a session; the names of the settings that have to wait for a restart.

        Raises ValueError or ImportError if it can't be used, and keeps the old one.
        """
        config, waiting = take_over(self.config, config)
        resolver = self._resolver if self.config.dns == config.dns else Resolver(config.dns)
        policy = Policy(config, self._get_tools(config, resolver), self._plugins, self._reports)
        certificates = certificates_of(config)
        certificates.load_all()
        self._resolver = resolver
        if any(getattr(self.config, name) != getattr(config, name) for name in _OF_COURIERS):
            self._couriers.renew(*self._courier_makers(config))
        self.config, self._policy = config, policy
        self._reports.renew(config.reports)
        self._tls.renew(certificates, config.tls_manners)
        self._open_desks()
        self.manager.reroute()
        return waiting

    async def stop(self) -> None:
        """Drain: sessions end at the next command boundary, deliveries finish or are released, the store is closed."""
        for server in self._servers:
            server.close()
        limit_s = self.config.drain_s
        clock = asyncio.get_running_loop().time
        until = clock() + limit_s
        try:
            await asyncio.gather(self.connections.drain(limit_s), self.manager.drain(limit_s))
            await self._policy.hooks.close(max(until - clock(), 0.0))
        finally:
            await self._open.aclose()


def _start_route(data: Path, route: Route, *, below: bool) -> int:
    with Ledger(data) as ledger:
        return ledger.start(route, below=below)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
