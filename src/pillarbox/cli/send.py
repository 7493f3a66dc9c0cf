"""Send one message and show what was said, with each refusal explained: a client for trying servers out.

Talking is `cli.dialogue`'s business, explaining `diagnose.meaning`'s.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from pillarbox.cli.dialogue import Dialogue, connect, own_name, split_server
from pillarbox.cli.outcome import Exit, exit_for, worst
from pillarbox.cli.places import own_command
from pillarbox.cli.show import ask_password, fail, is_colourful, wrapped
from pillarbox.diagnose.meaning import look_up
from pillarbox.mail.address import AddressError, is_loopback, parse_address
from pillarbox.mail.envelope import Body, Envelope, Notify, Recipient, Ret
from pillarbox.mail.reply import Stage
from pillarbox.observe import visible
from pillarbox.smtp import login
from pillarbox.smtp.client import mail_command, rcpt_command
from pillarbox.smtp.replies import ProtocolError

if TYPE_CHECKING:
    from pillarbox.mail.reply import Reply
    from pillarbox.smtp.replies import Extensions

SANDBOX = "127.0.0.1:1025"
_STOPS = (Stage.GREETING, Stage.HELLO, Stage.STARTTLS, Stage.AUTH, Stage.MAIL, Stage.RCPT)


class Transcript(msgspec.Struct):
    """Keeps what is said and prints it as it is said."""

    quiet: bool
    started_at: float = msgspec.field(default_factory=time.monotonic)
    lines: list[dict[str, object]] = msgspec.field(default_factory=list)

    def sent(self, line: str) -> None:
        """The client said a line."""
        self._add("client", "->", line, None)

    def received(self, line: str, took_s: float) -> None:
        """The server said a line."""
        refused = line[:1] in ("4", "5")
        final = line[3:4] != "-"
        self._add(
            "server",
            "<*" if refused else "<-",
            line,
            took_s if final else None,
            "red" if refused else "green",
        )

    def remark(self, line: str) -> None:
        """Something worth knowing that nobody said."""
        self._add("note", "==", line, None, "cyan")

    def explain(self, reply: Reply) -> None:
        """What a refusal means and what to do about it."""
        found = look_up(str(reply))
        for line in (f"{found.title}: {found.meaning}".rstrip(": "), found.explanation, found.advice):
            if line:
                self._add("explanation", "  ", line, None, "yellow")

    def _add(self, who: str, arrow: str, line: str, took_s: float | None, colour: str = "") -> None:
        at_s = time.monotonic() - self.started_at
        self.lines.append({"at_s": round(at_s, 4), "from": who, "line": line})
        if self.quiet:
            return
        behind = f"  [{took_s * 1000:.1f} ms]" if took_s is not None else ""
        text = wrapped(line, "   ") if who == "explanation" else f"{arrow} {visible(line)}"
        click.echo(click.style(text, fg=colour or None) + click.style(behind, dim=True), color=is_colourful())


class StopError(Exception):
    """The conversation ends before the message: on request, or because the server refused."""

    def __init__(self, stage: Stage, reply: Reply) -> None:
        """Keep where, and the reply that decided."""
        super().__init__(str(reply))
        self.stage = stage
        self.reply = reply


class Plan(msgspec.Struct, frozen=True):
    """What to do, from the command's options."""

    host: str
    port: int
    helo: str
    tls: str  # "none", "starttls" or "implicit"
    verify: bool
    lmtp: bool
    pipelining: bool
    user: str
    password: str
    quit_after: str
    timeout_s: float


@click.command()
@click.option(
    "--to", "-t", "recipients", multiple=True, required=True, metavar="ADDRESS", help="Recipient; repeatable."
)
@click.option(
    "--from", "-f", "sender", default="", metavar="ADDRESS", help='Sender; "<>" for the null sender.'
)
@click.option(
    "--server", "-s", default=SANDBOX, show_default=True, metavar="HOST[:PORT]", help="Or unix:/path."
)
@click.option("--port", "-p", type=click.IntRange(1, 65535), help="25, or 465 with --tls, 24 with --lmtp.")
@click.option("--starttls", "tls", flag_value="starttls", help="Insist on STARTTLS.")
@click.option("--tls", "tls", flag_value="implicit", help="Begin with TLS.")
@click.option("--verify/--no-verify", default=True, show_default=True, help="Check the server's certificate.")
@click.option(
    "--auth", "user", default="", metavar="USER", help="Log in; asks for the password on the terminal."
)
@click.option(
    "--password-file", type=click.File("r"), metavar="FILE", help='Read it from here; "-" is standard input.'
)
@click.option("--helo", default="", metavar="NAME", help="The name to introduce ourselves by.")
@click.option("--lmtp", is_flag=True, help="Speak LMTP.")
@click.option(
    "--no-pipelining", is_flag=True, help="Wait for each reply, even if the server offers PIPELINING."
)
@click.option("--subject", default="A test from Pillarbox", show_default=True)
@click.option(
    "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="Add or replace a field; repeatable."
)
@click.option("--body", default="This is a test.\n", help="The text.")
@click.option(
    "--body-file",
    type=click.File("r"),
    metavar="FILE",
    help='Take the text from here; "-" is standard input.',
)
@click.option(
    "--attach",
    "attachments",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Repeatable.",
)
@click.option("--message", type=click.File("rb"), metavar="FILE", help="Send this complete message as it is.")
@click.option(
    "--notify", default="", metavar="WHEN", help="never, or some of success,failure,delay (RFC 3461)."
)
@click.option("--ret", type=click.Choice(["full", "hdrs"]), help="What a report returns (RFC 3461).")
@click.option("--envid", default="", help="An id of yours for reports (RFC 3461).")
@click.option("--quit-after", type=click.Choice([stage.value for stage in _STOPS]), help="Stop early.")
@click.option("--timeout", default=60.0, show_default=True, metavar="SECONDS", help="For each step.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the conversation.")
def send(as_json: bool, **given: Any) -> None:  # noqa: FBT001 - click gives options as they are
    """Send a message and show the conversation, each refusal explained.

    Without --server it goes to the sandbox of this machine (`pillarbox serve`).

    Exit status: 0 accepted for all; 67 a recipient refused; 69 refused otherwise; 75 not now, try again;
    68 server unknown; 76 the server made no sense; 77 login refused; 64, 65, 66 wrong use or input.
    """
    plan = _plan(given)
    transcript = Transcript(quiet=as_json)
    envelope, message = _compose(given)
    settled, status = _run(plan, envelope, message, transcript)
    recipients: list[dict[str, object]] = [
        {
            "address": envelope.recipients[index].address,
            "accepted": reply.positive,
            "stage": stage.value,
            "code": reply.code,
            "status": reply.status,
            "text": reply.text,
            "explanation": {} if reply.positive else look_up(str(reply)).to_dict(),
        }
        for index, (stage, reply) in sorted(settled.items())
    ]
    if as_json:
        report = {"exit": int(status), "outcome": status.name.lower(), "recipients": recipients}
        click.echo(json.dumps({**report, "transcript": transcript.lines}, indent=2))
    else:
        _sum_up(transcript, recipients, status)
    sys.exit(status)


def _sum_up(transcript: Transcript, recipients: list[dict[str, object]], status: Exit) -> None:
    accepted = sum(bool(recipient["accepted"]) for recipient in recipients)
    if recipients:
        transcript.remark(
            f"accepted for {accepted} of {len(recipients)} recipients (exit status {int(status)})"
        )
    elif status is not Exit.OK:
        transcript.remark(f"not sent (exit status {int(status)})")


# --- options


def _plan(given: dict[str, Any]) -> Plan:
    tls = given["tls"] or "none"
    default_port = {"implicit": 465}.get(tls, 24 if given["lmtp"] else 25)
    try:
        host, port = split_server(given["server"], default_port)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--server") from error
    if tls == "none" and given["user"] and not _is_local(host):
        fail("the password would be sent in clear; add --starttls or --tls", Exit.USAGE)
    return Plan(
        host=host,
        port=given["port"] or port,
        helo=given["helo"] or own_name(),
        tls=tls,
        verify=given["verify"],
        lmtp=given["lmtp"],
        pipelining=not given["no_pipelining"],
        user=given["user"],
        password=_password(given),
        quit_after=given["quit_after"] or "",
        timeout_s=given["timeout"],
    )


def _is_local(host: str) -> bool:
    return is_loopback(host) or host.startswith("unix:")


def _password(given: dict[str, Any]) -> str:
    if not given["user"]:
        return ""
    if given["password_file"] is not None:
        return str(given["password_file"].readline()).rstrip("\r\n")
    return ask_password()


# --- the message


def _compose(given: dict[str, Any]) -> tuple[Envelope, bytes]:
    own = os.environ.get("EMAIL") or f"{os.environ.get('USER', 'root')}@{own_name()}"
    sender = given["sender"] or own
    sender = "" if sender == "<>" else _address(sender, "--from")
    recipients = [_address(text, "--to") for text in given["recipients"]]
    message = given["message"].read() if given["message"] is not None else _build(given, sender, recipients)
    try:
        words = [word for word in given["notify"].upper().split(",") if word]
        notify = Notify(sum(Notify[word].value for word in set(words)))
    except KeyError as error:
        raise click.BadParameter(f"{given['notify']!r}: write never, success, failure, delay") from error
    envelope = Envelope(
        sender,
        tuple(Recipient(address, notify) for address in recipients),
        Body.SEVEN_BIT if message.isascii() else Body.EIGHT_BIT,
        smtputf8=not all(text.isascii() for text in [sender, *recipients]),
        ret=Ret(given["ret"].upper()) if given["ret"] else None,
        envid=given["envid"],
    )
    return envelope, message


def _address(text: str, option: str) -> str:
    try:
        return str(parse_address(text))
    except AddressError as error:
        advice = f"; repeat {option} for each of several" if "," in text and option == "--to" else ""
        raise click.BadParameter(f"{text!r} is not an address: {error}{advice}", param_hint=option) from error


def _build(given: dict[str, Any], sender: str, recipients: list[str]) -> bytes:
    """A message from the options about its parts."""
    from email.message import EmailMessage
    from email.policy import SMTP
    from email.utils import formatdate, make_msgid

    message = EmailMessage(policy=SMTP.clone(utf8=True))
    message["Date"] = formatdate(localtime=True)
    message["From"] = sender or "MAILER-DAEMON"
    message["To"] = ", ".join(recipients)
    message["Subject"] = given["subject"]
    message["Message-ID"] = make_msgid(domain=own_name().strip("[]"))
    try:
        for header in given["headers"]:
            name, colon, value = header.partition(":")
            if not colon:
                raise click.BadParameter(f"{header!r}: write 'Name: value'", param_hint="--header")
            del message[name.strip()]
            message[name.strip()] = value.strip()
        text = given["body_file"].read() if given["body_file"] is not None else given["body"]
        message.set_content(text if text.endswith("\n") else f"{text}\n")
        for path in given["attachments"]:
            _attach(message, path)
        return message.as_bytes()
    except ValueError as error:
        fail(f"the message cannot be made: {error}", Exit.DATA)


def _attach(message: Any, path: Path) -> None:
    import mimetypes

    kind, encoding = mimetypes.guess_type(path.name)
    main, _, sub = (kind if kind and not encoding else "application/octet-stream").partition("/")
    try:
        octets = path.read_bytes()
    except OSError as error:
        fail(f"cannot read {path}: {error.strerror}", Exit.NO_INPUT)
    message.add_attachment(octets, maintype=main, subtype=sub, filename=path.name)


# --- the conversation


def _run(
    plan: Plan, envelope: Envelope, message: bytes, transcript: Transcript
) -> tuple[dict[int, tuple[Stage, Reply]], Exit]:
    """Hold the whole conversation; what became of each recipient, and the exit status."""
    place = plan.host if not plan.port else f"{plan.host}:{plan.port}"
    try:
        sock = connect(plan.host, plan.port, plan.timeout_s)
    except OSError as error:
        transcript.remark(f"cannot connect to {place}: {error.strerror or error}")
        if place == SANDBOX:
            transcript.remark(f"start the sandbox with `{own_command()} serve`, or name another --server")
        unknown = type(error).__name__ == "gaierror"
        return {}, Exit.NO_HOST if unknown else Exit.TEMPORARY
    transcript.remark(f"connected to {place}")
    dialogue = Dialogue(sock, transcript)
    try:
        settled = _converse(plan, envelope, message, dialogue, transcript)
        dialogue.quit()
    except StopError as stop:
        if not stop.reply.positive:
            transcript.explain(stop.reply)
        dialogue.quit()
        return {}, exit_for(stop.stage, stop.reply)
    except ssl.SSLError as error:
        transcript.remark(f"TLS failed: {getattr(error, 'verify_message', '') or error.reason or error}")
        if isinstance(error, ssl.SSLCertVerificationError):
            transcript.remark("to send in spite of it, add --no-verify")
        return {}, Exit.TEMPORARY
    except ProtocolError as error:
        transcript.remark(f"the server makes no sense: {error}")
        return {}, Exit.PROTOCOL
    except TimeoutError:
        transcript.remark(f"no answer in {plan.timeout_s:g} seconds; --timeout allows for more")
        return {}, Exit.TEMPORARY
    except OSError as error:
        transcript.remark(f"connection lost: {error}")
        return {}, Exit.TEMPORARY
    finally:
        dialogue.close()
    for reply in {str(reply): reply for _, reply in settled.values() if not reply.positive}.values():
        transcript.explain(reply)
    return settled, worst(exit_for(stage, reply) for stage, reply in settled.values())


def _converse(
    plan: Plan, envelope: Envelope, message: bytes, dialogue: Dialogue, transcript: Transcript
) -> dict[int, tuple[Stage, Reply]]:
    if plan.tls == "implicit":
        _remark_tls(_encrypt(plan, dialogue), transcript)
    _go_on(plan, Stage.GREETING, dialogue.replies()[0])
    reply, extensions = dialogue.hello(plan.helo, lmtp=plan.lmtp)
    _go_on(plan, Stage.HELLO, reply)
    if plan.tls == "starttls":
        _go_on(plan, Stage.STARTTLS, dialogue.start_tls(_context(plan), plan.host))
        _remark_tls(dialogue, transcript)
        reply, extensions = dialogue.hello(plan.helo, lmtp=plan.lmtp)
        _go_on(plan, Stage.HELLO, reply)
    if plan.user:
        usable = login.choose(extensions.mechanisms, token=False, end_point=dialogue.end_point)
        mechanism = usable[0] if usable else "PLAIN"
        _go_on(plan, Stage.AUTH, dialogue.login(mechanism, plan.user, plan.password))
    if not plan.pipelining:
        from msgspec.structs import replace

        extensions = replace(extensions, keywords=extensions.keywords - {"PIPELINING"})
    if plan.quit_after:
        _stop_inside(plan, envelope, len(message), extensions, dialogue)
    return dialogue.transact(envelope, message, extensions, lmtp=plan.lmtp)


def _go_on(plan: Plan, stage: Stage, reply: Reply) -> None:
    """Raise StopError if the server refused, or if the conversation is to end here."""
    if not reply.positive or plan.quit_after == stage.value:
        raise StopError(stage, reply)


def _stop_inside(
    plan: Plan, envelope: Envelope, octets: int, extensions: Extensions, dialogue: Dialogue
) -> None:
    """Go as far as MAIL or RCPT, one command after the other; raises StopError in any case."""
    reply = dialogue.ask(mail_command(envelope, octets, extensions))
    _go_on(plan, Stage.MAIL, reply)
    for recipient in envelope.recipients:
        reply = dialogue.ask(rcpt_command(recipient, extensions))
        if not reply.positive:
            break
    raise StopError(Stage.RCPT, reply)


def _context(plan: Plan) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not plan.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _encrypt(plan: Plan, dialogue: Dialogue) -> Dialogue:
    dialogue.wrap(_context(plan), plan.host)
    return dialogue


def _remark_tls(dialogue: Dialogue, transcript: Transcript) -> None:
    if isinstance(dialogue.sock, ssl.SSLSocket):
        cipher = dialogue.sock.cipher()
        transcript.remark(
            f"encrypted: {dialogue.sock.version()}, {cipher[0] if cipher else 'unknown cipher'}"
        )
