"""What is fuzzed: one function for each thing that reads octets of strangers. It raises only if a promise is broken.

Atheris drives them (`fuzz/run.py`); the octets in `fuzz/corpus` also go through them in the ordinary tests.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pillarbox import observe
from pillarbox.diagnose import bounce, explain, lint
from pillarbox.mail import address, authors, dsn, message, mime, notice
from pillarbox.mail.catalogue import auth, content, envelope, session
from pillarbox.mail.envelope import Envelope, Recipient
from pillarbox.mail.reply import Origin, Reply, Result, Stage, parse_reply, printable
from pillarbox.net import proxy_header
from pillarbox.smtp import grammar, wire
from pillarbox.smtp.body import BodyReader
from pillarbox.smtp.client import DataWriter, Mode, Next, Transaction
from pillarbox.smtp.events import (
    BodyEnd,
    BodyStart,
    Hello,
    Login,
    MailFrom,
    Proof,
    RcptTo,
    SecretWanted,
    Signal,
    StartQueue,
    StatusWanted,
    TlsWanted,
    Verify,
)
from pillarbox.smtp.login import mechanism, read_challenge
from pillarbox.smtp.profile import Channel, Limits, Profile
from pillarbox.smtp.replies import Extensions, ProtocolError, ReplyReader, parse_extensions
from pillarbox.smtp.scram import derive_keys
from pillarbox.smtp.server import ServerSession

if TYPE_CHECKING:
    from collections.abc import Callable

_REPLIES = re.compile(
    rb"(?:([2-5][0-5][0-9])-[^\r\n\0]*\r\n(?:\1-[^\r\n\0]*\r\n)*\1 [^\r\n\0]*\r\n|[2-5][0-5][0-9] [^\r\n\0]*\r\n)*"
)
_EXTENSIONS = frozenset(
    {
        "SIZE",
        "8BITMIME",
        "SMTPUTF8",
        "DSN",
        "AUTH",
        "DELIVERBY",
        "FUTURERELEASE",
        "MT-PRIORITY",
        "RRVS",
        "REQUIRETLS",
    }
)
_MECHANISMS = (
    "SCRAM-SHA-256-PLUS",
    "SCRAM-SHA-256",
    "SCRAM-SHA-1",
    "EXTERNAL",
    "OAUTHBEARER",
    "XOAUTH2",
    "CRAM-MD5",
    "PLAIN",
    "LOGIN",
)
_KEYS = derive_keys("SCRAM-SHA-256", "secret", b"saltsalt", 1)
_HELD_OCTETS = 16_384  # the longest answer to a challenge, and a chunk
_PATIENT = Limits(errors=1000, login_failures=1000)


def _pieces(data: bytes) -> list[bytes]:
    """The octets behind the first one in pieces whose size it gives: how a stream is cut must make no difference."""
    size = data[0] + 1 if data else 1
    return [data[at : at + size] for at in range(1, len(data), size)]


def fuzz_wire(data: bytes) -> None:
    """Lines are bounded and clean; a body ends at CRLF.CRLF alone, whatever is in it and however it is cut."""
    lines = wire.LineReader()
    for piece in _pieces(data):
        lines.feed(piece)
        while (line := lines.next_line(64)) is not None:
            assert isinstance(line, wire.LineFault) or (len(line) <= 62 and not set(line) & {0, 10, 13})
        assert lines.waiting_octets <= 64 + 256
    body = BodyReader(max_octets=2000, max_line_octets=100, binary=False, stuffed=True)
    taken = b""
    for number, piece in enumerate(pieces := _pieces(data)):
        taken += body.feed_data(piece)
        if body.rest is not None:
            whole = b"\r\n" + b"".join(pieces[: number + 1])
            assert whole.endswith(b"\r\n.\r\n" + body.rest)
            assert whole.find(wire.END_OF_DATA) == len(whole) - len(body.rest) - 5
            break
    if body.fault is None:
        assert taken.count(b"\r") == taken.count(b"\n") == taken.count(b"\r\n")
        assert b"\0" not in taken
    writer = DataWriter()
    sent = b"".join([*map(writer.encode, _pieces(data)), writer.finish()])
    assert (b"\r\n" + sent).find(wire.END_OF_DATA) == len(sent) - 3
    assert sent.count(b"\r") == sent.count(b"\n") == sent.count(b"\r\n")


def fuzz_grammar(data: bytes) -> None:
    """Arguments of commands become values, or a reply that can be sent."""
    text = data.decode("utf-8", "surrogateescape").replace("\r", "").replace("\n", "").replace("\0", "")
    found: list[Any] = [
        grammar.parse_mail(f"FROM:{text}", _EXTENSIONS),
        grammar.parse_rcpt(f"TO:{text}", _EXTENSIONS, smtputf8=True),
        grammar.parse_mail(f"FROM:<a@b.example> {text}", _EXTENSIONS),
        grammar.parse_rcpt(f"TO:<a@b.example> {text}", _EXTENSIONS, smtputf8=False),
        grammar.parse_verify(text),
        grammar.parse_etrn(text),
        grammar.parse_hello(text),
        grammar.parse_bdat(text),
    ]
    for value in found:
        if isinstance(value, Reply):
            assert _REPLIES.fullmatch(value.wire)
            assert max(map(len, value.wire.split(b"\r\n"))) <= 510
        if isinstance(value, MailFrom) and value.sender is not None:
            assert address.parse_address(str(value.sender)) == value.sender
        if isinstance(value, RcptTo):
            assert address.parse_address(str(value.recipient)) == value.recipient
            assert value.orcpt.isprintable()


class _Server:
    """A server session with somebody who answers: to all but one of seven letters yes."""

    def __init__(self, *, lmtp: bool, needs_login: bool) -> None:
        profile = Profile(
            hostname="mx.example.org",
            limits=_PATIENT,
            lmtp=lmtp,
            offers_tls=True,
            offers_login=True,
            login_in_clear=True,
            needs_login=needs_login,
            mechanisms=_MECHANISMS,
            random=bytes,
            starts_queue=True,
        )
        self.session = ServerSession(profile, now=0.0)
        self.session.channel = Channel(tls=True, certified=True, end_point=b"end point")
        self.out = b""
        self.pump()

    def feed(self, data: bytes) -> None:
        self.session.receive(data, 0.0)
        self.pump()

    def pump(self) -> None:
        current = self.session
        while True:
            event = current.next_event()
            if event is Signal.BUSY:
                self.out += current.to_send()
                continue
            if isinstance(event, Signal):
                break
            if isinstance(event, SecretWanted):
                current.give_secret("secret" if event.mechanism == "CRAM-MD5" else _KEYS)
            elif isinstance(event, TlsWanted):
                current.answer(session.START_TLS.reply())
                self.out += current.to_send()
                current.tls_started(0.0)
            elif event.owed:
                current.answer(self._reply(event), login="alice")
        self.out += current.to_send()

    def _reply(self, event: object) -> Reply:
        match event:
            case Hello():
                return self.session.welcome(0.0)
            case MailFrom():
                return envelope.SENDER_OK.reply()
            case RcptTo(recipient):
                refused = str(recipient).startswith("no")
                return (envelope.REFUSED_BY_HOOK if refused else envelope.RECIPIENT_OK).reply()
            case BodyStart():
                return content.START_DATA.reply()
            case BodyEnd(fault):
                return fault or content.QUEUED.reply(id="ID")
            case Login():
                good = event.proof is not Proof.DISPROVEN and event.password != "wrong"
                return (auth.AUTHENTICATED if good else auth.BAD_CREDENTIALS).reply()
            case Verify() | StartQueue() | StatusWanted():
                return session.OK.reply()
        raise AssertionError(event)


def fuzz_server(data: bytes) -> None:
    """Whatever a client says gets well-formed replies and leaves little behind."""
    kind = data[:1] or b"\0"
    server = _Server(lmtp=kind[0] & 1 == 1, needs_login=kind[0] & 2 == 2)
    for piece in _pieces(data[1:]):
        server.feed(piece)
        assert server.session.waiting_octets <= _HELD_OCTETS
    assert _REPLIES.fullmatch(server.out), server.out
    assert all(len(line) <= 510 for line in server.out.split(b"\r\n"))
    server.session.expire(1e9)
    assert server.session.next_event() in (Signal.CLOSED, Signal.NEED_DATA) or server.session.to_send()


def fuzz_replies(data: bytes) -> None:
    """What a server says becomes replies that can be shown anywhere, or an error that can."""
    reader = ReplyReader()
    try:
        for piece in _pieces(data):
            for reply in reader.feed(piece):
                assert 200 <= reply.code < 600
                assert printable(str(reply), 2000).isprintable()
                assert notice.legible(str(reply)).isprintable()
                extensions = parse_extensions(reply)
                assert 0 <= extensions.max_octets < 10**18
    except ProtocolError as error:
        problem = str(error)
    else:
        problem = ""
    assert problem.isprintable()
    assert printable(reader.oddity).isprintable()


def fuzz_client(data: bytes) -> None:
    """Whatever a server answers, each recipient ends with an answer of its own, and success is said at the end alone."""
    kind = data[0] if data else 0
    mode = (Mode.LMTP if kind & 1 else Mode.NOTHING) | (Mode.CHUNKED if kind & 2 else Mode.NOTHING)
    offered = frozenset({"PIPELINING", "DSN"} if kind & 4 else {"SIZE"})
    recipients = tuple(Recipient(f"r{number}@there.example") for number in range(1 + (kind >> 4) % 4))
    transaction = Transaction(Envelope("s@here.example", recipients), 9, Extensions(offered), mode)
    lost = parse_reply([b"451 4.4.2 lost"])
    reader, waiting = ReplyReader(), []
    try:
        for piece in _pieces(data[1:]):
            waiting += reader.feed(piece)
        while transaction.next is Next.COMMANDS:
            _, count = transaction.commands()
            now, waiting = waiting[:count], waiting[count:]
            transaction.take(now)
            if len(now) < count:
                break
        if transaction.next is Next.BODY:
            transaction.take_final(waiting[: transaction.final_replies])
        elif transaction.next is Next.LONE_DOT:
            transaction.nobody_got_it()
    except ProtocolError:
        pass
    transaction.broken_off(lost)
    assert transaction.next is Next.NOTHING
    assert set(transaction.settled) == set(range(len(recipients)))
    for stage, reply in transaction.settled.values():
        assert not reply.intermediate
        assert not reply.positive or stage is Stage.BODY


def fuzz_address(data: bytes) -> None:
    """An address that was read is written so that it is read as the same again, and holds nothing that splits a line."""
    text = data.decode("utf-8", "surrogateescape")
    for read in (address.parse_address, address.parse_path):
        try:
            found = read(text)
        except address.AddressError:
            continue
        if found is None:
            continue
        written = str(found)
        assert not re.search(r"[\x00-\x1f\x7f\u2028\u2029\x85]", written)
        assert address.parse_address(written) == found
        assert found.dns_domain.isascii()
    for author in authors.addresses(text):
        assert author == author.strip().lower() or len(text) > 8192


def fuzz_headers(data: bytes) -> None:
    """A header section is found and its fields are read; the parts and words of a message are decoded."""
    head = message.scan_head(data, 4096)
    assert head.body_at <= max(len(data), 2)
    for name in ("from", "subject", "date", "received", "content-type"):
        for value in head.get_all(name):
            assert not re.search(r"[\r\n]", value)
    message.parse_date(head.get("date"))
    mime.decode_words(head.get("subject"))
    parts = mime.parts(data)
    for part in parts:
        assert isinstance(part.text, str)
    field = message.received_field(
        hostname="mx.example.org",
        protocol="ESMTP",
        queue_id="ID",
        now=0.0,
        helo=data.decode("utf-8", "surrogateescape"),
        client="192.0.2.1",
        recipient=data.decode("utf-8", "surrogateescape"),
    )
    assert len(re.findall(rb"\r\n(?![ \t])", field)) == 1
    assert field.count(b"\n") == field.count(b"\r\n") == field.count(b"\r")
    noted = (
        observe.MESSAGE_REFUSED,
        {"reply": data, "sender": data.decode("utf-8", "surrogateescape")},
        datetime.fromtimestamp(0, UTC),
    )
    line = observe._json_lines([noted])  # noqa: SLF001 - how a line of the log is made
    assert line.count(b"\n") == 1
    assert line[:-1].decode().replace("\x7f", "").isprintable()
    json.loads(line)


def fuzz_report(data: bytes) -> None:
    """Bounces are read, and a report about a message with these octets can't be split by them."""
    dsn.parse(data)
    bounce.read_bounce(data)
    text = data.decode("utf-8", "surrogateescape")
    said = parse_reply([b"550 " + data.replace(b"\n", b"")[:510]])
    found = notice.ReportedRecipient(
        Recipient("b@there.example", orcpt="utf-8;ü@there.example"),
        notice.ReportKind.FAILED,
        Result(said, Stage.RCPT, Origin.PEER, text[:300]),
        at=0.0,
    )
    _, octets = dsn.build(
        hostname="mx.example.org",
        postmaster="postmaster@example.org",
        envelope=Envelope("a@here.example", (Recipient("b@there.example"),), envid=text[:100]),
        queue_id="ID",
        received_at=0.0,
        now=0.0,
        message_id="<1.unguessable@mx.example.org>",
        recipients=[found],
        original=[data],
    )
    assert octets.count(b"\r") == octets.count(b"\n") == octets.count(b"\r\n")
    assert b"\0" not in octets
    top = message.scan_head(octets)
    fields = re.findall(rb"^([!-9;-~]+):", top.section, re.MULTILINE)
    assert set(fields) <= _REPORT_FIELDS, fields
    read = dsn.parse(octets)
    assert read is not None
    assert [one.address for one in read.recipients] == ["b@there.example"]


_REPORT_FIELDS = frozenset(
    {
        b"From",
        b"To",
        b"Subject",
        b"Date",
        b"Message-ID",
        b"In-Reply-To",
        b"References",
        b"Auto-Submitted",
        b"MIME-Version",
        b"Content-Type",
    }
)


def fuzz_transcript(data: bytes) -> None:
    """Whatever is pasted is explained and judged without an error."""
    text = data.decode("utf-8", "replace")
    explain.explain(text)
    lint.lint(text)


def fuzz_sasl(data: bytes) -> None:
    """Each mechanism ends with a login or a refusal, at both ends."""
    kind = data[0] if data else 0
    name = _MECHANISMS[kind % len(_MECHANISMS)]
    server = _Server(lmtp=False, needs_login=False)
    server.feed(b"EHLO x\r\n")
    server.out = b""
    for number, answer in enumerate(data[1:].split(b"\xff")):
        line = base64.b64encode(answer) if kind < 128 else answer.translate(None, b"\r\n")
        server.feed(b"AUTH " + name.encode() + b" " + line + b"\r\n" if number == 0 else line + b"\r\n")
    assert _REPLIES.fullmatch(server.out), server.out
    if name == "EXTERNAL":
        return
    exchange = mechanism(name, "alice", "secret", nonce=b"nonce", end_point=b"end point")
    for challenge in data[1:].split(b"\xff")[:3]:
        try:
            exchange.step(_fewer_rounds(challenge))
            read_challenge(challenge.decode("latin-1"))
        except ValueError:
            break


def _fewer_rounds(challenge: bytes) -> bytes:
    """SCRAM lets the server say how often to hash; here it may not take seconds."""
    return re.sub(rb"(i=\d{3})\d+", rb"\1", challenge)


def fuzz_proxy(data: bytes) -> None:
    """A PROXY header is read octet for octet as far as it goes, or refused; what it names is an address."""
    head, rest = b"", data
    try:
        while more := proxy_header.wanted(head):
            if not rest:
                return
            head, rest = head + rest[:more], rest[more:]
            assert len(head) <= proxy_header.MAX_OCTETS
        peer = proxy_header.parse(head)
    except proxy_header.HeaderError:
        return
    if peer is not None:
        ipaddress.ip_address(peer[0])
        assert 0 <= peer[1] <= 65535


TARGETS: dict[str, Callable[[bytes], None]] = {
    name.removeprefix("fuzz_"): target for name, target in list(globals().items()) if name.startswith("fuzz_")
}
