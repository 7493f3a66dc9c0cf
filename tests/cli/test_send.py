"""What `pillarbox send` shows and how it ends, against a real sandbox and a scripted server."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from pillarbox.cli.dialogue import split_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def scripted(**answers: str) -> Iterator[str]:
    """A server that answers each verb from a script, "250 ok" if it has no line for it; `greeting` comes first."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rwb", buffering=0) as stream:
            stream.write(f"{answers.get('greeting', '220 scripted.example')}\r\n".encode())
            for line in stream:
                verb = line.split(b" ")[0].strip().decode().lower()
                stream.write(f"{answers.get(verb, '250 ok')}\r\n".encode())
                if verb == "data" and answers.get("data", "").startswith("354"):
                    while stream.readline() not in (b".\r\n", b""):
                        pass
                    stream.write(f"{answers.get('end', '250 taken')}\r\n".encode())
                if verb == "quit":
                    return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    host, port = listener.getsockname()
    yield f"{host}:{port}"
    listener.close()
    thread.join(10)


def test_the_conversation_is_shown_with_arrows_and_times(sandbox, pillarbox) -> None:
    ran = pillarbox("send", "--server", sandbox.address, "--to", "a@b.example", "--helo", "me.example")
    lines = ran.out.splitlines()
    assert any(re.fullmatch(r"<- 220 .* {2}\[\d+\.\d ms\]", line) for line in lines)
    assert "-> EHLO me.example" in lines
    assert lines[-1] == "== accepted for 1 of 1 recipients (exit status 0)"
    assert "\x1b" not in ran.out


@pytest.mark.parametrize(
    ("answers", "status"),
    [
        ({"rcpt": "550 5.1.1 who?"}, 67),
        ({"rcpt": "450 4.2.0 later"}, 75),
        ({"mail": "550 5.7.1 not you"}, 69),
        ({"data": "354 go", "end": "552 5.2.2 full"}, 69),
        ({"data": "354 go", "end": "452 4.3.1 full"}, 75),
        ({"greeting": "554 5.3.2 no"}, 69),
        ({"greeting": "421 4.3.2 busy"}, 75),
        ({"ehlo": "502 what", "helo": "250 hi", "data": "354 go"}, 0),
        ({"greeting": "hello!\r\nworld!"}, 76),
    ],
)
def test_the_exit_status_tells_what_became_of_it(answers: dict[str, str], status: int, pillarbox) -> None:
    with scripted(**answers) as server:
        ran = pillarbox("send", "--server", server, "--to", "a@b.example")
    assert ran.status == status, ran.out


def test_a_refusal_is_explained(sandbox, pillarbox) -> None:
    with scripted(rcpt="550 5.1.1 who?") as server:
        ran = pillarbox("send", "--server", server, "--to", "a@b.example")
    assert "<* 550 5.1.1 who?" in ran.out
    assert "There is no such mailbox." in ran.out


def test_explanations_fit_into_eighty_columns(pillarbox) -> None:
    with scripted(rcpt="550 5.1.1 who?") as server:
        out = pillarbox("send", "--server", server, "--to", "ann@one.example").out
    told = [line for line in out.splitlines() if line.startswith("   ")]
    assert len(told) > 3
    assert max(map(len, told)) <= 80


def test_json_has_the_transcript_and_each_recipient(pillarbox) -> None:
    with scripted(rcpt="550 5.1.1 who?") as server:
        ran = pillarbox("send", "--server", server, "--to", "a@b.example", "--json")
    assert ran.json["exit"] == 67
    assert ran.json["outcome"] == "no_user"
    (recipient,) = ran.json["recipients"]
    assert (recipient["stage"], recipient["code"], recipient["status"]) == ("rcpt", 550, "5.1.1")
    assert recipient["explanation"]["known"] is True
    assert {"at_s", "from", "line"} == set(ran.json["transcript"][0])


def test_what_a_server_says_cannot_steer_the_terminal(pillarbox) -> None:
    with scripted(greeting="220 \x1b[2J\x9b2Jhost\x07") as server:
        ran = pillarbox("send", "--server", server, "--to", "a@b.example", "--quit-after", "greeting")
    assert ran.status == 0
    assert not set(ran.out) & {"\x1b", "\x07", "\x9b"}


@pytest.mark.parametrize("stage", ["greeting", "hello", "mail", "rcpt"])
def test_it_stops_where_it_is_told_to(sandbox, stage: str, pillarbox) -> None:
    ran = pillarbox("send", "--server", sandbox.address, "--to", "stop@b.example", "--quit-after", stage)
    assert ran.status == 0
    assert "QUIT" in ran.out
    assert "DATA" not in ran.out


def test_parts_of_the_message_come_from_options(sandbox, tmp_path: Path, pillarbox) -> None:
    (tmp_path / "notes.txt").write_text("attached words")
    arguments = [
        "--subject",
        "Grüße",
        "--header",
        "X-Mine: yes",
        "--body-file",
        "-",
        "--attach",
        tmp_path / "notes.txt",
    ]
    ran = pillarbox(
        "send",
        "--server",
        sandbox.address,
        "--to",
        "parts@b.example",
        *arguments,
        input="the text from stdin\n",
    )
    assert ran.status == 0
    (message,) = sandbox.messages("--recipient", "parts@b.example")
    octets = sandbox.queue("show", message["id"], "--message").out
    for part in (
        "Subject: Grüße",
        "X-Mine: yes",
        "the text from stdin",
        'filename="notes.txt"',
        "YXR0YWNoZWQgd29yZHM=",  # the words, in base64
    ):
        assert part in octets


def test_without_pipelining_each_reply_is_awaited(sandbox, pillarbox) -> None:
    ran = pillarbox("send", "--server", sandbox.address, "--to", "slow@b.example", "--no-pipelining")
    lines = ran.out.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("-> MAIL"))
    assert lines[at + 1].startswith("<- 250")


def test_a_password_is_not_sent_in_clear_nor_shown(pillarbox) -> None:
    ran = pillarbox(
        "send", "--server", "192.0.2.1", "--to", "a@b.example", "--auth", "me", "--password-file", "-"
    )
    assert ran.status == 64
    assert "add --starttls or --tls" in ran.err
    answers = {"ehlo": "250-x\r\n250 AUTH PLAIN", "auth": "235 2.7.0 ok", "data": "354 go"}
    with scripted(**answers) as server:
        arguments = ["--server", server, "--to", "a@b.example", "--auth", "me", "--password-file", "-"]
        ran = pillarbox("send", *arguments, input="s3cret\n")
    assert ran.status == 0
    assert "AUTH PLAIN <secret>" in ran.out


def test_without_a_terminal_nobody_is_asked_for_a_password() -> None:
    for command in (
        ["send", "--server", "127.0.0.1:1", "--to", "a@b.example", "--auth", "me"],
        ["user", "hash"],
    ):
        ran = subprocess.run(
            [sys.executable, "-m", "pillarbox", *command],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert ran.returncode == 64
        assert ran.stderr == "pillarbox: there is no terminal to ask for the password; use --password-file\n"


def test_wrong_input_is_told_before_anything_is_sent(tmp_path: Path, pillarbox) -> None:
    for option, value, advice in (
        ("--to", "noat", "domain missing"),
        ("--to", "a@b.example,d@e.example", "repeat --to for each of several"),
        ("--from", "no address", "is not an address"),
        ("--server", "h:99999", "write host, host:port"),
        ("--server", "127.0.0.1:1025:3", "write host, host:port"),
    ):
        ran = pillarbox("send", "--to", "a@b.example", option, value)
        assert ran.status == 64
        said = " ".join(ran.err.split())
        assert f"Invalid value for {option}: " in said
        assert value in said
        assert advice in said
    for sure in ("::1", "fe80::1%lo", "[::1]:25", "h:25", "unix:/a:b:c"):
        assert split_server(sure)
    assert pillarbox("send", "--to", "a@b.example", "--header", "x").status == 64
    assert pillarbox("send", "--to", "a@b.example", "--attach", tmp_path / "none").status == 66


def test_a_server_that_says_nothing_is_told_from_one_that_is_lost(pillarbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        server = f"127.0.0.1:{mute.getsockname()[1]}"
        ran = pillarbox("send", "--to", "a@b.example", "--server", server, "--timeout", "0.1")
    assert ran.status == 75
    assert "== no answer in 0.1 seconds; --timeout allows for more\n" in ran.out


def test_nobody_there_has_an_advice(pillarbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    ran = pillarbox("send", "--to", "a@b.example", "--server", f"127.0.0.1:{port}")
    assert ran.status == 75
    assert "cannot connect" in ran.out
