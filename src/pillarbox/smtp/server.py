"""The server's end of an SMTP or LMTP session: octets in, events out, one owed reply at a time (RFC 5321, RFC 2033).

It knows the order of commands and all syntax, but no sockets, no clock and no policy: whether a sender, a recipient
or a message is accepted is decided by whoever answers its events.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from pillarbox.mail.catalogue import auth, bounds, content, envelope, policy, session
from pillarbox.mail.envelope import Body
from pillarbox.mail.reply import POSITIVE, Cause, Reply
from pillarbox.smtp import exchange, grammar, questions
from pillarbox.smtp.events import (
    BodyDropped,
    BodyEnd,
    BodyStart,
    Event,
    Hello,
    LocalProtocolError,
    Login,
    MailFrom,
    RcptTo,
    SecretWanted,
    Signal,
    TlsWanted,
    XClient,
)
from pillarbox.smtp.profile import PLAIN_CHANNEL, TLS_CHANNEL, Channel, Offer, Profile
from pillarbox.smtp.sasl import MAX_AUTH_LINE_OCTETS, MAX_RESPONSE_LINE_OCTETS
from pillarbox.smtp.states import ALWAYS, HTTP, NOTHING_FITS, ORDERED, WITHOUT_TLS, Mode, State
from pillarbox.smtp.transfer import Transfer
from pillarbox.smtp.usage import Usage
from pillarbox.smtp.wire import LF, TLS_HANDSHAKE, LineFault, LineReader

if TYPE_CHECKING:
    from pillarbox.mail.address import Address


# Asked about for each command: before Python 3.12 a member of an enumeration costs a call each time that it is named.
_COMMAND, _SASL, _DATA, _CHUNK, _ENDED, _HANDSHAKE, _CLOSED = Mode
_CONNECTED, _GREETED, _LOGIN_NEEDED, _IN_MAIL, _IN_RCPT, _IN_CHUNKS, _TURNED_AWAY, _WEAK = State
_NEED_DATA, _OWED, _BUSY, _SIGNAL_CLOSED = Signal
_BINARY = Body.BINARY
_SHUTDOWN = session.SHUTDOWN.code
_TLS_RECORD = TLS_HANDSHAKE[0]
_APART = (_CONNECTED, _TURNED_AWAY, _WEAK)  # no transaction leads there or away from there
_TIMED_BY_DATA = (_DATA, _CHUNK)
_FED = (_COMMAND, _DATA, _CHUNK, _SASL)  # where nothing happens unless something comes
_MAX_LINES_A_TURN = 25  # of replies given here before they are sent and others have their turn


class ServerSession:
    """One session. Feed it with `receive`, ask `next_event`, answer what is owed, send what `to_send` gives.

    `now` is in seconds, on a clock that never jumps. After `Signal.CLOSED` send what is left and close.
    """

    __slots__ = (
        "_accepted",
        "_draining",
        "_events",
        "_exchange",
        "_fitting",
        "_lines",
        "_mail",
        "_mode",
        "_offer",
        "_out",
        "_owed",
        "_profile",
        "_refused",
        "_transfer",
        "_tried",
        "_used",
        "channel",
        "closed_by",
        "heard",
        "hello",
        "hello_verb",
        "login",
        "offered",
        "sender",
        "state",
        "tls",
    )

    def __init__(
        self, profile: Profile, *, now: float, tls: bool = False, refusal: Reply | None = None
    ) -> None:
        """Begin with the greeting, or with `refusal` in its place (RFC 5321 3.1)."""
        self._profile = profile
        self._lines = LineReader()
        self._out = b""
        # found and not yet handed out: a chunk and the end of its body come together
        self._events: list[Event] = []
        self._mode = _COMMAND
        self._owed: Event | None = None
        self._offer: Offer | None = None  # in the answer to the `Hello` that is owed
        self._used = Usage()
        self._draining = False
        self._exchange: exchange.Exchange | None = None
        self._transfer = Transfer(self._events)
        self._mail: MailFrom | None = None
        self._accepted = self._tried = 0
        self._refused = session.REFUSED
        self._fitting = NOTHING_FITS if profile.needs_tls and not tls else profile.fitting
        self.state = _CONNECTED
        self.closed_by: Cause | None = None  # why we have ended the session, if we have
        self.tls = tls
        self.channel = TLS_CHANNEL if tls else PLAIN_CHANNEL  # the driver sets more, once it knows more
        self.sender: Address | None = None  # the reverse-path of the open transaction
        self.login = ""  # the account that logged in
        self.hello = self.hello_verb = ""
        self.offered: frozenset[str] = frozenset()
        self.heard = now  # when the client last said something that counts
        self._greet(refusal)

    def _greet(self, refusal: Reply | None) -> None:
        if refusal is None:
            profile = self._profile
            self._out += profile.say(session.GREETING_LMTP if profile.lmtp else session.GREETING).wire
            return
        self._out += refusal.bare_wire  # RFC 2034 4: no enhanced status in a greeting
        self.state = _TURNED_AWAY
        if refusal.cause in (session.NO_MAIL_HERE, auth.TLS_TOO_WEAK, auth.CERTIFICATE_REQUIRED):
            self._refused = refusal.cause  # RFC 7504 3, RFC 3207 4.1: each command gets the greeting's code
        if refusal.code == session.SHUTDOWN.code:
            self._mode = _CLOSED

    def refuse(self, refusal: Reply, *, greeted: bool) -> None:
        """Refuse the client after all: in the greeting, or if that has begun to be sent, in answer to each command."""
        if greeted and refusal.cause is not None:
            self.state = _TURNED_AWAY
            self._refused = refusal.cause
        else:
            self._out = b""
            self._greet(refusal)

    # ------------------------------------------------------------------ octets in, events out

    def receive(self, data: bytes, now: float) -> int:
        """Take what the client sent. Sessions that give the same number have to do about the same next."""
        mode = self._mode
        if mode is _COMMAND or mode is _SASL:
            if LF in data:  # a command that trickles in octet by octet gets no more time
                self.heard = now
            first = data[0] if data else 0
            if first == _TLS_RECORD and self.state is _CONNECTED and not self._lines.buffer:
                self._close(session.NOT_SMTP)
                return 0
            self._lines.feed(data)
            return first
        if mode in _TIMED_BY_DATA:
            self.heard = now
            take = self._transfer.take_data if mode is _DATA else self._transfer.take_chunk
            self._end_transfer(take(data, now))
        elif mode is _ENDED:
            self._lines.feed(data)
        return 0

    def renew(self, now: float) -> None:
        """Begin to time the client anew: the time that a decision took was not its own."""
        self.heard = now

    @property
    def deadline(self) -> float:
        """When the client's time is up if it says nothing more (RFC 5321 4.5.3.2)."""
        limits = self._profile.limits
        if self._mode in _TIMED_BY_DATA:
            return self._transfer.deadline(self.heard, limits)
        return self.heard + limits.command_timeout_s

    def next_event(self) -> Event | Signal:
        """The next thing to decide or to do, or why there is none."""
        if self._owed is not None:
            return _OWED
        event: Event | Signal | None = None
        while event is None:
            if self._events:
                event = self._events.pop(0)
            elif self._mode is not _COMMAND:
                event = self._next_other()
            elif not self._lines.buffer:
                return _NEED_DATA
            else:
                command = self._lines.next_command(self._profile.limits.command_line_octets)
                if command is None:
                    event = self._take_other()
                elif (verb := self._fitting[self.state].get(command[0])) is not None:
                    event = _HANDLERS[verb](self, command[1])
                else:
                    event = self._take_line(b"%b %b" % (command[0], command[1].encode()))
                if event is None and self._out.count(b"\n") >= _MAX_LINES_A_TURN:
                    return _BUSY
        if event.owed:
            self._owed = event  # type: ignore[assignment]  # nothing is owed for a signal
        return event

    def _take_other(self) -> Event | Signal | None:
        """Take a line that is no plain command."""
        profile, lines = self._profile, self._lines
        most: int = profile.limits.command_line_octets
        if lines.waiting_octets > most and profile.offers_login and lines.begins_with(b"AUTH "):
            most = max(most, MAX_AUTH_LINE_OCTETS)
        line = lines.next_line(most)
        return _NEED_DATA if line is None else self._take_line(line)

    def _next_other(self) -> Event | Signal | None:
        """The same where no command is expected."""
        if self._mode is _ENDED:
            return self._end_body()
        if self._mode is _CLOSED:
            return _SIGNAL_CLOSED
        line = self._lines.next_line(MAX_RESPONSE_LINE_OCTETS) if self._mode is _SASL else None
        return _NEED_DATA if line is None else self._take_sasl(line)

    def to_send(self) -> bytes:
        """What is to be sent now; it is forgotten here."""
        out, self._out = self._out, b""
        return out

    @property
    def waiting_octets(self) -> int:
        """How much of what the client sent waits for the reply that is owed."""
        return self._lines.waiting_octets

    @property
    def errors(self) -> int:
        """Mistakes of the client so far."""
        return self._used.errors

    def expire(self, now: float, deadline: float | None = None) -> None:
        """Close the session if the client has been silent for too long (RFC 5321 4.5.3.2.7)."""
        if (
            now >= (self.deadline if deadline is None else deadline)
            and self._owed is None
            and self._mode is not _CLOSED
        ):
            if self._mode not in _TIMED_BY_DATA:
                self._close(session.COMMAND_TIMEOUT)
            else:
                self._close(bounds.TOO_SLOW if self._transfer.too_slow else session.DATA_TIMEOUT)

    def deadline_within(self, patience_s: float) -> float:
        """The deadline, if a client may be silent only for so long."""
        limits = self._profile.limits
        usual_s = limits.data_timeout_s if self._mode in _TIMED_BY_DATA else limits.command_timeout_s
        return min(self.deadline, self.deadline - usual_s + patience_s)

    def drain(self) -> None:
        """Close at the next command boundary (RFC 5321 3.8): now if the session is idle."""
        self._draining = True
        self._fitting = NOTHING_FITS
        self._finish_if_draining()

    def cut_short(self, cause: Cause) -> None:
        """Close the session at once, and forget what the client sent."""
        self._lines.forget()
        self._close(cause)

    def tls_started(self, now: float) -> None:
        """From here on all octets come encrypted: forget what the client said in clear (RFC 3207 4.2)."""
        self._lines.forget()
        self._mode = _COMMAND
        self._forget_client()
        self.tls = True
        self._fitting = NOTHING_FITS if self._draining else self._profile.fitting
        trusted_with = self.channel.trusted_with  # the connection is the same
        self.channel = Channel(tls=True, trusted_with=trusted_with) if trusted_with else TLS_CHANNEL
        self.renew(now)
        self._finish_if_draining()

    def _forget_client(self) -> None:
        self._reset()
        self.hello = self.hello_verb = self.login = ""
        self.state = _CONNECTED
        self.offered = frozenset()

    def restart(self, refusal: Reply | None, *, login: str = "") -> None:
        """Begin anew with the client that an `XClient` told of, in place of an answer to it."""
        if type(self._owed) is not XClient:
            raise LocalProtocolError("nobody told of a client")
        self._owed = None
        self._forget_client()
        self.login = login
        self._used = Usage()
        self._greet(refusal)
        self._finish_if_draining()

    def refuse_tls(self, cause: Cause) -> None:
        """The handshake ended in less than is demanded here (RFC 3207 4.1)."""
        self.state = _WEAK
        self._refused = cause

    # ------------------------------------------------------------------ answers

    def answer(self, reply: Reply, *, login: str = "") -> bool:
        """Give the reply that is owed; `login` names the account when it accepts a `Login`. Whether there may be more to do.

        In LMTP the end of a body is answered once for each accepted recipient (RFC 2033 4.2).
        """
        event = self._owed
        if event is None:
            raise LocalProtocolError("no reply is owed")
        self._owed = None
        kind = type(event)
        if kind is Login and self._explain_refusal(event, reply):  # type: ignore[arg-type]  # it is one
            return True
        self._out += reply.bare_wire if kind is Hello else reply.wire
        if reply.code == _SHUTDOWN:
            self._drop_body()
            self._mode = _CLOSED
            return True
        if login:
            self.login = login
        _AFTER[kind](self, event, reply)
        if self._draining:
            self._finish_if_draining()
        return bool(self._lines.buffer or self._events) or self._mode not in _FED

    def fail_body(self, reply: Reply) -> None:
        """Storing the body failed: consume the rest of it, then refuse it with `reply`."""
        self._transfer.fail(reply)

    def welcome(self, unix_time: float = 0.0) -> Reply:
        """The positive answer to the `Hello` that is owed: the extensions on offer now (RFC 5321 4.1.1.1)."""
        if not isinstance(self._owed, Hello):
            raise LocalProtocolError("no greeting is to be answered")
        extended, login = self._owed.verb != "HELO", bool(self.login)
        self._offer = self._profile.offer(extended=extended, channel=self.channel, login=login)
        return self._profile.welcome(self._offer, unix_time)

    # What an answer changes, one method an event.

    def _after_rcpt(self, _event: RcptTo, reply: Reply) -> None:
        self._tried += 1
        if reply.code in POSITIVE:
            self._accepted += 1
            self.state = _IN_RCPT

    def _after_mail(self, event: MailFrom, reply: Reply) -> None:
        if reply.code in POSITIVE:
            self._mail, self.sender = event, event.sender
            self.state = _IN_MAIL

    def _after_body_start(self, _event: BodyStart, reply: Reply) -> None:
        if reply.intermediate:
            self._begin_data()
        else:
            self._reset()

    def _after_body_end(self, _event: BodyEnd, reply: Reply) -> None:
        if self._profile.lmtp:
            self._out += reply.wire * (self._accepted - 1)
        self._used.empty = 0
        self._reset()

    def _after_hello(self, event: Hello, reply: Reply) -> None:
        if reply.code in POSITIVE:
            self._greeted(event)

    def _after_login(self, _event: Login | SecretWanted, reply: Reply) -> None:
        self._logged_in(reply)

    def _after_tls_wanted(self, _event: TlsWanted, reply: Reply) -> None:
        if reply.positive:
            self._lines.forget()  # whatever came along in clear must not be taken for encrypted (RFC 3207 6)
            self._mode = _HANDSHAKE

    def _after_question(self, _event: Event, _reply: Reply) -> None:
        """A look-up has no effect on a transaction (RFC 5321 4.1.1.6)."""
        self._idle()

    def _greeted(self, event: Hello) -> None:
        if self.state is not _CONNECTED:
            self._drop_body()
            self._reset()
        self._idle()
        self.hello, self.hello_verb = event.name, event.verb
        if self._offer is not None:
            self.offered = self._offer.keywords
        self.state = self._idle_state()

    def _logged_in(self, reply: Reply) -> None:
        if reply.positive:
            self.state = self._idle_state()
        elif reply.permanent:
            self._close_for(self._used.failed_login(self._profile.limits))

    def _idle_state(self) -> State:
        needs_login = self._profile.needs_login and not self.login
        return _LOGIN_NEEDED if needs_login else _GREETED

    def _reset(self) -> None:
        """End the transaction, if any (RFC 5321 4.1.1.5)."""
        self._mail = self.sender = None
        self._transfer.end()
        self._accepted = self._tried = 0
        if self._used.domains:
            self._used.domains.clear()
        if self.state not in _APART:
            self.state = self._idle_state()

    def _drop_body(self) -> None:
        """The client abandons a message between chunks: the driver must discard the draft."""
        if self._transfer.end():
            self._events.append(BodyDropped())

    # ------------------------------------------------------------------ commands

    def _say(self, reply: Reply) -> Event | None:
        """Answer a command ourselves, and count it if it was a mistake: no event comes of it."""
        self._out += reply.wire
        if reply.permanent:
            self._close_for(self._used.mistake(self._profile.limits))
        return None

    def _close_for(self, cause: Cause | None) -> None:
        """Close the session if there is a cause to."""
        if cause is not None and self._mode is not _CLOSED:
            self._close(cause)

    def _close(self, cause: Cause) -> Event | None:
        """End the session: no event comes of it, unless that a body is dropped."""
        self._out += self._profile.say(cause).wire
        self._drop_body()
        self._mode = _CLOSED
        self.closed_by = cause
        return None

    def _finish_if_draining(self) -> None:
        """Close a session that is idle, if it is to be closed."""
        if self._draining and self._mode is _COMMAND and self._owed is None and self._mail is None:
            self._close(session.SHUTDOWN)

    def _take_line(self, line: bytes | LineFault) -> Event | None:
        """One line, whatever it is: length and verb first, then encryption, order, syntax."""
        if type(line) is LineFault:
            return self._say(exchange.line_fault(line, self._lines.long_line, self._profile))
        if self._draining:
            return self._close(session.SHUTDOWN)
        command = grammar.split_line(line)  # type: ignore[arg-type]  # it is no fault
        if command is None:
            return self._say(session.LINE_NOT_CLEAN.reply())
        verb, argument = command
        refusal = self._refusal(verb) if verb != "BDAT" else None  # its octets follow even if it is refused
        if refusal is None:
            return _HANDLERS[verb](self, argument)
        if refusal.cause is session.UNKNOWN_COMMAND:
            return self._unknown(verb, line)  # type: ignore[arg-type]  # as above
        return self._say(refusal)

    def _refusal(self, verb: str) -> Reply | None:
        """Why a command can't be taken now whatever its argument, or None."""
        state, profile = self.state, self._profile
        cause = profile.table[state].get(verb, session.UNKNOWN_COMMAND)
        if (state is _TURNED_AWAY or state is _WEAK) and verb != "QUIT":
            return profile.say(self._refused)
        if (
            profile.needs_tls
            and not self.tls
            and verb not in WITHOUT_TLS
            and cause is not session.UNKNOWN_COMMAND
        ):
            return auth.TLS_REQUIRED.reply()
        if state is _IN_MAIL and cause is None and verb in ("DATA", "BDAT"):
            all_refused = session.NO_RECIPIENT_LMTP if profile.lmtp else content.NO_VALID_RECIPIENTS
            cause = all_refused if self._tried else session.NEED_RCPT
        return None if cause is None else cause.reply(verb="LHLO" if profile.lmtp else "EHLO")

    def _unknown(self, verb: str, line: bytes) -> Event | None:
        self._say(session.UNKNOWN_COMMAND.reply())
        if not self.hello and self._mode is not _CLOSED and (verb in HTTP or b" HTTP/" in line):
            self._close(session.NOT_SMTP)
        return None

    def _hello(self, verb: str, argument: str) -> Event | None:
        if (verb == "LHLO") != self._profile.lmtp:
            return self._say(session.WRONG_HELLO.reply())
        if self._profile.strict_pipelining and self._lines.buffer:
            return self._say(policy.PIPELINED.reply())
        name = grammar.parse_hello(argument)
        return Hello(verb, name) if name is not None else self._say(session.HELLO_SYNTAX.reply())

    def _do_mail(self, argument: str) -> Event | None:
        profile, limits = self._profile, self._profile.limits
        self._used.messages += 1
        if self._used.messages > limits.messages:
            return self._close(session.TOO_MANY_MESSAGES)
        if self.hello_verb == "HELO" and profile.strict_pipelining and self._lines.buffer:
            return self._say(policy.PIPELINED.reply())
        event = grammar.parse_mail(argument, self.offered, profile.suspended, limits.message_octets)
        return event if type(event) is MailFrom else self._say(event)  # type: ignore[arg-type]  # a reply

    def _do_rcpt(self, argument: str) -> Event | None:
        assert self._mail is not None  # the table lets RCPT through inside a transaction alone
        profile, limits = self._profile, self._profile.limits
        if self._tried >= limits.recipients:
            self._out += envelope.TOO_MANY_RECIPIENTS.reply().wire
            return None
        smtputf8 = self._mail.parameters.smtputf8
        event = grammar.parse_rcpt(argument, self.offered, profile.suspended, smtputf8=smtputf8)
        if type(event) is not RcptTo:
            self._tried += 1
            return self._say(event)  # type: ignore[arg-type]  # a reply
        if limits.recipient_domains and self._used.is_one_domain_too_many(event.recipient, limits):
            self._tried += 1
            self._out += envelope.TOO_MANY_DOMAINS.reply().wire
            return None
        return event

    def _do_data(self, argument: str) -> Event | None:
        assert self._mail is not None  # as above
        if argument:
            return self._say(session.UNEXPECTED_ARGUMENT.reply())
        if self._mail.parameters.body is _BINARY:
            return self._say(session.BINARY_NEEDS_BDAT.reply())
        if self._profile.strict_pipelining and self._lines.buffer:
            self._say(policy.PIPELINED.reply())
            return self._close(session.NOT_SMTP)  # what follows may be a message, not to be read as commands
        refusal = self._policy_refusal()
        return BodyStart(owed=True) if refusal is None else self._say(refusal)

    def _policy_refusal(self) -> Reply | None:
        """The message goes to more recipients than one message may, so nobody gets it (RFC 5321 4.5.3.1.10)."""
        most = self._profile.limits.policy_recipients
        return envelope.OVER_RECIPIENT_POLICY.reply(limit=most) if 0 < most < self._accepted else None

    def _do_rset(self, argument: str) -> Event | None:
        if argument:
            return self._say(session.UNEXPECTED_ARGUMENT.reply())
        self._drop_body()
        self._reset()
        return self._do_noop(argument)

    def _do_noop(self, _argument: str) -> Event | None:
        self._out += session.OK.reply().wire
        return self._idle()

    def _idle(self) -> Event | None:
        """A command led nowhere."""
        self._used.empty += 1
        if self._used.empty > self._profile.limits.empty_commands:
            self._close_for(self._used.mistake(self._profile.limits))
        return None

    def _do_quit(self, argument: str) -> Event | None:
        return self._say(session.UNEXPECTED_ARGUMENT.reply()) if argument else self._close(session.CLOSING)

    def _ask(self, question: Event | Reply) -> Event | None:
        if not isinstance(question, Reply):
            return question
        self._say(question)
        return self._idle()

    def _do_help(self, argument: str) -> Event | None:
        offers = partial(self._profile.offers, channel=self.channel, login=bool(self.login))
        about = questions.help_about(argument, self._profile, self.offered, self._general_help, offers)
        return self._ask(about)

    def _general_help(self) -> Reply:
        login = bool(self.login)
        return self._profile.general_help(self.state, self._refusal, channel=self.channel, login=login)

    # ------------------------------------------------------------------ AUTH

    def _do_auth(self, argument: str) -> Event | None:
        begun = exchange.begin(argument, self._profile, self.channel, self.login)
        if isinstance(begun, Reply):
            return self._say(begun)
        self._exchange, step = begun
        return self._take_step(step)

    def _take_sasl(self, line: bytes | LineFault) -> Event | None:
        assert self._exchange is not None  # only an exchange in progress gets here
        self._mode = _COMMAND
        return self._take_step(self._exchange.take_line(line))

    def _take_step(self, step: exchange.Step) -> Event | None:
        if not isinstance(step, Reply):
            return step
        if not step.intermediate and step.cause is not auth.BAD_CREDENTIALS:
            return self._say(step)
        self._out += step.wire
        if step.intermediate:
            self._mode = _SASL
        else:
            self._logged_in(step)
        return None

    def give_secret(self, secret: object) -> None:
        """Give what a `SecretWanted` asks for, in place of an answer."""
        event, self._owed = self._owed, None
        if type(event) is not SecretWanted or self._exchange is None:
            raise LocalProtocolError("no secret is wanted")
        login = self._take_step(self._exchange.take_secret(secret))
        if login is not None:
            self._events.append(login)
        self._finish_if_draining()

    def _explain_refusal(self, event: Login, reply: Reply) -> bool:
        """Tell a client first why its token is not taken, if its mechanism has a way to do so."""
        challenge = self._exchange.explain_refusal(event, reply) if self._exchange is not None else None
        if challenge is not None:
            self._take_step(challenge)
        return challenge is not None

    # ------------------------------------------------------------------ bodies

    def _begin_body(self, *, stuffed: bool) -> None:
        assert self._mail is not None  # a body belongs to a transaction
        binary = self._mail.parameters.body is _BINARY
        self._transfer.begin(self._profile.limits, binary=binary, stuffed=stuffed)

    def _begin_data(self) -> None:
        self._begin_body(stuffed=True)
        self._mode = _DATA
        if self._lines.buffer:
            self._end_transfer(self._transfer.take_data(self._lines.take_body(), self.heard))

    def _end_transfer(self, rest: bytes | None) -> None:
        """All octets of a body or chunk are here, if `rest` is what follows them."""
        if self._transfer.overflows():
            self._close(bounds.TOO_MUCH)
        elif rest is not None:
            self._mode = _ENDED
            if rest:
                self._lines.feed(rest)

    def _do_bdat(self, argument: str) -> Event | None:
        """BDAT: even a refused one is followed by its octets, which must not be read as commands (RFC 3030 2)."""
        size = grammar.parse_bdat(argument)
        if self._profile.extensions.chunking == "off":
            return self._close(session.NOT_IMPLEMENTED)  # the octets of the chunk can't be told from commands
        refusal = self._refusal("BDAT") or self._transfer.chunk_fault() or self._policy_refusal()
        if size is None:
            fault = session.BAD_ARGUMENT.reply(detail="Write BDAT octets, or BDAT octets LAST")
            self.fail_body(fault)  # a message without this chunk is not the client's message
            return self._say(refusal or fault)
        octets, last = size
        if refusal is None and not self._transfer.open:
            self._begin_body(stuffed=False)
            self.state = _IN_CHUNKS
            self._events.append(BodyStart(owed=False))
        self._transfer.begin_chunk(octets, last=last, refusal=refusal)
        self._mode = _CHUNK
        self._end_transfer(self._transfer.take_chunk(self._lines.take(octets), self.heard))
        return None

    def _end_body(self) -> Event | None:
        """The octets of a body or chunk were handed out, so a failure to store them is known by now."""
        self._mode = _COMMAND
        found = self._transfer.verdict()
        if type(found) is BodyEnd:
            return found
        self._say(found)  # type: ignore[arg-type]  # the other one is a reply
        self._finish_if_draining()
        return None


_Handler = Callable[[ServerSession, str], Event | None]


def _ask_by(read: questions.Reader) -> _Handler:
    def handle(self: ServerSession, argument: str) -> Event | None:
        return self._ask(read(argument, self._profile, self.channel))

    return handle


def _greet_by(verb: str) -> _Handler:
    return lambda self, argument: self._hello(verb, argument)


_AFTER: dict[type[Event], Callable[[ServerSession, Any, Reply], None]] = {
    RcptTo: ServerSession._after_rcpt,  # noqa: SLF001 - a table of the class's own methods
    MailFrom: ServerSession._after_mail,  # noqa: SLF001
    BodyStart: ServerSession._after_body_start,  # noqa: SLF001
    BodyEnd: ServerSession._after_body_end,  # noqa: SLF001
    Hello: ServerSession._after_hello,  # noqa: SLF001
    Login: ServerSession._after_login,  # noqa: SLF001
    **dict.fromkeys(questions.EVENTS, ServerSession._after_question),  # noqa: SLF001
    SecretWanted: ServerSession._after_login,  # noqa: SLF001
    TlsWanted: ServerSession._after_tls_wanted,  # noqa: SLF001
}
_HANDLERS: dict[str, _Handler] = {
    **{verb: _greet_by(verb) for verb in ("HELO", "EHLO", "LHLO")},
    **{verb: _ask_by(read) for verb, read in questions.READERS.items()},
    **{
        verb: getattr(ServerSession, f"_do_{verb.lower()}")
        for verb in (*ALWAYS, *ORDERED)
        if not verb.endswith("LO") and verb not in questions.READERS
    },
}
