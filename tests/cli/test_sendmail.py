"""`sendmail` as programs call it: arguments, recipients from the header, exit statuses, and a fast start."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pillarbox.cli.sendmail import Options, UsageError, _Lines, parse_options, recipients_in, split_header
from pillarbox.mail.envelope import Notify, Ret

if TYPE_CHECKING:
    from pathlib import Path


def sendmail(sandbox, *arguments: str, input: str | bytes):  # noqa: A002
    return sandbox.run("sendmail", *arguments, input=input, PILLARBOX_SENDMAIL=sandbox.address)


def octets(sandbox, recipient: str) -> str:
    (message,) = sandbox.messages("--recipient", recipient)
    return sandbox.queue("show", message["id"], "--message").out


def test_recipients_come_from_the_header_and_bcc_goes(sandbox) -> None:
    text = (
        "From: me@x.example\nTo: One <one@t.example>,\n two@t.example\nCc: three@t.example\n"
        "Bcc: four@t.example\nSubject: hi\n\nbody\n.\nafter the dot\n"
    )
    ran = sendmail(sandbox, "-t", "-i", "-f", "bounces@x.example", input=text)
    assert (ran.status, ran.err) == (0, "")
    (message,) = sandbox.messages("--sender", "bounces@x.example")
    expected = [f"{name}@t.example" for name in ("one", "two", "three", "four")]
    assert sorted(one["address"] for one in message["recipients"]) == sorted(expected)
    kept = sandbox.queue("show", message["id"], "--message").out
    assert "bcc" not in kept.lower()
    assert "four@" not in kept
    assert kept.endswith("body\r\n.\r\nafter the dot\r\n")
    for name in ("Date: ", "Message-ID: <"):
        assert name in kept


def test_a_line_with_a_dot_ends_the_message_without_i(sandbox) -> None:
    assert sendmail(sandbox, "dot@t.example", input="Subject: x\n\nbefore\n.\nafter\n").status == 0
    assert octets(sandbox, "dot@t.example").endswith("before\r\n")


def test_a_message_without_header_or_in_mbox_form_is_completed(sandbox) -> None:
    assert (
        sendmail(
            sandbox, "-F", "Ann Other", "-f", "ann@x.example", "plain@t.example", input="just text\n"
        ).status
        == 0
    )
    kept = octets(sandbox, "plain@t.example")
    assert "\r\nFrom: Ann Other <ann@x.example>\r\n" in kept
    assert kept.endswith("\r\n\r\njust text\r\n")
    assert sendmail(sandbox, "mbox@t.example", input="From ann Mon Jan 1\nSubject: s\n\nx\n").status == 0
    assert "\r\nSubject: s\r\n\r\nx" in octets(sandbox, "mbox@t.example")


def test_eight_bit_text_and_the_null_sender_go_through(sandbox) -> None:
    assert (
        sendmail(sandbox, "-f", "<>", "utf@t.example", input="Subject: Grüße\n\n\xff\n".encode()).status == 0
    )
    (message,) = sandbox.messages("--recipient", "utf@t.example")
    assert message["sender"] == ""


def test_bs_speaks_smtp_on_standard_input_and_output(sandbox) -> None:
    ran = sendmail(sandbox, "-bs", input="EHLO me\r\nMAIL FROM:<a@b.example>\r\nQUIT\r\n")
    assert ran.status == 0
    assert [line[:4] for line in ran.out.splitlines() if line[3] == " "] == ["220 ", "250 ", "250 ", "221 "]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_bs_takes_lines_as_the_caller_ends_them(sandbox, ending: str) -> None:
    text = (
        "EHLO me",
        f"MAIL FROM:<{len(ending)}@bs.example>",
        "RCPT TO:<x@bs.example>",
        "DATA",
        "A: b",
        "",
        "c",
        ".",
        "QUIT",
        "",
    )
    ran = sendmail(sandbox, "-bs", input=ending.join(text))
    assert [line[:4] for line in ran.out.splitlines() if line[3] == " "] == [
        "220 ", "250 ", "250 ", "250 ", "354 ", "250 ", "221 "
    ]  # fmt: skip
    (message,) = sandbox.messages("--sender", f"{len(ending)}@bs.example")
    assert sandbox.queue("show", message["id"], "--message").out.endswith("A: b\r\n\r\nc\r\n")


def test_line_ends_are_told_apart_however_the_octets_come() -> None:
    for ending in (b"\n", b"\r\n"):
        lines = _Lines()
        octets = ending.join((b"NOOP", b"", b"", b"QUIT", b""))
        sent = b"".join(lines.ended(octets[at : at + 1]) for at in range(len(octets)))
        assert sent == b"NOOP\r\n\r\n\r\nQUIT\r\n"
    assert _Lines().ended(b"BDAT 3\r\na\nb") == b"BDAT 3\r\na\nb"


def test_a_bare_name_is_one_of_the_server_that_is_configured(sandbox, tmp_path: Path, pillarbox) -> None:
    config = tmp_path / "p.toml"
    config.write_text(f'hostname = "mx1.test"\n[[listen]]\naddress = "{sandbox.address}"\nrole = "relay"\n')
    ran = pillarbox("sendmail", "-t", input="To: ann\n\nx\n", PILLARBOX_CONFIG=str(config))
    assert (ran.status, ran.err) == (0, "")
    (message,) = sandbox.messages("--recipient", "ann@mx1.test")
    assert message["sender"].endswith("@mx1.test")
    assert "@mx1.test>\r\n" in sandbox.queue("show", message["id"], "--message").out


def test_what_is_no_address_in_the_header_goes_to_nobody(sandbox) -> None:
    for value in ("nobody here", "ann@t.example bob@t.example", "a@t.example, b@"):
        ran = sendmail(sandbox, "-t", input=f"Cc: {value}\n\nx\n")
        assert ran.status == 65
        assert ran.err.startswith("sendmail: Cc: not an address: '")
    many = ", ".join(f"Name {number} <user{number}@many.example>" for number in range(900))
    assert len(recipients_in([(b"to", f"To: {many}\n".encode())])) == 900


def test_nobody_listening_is_a_temporary_failure_with_advice(pillarbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        server = f"127.0.0.1:{gone.getsockname()[1]}"
    ran = pillarbox("sendmail", "x@y.example", input="\n", PILLARBOX_SENDMAIL=server)
    assert ran.status == 75
    assert ran.err == f"sendmail: nobody listens on {server}; is the server running? (pillarbox serve)\n"


def test_the_server_is_found_in_the_configuration(sandbox, tmp_path: Path, pillarbox) -> None:
    port = sandbox.address.rpartition(":")[2]
    config = tmp_path / "p.toml"
    config.write_text(
        '[[listen]]\naddress = "0.0.0.0:1"\nrole = "submission"\n'
        '[[listen]]\naddress = "0.0.0.0:2"\ntls = "implicit"\n'
        f'[[listen]]\naddress = "0.0.0.0:{port}"\nrole = "relay"\n'
    )
    ran = pillarbox("sendmail", "found@t.example", input="x\n", PILLARBOX_CONFIG=str(config))
    assert (ran.status, ran.err) == (0, "")


def test_wrong_use_is_told_with_the_usage(pillarbox) -> None:
    for arguments in ([], ["-Z", "x@y"], ["-N", "often", "x@y"], ["-f"], ["-bd"], ["-R", "some", "x@y"]):
        ran = pillarbox("sendmail", *arguments)
        assert ran.status == 64, arguments
        assert ran.err.startswith("sendmail: ")
    assert "not an address" in pillarbox("sendmail", "two words@x").err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-t"], Options(from_header=True)),
        (["-oi", "a@b"], Options(dot_ends=False, recipients=["a@b"])),
        (["-fme@x", "a@b"], Options(sender="me@x", recipients=["a@b"])),
        (["-r", "me@x", "a@b"], Options(sender="me@x", recipients=["a@b"])),
        (["-f", "", "a@b"], Options(sender="", recipients=["a@b"])),
        (["-Nsuccess,delay", "a@b"], Options(notify=Notify.SUCCESS | Notify.DELAY, recipients=["a@b"])),
        (["-N", "never", "-R", "hdrs", "-V", "e1", "a@b"], Options(notify=Notify.NEVER, ret=Ret.HEADERS, envid="e1", recipients=["a@b"])),
        (["-oem", "-om", "-B8BITMIME", "-v", "-n", "--", "-a@b"], Options(recipients=["-a@b"])),
        (["-bp"], Options(mode="p")),
        (["-q"], Options(mode="q")),
        (["-q30m", "a@b"], Options(recipients=["a@b"])),
    ],
)  # fmt: skip
def test_options_are_read_as_sendmail_does(arguments: list[str], expected: Options) -> None:
    assert parse_options(arguments) == expected


def test_to_try_a_queue_in_which_nothing_waits_is_all_right(sandbox, tmp_path: Path, pillarbox) -> None:
    config = tmp_path / "p.toml"
    config.write_text(f'data = "{sandbox.data}"\n')
    ran = pillarbox("sendmail", "-q", PILLARBOX_CONFIG=str(config))
    assert (ran.status, ran.err) == (0, "")


def test_never_excludes_the_others() -> None:
    with pytest.raises(UsageError):
        parse_options(["-N", "never,delay", "a@b"])


def test_a_message_that_is_sent_once_more_goes_to_the_resent_fields() -> None:
    fields, body = split_header(b"To: old@x\r\nResent-To: new@x\r\nX: y\r\n z\r\n\r\nbody")
    assert recipients_in(fields) == ["new@x"]
    assert body == b"\r\nbody"


def test_it_starts_without_what_takes_long_to_import() -> None:
    code = (
        "import sys; sys.argv = ['sendmail', '-bi']\n"
        "from pillarbox.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(' '.join(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    heavy = {
        "asyncio",
        "click",
        "rich",
        "apsw",
        "ssl",
        "pillarbox.config",
        "pillarbox.service",
        "pillarbox.policies",
    }
    loaded = heavy & set(out.split())
    assert not loaded
    assert len(out.split()) < 175
