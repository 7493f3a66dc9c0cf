"""Parts for tests of programs that send or receive mail: a mail server that misbehaves on cue, a DNS of dicts.

Everything binds to loopback and to ports that the system chooses. Nothing in the server imports this module.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

import msgspec

from pillarbox.mail.catalogue import auth, envelope, session
from pillarbox.mail.catalogue import content as content_causes
from pillarbox.mail.envelope import Envelope, Recipient
from pillarbox.mail.route import Route, Transport
from pillarbox.mailauth.dns import Answer, Query
from pillarbox.queue.spool import Content, Pending, Queued

_END_OF_DATA = b"\r\n.\r\n"
_CHUNK = re.compile(rb"BDAT (\d+)( LAST)?", re.IGNORECASE)


class Say(msgspec.Struct, frozen=True):
    """Answer with these octets: "250 OK", or lines joined by CRLF. Nothing is checked."""

    text: str | bytes

    @property
    def wire(self) -> bytes:
        """The octets, with CRLF at the end unless `text` is bytes."""
        return self.text if isinstance(self.text, bytes) else f"{self.text}\r\n".encode()


class Late(msgspec.Struct, frozen=True):
    """Do `then` only after `seconds`; what the client sends meanwhile waits."""

    seconds: float
    then: Move


class Halves(msgspec.Struct, frozen=True):
    """Send the answer in two pieces with a pause between them, cut after `at` octets."""

    text: str
    at: int = 2
    pause_s: float = 0.02


class Hang(msgspec.Struct, frozen=True):
    """Say nothing, ever."""


class Drop(msgspec.Struct, frozen=True):
    """Close the connection, after `text` if there is any; with `reset` by RST."""

    text: str = ""
    reset: bool = False


class StartTls(msgspec.Struct, frozen=True):
    """Agree to TLS and begin the handshake; `injected` is sent in clear behind the answer."""

    context: ssl.SSLContext
    injected: bytes = b""


Move = str | bytes | Say | Late | Halves | Hang | Drop | StartTls
Script = Mapping[str, Move | Sequence[Move]]

_EHLO = ("PIPELINING", "SIZE 52428800", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "DSN")
_NAME = "peer.test"
_MANNERS: dict[str, Move] = {
    "connect": session.GREETING.reply(hostname=_NAME).bare_wire,
    "HELO": session.HELLO.reply(text=_NAME).bare_wire,
    "MAIL": envelope.SENDER_OK.reply().wire,
    "RCPT": envelope.RECIPIENT_OK.reply().wire,
    "DATA": content_causes.START_DATA.reply().wire,
    ".": session.OK.reply().wire,
    "BDAT": session.OK.reply().wire,
    "RSET": session.OK.reply().wire,
    "NOOP": session.OK.reply().wire,
    "QUIT": Drop(str(session.CLOSING.reply(hostname=_NAME))),
    "other": session.UNKNOWN_COMMAND.reply().wire,
}
_TLS_AGREED = session.START_TLS.reply().wire
_CHALLENGE = b"%d" % auth.CHALLENGE.code


class Visit(msgspec.Struct):
    """One connection, as the peer saw it."""

    commands: list[str] = msgspec.field(default_factory=list)
    messages: list[bytes] = msgspec.field(default_factory=list)  # dots removed; chunks joined
    taken: list[str] = msgspec.field(
        default_factory=list
    )  # recipients for whom a message was answered with 2xx
    reads: list[bytes] = msgspec.field(default_factory=list)  # what came in one piece
    encrypted: bool = False
    lost: bool = False


class ScriptedPeer:
    """A mail server on loopback that behaves, except where the script says otherwise.

    The script maps a verb, "connect", "." (the end of the data; with LMTP for each recipient), "answer" (to a
    challenge) or "other" to what the peer does: one move, or a list of them, one for each time, the last one for ever.

        async with ScriptedPeer({"RCPT": ["250 OK", "550 5.1.1 No such user"]}) as peer:
            ...
            assert peer.visits[0].commands == [...]
    """

    def __init__(
        self,
        script: Script | None = None,
        *,
        extensions: Sequence[str] = _EHLO,
        lmtp: bool = False,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        """With `tls` the peer speaks TLS from the first octet."""
        hello = session.HELLO.because(_NAME, *extensions).bare_wire
        moves: dict[str, Move | Sequence[Move]] = {**_MANNERS, "EHLO": hello, "LHLO": hello, **(script or {})}
        self._moves = {name: [one] if isinstance(one, Move) else list(one) for name, one in moves.items()}
        self.lmtp = lmtp
        self.host = host
        self.port = port
        self.visits: list[Visit] = []
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._happened = asyncio.Event()
        self._connections: set[_PeerConnection] = set()

    @property
    def messages(self) -> list[bytes]:
        """All messages that came, of all visits."""
        return [message for visit in self.visits for message in visit.messages]

    @property
    def taken(self) -> list[str]:
        """Recipients for whom a message was taken, of all visits: one that stands here twice got it twice."""
        return [recipient for visit in self.visits for recipient in visit.taken]

    @property
    def commands(self) -> list[str]:
        """All commands that came, of all visits."""
        return [command for visit in self.visits for command in visit.commands]

    async def __aenter__(self) -> Self:
        """Listen."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _PeerConnection(self), self.host, self.port, ssl=self._tls
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop, and hang up."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.abort()
        await asyncio.gather(*(connection.gone for connection in self._connections))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; it is looked at whenever something happens on a connection."""
        while not condition():
            self._happened.clear()
            await self._happened.wait()

    def note(self) -> None:
        """Something happened on a connection."""
        self._happened.set()

    def next_move(self, name: str) -> Move:
        """The next entry of the script for `name`."""
        moves = self._moves.get(name) or self._moves["other"]
        return moves.pop(0) if len(moves) > 1 else moves[0]


class _PeerConnection(asyncio.Protocol):
    """One connection of a ScriptedPeer: cuts what comes into commands and bodies, and makes its moves."""

    def __init__(self, peer: ScriptedPeer) -> None:
        self._peer = peer
        self._visit = Visit(encrypted=peer._tls is not None)  # noqa: SLF001 - one class in two parts
        self._buffer = b""
        self._waiting = False  # for a late move, or for ever
        self._in_data = False
        self._chunk_left = 0
        self._chunks = b""
        self._last_chunk = False
        self._challenged = False
        self._accepted: list[str] = []
        self._owed: list[tuple[str, list[str]]] = []  # answers to a message, and for whom each is
        self._transport: asyncio.Transport
        self.gone = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._peer.visits.append(self._visit)
        self._peer._connections.add(self)  # noqa: SLF001
        self._make(self._peer.next_move("connect"))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._visit.lost = True
        self._peer.note()
        self._peer._connections.discard(self)  # noqa: SLF001
        if not self.gone.done():
            self.gone.set_result(None)

    def abort(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._visit.reads.append(data)
        self._buffer += data
        self._go_on()
        self._peer.note()

    def _go_on(self) -> None:
        self._pay()
        while not self._waiting and not self._transport.is_closing() and self._step():
            pass

    def _step(self) -> bool:
        """Deal with one command or body; False if more octets are needed."""
        if self._in_data:
            return self._take_data()
        if self._chunk_left or self._last_chunk:
            return self._take_chunk()
        line, found, rest = self._buffer.partition(b"\r\n")
        if not found:
            return False
        self._buffer = rest
        self._take_command(line)
        return True

    def _take_command(self, line: bytes) -> None:
        self._visit.commands.append(line.decode("utf-8", "backslashreplace"))
        if self._challenged:
            self._challenged = False
            self._answer("answer")
            return
        verb = line.split(b" ", 1)[0].decode("ascii", "replace").upper()
        chunk = _CHUNK.fullmatch(line)
        if chunk:
            self._chunk_left, self._last_chunk = int(chunk[1]), bool(chunk[2])
            return
        move = self._peer.next_move(verb)
        if verb == "MAIL":
            self._accepted = []
        if verb == "RCPT" and _wire(move).startswith(b"2"):
            self._accepted.append(_recipient(line))
        self._in_data = verb == "DATA" and _wire(move).startswith(b"3")
        self._make(move)

    def _answer(self, name: str) -> None:
        self._make(self._peer.next_move(name))

    def _take_data(self) -> bool:
        text = b"\r\n" + self._buffer
        end = text.find(_END_OF_DATA)
        if end < 0:
            return False
        self._in_data = False
        self._buffer = text[end + len(_END_OF_DATA) :]
        self._visit.messages.append(text[2 : end + 2].replace(b"\r\n.", b"\r\n").removeprefix(b"."))
        self._answer_message(".")
        return True

    def _take_chunk(self) -> bool:
        if len(self._buffer) < self._chunk_left:
            return False
        self._chunks += self._buffer[: self._chunk_left]
        self._buffer = self._buffer[self._chunk_left :]
        self._chunk_left = 0
        if self._last_chunk:
            self._visit.messages.append(self._chunks)
            self._chunks, self._last_chunk = b"", False
            self._answer_message("BDAT")
        else:
            self._answer("BDAT")
        return True

    def _answer_message(self, name: str) -> None:
        groups = [[one] for one in self._accepted] if self._peer.lmtp else [self._accepted]
        self._owed = [(name, group) for group in groups]
        self._pay()

    def _pay(self) -> None:
        """Give the answers to a message, each when the one before is made."""
        while self._owed and not self._waiting and not self._transport.is_closing():
            name, group = self._owed.pop(0)
            move = self._peer.next_move(name)
            if _wire(move).startswith(b"2"):
                self._visit.taken += group
            self._make(move)

    def _make(self, move: Move) -> None:
        if self._transport.is_closing():
            return
        match move:
            case Late(seconds, then):
                self._pause(seconds, lambda: self._make(then))
            case Halves(_, at, pause_s):
                wire = _wire(move)
                self._transport.write(wire[:at])
                self._pause(pause_s, lambda: self._transport.write(wire[at:]))
            case Hang():
                self._waiting = True
            case Drop(text, reset):
                self._transport.write(f"{text}\r\n".encode() if text else b"")
                self._transport.abort() if reset else self._transport.close()
            case StartTls(context, injected):
                self._waiting = True
                self._transport.write(_TLS_AGREED + injected)
                self._tls_task = asyncio.get_running_loop().create_task(self._start_tls(context))
            case _:
                wire = _wire(move)
                self._challenged = wire.startswith(_CHALLENGE)
                self._transport.write(wire)

    def _pause(self, seconds: float, then: Callable[[], None]) -> None:
        self._waiting = True
        asyncio.get_running_loop().call_later(seconds, self._resume, then)

    def _resume(self, then: Callable[[], None]) -> None:
        self._waiting = False
        if not self._transport.is_closing():
            then()
            self._go_on()

    async def _start_tls(self, context: ssl.SSLContext) -> None:
        self._buffer = b""
        loop = asyncio.get_running_loop()
        try:
            transport = await loop.start_tls(self._transport, self, context, server_side=True)
        except OSError as error:
            self._transport.abort()
            self.connection_lost(error)  # the loop tells it only to a connection that got as far as TLS
            return
        if transport is None or transport.is_closing():  # the client went away during the handshake
            self.connection_lost(None)
            return
        self._transport = transport
        self._visit.encrypted = True
        self._waiting = False
        self._go_on()


def _recipient(line: bytes) -> str:
    return line.partition(b"<")[2].partition(b">")[0].decode("utf-8", "backslashreplace")


def _wire(move: Move) -> bytes:
    """What the client will read in the end."""
    match move:
        case str() | bytes():
            return Say(move).wire
        case Say():
            return move.wire
        case Late(_, then):
            return _wire(then)
        case Halves(text) | Drop(text):
            return Say(text).wire
        case _:
            return b""


class FakeResolver:
    """A DNS made of dicts; it answers like `net.resolver.Resolver`, at once.

    A name in `failing` gives no answer; one that is in none of the dicts does not exist.
    """

    def __init__(  # noqa: PLR0913 - a dict for each kind of record
        self,
        *,
        mx: Mapping[str, Sequence[tuple[int, str]]] | None = None,
        addresses: Mapping[str, Sequence[str]] | None = None,
        failing: Sequence[str] = (),
        tlsa: Mapping[str, Sequence[tuple[int, int, int, bytes]]] | None = None,
        texts: Mapping[str, Sequence[str]] | None = None,
        aliases: Mapping[str, str] | None = None,
        signed: bool = False,
    ) -> None:
        """`mx` maps domains to (preference, host) pairs, a null MX being (0, "").

        `tlsa` maps hosts to records for whatever port, `texts` names to TXT records, `aliases` hosts to what they stand
        for; with `signed` DNSSEC vouches for all.
        """
        self._mx = dict(mx or {})
        self._addresses = dict(addresses or {})
        self._failing = frozenset(failing)
        self._tlsa = dict(tlsa or {})
        self._texts = dict(texts or {})
        self._aliases = dict(aliases or {})
        self._signed = signed
        self.asked: list[tuple[str, str]] = []  # (kind, name)

    async def mx(self, domain: str) -> Answer:
        """The MX records of `domain`."""
        return self._answer("mx", domain, self._mx)

    async def addresses(self, host: str) -> Answer:
        """The addresses of `host`."""
        return self._answer("addresses", host, self._addresses)

    async def lookup(self, query: Query) -> Answer:
        """The answer to one question."""
        if query.kind == "MX":
            return await self.mx(query.name)
        if query.kind in ("TLSA", "TXT"):
            return self._other(query)
        found = await self.addresses(query.name)
        six = tuple(address for address in found.records if ":" in address)
        four = tuple(address for address in found.records if ":" not in address)
        return msgspec.structs.replace(found, records={"A": four, "AAAA": six}.get(query.kind, ()))

    def _other(self, query: Query) -> Answer:
        """TLSA and TXT records; a name of another port's records is that of the host behind two labels."""
        if query.name in self._failing:
            return Answer(failed=True, detail="no answer in time")
        host = query.name.split(".", 2)[-1]
        found: Sequence[Any] = (
            self._texts.get(query.name, ()) if query.kind == "TXT" else self._tlsa.get(host, ())
        )
        if query.kind == "TLSA" and host in self._failing:
            return Answer(failed=True, detail="no answer in time")
        return Answer(tuple(found), secure=self._signed)

    def recall(self, query: Query) -> Answer | None:
        """Nothing: it remembers no answer, so that each question is seen in `asked`."""
        del query
        return None

    def _answer(self, kind: str, name: str, records: Mapping[str, Sequence[Any]]) -> Answer:
        self.asked.append((kind, name))
        if name in self._failing:
            return Answer(failed=True, detail="no answer in time")
        real = self._aliases.get(name, name)
        if real not in self._mx and real not in self._addresses:
            return Answer(no_domain=True)
        alias = real if real != name else ""
        return Answer(tuple(records.get(real, ())), secure=self._signed, name=alias)


def letter(
    *recipients: str | Recipient,
    sender: str = "sender@example.org",
    body: bytes = b"Subject: hello\r\n\r\n.a line with a dot\r\n",
    file: Path | None = None,
    number: int = 1,
    parameters: Mapping[str, Any] | None = None,
) -> Queued:
    """A message as a courier gets it: loaded, and due for all its recipients.

    With `file` the body is written there and read from there. `parameters` are further fields of the envelope.
    """
    who = tuple(Recipient(one) if isinstance(one, str) else one for one in recipients)
    if file is not None:
        file.write_bytes(body)
    content = Content(b"", None if file else body, file, len(body))
    pending = [Pending(number, index, one, Route(Transport.HOLD), 0.0) for index, one in enumerate(who)]
    return Queued(number, Envelope(sender, who, **(parameters or {})), 0.0, pending, content)
