"""A small post office for tests: one set of mailboxes and accounts, served by the bare core or over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import os
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import msgspec
import pytest
import trustme
import uvloop
from argon2 import PasswordHasher

from pillarbox.inbound.accept import Door
from pillarbox.inbound.counted import Counting
from pillarbox.inbound.desk import Desk
from pillarbox.inbound.etrn import Etrn, EtrnSettings
from pillarbox.inbound.greeting import GreetSettings, SlowGreeting
from pillarbox.inbound.origin import OriginChecks
from pillarbox.inbound.presented import add_up, take_client
from pillarbox.inbound.session import SmtpProtocol
from pillarbox.inbound.status import HelpSettings, StatusBoard
from pillarbox.mail.catalogue import CAUSES, auth, content, extensions, peers, session
from pillarbox.mail.reply import Reply, printable
from pillarbox.mail.units import Octets, Seconds
from pillarbox.net.arrivals import Arrivals
from pillarbox.net.certificates import find_certificates
from pillarbox.net.handshakes import Handshakes, ListenerTls
from pillarbox.net.listener import ConnectionLimits, Connections, bind, listen
from pillarbox.net.resolver import Resolver, ResolverSettings
from pillarbox.net.tls import TlsManner, TlsSettings
from pillarbox.policy.accounts import Accounts, AccountSettings, AuthSettings, ConfigAccounts, Peer
from pillarbox.policy.checks import CheckSettings, Tools, line_up
from pillarbox.policy.directory import Directory
from pillarbox.policy.domains import DomainSettings
from pillarbox.policy.guard import Guard
from pillarbox.policy.harvest import Harvest
from pillarbox.policy.hooks import Client, Hooks
from pillarbox.policy.known_names import KnownNames
from pillarbox.policy.memory import Memory
from pillarbox.policy.names import DirectorySettings
from pillarbox.policy.origin import OriginPolicy
from pillarbox.policy.proxies import Proxies, ProxySettings
from pillarbox.policy.rules import Role, Rules, RuleSettings
from pillarbox.policy.signing import SigningKeys
from pillarbox.policy.tarpit import Tarpit, TarpitSettings
from pillarbox.policy.terms import TermRules
from pillarbox.policy.users import (
    Disclosure,
    ForwardSettings,
    ListSettings,
    MovedSettings,
    Reveal,
    State,
    UserSettings,
)
from pillarbox.policy.verify import VerifyPolicy
from pillarbox.queue.ledger import Ledger
from pillarbox.queue.sqlite import SqliteSpool
from pillarbox.smtp.events import (
    BodyChunk,
    BodyDropped,
    BodyEnd,
    BodyStart,
    Hello,
    Login,
    MailFrom,
    RcptTo,
    SecretWanted,
    Signal,
    StartQueue,
    StatusWanted,
    TlsWanted,
    Verify,
    XClient,
    XForward,
)
from pillarbox.smtp.extensions import ExtensionSettings
from pillarbox.smtp.profile import Limits, Profile
from pillarbox.smtp.sasl import Strength
from pillarbox.smtp.scram import HASHES, derive_keys, format_keys
from pillarbox.smtp.server import ServerSession

HOST = "mx.example.org"
ADDRESS = "127.0.0.1"  # of every client
PASSWORDS = {
    "alice@example.org": "wonderland",
    "bob@example.org": "builder",
    "carol@example.org": "carols",
    "dora@example.org": "doors",
}
DOMAINS = {
    "example.org": DomainSettings(
        deliver="hold",
        users=["alice", "bob", "postmaster", "abuse"],
        user={"carol": UserSettings(since=datetime(2024, 6, 1, tzinfo=UTC))},
        since=datetime(2019, 5, 31, tzinfo=UTC),
    ),
    "closed.example": DomainSettings(no_mail=True),
    "people.example": DomainSettings(
        deliver="hold",
        users=["ann", "bob", "ünal"],
        user={
            "pat": UserSettings(state=State.PAUSED),
            "lou": UserSettings(state=State.LOCKED),
            "dan": UserSettings(state=State.DISABLED),
            "lee": UserSettings(state=State.LEFT),
            "max": UserSettings(state=State.MOVED, moved_to="max@new.example"),
            "fay": UserSettings(forward=["fay@new.example"]),
            "tim": UserSettings(max_message_octets=Octets(1000)),
        },
        aliases={"desk": ["ann", "lee", "pat"], "gone": "lee"},
        lists={
            "staff": ListSettings(members=["ann", "bob", "jo@new.example"], senders="members"),
            "board": ListSettings(
                members=["ann"], senders=["chair@people.example", "@owners.example"], show_members=False
            ),
            "crew": ListSettings(members=["bob"], senders="authenticated"),
            "guests": ListSettings(members=["ünal"]),
        },
        forward=ForwardSettings(reveal=Reveal.ALWAYS),
    ),
    "shy.example": DomainSettings(
        deliver="hold",
        user={
            "max": UserSettings(state=State.MOVED, moved_to="max@new.example"),
            "fay": UserSettings(forward=["fay@new.example"]),
        },
        users=[],
        forward=ForwardSettings(reveal=Reveal.AUTHENTICATED),
        moved=MovedSettings(mode=Disclosure.AUTHENTICATED),
    ),
    "silent.example": DomainSettings(
        deliver="hold",
        user={
            "max": UserSettings(state=State.MOVED, moved_to="max@new.example"),
            "fay": UserSettings(forward=["fay@new.example"]),
        },
        users=[],
        moved=MovedSettings(mode=Disclosure.HIDE),
    ),
}
_QUICK = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


_ON_BOTH_LOOPS = {"dialogues", "inbound", "test_listener.py", "test_arrivals.py"}


def pytest_asyncio_loop_factories(config, item):
    """The server runs on uvloop and as a library on asyncio's own loop: what touches sockets is tested on both."""
    loops = {"asyncio": asyncio.new_event_loop}
    if not _ON_BOTH_LOOPS.isdisjoint(item.path.parts):
        loops["uvloop"] = uvloop.new_event_loop
    return loops


@dataclass
class Options:
    """How a listener of the post office is set up."""

    role: Role = Role.MX
    tls: str = "none"  # none, offered, implicit
    needs_tls: bool = False
    login: bool = False
    login_in_clear: bool = False
    login_needs_tls: bool = True
    mechanisms: str = "PLAIN LOGIN"
    min_strength: str = "password"
    vrfy: str = "restricted"
    domains: dict = field(default_factory=lambda: DOMAINS)
    known: KnownNames | None = None  # accounts that are mailboxes
    asked: dict = field(default_factory=dict)  # directories on other hosts
    probe: object = None  # asks the next hop about a recipient
    relay: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    connections: ConnectionLimits = field(default_factory=ConnectionLimits)
    deny: tuple[str, ...] = ()
    plugins: tuple[object, ...] = ()
    hook_limit_s: float = 5.0
    help: HelpSettings = field(default_factory=HelpSettings)
    greet: GreetSettings = field(default_factory=GreetSettings)
    checks: CheckSettings = field(default_factory=CheckSettings)
    find_virus: Callable | None = None
    give_score: Callable | None = None
    dns_timeout_s: float = 0.6
    nameserver: str = "127.0.0.1:9"
    clock: Callable[[], float] = time.time  # of the memory of policy
    memory_of: Office | None = None  # share the memory of policy with this one, as workers do
    min_free_octets: int = 0
    origin: OriginPolicy | None = None
    count: Counting | None = None  # of messages, for reports
    keys: SigningKeys | None = None
    max_handshakes: int = 100
    auth: AuthSettings | None = None  # accounts of its own for this office, under these rules
    sources: tuple[object, ...] = ()  # further directories of accounts
    tokens: object = None  # what checks tokens
    extensions: dict[str, object] = field(default_factory=dict)
    etrn: EtrnSettings = field(default_factory=EtrnSettings)
    proxy: ProxySettings = field(default_factory=ProxySettings)
    tarpit: TarpitSettings = field(default_factory=TarpitSettings)

    @property
    def extension_settings(self) -> ExtensionSettings:
        """What a script does not speak of is off, so that it need not count the lines of EHLO with each extension."""
        rest = dict.fromkeys(("deliverby", "futurerelease", "mt_priority", "rrvs", "requiretls"), "off")
        return ExtensionSettings(**(rest | self.extensions))

    @property
    def profile(self) -> Profile:
        return Profile(
            hostname=HOST,
            limits=self.limits,
            helps=self.help.enabled,
            strict_pipelining=self.greet.strict_pipelining,
            lmtp=self.role is Role.LMTP,
            offers_tls=self.tls == "offered",
            offers_login=self.login,
            needs_tls=self.needs_tls,
            needs_login=self.role is Role.SUBMISSION,
            login_in_clear=self.login_in_clear,
            login_needs_tls=self.login_needs_tls,
            mechanisms=tuple(self.mechanisms.split()),
            min_strength=Strength[self.min_strength.upper()],
            random=bytes,  # the dialogues are written down: every nonce is zeros
            extensions=self.extension_settings,
            suspended=set(self.extension_settings.suspended),
            starts_queue=bool(self.etrn.allow),
            verifies=self.vrfy != "off",
            expands=self.vrfy == "open",
            expands_for_logins=self.vrfy == "auth",
            knows_since=True,
            peer_verbs=self.proxy.verbs,
        )


def build_settings(name, password):
    """Alice may use some senders only; carol can log in by PLAIN alone, dora not at all."""
    keys = [format_keys(kind, derive_keys(kind, password, b"saltsalt", 16)) for kind in HASHES]
    return AccountSettings(
        password=_QUICK.hash(password),
        scram=() if name.startswith("carol") else tuple(keys),
        cram_md5=password,
        senders=("alice@example.org", "@wonder.example") if name.startswith("alice") else (),
        enabled=not name.startswith("dora"),
    )


class Migrating(ConfigAccounts):
    """Accounts that get their keys at a login by PLAIN, as those in `accounts.db` do; here it is never noted."""

    makes_keys = True
    keyless = 1 / 4


def build_accounts(settings=None, sources=(), tokens=None, guard=None):
    configured = Migrating({name: build_settings(name, password) for name, password in PASSWORDS.items()})
    return Accounts(
        [configured, *sources],
        settings or AuthSettings(),
        tokens=tokens,
        guard=guard,
        key=b"secret",
    )


def build_directory(options):
    """The usual one is made once: property tests make thousands of cores."""
    if options.domains is DOMAINS and options.known is None and not options.asked:
        return usual_directory()
    return Directory(DirectorySettings(domains=options.domains), known=options.known, asked=options.asked)


@functools.cache
def usual_directory():
    return Directory(DirectorySettings(domains=DOMAINS))


def build_rules(options):
    directory = build_directory(options)
    return Rules(
        RuleSettings(
            relay_networks=options.relay, deny_networks=options.deny, vrfy=VerifyPolicy(options.vrfy)
        ),
        directory,
        lambda domain: domain in {HOST, "[127.0.0.1]"},
    ), directory


@functools.cache
def loop_beside():
    """An event loop in a thread of its own, for decisions that the bare core waits for."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop


def at_once(work):
    """The result of a coroutine, whatever loop may be running here."""
    return asyncio.run_coroutine_threadsafe(work, loop_beside()).result()


NOW = 1_900_000_000.0  # Unix time for the bare core


async def nothing_waits(_route, _below):
    return 0


class Core:
    """The bare core with somebody who answers it by the same rules as the server, at once and without sockets."""

    def __init__(self, options, accounts=None):
        self.options = options
        self.accounts = accounts
        self.rules, directory = build_rules(options)
        self.terms = TermRules(options.extension_settings, self.rules, directory)
        self.etrn = Etrn(options.etrn, directory, busy=lambda: False, start=nothing_waits)
        profile = options.profile
        refusal = None
        if options.role is Role.NO_MAIL:
            refusal = session.NO_MAIL_HERE.reply(hostname=HOST)
        elif self.rules.denies(ADDRESS):
            refusal = session.CLIENT_DENIED.reply(hostname=HOST)
        self.session = ServerSession(profile, now=0.0, tls=options.tls == "implicit", refusal=refusal)
        self.client = Client("s", ADDRESS, 1234, options.role)
        self.told = {}
        self._give_rights()
        self.out = b""
        self.bodies = []  # complete ones
        self.events = []
        self.closed = False
        self.wants_tls = False
        self._body = bytearray()
        self._logged_in = ""
        self.announced = 0
        self.pump()

    def feed(self, data, now=0.0):
        self.session.receive(data, now)
        self.pump()
        return self

    def pump(self):
        current = self.session
        while True:
            event = current.next_event()
            if event is Signal.BUSY:
                self.out += current.to_send()
                continue
            if isinstance(event, Signal):
                assert event is not Signal.OWED
                self.closed = event is Signal.CLOSED
                break
            self.events.append(event)
            reply = self.decide(event)
            if isinstance(event, XClient) and not isinstance(reply, Reply):
                self._begin_anew(reply)
            elif isinstance(event, SecretWanted) and not isinstance(reply, Reply):
                current.give_secret(reply)
            elif event.owed:
                login = self._logged_in if isinstance(event, Login) else ""
                current.answer(reply, login=login)
            else:
                assert reply is None
        self.out += current.to_send()

    def decide(self, event):
        match event:
            case Hello():
                return self.session.welcome(NOW)
            case MailFrom():
                self.announced = event.parameters.size
                return self._decide_mail(event)
            case RcptTo():
                found = self.rules.decide_rcpt(
                    self.client, event.recipient, self.session.sender, self.announced
                )
                if event.valid_since is not None and not isinstance(found, Reply):
                    found = self.terms.decide_since(event.recipient, event.valid_since) or found
                return (
                    found if isinstance(found, Reply) else self.rules.acceptance(self.client, event.recipient)
                )
            case BodyStart():
                self._body.clear()
                return content.START_DATA.reply() if event.owed else None
            case BodyChunk():
                self._body += event.data
                return None
            case BodyEnd():
                if event.fault is not None:
                    return event.fault
                if 0 < self.max_octets < len(self._body):
                    return extensions.TOO_BIG_FOR_PRIORITY.reply(limit=self.max_octets)
                self.bodies.append(bytes(self._body))
                return content.QUEUED.reply(id=f"ID{len(self.bodies)}")
            case Login():
                return self._log_in(event)
            case StatusWanted():
                return session.STATUS_DENIED.reply()
            case Verify():
                return self.rules.decide_verify(self.client, event.argument, expand=event.expand)
            case StartQueue():
                return at_once(self.etrn.start(self.client, event))
            case XClient():
                self.told = add_up(self.told, event.attributes)
                return at_once(take_client(self.client, self.told, self.accounts, self.rules))
            case XForward():
                return peers.ORIGIN_NOTED.reply()
            case TlsWanted():
                self.wants_tls = True
                return session.START_TLS.reply()
            case SecretWanted():
                return at_once(self.accounts.secret(event, Peer(ADDRESS)))
            case BodyDropped():
                self._body.clear()
                return None
        raise AssertionError(event)

    def _give_rights(self):
        trusted = Proxies(self.options.proxy).verbs(self.client.address)
        self.session.channel = msgspec.structs.replace(self.session.channel, trusted_with=trusted)

    def _begin_anew(self, client):
        self.client = client
        denied = self.rules.denies(client.address)
        refusal = session.CLIENT_DENIED.reply(hostname=HOST) if denied else None
        self.session.restart(refusal, login=client.login)
        self._give_rights()

    def _decide_mail(self, event):
        reply = self.rules.decide_mail(self.client, event.sender)
        self.max_octets = 0
        if not reply.positive or event.parameters.wish is None:
            return reply
        terms = self.terms.decide(self.client, event.parameters, NOW)
        if isinstance(terms, Reply):
            return terms
        self.max_octets = self.terms.max_octets(terms.priority)
        if terms.priority != event.parameters.wish.priority:
            return extensions.PRIORITY_CHANGED.reply(priority=terms.priority)
        return reply

    def _log_in(self, event):
        found = at_once(self.accounts.login(event, Peer(ADDRESS)))
        if isinstance(found, Reply):
            return found
        self._logged_in = found.name
        self.client = Client("s", ADDRESS, 1234, self.options.role, login=found.name, senders=found.senders)
        return auth.AUTHENTICATED.reply()

    def start_tls(self, now=0.0):
        assert self.wants_tls
        self.wants_tls = False
        self.session.tls_started(now)
        self.pump()

    def take(self):
        """What was sent since the last call."""
        out, self.out = self.out, b""
        return out


class Office:
    """The same post office on a real socket, with a real door and a real store."""

    def __init__(self, options, folder, accounts, tls):
        self.options = options
        self.folder = folder
        self.accounts = accounts
        self.tls = tls
        self.queued = []  # what was offered to the queue
        self.protocols = []

    async def open(self):
        options = self.options
        rules, directory = build_rules(options)
        self.spool = SqliteSpool(self.folder)
        resolver = Resolver(
            ResolverSettings(nameservers=(options.nameserver,), timeout_s=Seconds(options.dns_timeout_s))
        )
        shared = options.memory_of.folder if options.memory_of is not None else self.folder
        self.memory = Memory(shared, clock=options.clock)
        if options.auth is not None:
            guard = Guard(self.memory, options.auth.max_delay_s)
            self.accounts = build_accounts(options.auth, options.sources, options.tokens, guard)
        tools = Tools(
            HOST,
            self.folder,
            resolver.lookup,
            self.memory,
            options.find_virus,
            options.give_score,
            options.probe,
        )
        plugins = list(line_up(options.checks, directory, tools, options.plugins))
        self.hooks = Hooks(plugins, hostname=HOST, limit_s=options.hook_limit_s)
        self.connections = Connections(options.connections)
        terms = TermRules(options.extension_settings, rules, directory)
        self.door = Door(
            self.spool,
            directory,
            self.hooks,
            hostname=HOST,
            limits=msgspec.structs.replace(options.limits, min_free_octets=Octets(options.min_free_octets)),
            offer=self.queued.append,
            origin=self._origin_checks(resolver),
            keys=options.keys,
            terms=terms,
        )
        self.desk = Desk(
            role=options.role,
            profile=options.profile,
            rules=rules,
            accounts=self.accounts,
            hooks=self.hooks,
            door=self.door,
            connections=self.connections,
            board=StatusBoard(options.help, self.connections, self.folder),
            slow_greeting=(
                SlowGreeting(options.greet, options.profile, self.hooks) if options.greet.delay_s else None
            ),
            handshakes=Handshakes(options.max_handshakes),
            terms=terms,
            etrn=Etrn(options.etrn, directory, busy=lambda: False, start=self._start),
            tls=self.tls,
            implicit_tls=options.tls == "implicit",
            proxies=Proxies(options.proxy) if options.proxy.verbs else None,
            tarpit=Tarpit(options.tarpit) if options.tarpit.delay_s else None,
            on_refusal=next((one.note for one in plugins if isinstance(one, Harvest)), None),
        )
        bound = bind("127.0.0.1:0")
        self.port = bound.getsockname()[1]
        if options.tls == "implicit":
            self.server = Arrivals(
                bound,
                lambda _peer: self._protocol(),
                self.connections,
                tls=lambda: self.tls.context,
                advice=auth.TLS_EXPECTED.reply(hostname=HOST).bare_wire,
            )
        else:
            self.server = await listen(bound, self._protocol)
        self.watch = asyncio.create_task(self.connections.watch())
        return self

    async def _start(self, route, below):
        with Ledger(self.folder) as ledger:
            return ledger.start(route, below=below)

    def _origin_checks(self, resolver):
        policy = self.options.origin
        if policy is None:
            return None
        return OriginChecks(
            policy, resolver.lookup, recall=resolver.recall, hostname=HOST, count=self.options.count
        )

    def _protocol(self):
        self.protocols.append(SmtpProtocol(self.desk))
        return self.protocols[-1]

    async def close(self):
        self.watch.cancel()
        self.server.close()
        await self.connections.drain(0.0)
        await settled(lambda: not len(self.connections))
        await self.memory.close()
        await self.spool.close()
        if self.options.auth is not None:
            await self.accounts.close()

    @property
    def drafts(self):
        """Files of messages that are not complete."""
        return list((self.folder / "drafts").iterdir())

    @property
    def ledger(self):
        """The store as operators see it."""
        return Ledger(self.folder)

    async def stored(self, number=0):
        """The octets of a message that was accepted, and its envelope."""
        entry = self.queued[number]
        kept = await self.spool.load(entry.id)
        return b"".join(kept.chunks()), entry.envelope


async def settled(condition, *, turns=2000):
    """Let the loop go on until `condition` holds."""
    for _ in range(turns):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("this never came about")


class Overheard:
    """A stream reader that writes down what it reads."""

    def __init__(self, reader, transcript):
        self._reader, self._transcript = reader, transcript

    async def readline(self):
        return self._note(await self._reader.readline())

    async def read(self, most=-1):
        return self._note(await self._reader.read(most))

    def _note(self, data):
        self._transcript.append(("S", data))
        return data


class Caller:
    """A client on a socket that sends exactly what it is told to, and keeps a transcript."""

    def __init__(self, reader, writer):
        self.transcript = []  # ("C" or "S", octets), or ("#", what happened)
        transcripts.append(self.transcript)
        self.reader, self.writer = Overheard(reader, self.transcript), writer

    @classmethod
    async def dial(cls, port, *, tls=None):
        return cls(
            *await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=HOST if tls else None)
        )

    async def send(self, data):
        self.transcript.append(("C", data))
        self.writer.write(data)
        await self.writer.drain()

    async def reply(self):
        """One complete reply, or b"" when the server has hung up."""
        lines = b""
        while True:
            line = await asyncio.wait_for(self.reader.readline(), 20)
            lines += line
            if line[3:4] != b"-":
                return lines

    async def ask(self, command):
        await self.send(command + b"\r\n")
        return await self.reply()

    async def rest(self):
        """All that still comes until the server hangs up."""
        with contextlib.suppress(ConnectionError):
            return await asyncio.wait_for(self.reader.read(), 20)
        return b""

    async def upgrade(self, tls):
        self.transcript.append(("#", "TLS handshake"))
        await self.writer.start_tls(tls, server_hostname=HOST)

    def cut(self):
        """Reset the connection, unless the other side has: it learns at once that nobody listens any more."""
        if self.writer.is_closing():
            return
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()

    async def close(self):
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


# --- transcripts for the reference: with PILLARBOX_TRANSCRIPTS=FOLDER each scenario's test writes what was said in it -----

transcripts = []  # of the callers of the test that runs
_passed = pytest.StashKey()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    if report.when == "call":
        item.stash[_passed] = report.passed
    return report


@pytest.fixture(autouse=True)
def keep_transcripts(request):
    transcripts.clear()
    yield
    folder = os.environ.get("PILLARBOX_TRANSCRIPTS")
    if folder and request.node.stash.get(_passed, False):
        for scenario in re.findall(r"E\d{3}[-_]\d+", request.node.name):
            keep_transcript(Path(folder), scenario.replace("_", "-"), request.node.nodeid)


def keep_transcript(folder, scenario, test):
    """Write the shortest transcript of this test in which the scenario's code was said, unless a shorter one is there."""
    codes = {
        cause.code for cause in CAUSES.values() if scenario in cause.scenarios
    }  # not always the one it is named by
    written = [write_down(one) for one in transcripts]
    said = [text for text in written if any(f"S: {code}" in text for code in codes)]
    file = folder / f"{scenario}.txt"
    best = min(said, key=lambda text: (text.count("\n"), len(text)), default=None)
    if best and not (file.exists() and file.read_text().count("\n") <= best.count("\n") + 1):
        file.write_text(f"# {test.partition('[')[0]}\n{best}")


def write_down(transcript):
    """One line a line that was said, printable and cut where it is long; a body is cut after some lines."""
    lines, octets = [], {"C": b"", "S": b""}
    for mark, data in transcript:
        if mark == "#":
            lines.append(f"# {data}")
            continue
        octets[mark] += data
        *whole, octets[mark] = octets[mark].split(b"\n")
        shown = [f"{mark}: {printable(line.rstrip(), 100)}" for line in whole]
        lines += shown if len(shown) < 12 else [*shown[:8], f"# {len(shown) - 9} lines more", shown[-1]]
    return "\n".join([*lines, ""])


@dataclass(frozen=True)
class Certificates:
    server: ListenerTls
    client: ssl.SSLContext
    authority: str  # a file with the authority's certificate
    issuer: trustme.CA

    def client_of(self, *names):
        """A client that shows a certificate with these names."""
        context = ssl.create_default_context()
        self.issuer.configure_trust(context)
        self.issuer.issue_cert(*names).configure_cert(context)
        return context


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    issued = authority.issue_cert(HOST, "127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    files = {"certificate": str(folder / "server.pem"), "key": str(folder / "server.pem")}
    settings = TlsSettings(**files, client_ca=str(folder / "ca.pem"))
    server = ListenerTls(find_certificates(settings, (), folder, HOST), TlsManner(asks=True))
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return Certificates(server, client, str(folder / "ca.pem"), authority)


@pytest.fixture(scope="session")
def accounts():
    found = build_accounts()
    found._passwords._nobody = _QUICK.hash("nobody")  # dialogues are played hundreds of times
    yield found
    asyncio.run(found.close())


@pytest.fixture(scope="session")
def new_core(accounts):
    """Make a core: `new_core(role=Role.LMTP)`."""

    def make(**options):
        return Core(Options(**options), accounts)

    return make


@pytest.fixture
async def open_office(tmp_path, accounts, certificates):
    """Open a post office on a free port: `office = await open_office(role=Role.LMTP)`."""
    opened = []
    numbers = itertools.count()

    async def make(**options):
        folder = Path(tmp_path / f"store{next(numbers)}")
        office = Office(Options(**options), folder, accounts, certificates.server)
        opened.append(office)
        return await office.open()

    yield make
    for office in opened:
        await office.close()


@pytest.fixture
async def dial():
    """Call a port: `caller = await dial(office.port)`."""
    calls = []

    async def make(port, *, tls=None):
        calls.append(await Caller.dial(port, tls=tls))
        return calls[-1]

    yield make
    for caller in calls:
        await caller.close()


@pytest.fixture
def refuses_strangers_at_the_door(dial):
    """Mail for unknown names is refused while the sender listens: nothing is taken that would have to be returned."""

    async def prove(office, known, *unknown):
        caller = await dial(office.port)
        await caller.reply()
        await caller.ask(b"EHLO client.example")
        await caller.ask(b"MAIL FROM:<forged@victim.example>")
        for name in unknown:
            assert (await caller.ask(b"RCPT TO:<%s>" % name))[:9] == b"550 5.1.1", name
        assert (await caller.ask(b"DATA"))[:9] == b"554 5.5.1"
        assert not office.queued
        await caller.ask(b"RSET")
        await caller.ask(b"MAIL FROM:<forged@victim.example>")
        assert (await caller.ask(b"RCPT TO:<%s>" % known))[:9] == b"250 2.1.5"
        for name in unknown:
            assert (await caller.ask(b"RCPT TO:<%s>" % name))[:9] == b"550 5.1.1", name
        assert (await caller.ask(b"DATA"))[:3] == b"354"
        assert (await caller.ask(b"Subject: x\r\n\r\nx\r\n."))[:3] == b"250"
        (queued,) = office.queued
        assert [one.address.encode() for one in queued.envelope.recipients] == [known]

    return prove


@pytest.fixture(scope="session")
def until():
    """Wait for a condition: `await until(lambda: office.queued)`."""
    return settled


# --- DNS -----------------------------------------------------------------------------------------------------------------

SOA = "ns.test. admin.test. 1 7200 900 1209600 60"


class NameServer(asyncio.DatagramProtocol):
    """Answers by UDP and TCP on one loopback port. `zone` maps "name type" to (ttl, records) or to a fault."""

    def __init__(self, zone):
        self.zone = zone
        self.asked = []
        self.by_tcp = 0
        self.authentic = False  # it says that DNSSEC vouches for its answers

    async def start(self):
        loop = asyncio.get_running_loop()
        self.tcp = await asyncio.start_server(self.serve_tcp, "127.0.0.1", 0)
        self.port = self.tcp.sockets[0].getsockname()[1]
        self.transport, _ = await loop.create_datagram_endpoint(
            lambda: self, local_addr=("127.0.0.1", self.port)
        )

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    async def stop(self):
        self.transport.close()
        self.tcp.close()
        await asyncio.sleep(0)

    def datagram_received(self, data, addr):
        wire = self.answer(data, tcp=False)
        if wire:
            self.transport.sendto(wire, addr)

    async def serve_tcp(self, reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError):
            (octets,) = struct.unpack("!H", await reader.readexactly(2))
            self.by_tcp += 1
            wire = self.answer(await reader.readexactly(octets), tcp=True)
            writer.write(struct.pack("!H", len(wire)) + wire)
        writer.close()

    def answer(self, data, *, tcp):
        query = dns.message.from_wire(data)
        name, kind = query.question[0].name, dns.rdatatype.to_text(query.question[0].rdtype)
        self.asked.append(f"{name} {kind}")
        found = self.zone.get(f"{name} {kind}", self.zone.get(f"{name} *", "nxdomain"))
        response = dns.message.make_response(query)
        if self.authentic:
            response.flags |= dns.flags.AD
        if found == "silent":
            return None
        if found == "garbage":
            return b"\x00garbage"
        if found == "servfail":
            response.set_rcode(dns.rcode.SERVFAIL)
        elif found == "nxdomain":
            response.set_rcode(dns.rcode.NXDOMAIN)
            response.authority.append(dns.rrset.from_text("test.", 60, "IN", "SOA", SOA))
        elif found == "nothing":
            response.authority.append(dns.rrset.from_text("test.", 60, "IN", "SOA", SOA))
        elif found == "truncated" and not tcp:
            response.flags |= dns.flags.TC
        else:
            sets = self.zone[f"{name} full"] if found == "truncated" else found
            response.answer += [dns.rrset.from_text(*one) for one in sets]
        return response.to_wire(max_size=65535)


@pytest.fixture
async def serve_dns():
    """Start a name server: `server = await serve_dns({"d.test. MX": [("d.test.", 300, "IN", "MX", "0 .")]})`."""
    servers = []

    async def start(zone):
        servers.append(NameServer(zone))
        await servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        await server.stop()
