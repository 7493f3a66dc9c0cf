"""`sendmail` as programs have called it for forty years: a message on standard input, handed to the server by SMTP.

It starts in a fraction of the time of the other commands, so it reads the few lines of the configuration that it needs
itself, and does without everything that takes long to import.
"""

from __future__ import annotations

import os
import pwd
import re
import socket
import sys
import time
from email.utils import formataddr, formatdate, make_msgid
from functools import cache
from typing import Any

import msgspec

from pillarbox.cli.dialogue import Dialogue, connect, own_name, split_server
from pillarbox.cli.outcome import Exit, exit_for, worst
from pillarbox.cli.places import named_file
from pillarbox.mail.address import AddressError, parse_address, parse_domain
from pillarbox.mail.authors import mailboxes
from pillarbox.mail.envelope import Body, Envelope, Notify, Recipient, Ret
from pillarbox.smtp.replies import ProtocolError

SERVER_VARIABLE = "PILLARBOX_SENDMAIL"  # the server as host:port, instead of the configuration's
_ROLES = (
    "sandbox",
    "relay",
    "mx",
)  # of listeners that take mail for anywhere from this machine without login
_DEFAULT_SERVER = "127.0.0.1:25"
_TIMEOUT_S = 300.0
_MAX_MESSAGE_OCTETS = 1 << 30
_VALUED = "ABCFNOQRVXbdfhopr"  # the historic options of one letter that have a value
_RECIPIENT_FIELDS = (b"to", b"cc", b"bcc")
_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:(.*(?:\r?\n[ \t].*)*)\r?\n?")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_USAGE = "usage: sendmail [-t] [-i] [-f SENDER] [-F NAME] [-N WHEN] [-R full|hdrs] [-V ENVID] [-bs | -bp | -q] [RECIPIENT...]"


class UsageError(Exception):
    """The command was called wrongly; the message says how."""


class MessageError(Exception):
    """The message can't be sent as it is; the message of this says why."""


class Options(msgspec.Struct):
    """What the caller asked for."""

    mode: str = "m"  # m: send; s: speak SMTP on standard input and output; p: list the queue; q: try it; i: rebuild aliases
    from_header: bool = False
    dot_ends: bool = True
    sender: str | None = None
    full_name: str = ""
    notify: Notify = Notify.UNSAID
    ret: Ret | None = None
    envid: str = ""
    recipients: list[str] = msgspec.field(default_factory=list)


def run(arguments: list[str]) -> int:
    """Do what the arguments say; the exit status."""
    try:
        options = parse_options(arguments)
        if options.mode == "p":
            return _queue("list")
        if options.mode == "q":
            return _queue("retry", "--all")
        if options.mode == "i":
            return Exit.OK  # aliases need no rebuilding
        if options.mode == "s":
            return _bridge()
        return _send(options)
    except UsageError as error:
        return _complain(str(error), Exit.USAGE)
    except MessageError as error:
        return _complain(str(error), Exit.DATA)
    except (ConnectionRefusedError, FileNotFoundError):
        return _complain(
            f"nobody listens on {_server()}; is the server running? (pillarbox serve)", Exit.TEMPORARY
        )
    except (OSError, ProtocolError) as error:
        return _complain(f"{_server()}: {error}", Exit.TEMPORARY)


def _complain(text: str, status: Exit) -> int:
    sys.stderr.write(f"sendmail: {text}\n")
    return status


# --- arguments


def parse_options(arguments: list[str]) -> Options:
    """Read arguments as sendmail does: options may come without a space before their value. Raises UsageError."""
    options = Options()
    rest = list(arguments)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        argument = rest.pop(0)
        if argument == "--":
            break
        letter, value = argument[1], argument[2:]
        if letter in _VALUED and not value:
            if not rest:
                raise UsageError(f"-{letter} needs a value\n{_USAGE}")
            value = rest.pop(0)
        _apply(options, letter, value, argument)
    options.recipients = rest
    if options.mode == "m" and not options.recipients and not options.from_header:
        raise UsageError(f"no recipients; name some, or use -t to take them from the header\n{_USAGE}")
    return options


def _apply(options: Options, letter: str, value: str, argument: str) -> None:
    match letter:
        case "t":
            options.from_header = True
        case "i":
            options.dot_ends = False
        case "f" | "r":
            options.sender = "" if value == "<>" else value
        case "F":
            options.full_name = value
        case "N":
            options.notify = _parse_notify(value)
        case "R":
            options.ret = _parse_ret(value)
        case "V":
            options.envid = value
        case "b":
            if value not in ("m", "s", "p", "i"):
                raise UsageError(f"-b{value} is not supported; there are -bm, -bs, -bp and -bi")
            options.mode = value
        case "q" if not value:  # with one it is how often a daemon does so
            options.mode = "q"
        case "o":
            if value == "i":
                options.dot_ends = False
        case _ if letter in _VALUED or letter in "Uqnvmsx":
            pass  # historic, and of no meaning here
        case _:
            raise UsageError(f"unknown option {argument}\n{_USAGE}")


def _parse_notify(text: str) -> Notify:
    found = Notify.UNSAID
    for word in text.upper().split(","):
        if word not in ("NEVER", "SUCCESS", "FAILURE", "DELAY"):
            raise UsageError(f"-N {text}: write never, or some of success,failure,delay")
        found |= Notify[word]
    if Notify.NEVER in found and found != Notify.NEVER:
        raise UsageError("-N never excludes the others")
    return found


def _parse_ret(text: str) -> Ret:
    if text.lower() not in ("full", "hdrs"):
        raise UsageError(f"-R {text}: write full or hdrs")
    return Ret(text.upper())


# --- the message


def _read_message(*, dot_ends: bool) -> bytes:
    """Standard input; unless told otherwise, a line with a single dot ends it."""
    if not dot_ends:
        return sys.stdin.buffer.read(_MAX_MESSAGE_OCTETS)
    lines = []
    for line in sys.stdin.buffer:
        if line in (b".\n", b".\r\n"):
            break
        lines.append(line)
    return b"".join(lines)


def split_header(message: bytes) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """The fields of the header, each with its lines as they came, and the rest; a message may have no header at all."""
    fields = []
    position = message.find(b"\n") + 1 if message.startswith(b"From ") else 0  # the separator of an mbox file
    while (found := _FIELD.match(message, position)) is not None and found.end() > position:
        fields.append((found[1].lower(), found[0]))
        position = found.end()
    body = message[position:]
    if fields and body[:1] != b"\n" and body[:2] != b"\r\n":
        body = b"\n" + body
    return fields, body if fields else b"\n" + message


def recipients_in(fields: list[tuple[bytes, bytes]]) -> list[str]:
    """The addresses in To, Cc and Bcc, or in those of a message that is sent once more (RFC 5322 3.6.6).

    Raises MessageError for what is none: it would go to somebody else.
    """
    resent = tuple(b"resent-" + name for name in _RECIPIENT_FIELDS)
    wanted = resent if any(name in resent for name, _ in fields) else _RECIPIENT_FIELDS
    found = []
    for name, octets in fields:
        if name in wanted:
            text = re.sub(r"\r?\n(?=[ \t])", "", octets.decode("utf-8", "surrogateescape"))
            field, _, value = text.partition(":")
            try:
                found += [_complete(one) for one in mailboxes(value)]
            except UsageError as error:
                raise MessageError(f"{field.strip()}: {error}") from error
    return found


def _with_own_fields(fields: list[tuple[bytes, bytes]], body: bytes, options: Options, sender: str) -> bytes:
    """The message without Bcc, and with those of From, Date and Message-ID that it lacks."""
    present = {name for name, _ in fields}
    added = []
    if b"from" not in present:
        added.append(f"From: {formataddr((options.full_name, sender or f'MAILER-DAEMON@{_own_name()}'))}\n")
    if b"date" not in present:
        added.append(f"Date: {formatdate(time.time(), localtime=True)}\n")
    if b"message-id" not in present:
        added.append(f"Message-ID: {make_msgid(domain=_own_name().strip('[]'))}\n")
    kept = b"".join(octets for name, octets in fields if name not in (b"bcc", b"resent-bcc"))
    return "".join(added).encode("utf-8", "surrogateescape") + kept + body


def _complete(text: str) -> str:
    """An address for the envelope; a bare name is one of this machine. Raises UsageError."""
    try:
        return str(parse_address(text if "@" in text else f"{text}@{_own_name()}"))
    except AddressError as error:
        raise UsageError(f"not an address: {text!r}: {error}") from error


def _own_address() -> str:
    return f"{pwd.getpwuid(os.getuid()).pw_name}@{_own_name()}"


# --- sending


def _send(options: Options) -> int:
    fields, body = split_header(_read_message(dot_ends=options.dot_ends))
    named = [_complete(text) for text in options.recipients]
    addresses = list(dict.fromkeys(named + (recipients_in(fields) if options.from_header else [])))
    if not addresses:
        raise UsageError("the header names no recipient in To, Cc or Bcc")
    sender = _own_address() if options.sender is None else options.sender and _complete(options.sender)
    message = _with_own_fields(fields, body, options, sender)
    eight_bit = not message.isascii()
    envelope = Envelope(
        sender,
        tuple(Recipient(address, options.notify) for address in addresses),
        Body.EIGHT_BIT if eight_bit else Body.SEVEN_BIT,
        smtputf8=not all(address.isascii() for address in [sender, *addresses]),
        ret=options.ret,
        envid=options.envid,
    )
    return _submit(envelope, message)


def _submit(envelope: Envelope, message: bytes) -> int:
    dialogue = Dialogue(connect(*split_server(_server()), _TIMEOUT_S))
    try:
        greeting = dialogue.replies()[0]
        if not greeting.positive:
            return _complain(f"{_server()} said: {greeting}", Exit.TEMPORARY)
        hello, extensions = dialogue.hello(_own_name())
        if not hello.positive:
            return _complain(f"{_server()} said: {hello}", Exit.TEMPORARY)
        settled = dialogue.transact(envelope, message, extensions)
        dialogue.quit()
    finally:
        dialogue.close()
    exits = []
    for index, (stage, reply) in sorted(settled.items()):
        exits.append(exit_for(stage, reply))
        if exits[-1] is not Exit.OK:
            _complain(f"{envelope.recipients[index].address}: {_server()} said: {reply}", exits[-1])
    return worst(exits)


def _server() -> str:
    """Where to hand mail over: what the environment says, else the first listener that relays for this machine."""
    named = os.environ.get(SERVER_VARIABLE)
    return named or _listener()


@cache
def _settings() -> dict[str, Any]:
    """The configuration, taken as far as it can be read."""
    try:
        with open(named_file(), "rb") as file:  # noqa: PTH123 - pathlib is not needed else
            import tomllib

            return tomllib.load(file)
    except (OSError, ValueError):
        return {}


@cache
def _own_name() -> str:
    """The server's name, if the configuration has one, else this machine's."""
    try:
        return parse_domain(_settings()["hostname"])
    except (KeyError, TypeError, AddressError):
        return own_name()


def _listener() -> str:
    """The address of the first listener that relays for this machine, as far as the configuration can be read."""
    try:
        for listener in _settings().get("listen", []):
            usable = listener.get("tls") != "implicit" and not listener.get("require_tls")
            if listener.get("role", "mx") in _ROLES and usable:
                host, _, port = listener["address"].rpartition(":")
                if host in ("", "0.0.0.0", "[::]"):
                    host = "[::1]" if host == "[::]" else "127.0.0.1"
                return f"{host}:{port}"
    except (KeyError, AttributeError, TypeError):
        return _DEFAULT_SERVER
    return _DEFAULT_SERVER


# --- other modes


def _bridge() -> int:
    """Carry SMTP between standard input and output and the server, until both have ended.

    A caller whose first line ends in LF alone, as at a terminal or in a script, ends all lines so: the server gets CRLF.
    """
    import select

    lines = _Lines()
    sock = connect(*split_server(_server()), _TIMEOUT_S)
    sources: list[socket.socket | int] = [sock, 0]
    with sock:
        while sock in sources:
            ready = select.select(sources, [], [], _TIMEOUT_S)[0]
            if not ready:
                return _complain("nothing was said for too long", Exit.TEMPORARY)
            for source in ready:
                data = os.read(source if isinstance(source, int) else source.fileno(), 65_536)
                if not data:
                    sources.remove(source)
                    if source == 0:
                        sock.shutdown(socket.SHUT_WR)
                elif source == 0:
                    sock.sendall(lines.ended(data))
                else:
                    os.write(1, data)
    return Exit.OK


class _Lines:
    """Ends the lines of a caller in CRLF, unless it does so itself: then its octets go as they are (RFC 5321 2.3.8)."""

    def __init__(self) -> None:
        """Nothing is known of the caller yet."""
        self._bare: bool | None = None
        self._before = b""  # a CR with which the last octets ended

    def ended(self, octets: bytes) -> bytes:
        """The next octets for the server."""
        seen, known = self._before + octets, len(self._before)
        if self._bare is None and b"\n" in seen:
            self._bare = not seen.partition(b"\n")[0].endswith(b"\r")
        self._before = b"\r" if seen.endswith(b"\r") else b""
        return _BARE_LF.sub(b"\r\n", seen)[known:] if self._bare else octets


def _queue(*arguments: str) -> int:
    from pillarbox.cli.commands import cli

    try:
        cli(["queue", *arguments], prog_name="sendmail")
    except SystemExit as end:
        # Nothing waits: that is all right here.
        return Exit.OK if end.code == Exit.NOTHING else int(end.code or 0)
    return Exit.OK
