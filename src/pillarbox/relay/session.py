"""Open a session with a host, up to the point where a message can be sent: greeting, EHLO, TLS, login.

Sending the messages, and trying other hosts, is `relay.transaction`'s business.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from pillarbox import observe
from pillarbox.mail.catalogue import auth, delivery
from pillarbox.mail.reply import Origin, Result, Stage
from pillarbox.mail.units import Seconds, Settings
from pillarbox.queue.decisions import Action, Fact, action, find
from pillarbox.queue.schedule import left_alone, wants_rest
from pillarbox.relay.connection import Connection, LinkError, connect
from pillarbox.relay.demand import Demand, Source
from pillarbox.relay.handshake import (
    NOT_OFFERED,
    TlsOutcome,
    UnprovenError,
    check_keys,
    context_for,
    encrypt,
    evidence,
    kind_of,
    refuse,
)
from pillarbox.relay.hosts import Hosts, Login
from pillarbox.relay.peers import Peers, PeerSettings
from pillarbox.relay.plan import Tls
from pillarbox.smtp import login
from pillarbox.smtp.client import command
from pillarbox.smtp.replies import Extensions, parse_extensions
from pillarbox.smtp.sasl import NONCE_OCTETS

if TYPE_CHECKING:
    from pillarbox.mail.reply import Reply
    from pillarbox.queue.alarms import Alarms
    from pillarbox.relay.plan import Hop
    from pillarbox.relay.tls_watch import TlsWatch


class Patience(Settings, frozen=True):
    """How long a host may take, step by step (RFC 5321 4.5.3.2)."""

    connect_s: Seconds = Seconds(30)
    """To take the connection."""
    greeting_s: Seconds = Seconds(300)
    """To greet."""
    hello_s: Seconds = Seconds(300)
    """To answer EHLO."""
    tls_s: Seconds = Seconds(30)
    """To complete a TLS handshake."""
    auth_s: Seconds = Seconds(300)
    """To answer each step of a login."""
    command_s: Seconds = Seconds(300)
    """To answer each MAIL, RCPT and DATA."""
    block_s: Seconds = Seconds(180)
    """To make room for the next piece of a message."""
    end_s: Seconds = Seconds(600)
    """To answer the end of a message; too short makes duplicates."""
    quit_s: Seconds = Seconds(2)
    """To answer QUIT."""


class SmtpSettings(Settings, frozen=True):
    """How mail is sent by SMTP and LMTP."""

    patience: Patience = Patience()
    tls: Tls = Tls.OPPORTUNISTIC
    """TLS with mail exchangers: "opportunistic" if they have it, "encrypted" with any certificate, "required" with one for
    their name, "dane" or "secure" only if DANE proves who they are, or DANE or MTA-STS. A route may say its own, and one
    to a fixed host does. Whatever is written here, DANE and MTA-STS may ask for more."""
    verify_certificates: bool = True
    """Check certificates where TLS is "required"."""
    dane: bool = True
    """Heed the TLSA records of hosts (RFC 7672). They count only if `dns.dnssec` says whose word about DNSSEC counts."""
    mta_sts: bool = True
    """Fetch the MTA-STS policies of domains, and heed them (RFC 8461)."""
    tls_downgrade: Literal["alarm", "defer", "off"] = "alarm"
    """What to do when a domain's mail would go out less safely than in the last 30 days: in clear instead of under TLS, or
    without proof of who the host is. Tell the operator, also keep the mail for now, or do not remember at all."""
    ca_file: str = ""
    """File with the certificates to trust; "" for those of the system."""
    peers: tuple[PeerSettings, ...] = msgspec.field(default=(), name="peer")
    passwords: dict[str, str] = msgspec.field(default_factory=dict)
    """Passwords by "user@host", for routes that name a user."""
    token_files: dict[str, str] = msgspec.field(default_factory=dict)
    """Files with an OAuth token, by "user@host". They are read at each login; another program has to renew them."""
    families: tuple[str, ...] = ("ipv6", "ipv4")
    """The kinds of addresses to use, the preferred one first."""
    verp: tuple[str, ...] = ()
    """Our domains whose senders' addresses carry a tag that names the message and the recipient (VERP), such as
    user+return=ID=0@example.org, so that any bounce tells which copy it is about. Each recipient then gets the message
    in a transaction of its own."""
    max_hosts: int = 8
    """Addresses tried in one attempt."""
    max_recipients: int = 100
    """Recipients in one transaction."""
    max_messages: int = 100
    """Messages on one connection."""
    dead_s: Seconds = Seconds(60)
    """How long a host is left alone that can't be reached, says 421 or has no room; up to 5 times as long if it stays so."""
    without_tls_s: Seconds = Seconds(3600)
    """How long a host whose handshake failed is used without TLS, where TLS is not required."""


class Manner(msgspec.Struct, frozen=True):
    """How the hosts of one route are talked to, apart from TLS."""

    hostname: str  # our own name
    lmtp: bool = False
    user: str = ""
    secret: str = ""
    token_file: str = ""
    exchanger: bool = (
        False  # found by MX: its certificate names anything, and it must not greet with our own name
    )


class Session(msgspec.Struct):
    """A connection on which messages can be sent."""

    hop: Hop
    demand: Demand
    connection: Connection
    extensions: Extensions
    encrypted: bool
    verified: bool  # by its certificate it is who it should be
    evidence: str  # how it is protected, and what speaks for the host
    could_encrypt: bool  # it is in clear because a handshake failed before, although the host offers TLS
    max_messages: int
    max_recipients: int
    messages: int = 0  # sent so far
    dirty: bool = False  # the last transaction was left open
    hints: bool = True  # parameters that can be left out are sent
    lax: bool = False  # opened for a message whose sender does not care for TLS

    @property
    def keeps_tls(self) -> bool:
        """Whether it may carry a message that must not travel without TLS (RFC 8689 2)."""
        return self.verified and self.demand.vouched

    @property
    def worn_out(self) -> bool:
        """Whether it carried as many messages as it may."""
        return self.messages >= self.max_messages

    @property
    def usable(self) -> bool:
        """Whether another message may be sent on it."""
        return self.messages < self.max_messages and self.connection.usable


class Opener:
    """Opens sessions in one manner."""

    def __init__(
        self, manner: Manner, settings: SmtpSettings, hosts: Hosts, watch: TlsWatch | None = None
    ) -> None:
        """`hosts` is shared with all others that send, and so is `watch`, which hears how sessions are protected."""
        self._watch = watch
        self._manner = manner
        self._settings = settings
        self._peers = Peers(settings.peers)
        self._hosts = hosts

    async def open(self, hop: Hop, demand: Demand, *, lax: bool = False) -> Session | Result:
        """Connect and get ready, or say why not. A failed handshake is tried once more without TLS, where allowed.

        With `lax` it is for a message whose sender does not care.
        """
        now = asyncio.get_running_loop().time()
        demand = self._peers.demand(hop.host, demand)
        attempt = Login(f"{hop.host}:{hop.port}", self._manner.user, hash(self._manner.secret))
        if self._manner.user and (refused := self._hosts.refused_login(attempt, now)) is not None:
            return left_alone(hop.name, refused, refused.wait_s, time.time())
        opening, outcome = await self._open(hop, demand, now)
        if isinstance(outcome, Result):
            what = action(outcome.stage, outcome.reply, opening.facts, hop.name)
            if what is Action.OTHER_LOGIN:  # and there was none
                return self._hosts.refuse_login(attempt, outcome, asyncio.get_running_loop().time())
            # what only this message or this domain demands of TLS says nothing to others
            special = demand.source is not Source.ROUTE or demand.strict
            about_us = outcome.reply.cause is delivery.TOO_BUSY or (
                special and outcome.stage in (Stage.STARTTLS, Stage.TLS)
            )
            if wants_rest(outcome) and not about_us:
                self._hosts.rest(hop, outcome, asyncio.get_running_loop().time(), self._settings.dead_s)
            return outcome
        if self._watch is not None and demand.counts and not lax:
            refused = await self._watch.compare(outcome)
            if refused is not None:
                await outcome.connection.quit(self._settings.patience.quit_s)
                return refused
        outcome.lax = lax
        self._hosts.logins.forget(attempt)
        outcome.max_messages = min(
            outcome.max_messages, self._hosts.max_messages.get(hop, now) or outcome.max_messages
        )
        outcome.max_recipients = min(
            outcome.max_recipients, self._hosts.max_recipients.get(hop, now) or outcome.max_recipients
        )
        return outcome

    async def _open(self, hop: Hop, demand: Demand, now: float) -> tuple[_Opening, Session | Result]:
        """Try as the demand says, and once more with less where that is allowed."""
        told = False
        if demand.testing:
            trial = self._opening(hop, demand.on_trial())
            outcome = await trial.run()
            self._note(trial)
            if trial.tls is None or not trial.tls.kind:  # it never came to TLS, or meets the policy
                return trial, outcome
            demand = demand.without_trial()
            told = True
        clear = demand.tls is Tls.NONE or (
            demand.tls is Tls.OPPORTUNISTIC and self._hosts.without_tls.get(hop, now) is not None
        )
        opening = self._opening(hop, demand, clear=clear)
        outcome = await opening.run()
        if not told:
            self._note(opening)
        if (
            isinstance(outcome, Result)
            and action(outcome.stage, outcome.reply, opening.facts) is Action.RECONNECT
        ):
            self._hosts.without_tls.put(hop, value=True, until=now + self._settings.without_tls_s)
            outcome = await self._opening(hop, demand, clear=True).run()
        return opening, outcome

    def _note(self, opening: _Opening) -> None:
        """Have it counted what came of TLS, if it came to that."""
        if self._watch is not None and opening.tls is not None and opening.demand.counts:
            self._watch.note(opening.hop, opening.demand, opening.tls, sending_ip=opening.sending_ip)

    def _opening(self, hop: Hop, demand: Demand, *, clear: bool = False) -> _Opening:
        return _Opening(hop, demand, self._manner, self._settings, self._hosts.alarms, clear=clear)


class _Opening:
    """One try to get ready with one host; the steps return what refuses them, or nothing."""

    def __init__(
        self, hop: Hop, demand: Demand, manner: Manner, settings: SmtpSettings, alarms: Alarms, *, clear: bool
    ) -> None:
        self.hop = hop
        self.demand = demand
        self._alarms = alarms
        self._manner = manner
        self._settings = settings
        self._patience = settings.patience
        self._clear = clear
        self._stage = Stage.CONNECT
        self._connection: Connection
        self._extensions = Extensions()
        self._encrypted = False
        self.facts = Fact.TLS_REQUIRED if demand.required else Fact.NOTHING
        self.tls: TlsOutcome | None = None  # once it has come to TLS
        self.sending_ip = ""

    async def run(self) -> Session | Result:
        try:
            await self._connect()
        except LinkError as error:
            if self.demand.tls is Tls.IMPLICIT and error.reply.cause is delivery.TLS_FAILED:
                self._stage = Stage.TLS
                self.tls = (
                    error.outcome
                    if isinstance(error, UnprovenError)
                    else TlsOutcome(kind_of(error.__cause__), error.reply.text)
                )
            return self._result(error.reply)
        try:
            refused = (
                await self._take_greeting()
                or await self._hello()
                or await self._encrypt()
                or await self._log_in()
            )
        except LinkError as error:
            if isinstance(error, UnprovenError):
                self.tls = error.outcome
            refused = self._result(error.reply)
        except BaseException:
            self._connection.close()
            raise
        if refused is not None:
            await self._connection.quit(self._patience.quit_s)
            return refused
        broken = self._connection.failure
        return self._result(broken) if broken is not None else self._session()

    def _session(self) -> Session:
        settings, offered = self._settings, self._extensions
        return Session(
            self.hop,
            self.demand,
            self._connection,
            offered,
            self._encrypted,
            self._encrypted and self.demand.proves,
            evidence(self._connection, self.demand) if self._encrypted else "",
            not self._encrypted and "STARTTLS" in offered and self.demand.tls is not Tls.NONE,
            min(settings.max_messages, offered.max_messages or settings.max_messages),
            min(settings.max_recipients, offered.max_recipients or settings.max_recipients),
        )

    def _result(self, reply: Reply) -> Result:
        origin = Origin.PEER if reply.cause is None else Origin.LOCAL
        return Result(reply, self._stage, origin, self.hop.name, tls=self.demand.evidence)

    async def _connect(self) -> None:
        context = None
        if self.demand.tls is Tls.IMPLICIT:
            context = await context_for(self.demand, self._settings.ca_file)
        self._connection = await connect(self.hop, self._patience.connect_s, context)
        self.sending_ip = self._connection.own_address
        if context is not None:
            await check_keys(self._connection, self.hop, self.demand)
            self._encrypted, self.tls = True, TlsOutcome("")

    async def _take_greeting(self) -> Result | None:
        self._stage = Stage.GREETING
        greeting = await self._connection.greeting(self._patience.greeting_s)
        if not greeting.positive:
            return self._result(greeting)
        name = greeting.text.split(" ", 1)[0].rstrip(".").lower()
        if self._manner.exchanger and name == self._manner.hostname.lower():
            return self._result(delivery.LOOP_TO_SELF.reply(host=self.hop.name))
        return None

    async def _hello(self) -> Result | None:
        """EHLO or LHLO; HELO if the host does not know EHLO (RFC 5321 3.2)."""
        self._stage = Stage.HELLO
        self._extensions = Extensions()
        answer = await self._say("LHLO" if self._manner.lmtp else "EHLO")
        if answer.positive:
            self._extensions = parse_extensions(answer)
            return None
        facts = self.facts if self._manner.lmtp else self.facts | Fact.EXTENDED
        row = find(Stage.HELLO, answer, facts, self.hop.name)
        if row.action is Action.HELO:
            if row.alarm_after:
                self._tell(f"{self.hop.name} minds our name in EHLO: {answer}", row.alarm_after)
            answer = await self._say("HELO")
        return None if answer.positive else self._result(answer)

    def _tell(self, problem: str, after: int) -> None:
        if self._alarms.is_due(f"hello {self.hop.name}", after, asyncio.get_running_loop().time()):
            observe.ALARM.note(problem=problem, cause="hello")

    async def _say(self, verb: str) -> Reply:
        line = command(f"{verb} {self._manner.hostname}")
        return (await self._connection.ask(line, 1, self._patience.hello_s, verb))[0]

    async def _encrypt(self) -> Result | None:
        if self._encrypted or self._clear:
            return None
        self._stage = Stage.STARTTLS
        if "STARTTLS" not in self._extensions:
            lacking = refuse(self.hop, self.demand, NOT_OFFERED, "it offers no TLS")
            self.tls = lacking.outcome
            return self._result(lacking.reply) if self.demand.required else None
        limit_s = self._patience.command_s
        answer = await self._connection.ask_for_tls(limit_s)
        if not answer.positive:
            self.tls = TlsOutcome(NOT_OFFERED, str(answer))
            keep = action(Stage.STARTTLS, answer, self.facts) is Action.IN_CLEAR
            return None if keep else self._result(answer)
        self._stage = Stage.TLS
        ca_file, tls_s = self._settings.ca_file, self._patience.tls_s
        await encrypt(self._connection, self.hop, self.demand, ca_file=ca_file, limit_s=tls_s)
        self._encrypted, self.tls = True, TlsOutcome("")
        return await self._hello()  # what was offered in clear counts no more (RFC 3207 4.2)

    async def _log_in(self) -> Result | None:
        manner = self._manner
        if not manner.user:
            return None
        self._stage = Stage.AUTH
        # a password in clear only where the route asks for it
        safe = self._encrypted or self.demand.tls is Tls.NONE
        offered = login.choose(
            self._extensions.mechanisms,
            token=bool(manner.token_file),
            end_point=self._connection.end_point() if self._encrypted else b"",
        )
        secret = (
            manner.secret if not manner.token_file else await asyncio.to_thread(_token, manner.token_file)
        )
        if not offered or not safe or secret is None:
            return self._result(delivery.LOGIN_NOT_POSSIBLE.reply(host=self.hop.name))
        for mechanism in offered:
            answer = await self._try_login(mechanism, secret)
            if answer.positive:
                return None
            if answer.code == auth.PASSWORD_TRANSITION.code:
                continue  # it asks for a mechanism that shows the password, and that comes later in the list
            if answer.cause is not None or action(Stage.AUTH, answer, self.facts) is not Action.OTHER_LOGIN:
                break
        return self._result(answer)

    async def _try_login(self, name: str, secret: str) -> Reply:
        """Log in by one mechanism. A host that has to prove that it knows the password, and can't, gets no other chance."""
        exchange = login.mechanism(
            name,
            self._manner.user,
            secret,
            nonce=secrets.token_bytes(NONCE_OCTETS),
            end_point=self._connection.end_point(),
        )
        answer = await self._say_auth(login.auth_command(name, exchange.initial))
        while answer.intermediate:
            try:
                # in a thread: the host says how often the password is hashed
                said = await asyncio.to_thread(exchange.step, login.read_challenge(answer.text))
            except ValueError:
                refused = await self._say_auth(login.CANCEL)
                return refused if exchange.content else delivery.RELAY_UNPROVEN.reply(host=self.hop.name)
            answer = await self._say_auth(login.answer_line(said))
        if answer.positive and not exchange.content:
            return delivery.RELAY_UNPROVEN.reply(host=self.hop.name)
        return answer

    async def _say_auth(self, line: bytes) -> Reply:
        return (await self._connection.ask(line, 1, self._patience.auth_s, "AUTH"))[0]


def _token(file: str) -> str | None:
    """The token in a file; None if there is none."""
    try:
        return Path(file).read_text("utf-8").strip() or None
    except (OSError, ValueError):
        return None
