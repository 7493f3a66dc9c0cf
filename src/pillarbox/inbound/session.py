"""Drive one client's session: octets into the protocol core, its events to those who decide, replies back.

The order of commands is the core's, each decision the policy's, the queue the door's business.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from pillarbox import observe
from pillarbox.inbound import login
from pillarbox.inbound.accept import KEPT_HEAD_OCTETS, Accepted, Letter
from pillarbox.inbound.agreement import agree
from pillarbox.inbound.greeting import refuse_at_once
from pillarbox.inbound.numbers import SESSION_NUMBERS
from pillarbox.inbound.presented import add_up, describe_origin, take_client
from pillarbox.mail.catalogue import content, extensions, peers, session
from pillarbox.mail.reply import POSITIVE, Reply
from pillarbox.net.handshakes import start_tls
from pillarbox.net.tls import certified_names, end_point, kept_octets
from pillarbox.policy.hooks import Client
from pillarbox.queue.spool import SpoolError
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
from pillarbox.smtp.profile import Channel
from pillarbox.smtp.server import ServerSession

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pillarbox.inbound.desk import Desk
    from pillarbox.mail.reply import Cause
    from pillarbox.net.handshakes import ListenerTls
    from pillarbox.policy.proxies import Proxies
    from pillarbox.policy.tarpit import Tarpit

_MAX_WAITING_OCTETS = 65_536  # kept while a decision is being made; more stays in the kernel
_TURN = range(25)  # events of one client: its flood of commands must not hold up the others
_CLOSED, _BUSY = Signal.CLOSED, Signal.BUSY  # asked about at each turn
_LINGER_S = 2.0
_EXPECTED_ENDS = (None, session.CLOSING, session.SHUTDOWN)
_MAX_LINGERING = 500  # more than that are an attack, and nobody there waits for our reply


class SmtpProtocol(asyncio.Protocol):
    """One connection. Decisions that need not wait are made at once; only others cost a task."""

    __slots__ = (
        "_begun",
        "_certified",
        "_choked",
        "_client",
        "_desk",
        "_due",
        "_ended",
        "_forwarded",
        "_letter",
        "_lingers_until",
        "_mistakes",
        "_paused",
        "_peer",
        "_refusals",
        "_session",
        "_standing_warnings",
        "_task",
        "_tls_cipher",
        "_told",
        "_transport",
        "_warned",
    )

    def __init__(self, desk: Desk, peer: tuple[str, int] | None = None) -> None:
        """Wait for the connection; `peer` is the client's end of it if a balancer told it."""
        self._desk = desk
        self._peer = peer
        self._begun = False  # whether there is a session
        self._letter: Letter | None = None
        self._task: asyncio.Future[Any] | None = None  # the decision or the commit that is waited for
        self._due = False  # something has come that is not yet handled
        self._paused = False  # we read no more, because enough waits for a decision
        self._choked = False  # the client does not read its replies
        self._ended = False  # the client will send no more
        self._lingers_until = 0.0  # we have hung up, but what the client still sends is read until then
        self._refusals = 0  # by a decision
        self._mistakes = 0  # all refusals up to the last answers, where they are counted
        self._tls_cipher = ""
        self._certified: tuple[str, ...] = ()  # the mail addresses in the client's certificate
        self._warned: list[str] = []  # what checks on trial would have refused, for the next message
        self._standing_warnings = 0  # how many of them are about the client, and count for all its messages
        self._told: dict[str, str] | None = None  # by XCLIENT, of whom the other end speaks for
        self._forwarded: dict[str, str] | None = None  # by XFORWARD, of the next message

    # ------------------------------------------------------------------ the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet, or refuse in the greeting. Also called when the same connection has become encrypted."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]  # sockets give full transports
        if self._begun:
            return
        self._begun = True
        desk = self._desk
        peer = self._peer or transport.get_extra_info("peername") or ("local", 0)
        address, port = (peer[0], peer[1]) if type(peer) is tuple else ("local", 0)
        number = next(SESSION_NUMBERS)
        trusted = desk.rules.trusts(address)
        self._client = Client(number, address, port, desk.role, tls=desk.implicit_tls, trusted=trusted)
        refusal = refuse_at_once(desk, address, transport)
        self._session = ServerSession(
            desk.profile, now=time.monotonic(), tls=desk.implicit_tls, refusal=refusal
        )
        desk.connections.add(self, address)
        if desk.proxies is not None:
            self._give_rights(desk.proxies)
        if desk.implicit_tls:
            self._note_tls()
        if refusal is not None:
            observe.SESSION_REFUSED.note(session=self._client.session, cause=refusal.cause_id, client=address)
            self.proceed()
        elif self._greets_later():
            self._await(self._greet_later())
        else:
            self._flush()

    def _greets_later(self) -> bool:
        """Whether the greeting has to wait for something."""
        return self._desk.slow_greeting is not None or "decide_connect" in self._desk.hooks.wanted

    def _give_rights(self, proxies: Proxies) -> None:
        """Let the client speak for others if its address may."""
        trusted_with = proxies.verbs(self._client.address)
        self._session.channel = replace(self._session.channel, trusted_with=trusted_with)

    async def _greet_later(self) -> None:
        refusal = await self._ask("decide_connect")
        slow, greeted = self._desk.slow_greeting, False
        if (refusal is None or refusal.positive) and slow is not None and self._client.stranger:
            refusal = await slow.give(self._transport, self._session, self._client, self._warned)
            greeted = True
        self._standing_warnings = len(self._warned)
        if refusal is not None and not refusal.positive:
            facts = {"session": self._client.session, "client": self._client.address}
            observe.SESSION_REFUSED.note(cause=refusal.cause_id, **facts)
            self._session.refuse(refusal, greeted=greeted)

    def data_received(self, data: bytes) -> None:
        """Octets have come."""
        sort = self._session.receive(data, time.monotonic())
        if self._task is None and not self._choked:  # not _holds_back: this is asked for each command
            if self._due:  # much comes at once, and must not pile up
                self.proceed()
            else:
                self._due = True
                self._desk.connections.cohort.add(sort, self)
        else:
            self._desk.connections.put_aside(self, len(data))
            if self._session.waiting_octets > _MAX_WAITING_OCTETS:
                self._pause()

    def _pause(self) -> None:
        """Leave in the kernel what the client sends on."""
        if not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """The client is done sending: what it asked for is still answered, but not with TLS, which is never half closed."""
        if self._due:
            self.proceed()
        self._ended = True
        return self._holds_back and not self._session.tls

    @property
    def _holds_back(self) -> bool:
        """Whether what the client sends must wait."""
        return self._task is not None or self._choked

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - why does not matter here
        """The connection is gone: what was not committed is forgotten."""
        if self._due:
            self.proceed()
        self._desk.connections.remove(self, self._client.address)
        if self._lingers_until:
            self._lingers_until = 0.0
            self._desk.connections.lingering -= 1
        if self._letter is not None and self._session.closed_by is None:
            self._letter.note_incomplete()
        self._forget_letter()

    def pause_writing(self) -> None:
        """The client does not read its replies: take no more commands from it."""
        self._choked = self._paused = True
        self._transport.pause_reading()
        self._desk.connections.put_aside(self, self.held_octets)

    def resume_writing(self) -> None:
        """The client reads again."""
        self._choked = False
        if self._task is None:
            self._resume()

    # ------------------------------------------------------------------ the listener's side

    @property
    def deadline(self) -> float:
        """When the client has been silent for too long."""
        return self._lingers_until or self._session.deadline

    def deadline_within(self, patience_s: float) -> float:
        """When the client has been silent for so long."""
        return self._lingers_until or self._session.deadline_within(patience_s)

    def expire(self, now: float, deadline: float | None = None) -> None:
        """Say so and close; a client that does not even read that is cut off."""
        if self._choked or self._lingers_until or self._transport.is_closing():
            self._transport.abort()
        elif self._task is None:
            self._session.expire(now, deadline)
            self.proceed()

    @property
    def held_octets(self) -> int:
        """About how much the client has us keep in memory."""
        held, letter = self._session.waiting_octets + self._transport.get_write_buffer_size(), self._letter
        if self._session.tls:
            held += kept_octets(letter.octets if letter is not None else 0)
        return held + letter.held_octets if letter is not None else held

    def give_way(self, cause: Cause) -> None:
        """Close, whatever is on its way; what the client sent is forgotten."""
        self._forget_letter()
        # at once: the transport ends later, and meanwhile others send
        self._session.cut_short(cause)
        if self._holds_back or self._lingers_until or self._transport.is_closing():
            self._transport.abort()
        else:
            self.proceed()

    def drain(self) -> None:
        """Close at the next command boundary."""
        self._session.drain()
        if self._task is None:
            self.proceed()
        if self._lingers_until:  # it is idle, so nothing is on its way
            self._transport.close()

    def abort(self) -> None:
        """Close now."""
        self._transport.abort()

    # ------------------------------------------------------------------ events

    def proceed(self) -> None:
        """Handle what the client asked for, then send all replies in one write."""
        self._due = False
        current, awaited = self._session, self._task
        if awaited is not None or self._choked:
            return
        for _ in _TURN:
            event = current.next_event()
            decide = _HANDLERS.get(type(event))
            if decide is None:  # a signal
                break
            try:
                answer = decide(self, event)
            except Exception as error:  # noqa: BLE001 - a bug must cost one reply, not the session or the mail
                answer = self._bungled(event, error)
            if type(answer) is Reply:
                if not current.answer(answer):
                    break
            elif answer is not None:
                self._await_answer(answer)
                break
        else:
            event = _BUSY
        tarpit = self._desk.tarpit
        if tarpit is not None and self._task is None and self._tarry(tarpit):
            return
        self._flush()
        if event is _CLOSED:
            self._hang_up()
        elif event is _BUSY:
            self._pause()
            self._await(self._desk.connections.wait_for_turn(self, self._session.waiting_octets))

    def _tarry(self, tarpit: Tarpit) -> bool:
        """Whether the answers are kept back for a while, because there are refusals among them."""
        before, self._mistakes = self._mistakes, self._session.errors + self._refusals
        delay_s = tarpit.delay_s(self._client, before, self._mistakes, self._warned)
        if delay_s:
            self._await(self._flush_later(tarpit, delay_s))
        return bool(delay_s)

    async def _flush_later(self, tarpit: Tarpit, delay_s: float) -> None:
        await tarpit.hold(delay_s)
        self._flush()

    def _hang_up(self) -> None:
        """Close; but if more may be on its way, read it first.

        A connection closed on unread octets is reset, and the client would lose the reply that says why.
        """
        transport, cause = self._transport, self._session.closed_by
        if cause not in _EXPECTED_ENDS and not (self._lingers_until or transport.is_closing()):
            observe.SESSION_ENDED.note(
                session=self._client.session, client=self._client.address, cause=cause.id
            )
        if (
            cause is session.CLOSING
            or transport.is_closing()
            or not transport.can_write_eof()
            or self._desk.connections.lingering >= _MAX_LINGERING
        ):
            transport.close()
        elif not self._lingers_until:
            self._lingers_until = time.monotonic() + _LINGER_S
            self._desk.connections.lingering += 1
            transport.write_eof()

    def _flush(self) -> None:
        out = self._session.to_send()
        if out and not self._transport.is_closing():
            self._transport.write(out)

    def _await_answer(self, answer: Awaitable[Reply | None]) -> None:
        """Wait for a decision; a future, such as a commit, needs no task for it."""
        if isinstance(answer, asyncio.Future):
            self._task = answer
            answer.add_done_callback(self._answered)
        else:
            self._await(self._answer_later(answer))

    def _answered(self, done: asyncio.Future[Reply]) -> None:
        if done.cancelled():
            self._transport.abort()
            return
        error = done.exception()
        more = self._session.answer(done.result() if error is None else self._incident(error))
        self._resume(more=more)

    async def _answer_later(self, answer: Awaitable[Reply | None]) -> None:
        try:
            reply = await answer
        except Exception as error:  # noqa: BLE001 - as in `proceed`
            reply = self._incident(error)
        if reply is not None:
            self._session.answer(reply)

    def _await(self, work: Any) -> None:
        """Do something that takes time; meanwhile the client's octets are kept, not handled."""
        self._task = asyncio.ensure_future(work)
        self._task.add_done_callback(self._worked)

    def _worked(self, done: asyncio.Future[None]) -> None:
        if done.cancelled():
            self._transport.abort()
            return
        error = done.exception()
        if error is not None:
            self._incident(error)
            self._transport.abort()
            return
        self._resume()

    def _resume(self, *, more: bool = True) -> None:
        """A decision was made, or the client reads again: go on with what it sent meanwhile, if that is `more` than nothing."""
        self._task = None
        if self._transport.is_closing():
            return
        self._session.renew(time.monotonic())
        if more or self._desk.tarpit is not None:  # which looks at each answer
            self.proceed()
        elif not self._choked:
            self._flush()
        if self._holds_back or self._transport.is_closing():
            return
        if self._ended:
            self._transport.close()
        elif self._paused:
            self._paused = False
            self._transport.resume_reading()

    def _incident(self, error: BaseException) -> Reply:
        """A bug: one log line with an id, and a reply that lets the client try again."""
        incident = observe.report_incident(error, session=self._client.session)
        return content.INTERNAL_ERROR.reply(incident=incident)

    def _bungled(self, event: Any, error: Exception) -> Reply | None:
        """Handling an event failed: the reply to it, if one is owed."""
        reply = self._incident(error)
        if type(event) is BodyEnd:
            self._forget_letter()
        if event.owed:
            return reply
        self._session.fail_body(reply)
        return None

    def _refused(self, reply: Reply, stage: str, **facts: object) -> Reply:
        """Note a refusal of ours and give it back."""
        observe.REPLY_REFUSED.note(
            session=self._client.session,
            cause=reply.cause_id,
            stage=stage,
            client=self._client.address,
            reply=str(reply),
            **facts,
        )
        self._refusals += 1
        if self._desk.on_refusal is not None:
            self._desk.on_refusal(self._client, reply)
        return reply

    # ------------------------------------------------------------------ one method an event

    async def _ask(self, name: str, *about: object) -> Reply | None:
        """Ask the hooks of one stage about the client and more."""
        return await self._desk.hooks.decide(name, self._client, *about, warned=self._warned)

    def _on_hello(self, event: Hello) -> Reply | Awaitable[Reply]:
        self._forget_letter()
        self._client = replace(self._client, helo=event.name)
        if "decide_hello" in self._desk.hooks.wanted:
            return self._hello_by_hooks()
        return self._session.welcome(time.time())

    async def _hello_by_hooks(self) -> Reply:
        opinion = await self._ask("decide_hello")
        self._standing_warnings = len(self._warned)
        if opinion is not None and not opinion.positive:
            return self._refused(opinion, "hello", helo=self._client.helo)
        return self._session.welcome(time.time())

    def _on_mail(self, event: MailFrom) -> Reply | Awaitable[Reply]:
        reply = self._desk.door.has_room(event.parameters.size)
        if reply is None:
            reply = self._desk.rules.decide_mail(self._client, event.sender)
        if reply.code not in POSITIVE:
            return self._refused(reply, "mail")
        del self._warned[self._standing_warnings :]
        if event.parameters.wish is not None:
            return self._mail_with_wish(event, reply)
        if "decide_mail" in self._desk.hooks.wanted:
            return self._mail_by_hooks(event, reply)
        self._begin(event)
        return reply

    async def _mail_with_wish(self, event: MailFrom, reply: Reply) -> Reply:
        """MAIL asks for more than to carry the message."""
        wish = event.parameters.wish
        assert wish is not None  # that is why we are here
        terms = await agree(self._desk, self._client, event.parameters)
        if isinstance(terms, Reply):
            return self._refused(terms, "mail")
        if terms.priority != wish.priority:
            reply = extensions.PRIORITY_CHANGED.reply(priority=terms.priority)
        reply = await self._mail_by_hooks(event, reply)
        if reply.positive and self._letter is not None:
            self._letter.terms = terms
            self._letter.max_octets = self._desk.terms.max_octets(terms.priority)
        return reply

    async def _mail_by_hooks(self, event: MailFrom, reply: Reply) -> Reply:
        opinion = await self._ask("decide_mail", event.sender)
        if opinion is not None and not opinion.positive:
            return self._refused(opinion, "mail")
        self._begin(event)
        return opinion or reply

    def _begin(self, event: MailFrom) -> None:
        """A transaction begins."""
        profile, cipher = self._desk.profile, self._tls_cipher
        self._letter = letter = Letter.begin(
            self._client, self._session, event, self._warned, cipher, lmtp=profile.lmtp
        )
        if self._forwarded is not None:
            letter.forwarded, self._forwarded = describe_origin(self._forwarded), None

    def _on_rcpt(self, event: RcptTo) -> Reply | Awaitable[Reply | None]:
        if "decide_client" in self._desk.hooks.wanted:
            return self._client_by_hooks(event)
        return self._decide_recipient(event)

    async def _client_by_hooks(self, event: RcptTo) -> Reply | None:
        opinion = await self._ask("decide_client", self._session.sender, event.recipient)
        if self._letter is None:  # the client has left
            return None
        if opinion is not None and not opinion.positive:
            return self._refused(opinion, "rcpt", recipient=str(event.recipient))
        answer = self._decide_recipient(event)
        return answer if isinstance(answer, Reply) else await answer

    def _decide_recipient(self, event: RcptTo) -> Reply | Awaitable[Reply | None]:
        assert self._letter is not None  # RCPT comes inside a transaction
        found = self._desk.rules.decide_rcpt(
            self._client, event.recipient, self._session.sender, self._letter.parameters.size
        )
        if event.valid_since is not None and not isinstance(found, Reply):
            found = self._desk.terms.decide_since(event.recipient, event.valid_since) or found
        if isinstance(found, Reply):
            return self._refused(found, "rcpt", recipient=str(event.recipient))
        if "decide_rcpt" in self._desk.hooks.wanted:
            return self._rcpt_by_hooks(event, found)
        return self._take_recipient(event, found)

    def _take_recipient(self, event: RcptTo, found: tuple[Any, ...]) -> Reply:
        assert self._letter is not None  # RCPT comes inside a transaction
        self._letter.recipients.append(Accepted(event, str(event.recipient), found))
        return self._desk.rules.acceptance(self._client, event.recipient)

    async def _rcpt_by_hooks(self, event: RcptTo, found: tuple[Any, ...]) -> Reply | None:
        letter = self._letter
        assert letter is not None  # as above
        client = replace(self._client, announced_octets=letter.parameters.size)
        opinion = await self._desk.hooks.decide(
            "decide_rcpt", client, self._session.sender, event.recipient, warned=self._warned
        )
        if self._letter is None:  # as above
            return None
        if opinion is not None and not opinion.positive:
            return self._refused(opinion, "rcpt", recipient=str(event.recipient))
        return self._take_recipient(event, found)

    def _on_body_start(self, event: BodyStart) -> Reply | None:
        assert self._letter is not None  # a body comes inside a transaction
        try:
            self._letter.draft = self._desk.door.draft()
        except SpoolError as error:
            self._session.fail_body(error.reply)
            return error.reply if event.owed else None
        return content.START_DATA.reply() if event.owed else None

    def _on_body_chunk(self, event: BodyChunk) -> None:
        letter = self._letter
        if letter is None or letter.draft is None:
            return
        if not letter.head_complete:
            letter.keep_head(event.data, KEPT_HEAD_OCTETS)
        try:
            letter.draft.write(event.data)
        except SpoolError as error:
            observe.SPOOL_TROUBLE.note(session=self._client.session, problem=str(error))
            letter.draft = None
            self._session.fail_body(error.reply)

    def _on_body_end(self, event: BodyEnd) -> Reply | Awaitable[Reply]:
        letter = self._letter
        if letter is None or letter.draft is None or event.fault is not None:
            fault = event.fault or content.INTERNAL_ERROR.reply(incident="no draft")
            self._forget_letter()
            return self._refused(fault, "body")
        answer = self._desk.door.admit(letter)
        self._letter = None  # it is the door's now, whatever becomes of this connection
        return answer

    def _on_body_dropped(self, _event: BodyDropped) -> None:
        self._forget_letter()

    def _forget_letter(self) -> None:
        letter, self._letter = self._letter, None
        if letter is not None and letter.draft is not None:
            letter.draft.discard()

    async def _on_login(self, event: Login) -> None:
        take = partial(self._desk.connections.take_account, self)
        self._client = await login.log_in(
            self._desk.accounts, self._session, event, self._client, self._certified, take
        )

    def _on_secret_wanted(self, event: SecretWanted) -> Awaitable[None]:
        return login.give_secret(self._desk.accounts, self._session, event, self._client)

    def _on_status_wanted(self, _event: StatusWanted) -> Awaitable[Reply]:
        return self._desk.board.answer(self._client, self._tls_cipher)

    def _on_verify(self, event: Verify) -> Reply | Awaitable[Reply]:
        return self._desk.rules.decide_verify(self._client, event.argument, expand=event.expand)

    def _on_start_queue(self, event: StartQueue) -> Awaitable[Reply]:
        assert self._desk.etrn is not None  # the core asks only where it is offered
        return self._desk.etrn.start(self._client, event)

    def _on_xforward(self, event: XForward) -> Reply:
        self._forwarded = (self._forwarded or {}) | event.attributes
        return peers.ORIGIN_NOTED.reply()

    async def _on_xclient(self, event: XClient) -> None:
        """Go on as if the client that a trusted host tells of had connected by itself."""
        desk, old = self._desk, self._client.address
        told = add_up(self._told or {}, event.attributes)
        client = await take_client(self._client, told, desk.accounts, desk.rules)
        if isinstance(client, Reply):
            self._session.answer(self._refused(client, "xclient"))
            return
        self._told, self._client, self._forwarded = told, client, None
        self._certified = ()  # the certificate is that of the host in between
        self._warned.clear()
        self._standing_warnings = 0
        refusal = refuse_at_once(desk, client.address, self._transport, presented=True)
        desk.connections.rename(self, old, client.address)
        self._session.restart(refusal, login=client.login)
        self._session.channel = replace(self._session.channel, certified=False)
        if desk.proxies is not None:
            self._give_rights(desk.proxies)
        if refusal is not None:
            observe.SESSION_REFUSED.note(
                session=client.session, cause=refusal.cause_id, client=client.address
            )
        elif self._greets_later():
            await self._greet_later()

    def _on_tls_wanted(self, _event: TlsWanted) -> Reply | Awaitable[Reply | None]:
        if self._desk.handshakes.is_full_for(self._client.address):
            return self._refused(session.TLS_BUSY.reply(), "starttls")
        assert self._desk.tls is not None  # STARTTLS is offered only with it
        return self._start_tls(self._desk.tls)

    async def _start_tls(self, tls: ListenerTls) -> Reply | None:
        """Shake hands, or say why not. Octets may come out of the new channel before this task learns that it is open.

        Reading is paused before the 220 goes out, so that nothing slips in between (RFC 3207 6).
        """
        plain = self._transport
        if not tls.ready and not await tls.prepare():
            return self._refused(session.TLS_UNAVAILABLE.reply(), "starttls")
        if plain.is_closing():
            return None
        plain.pause_reading()
        self._session.answer(session.START_TLS.reply())
        self._flush()
        self._session.tls_started(time.monotonic())
        client = self._client
        with self._desk.handshakes.counted(client.address):
            encrypted = await start_tls(
                plain, self, tls.context, session=client.session, client=client.address
            )
        if encrypted is None:
            self.connection_lost(None)  # the loop tells it only to a connection that got as far as TLS
            return None
        self._transport = encrypted
        if self._paused:
            plain.resume_reading()
        self._client = replace(self._client, tls=True, helo="", login="", senders=())
        self._note_tls()
        objection = tls.objection(encrypted.get_extra_info("ssl_object"))
        if objection is not None:
            self._session.refuse_tls(objection)
        return None

    def _note_tls(self) -> None:
        """Learn what the handshake has agreed upon."""
        self._tls_cipher = (self._transport.get_extra_info("cipher") or ("",))[0]
        connection = self._transport.get_extra_info("ssl_object")
        self._certified = certified_names(connection)
        self._session.channel = Channel(
            tls=True,
            certified=bool(self._certified),
            end_point=end_point(connection),
            trusted_with=self._session.channel.trusted_with,
        )


_HANDLERS: dict[type, Callable[[SmtpProtocol, Any], Any]] = {
    Hello: SmtpProtocol._on_hello,  # noqa: SLF001 - a table of this class's own methods
    MailFrom: SmtpProtocol._on_mail,  # noqa: SLF001
    RcptTo: SmtpProtocol._on_rcpt,  # noqa: SLF001
    BodyStart: SmtpProtocol._on_body_start,  # noqa: SLF001
    BodyChunk: SmtpProtocol._on_body_chunk,  # noqa: SLF001
    BodyEnd: SmtpProtocol._on_body_end,  # noqa: SLF001
    BodyDropped: SmtpProtocol._on_body_dropped,  # noqa: SLF001
    Login: SmtpProtocol._on_login,  # noqa: SLF001
    SecretWanted: SmtpProtocol._on_secret_wanted,  # noqa: SLF001
    StatusWanted: SmtpProtocol._on_status_wanted,  # noqa: SLF001
    Verify: SmtpProtocol._on_verify,  # noqa: SLF001
    StartQueue: SmtpProtocol._on_start_queue,  # noqa: SLF001
    XClient: SmtpProtocol._on_xclient,  # noqa: SLF001
    XForward: SmtpProtocol._on_xforward,  # noqa: SLF001
    TlsWanted: SmtpProtocol._on_tls_wanted,  # noqa: SLF001
}
