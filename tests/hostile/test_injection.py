"""What clients say stays words: in replies, in the log, in the fields that this server adds, and in reports."""

from __future__ import annotations

import json
import re

import pytest

from pillarbox import observe

HELLO = b"EHLO client.example"
# What splits a line somewhere, moves a terminal's cursor, turns the reading direction, or looks like more than it is.
WORDS = [
    "\x1b[31m",
    "\x00",
    "\x7f",
    "\x85",
    "\N{LINE SEPARATOR}",
    "\N{PARAGRAPH SEPARATOR}",
    "\N{RIGHT-TO-LEFT OVERRIDE}",
    "\x0b",
    "\x0c",
    "\x1c",
    "250 2.0.0 OK",
    '","level":"info","event":"login.ok',
    "<script>alert(1)</script>",
    "{0.__class__}",
    "%n%s",
]


@pytest.fixture
def log(tmp_path):
    """The lines that were written to the log."""
    file = (tmp_path / "log").open("w+b")
    observe.configure(observe.LogSettings(format="json", level="debug"), descriptor=file.fileno())
    yield (tmp_path / "log").read_bytes
    observe.configure(observe.LogSettings(level="warning"))
    file.close()


def commands(word):
    """A client's text at each place that takes some."""
    return [
        f"EHLO {word}",
        f"{word}",
        f"NOOP {word}",
        f"HELP {word}",
        f"VRFY {word}",
        f"EXPN {word}",
        f"AUTH {word}",
        f"MAIL FROM:<{word}@x.example>",
        f'MAIL FROM:<"{word}"@x.example> SMTPUTF8',
        f"MAIL FROM:<a@x.example> {word}",
        f"MAIL FROM:<a@x.example> ENVID={word}",
        f"BDAT {word}",
        "MAIL FROM:<a@x.example> SMTPUTF8",
        f"RCPT TO:<{word}@example.org>",
        f'RCPT TO:<"{word}"@example.org>',
        f"RCPT TO:<alice@{word}>",
        f"RCPT TO:<alice@example.org> ORCPT=utf-8;{word}",
        f"RCPT TO:<alice@example.org> NOTIFY={word}",
        "RSET",
    ]


@pytest.mark.parametrize("word", WORDS, ids=repr)
async def test_no_word_of_a_client_splits_a_reply_or_a_line_of_the_log(open_office, dial, log, word):
    office = await open_office(login=True, login_in_clear=True)
    caller = await dial(office.port)
    await caller.reply()
    await caller.ask(HELLO)
    for number, command in enumerate(commands(word)):
        if number % 8 == 7:  # before the mistakes are too many
            caller = await dial(office.port)
            await caller.reply()
            await caller.ask(HELLO)
        answer = await caller.ask(command.encode())
        assert re.fullmatch(rb"(?:[2-5]\d\d-[\x20-\x7e]*\r\n)*[2-5]\d\d [\x20-\x7e]*\r\n", answer), answer
        # and nothing more came with it
        assert await caller.ask(b"NOOP") == b"250 2.0.0 OK\r\n"
    for line in log().splitlines():
        assert line.isascii()
        assert isinstance(json.loads(line), dict)
        assert json.loads(line)["event"] != "login.ok"


@pytest.mark.parametrize("word", ["\N{RIGHT-TO-LEFT OVERRIDE}", "ü", "a b", "a\\\\b", "(x", ">", ";"])
async def test_no_word_of_a_client_makes_a_field(open_office, dial, word):
    office = await open_office()
    caller = await dial(office.port)
    await caller.reply()
    await caller.ask(HELLO)
    await caller.ask(f'MAIL FROM:<"{word}"@x.example> SMTPUTF8 ENVID=a+0D+0ASubject:+20x'.encode())
    await caller.ask(f'MAIL FROM:<"{word}"@x.example> SMTPUTF8'.encode())
    assert (await caller.ask(b"RCPT TO:<alice@example.org> ORCPT=utf-8;\\x{0D}\\x{0A}Bcc")).startswith(
        b"501 "
    )
    assert (await caller.ask(b"RCPT TO:<alice@example.org>")).startswith(b"250 ")
    await caller.ask(b"DATA")
    assert (await caller.ask(b"Subject: x\r\n\r\ntext\r\n.")).startswith(b"250 ")
    octets, kept = await office.stored()
    head = octets.partition(b"\r\n\r\n")[0]
    assert [line.partition(b":")[0] for line in re.split(rb"\r\n(?![ \t])", head)] == [
        b"Received",
        b"Subject",
    ]
    assert kept.envid == ""
    assert kept.recipients[0].orcpt == ""
