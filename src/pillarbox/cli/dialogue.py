"""Talk to one server over a blocking socket, for the commands that send a message and end.

What is said is `smtp.client`'s business; deliveries of the queue go through `relay`.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import time
from typing import TYPE_CHECKING, Protocol

from pillarbox.mail.address import AddressError, parse_domain
from pillarbox.smtp.client import (
    LONE_DOT,
    QUIT,
    STARTTLS,
    DataWriter,
    Mode,
    Next,
    Transaction,
    command,
)
from pillarbox.smtp.replies import CLOSING_CODE, Extensions, ProtocolError, ReplyReader, parse_extensions

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable

    from pillarbox.mail.envelope import Envelope
    from pillarbox.mail.reply import Reply, Stage

_READ_OCTETS = 65_536
DEFAULT_PORT = 25


class Watcher(Protocol):
    """Learns what is said, line by line, while it is said."""

    def sent(self, line: str) -> None:
        """The client said a line."""

    def received(self, line: str, took_s: float) -> None:
        """The server said a line, so long after it was asked."""


class _Nobody:
    def sent(self, line: str) -> None: ...

    def received(self, line: str, took_s: float) -> None: ...


def split_server(text: str, default_port: int = DEFAULT_PORT) -> tuple[str, int]:
    """Read "host", "host:port", "[v6]:port", or "unix:/path", whose port is 0. Raises ValueError."""
    if text.startswith("unix:"):
        return text, 0
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"not a server: {text}")
    elif _is_v6(text):
        host, port = text, ""
    else:
        host, _, port = text.partition(":")
    if not host or (port and not (port.isascii() and port.isdigit() and len(port) < 6 and int(port) < 65536)):
        raise ValueError(f"not a server: {text}; write host, host:port, [v6]:port or unix:/path")
    return host, int(port or default_port)


def _is_v6(text: str) -> bool:
    try:
        return bool(socket.inet_pton(socket.AF_INET6, text.partition("%")[0]))
    except OSError:
        return False


def connect(host: str, port: int, timeout_s: float) -> socket.socket:
    """Open a connection to what `split_server` gave. Raises OSError."""
    if host.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(timeout_s)
        sock.connect(host.removeprefix("unix:"))
        return sock
    return socket.create_connection((host, port), timeout_s)


def own_name() -> str:
    """The name that this machine gives in EHLO: its full name if it has one."""
    name = socket.getfqdn()
    try:
        return parse_domain(name)
    except AddressError:
        return "[127.0.0.1]"


class Dialogue:
    """One session. Its methods raise OSError when the connection fails and ProtocolError when the server babbles."""

    def __init__(self, sock: socket.socket, watcher: Watcher | None = None) -> None:
        """Take over a connected socket, whose time limit holds for each read and write."""
        self.sock: socket.socket | ssl.SSLSocket = sock
        self._watcher = watcher or _Nobody()
        self._reader = ReplyReader()
        self._asked_at = time.monotonic()
        self._unseen = b""

    def send(self, octets: bytes, shown: Iterable[str] | None = None) -> None:
        """Send; the watcher is told the lines, or what is `shown` instead."""
        for line in octets.decode("utf-8", "surrogateescape").splitlines() if shown is None else shown:
            self._watcher.sent(line)
        self._asked_at = time.monotonic()
        self.sock.sendall(octets)

    def replies(self, count: int = 1) -> list[Reply]:
        """Wait for so many replies; there are fewer only if the last says 421, with which the server closes."""
        found: list[Reply] = []
        while len(found) < count:
            data = self.sock.recv(_READ_OCTETS)
            if not data and found and found[-1].code == CLOSING_CODE:
                break
            if not data:
                raise ConnectionError("the server closed the connection")
            self._show(data)
            found += self._reader.feed(data)
        return found

    def _show(self, data: bytes) -> None:
        took_s = time.monotonic() - self._asked_at
        *lines, self._unseen = (self._unseen + data).split(b"\n")
        for line in lines:
            self._watcher.received(line.removesuffix(b"\r").decode("utf-8", "surrogateescape"), took_s)

    def ask(self, octets: bytes, shown: Iterable[str] | None = None) -> Reply:
        """Send one command and wait for its reply."""
        self.send(octets, shown)
        return self.replies()[0]

    def hello(self, name: str, *, lmtp: bool = False) -> tuple[Reply, Extensions]:
        """Introduce ourselves; HELO if the server knows no EHLO (RFC 5321 3.2)."""
        reply = self.ask(command(f"{'LHLO' if lmtp else 'EHLO'} {name}"))
        if reply.permanent and not lmtp:
            return self.ask(command(f"HELO {name}")), Extensions()
        return reply, parse_extensions(reply) if reply.positive else Extensions()

    def start_tls(self, context: ssl.SSLContext, host: str) -> Reply:
        """Ask for TLS, and begin with it if the server agrees. Raises ssl.SSLError too."""
        reply = self.ask(STARTTLS)
        if reply.positive:
            self._reader = (
                ReplyReader()
            )  # what came in clear behind the answer counts for nothing (RFC 3207 6)
            self.wrap(context, host)
        return reply

    def wrap(self, context: ssl.SSLContext, host: str) -> None:
        """Encrypt the connection. Raises ssl.SSLError too."""
        self._unseen = b""
        self.sock = context.wrap_socket(self.sock, server_hostname=host)

    @property
    def end_point(self) -> bytes:
        """What a login can be bound to: the hash of the certificate that the server showed; b"" without TLS."""
        import ssl  # only here, as in `login`

        from pillarbox.net.tls import certificate_hash

        shown = self.sock.getpeercert(binary_form=True) if isinstance(self.sock, ssl.SSLSocket) else None
        return certificate_hash(shown) if shown else b""

    def login(self, mechanism: str, user: str, password: str) -> Reply:
        """Log in; the secret is not shown to the watcher."""
        from pillarbox.smtp import login  # only here: sendmail never logs in, and it takes long to import
        from pillarbox.smtp.sasl import NONCE_OCTETS

        nonce = secrets.token_bytes(NONCE_OCTETS)
        exchange = login.mechanism(mechanism, user, password, nonce=nonce, end_point=self.end_point)
        reply = self.ask(
            login.auth_command(mechanism, exchange.initial),
            [f"AUTH {mechanism}" + (" <secret>" if exchange.initial else "")],
        )
        while reply.intermediate:
            try:
                answer = login.answer_line(exchange.step(login.read_challenge(reply.text)))
            except ValueError as error:
                raise ProtocolError(str(error)) from error
            reply = self.ask(answer, ["<secret>"])
        if reply.positive and not exchange.content:
            raise ProtocolError("the server did not show that it knows the password")
        return reply

    def transact(
        self, envelope: Envelope, message: bytes, extensions: Extensions, *, lmtp: bool = False
    ) -> dict[int, tuple[Stage, Reply]]:
        """Send one message; what was said last about each recipient, by its place in the envelope."""
        transaction = Transaction(envelope, len(message), extensions, Mode.LMTP if lmtp else Mode.NOTHING)
        while transaction.next is Next.COMMANDS:
            octets, count = transaction.commands()
            self.send(octets)
            transaction.take(self.replies(count))
        if transaction.next is Next.LONE_DOT:
            self.ask(LONE_DOT)
            transaction.nobody_got_it()
        elif transaction.next is Next.BODY:
            writer = DataWriter()
            octets = writer.encode(message) + writer.finish()
            self.send(octets, [f"({len(message)} octets of message, then a line with a dot)"])
            transaction.take_final(self.replies(transaction.final_replies))
        return transaction.settled

    def quit(self) -> None:
        """Say goodbye; the answer makes no difference."""
        with contextlib.suppress(OSError, ProtocolError):
            self.ask(QUIT)
        self.close()

    def close(self) -> None:
        """Hang up."""
        self.sock.close()
