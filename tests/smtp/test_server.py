"""The state table, cell by cell, and what the core does between the cells."""

import base64
import re

import pytest

from pillarbox.inbound.etrn import EtrnSettings
from pillarbox.mail.catalogue import auth, content, envelope, session
from pillarbox.mail.units import Seconds
from pillarbox.policy.proxies import ProxySettings
from pillarbox.policy.rules import Role
from pillarbox.smtp.events import BodyEnd, Hello, LocalProtocolError, Login, MailFrom, RcptTo, Signal
from pillarbox.smtp.profile import Limits, Profile
from pillarbox.smtp.server import ServerSession
from pillarbox.smtp.states import State

MAIL = b"MAIL FROM:<a@sender.example>\r\n"
RCPT = b"RCPT TO:<alice@example.org>\r\n"
EHLO = b"EHLO client.example\r\n"
LHLO = b"LHLO client.example\r\n"
PLAIN = base64.b64encode(b"\0alice@example.org\0wonderland")

# --- the table: written by hand from the specification, never derived from the code -------------------------------
#
# A cell is `code/status`, and `>state` where the state changes. C connected, G greeted, N login needed, A logged in, M MAIL accepted,
# R recipient accepted, B between chunks, X refused in the greeting (every command but QUIT gets 503), Z no mail (521),
# W TLS that is too weak (554),
# - closed, ... = in the middle of something else (a body, a challenge, a handshake). The empty command is an empty line.


def table(text):
    """Cells by column and command."""
    head, *rows = [[cell.strip() for cell in line.split(" | ")] for line in text.strip("\n").split("\n")]
    return {
        (column, row[0].replace(r"\r\n", "\r\n").encode()): cell
        for row in rows
        for column, cell in zip(head[1:], row[1:], strict=True)
    }


TABLE = table(r"""
                                                    | C           | G           | N           | A           | M           | R           | B           | X           | Z           | W
EHLO client.example                                 | 250>G       | 250         | 250         | 250         | 250>G       | 250>G       | 250>G       | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
HELO client.example                                 | 250>G       | 250         | 250         | 250         | 250>G       | 250>G       | 250>G       | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
LHLO client.example                                 | 500/5.5.1   | 500/5.5.1   | 500/5.5.1   | 500/5.5.1   | 500/5.5.1   | 500/5.5.1   | 500/5.5.1   | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
EHLO                                                | 501/5.5.4   | 501/5.5.4   | 501/5.5.4   | 501/5.5.4   | 501/5.5.4   | 501/5.5.4   | 501/5.5.4   | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
EHLO bad{name}                                      | 501/5.5.4   | 501/5.5.4   | 501/5.5.4   | 501/5.5.4   | 501/5.5.4   | 501/5.5.4   | 501/5.5.4   | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
MAIL FROM:<alice@example.org>                       | 503/5.5.1   | 250/2.1.0>M | 530/5.7.0   | 250/2.1.0>M | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
MAIL FROM:<>                                        | 503/5.5.1   | 250/2.1.0>M | 530/5.7.0   | 250/2.1.0>M | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
MAIL FROM:alice                                     | 503/5.5.1   | 501/5.1.7   | 530/5.7.0   | 501/5.1.7   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
MAIL FROM:<a@sender.example> SIZE=99999999999       | 503/5.5.1   | 552/5.3.4   | 530/5.7.0   | 552/5.3.4   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
MAIL FROM:<a@sender.example> FLAVOUR=mint           | 503/5.5.1   | 555/5.5.4   | 530/5.7.0   | 555/5.5.4   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
MAIL FROM:<mallory@elsewhere.example>               | 503/5.5.1   | 250/2.1.0>M | 530/5.7.0   | 553/5.7.1   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
RCPT TO:<alice@example.org>                         | 503/5.5.1   | 503/5.5.1   | 530/5.7.0   | 503/5.5.1   | 250/2.1.5>R | 250/2.1.5   | 503/5.5.1   | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
RCPT TO:<nobody@example.org>                        | 503/5.5.1   | 503/5.5.1   | 530/5.7.0   | 503/5.5.1   | 550/5.1.1   | 550/5.1.1   | 503/5.5.1   | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
RCPT TO:<>                                          | 503/5.5.1   | 503/5.5.1   | 530/5.7.0   | 503/5.5.1   | 501/5.1.3   | 501/5.1.3   | 503/5.5.1   | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
DATA                                                | 503/5.5.1   | 503/5.5.1   | 530/5.7.0   | 503/5.5.1   | 503/5.5.1   | 354>...     | 503/5.5.1   | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
DATA now                                            | 503/5.5.1   | 503/5.5.1   | 530/5.7.0   | 503/5.5.1   | 503/5.5.1   | 501/5.5.4   | 503/5.5.1   | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
BDAT 6\r\nQUIT\r\n                                  | 503/5.5.1   | 503/5.5.1   | 530/5.7.0   | 503/5.5.1   | 503/5.5.1   | 250/2.0.0>B | 250/2.0.0   | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
BDAT 6 LAST\r\nQUIT\r\n                             | 503/5.5.1   | 503/5.5.1   | 530/5.7.0   | 503/5.5.1   | 503/5.5.1   | 250/2.0.0>G | 250/2.0.0>G | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
BDAT six                                            | 503/5.5.1   | 503/5.5.1   | 530/5.7.0   | 503/5.5.1   | 503/5.5.1   | 501/5.5.4   | 501/5.5.4   | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
RSET                                                | 250/2.0.0   | 250/2.0.0   | 250/2.0.0   | 250/2.0.0   | 250/2.0.0>G | 250/2.0.0>G | 250/2.0.0>G | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
RSET all                                            | 501/5.5.4   | 501/5.5.4   | 501/5.5.4   | 501/5.5.4   | 501/5.5.4   | 501/5.5.4   | 501/5.5.4   | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
NOOP                                                | 250/2.0.0   | 250/2.0.0   | 250/2.0.0   | 250/2.0.0   | 250/2.0.0   | 250/2.0.0   | 250/2.0.0   | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
NOOP said idly                                      | 250/2.0.0   | 250/2.0.0   | 250/2.0.0   | 250/2.0.0   | 250/2.0.0   | 250/2.0.0   | 250/2.0.0   | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
QUIT                                                | 221/2.0.0>- | 221/2.0.0>- | 221/2.0.0>- | 221/2.0.0>- | 221/2.0.0>- | 221/2.0.0>- | 221/2.0.0>- | 221/2.0.0>- | 221/2.0.0>- | 221/2.0.0>-
QUIT now                                            | 501/5.5.4   | 501/5.5.4   | 501/5.5.4   | 501/5.5.4   | 501/5.5.4   | 501/5.5.4   | 501/5.5.4   | 501/5.5.4   | 501/5.5.4   | 501/5.5.4
VRFY alice                                          | 252/2.5.0   | 252/2.5.0   | 530/5.7.0   | 252/2.5.0   | 252/2.5.0   | 252/2.5.0   | 252/2.5.0   | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
VRFY                                                | 501/5.5.4   | 501/5.5.4   | 530/5.7.0   | 501/5.5.4   | 501/5.5.4   | 501/5.5.4   | 501/5.5.4   | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
EXPN staff                                          | 502/5.5.1   | 502/5.5.1   | 530/5.7.0   | 502/5.5.1   | 502/5.5.1   | 502/5.5.1   | 502/5.5.1   | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
HELP                                                | 214/2.0.0   | 214/2.0.0   | 214/2.0.0   | 214/2.0.0   | 214/2.0.0   | 214/2.0.0   | 214/2.0.0   | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
HELP MAIL                                           | 214/2.0.0   | 214/2.0.0   | 214/2.0.0   | 214/2.0.0   | 214/2.0.0   | 214/2.0.0   | 214/2.0.0   | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
HELP cookery                                        | 504/5.5.4   | 504/5.5.4   | 504/5.5.4   | 504/5.5.4   | 504/5.5.4   | 504/5.5.4   | 504/5.5.4   | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
AUTH PLAIN                                          | 503/5.5.1   | 334>...     | 334>...     | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
AUTH PLAIN AGFsaWNlQGV4YW1wbGUub3JnAHdvbmRlcmxhbmQ= | 503/5.5.1   | 235/2.7.0>A | 235/2.7.0>A | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
AUTH PLAIN bad                                      | 503/5.5.1   | 501/5.5.2   | 501/5.5.2   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
AUTH NTLM                                           | 503/5.5.1   | 504/5.5.4   | 504/5.5.4   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
AUTH                                                | 503/5.5.1   | 501/5.5.4   | 501/5.5.4   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
STARTTLS                                            | 503/5.5.1   | 220/2.0.0>... | 220/2.0.0>... | 220/2.0.0>... | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
STARTTLS now                                        | 503/5.5.1   | 501/5.5.4   | 501/5.5.4   | 501/5.5.4   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
ETRN example.org                                    | 503/5.5.1   | 251/2.5.0   | 530/5.7.0   | 251/2.5.0   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
ETRN                                                | 503/5.5.1   | 501/5.5.4   | 530/5.7.0   | 501/5.5.4   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
ETRN far.example                                    | 503/5.5.1   | 459/4.7.1   | 530/5.7.0   | 459/4.7.1   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
TURN                                                | 502/5.5.1   | 502/5.5.1   | 502/5.5.1   | 502/5.5.1   | 502/5.5.1   | 502/5.5.1   | 502/5.5.1   | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
XCLIENT ADDR=192.0.2.1                              | 500/5.5.2   | 500/5.5.2   | 500/5.5.2   | 500/5.5.2   | 500/5.5.2   | 500/5.5.2   | 500/5.5.2   | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
FROB                                                | 500/5.5.2   | 500/5.5.2   | 500/5.5.2   | 500/5.5.2   | 500/5.5.2   | 500/5.5.2   | 500/5.5.2   | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
                                                    | 500/5.5.2   | 500/5.5.2   | 500/5.5.2   | 500/5.5.2   | 500/5.5.2   | 500/5.5.2   | 500/5.5.2   | 503/5.5.1   | 521/5.3.2   | 554/5.7.0
""")
SETUP = {
    "C": ({}, b""),
    "G": ({}, EHLO),
    "N": ({"role": Role.SUBMISSION}, EHLO),
    "A": ({}, EHLO + b"AUTH PLAIN " + PLAIN + b"\r\n"),
    "M": ({}, EHLO + MAIL),
    "R": ({}, EHLO + MAIL + RCPT),
    "B": ({}, EHLO + MAIL + RCPT + b"BDAT 3\r\nHi!"),
    "X": ({"deny": ("127.0.0.0/8",)}, b""),
    "Z": ({"role": Role.NO_MAIL}, b""),
    "W": ({}, b""),
}
STATES = {
    State.CONNECTED: "C",
    State.GREETED: "G",
    State.LOGIN_NEEDED: "N",
    State.MAIL: "M",
    State.RCPT: "R",
    State.CHUNKS: "B",
    State.REFUSED: "X",
    State.WEAK: "W",
}


def in_state(new_core, letter, **options):
    settings, lines = SETUP[letter]
    usual = {
        "login": True,
        "login_in_clear": True,
        "tls": "offered",
        "etrn": EtrnSettings(allow=("example.org",)),
    }
    core = new_core(**(usual | settings | options))
    core.feed(lines)
    core.take()
    if letter == "W":
        core.session.refuse_tls(auth.TLS_TOO_WEAK)
    return core


def state_of(core, was):
    if core.closed:
        return "-"
    if core.session._mode.name != "COMMAND":
        return "..."
    now = STATES[core.session.state]
    if now == "G" and core.session.login:
        return "A"
    return was if now == "X" else now


def check(core, was, command, expected):
    core.feed(command if b"\r\n" in command else command + b"\r\n")
    expected, _, afterwards = expected.partition(">")
    code, _, status = expected.partition("/")
    lines = [line.decode() for line in core.take().split(b"\r\n")[:-1]]
    assert [line[:4] for line in lines] == [f"{code}-"] * (len(lines) - 1) + [f"{code} "], (
        "not exactly one reply"
    )
    found = {match[0] if (match := re.match(r"\d\.\d+\.\d+(?= )", line[4:])) else "" for line in lines}
    assert found == {status}
    assert state_of(core, was) == (afterwards or was)


def cells(expected):
    return [
        pytest.param(
            column, command, cell, id=f"{column}-{command.decode().splitlines()[0] if command else 'empty'}"
        )
        for (column, command), cell in expected.items()
    ]


def test_the_table_has_every_verb_and_every_state():
    verbs = {command.split()[0] for _, command in TABLE if command}
    assert verbs >= set(
        b"HELO EHLO LHLO MAIL RCPT DATA BDAT RSET NOOP QUIT VRFY EXPN HELP AUTH STARTTLS ETRN XCLIENT FROB".split()
    )
    assert set(STATES) == set(State)
    assert {column for column, _ in TABLE} == set(SETUP)


@pytest.mark.parametrize(("column", "command", "expected"), cells(TABLE))
def test_every_command_in_every_state(new_core, column, command, expected):
    check(in_state(new_core, column), column, command, expected)


@pytest.mark.parametrize("column", SETUP)
def test_verbs_in_lower_case_are_the_same(new_core, column):
    for (state, command), expected in TABLE.items():
        if state == column:
            verb = command.split(b" ")[0]
            check(in_state(new_core, column), column, command.replace(verb, verb.lower(), 1), expected)


# Where some hosts may speak for others: the client is one of them, or it is not.
PEERS = table(r"""
                                 | C           | G           | N           | A           | M           | R           | B           | X           | W
XCLIENT ADDR=192.0.2.1           | 220>C       | 220>C       | 220>C       | 220>C       | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 554/5.7.0
XCLIENT LOGIN=alice@example.org  | 220>C       | 220>C       | 220>C       | 220>C       | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 554/5.7.0
XCLIENT LOGIN=dora@example.org   | 550/5.7.0   | 550/5.7.0   | 550/5.7.0   | 550/5.7.0   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 554/5.7.0
XCLIENT                          | 501/5.5.4   | 501/5.5.4   | 501/5.5.4   | 501/5.5.4   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 554/5.7.0
XCLIENT COLOUR=red               | 501/5.5.4   | 501/5.5.4   | 501/5.5.4   | 501/5.5.4   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 554/5.7.0
XFORWARD ADDR=192.0.2.1          | 503/5.5.1   | 250/2.0.0   | 250/2.0.0   | 250/2.0.0   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 554/5.7.0
XFORWARD IDENT=                  | 503/5.5.1   | 501/5.5.4   | 501/5.5.4   | 501/5.5.4   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 554/5.7.0
HELP XCLIENT                     | 214/2.0.0   | 214/2.0.0   | 214/2.0.0   | 214/2.0.0   | 214/2.0.0   | 214/2.0.0   | 214/2.0.0   | 503/5.5.1   | 554/5.7.0
""")
NOT_TRUSTED = table(r"""
                                 | C           | G           | N           | A           | M           | R           | B           | X           | W
XCLIENT ADDR=192.0.2.1           | 550/5.7.0   | 550/5.7.0   | 550/5.7.0   | 550/5.7.0   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 554/5.7.0
XFORWARD ADDR=192.0.2.1          | 503/5.5.1   | 550/5.7.0   | 550/5.7.0   | 550/5.7.0   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 554/5.7.0
""")


@pytest.mark.parametrize(("column", "command", "expected"), cells(PEERS))
def test_every_command_of_hosts_that_speak_for_others_in_every_state(new_core, column, command, expected):
    trusted = ProxySettings(xclient_networks=("127.0.0.0/8",), xforward_networks=("127.0.0.0/8",))
    check(in_state(new_core, column, proxy=trusted), column, command, expected)


@pytest.mark.parametrize(("column", "command", "expected"), cells(NOT_TRUSTED))
def test_the_same_commands_of_others(new_core, column, command, expected):
    trusted = ProxySettings(xclient_networks=("192.0.2.0/24",), xforward_networks=("192.0.2.0/24",))
    check(in_state(new_core, column, proxy=trusted), column, command, expected)


@pytest.mark.parametrize("column", SETUP)
def test_where_some_may_speak_for_others_all_other_commands_are_the_same(new_core, column):
    trusted = ProxySettings(xclient_networks=("127.0.0.0/8",), xforward_networks=("127.0.0.0/8",))
    for (state, command), expected in TABLE.items():
        if state == column and not command.startswith(b"XCLIENT"):
            check(in_state(new_core, column, proxy=trusted), column, command, expected)


# In LMTP only LHLO introduces, and DATA without a good recipient is 503 whatever was tried.
LMTP = table(r"""
                             | C           | G           | M           | R           | B
LHLO client.example          | 250>G       | 250         | 250>G       | 250>G       | 250>G
EHLO client.example          | 500/5.5.1   | 500/5.5.1   | 500/5.5.1   | 500/5.5.1   | 500/5.5.1
HELO client.example          | 500/5.5.1   | 500/5.5.1   | 500/5.5.1   | 500/5.5.1   | 500/5.5.1
LHLO                         | 501/5.5.4   | 501/5.5.4   | 501/5.5.4   | 501/5.5.4   | 501/5.5.4
MAIL FROM:<a@sender.example> | 503/5.5.1   | 250/2.1.0>M | 503/5.5.1   | 503/5.5.1   | 503/5.5.1
RCPT TO:<alice@example.org>  | 503/5.5.1   | 503/5.5.1   | 250/2.1.5>R | 250/2.1.5   | 503/5.5.1
DATA                         | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 354>...     | 503/5.5.1
BDAT 6\r\nQUIT\r\n           | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 250/2.0.0>B | 250/2.0.0
BDAT 6 LAST\r\nQUIT\r\n      | 503/5.5.1   | 503/5.5.1   | 503/5.5.1   | 250/2.0.0>G | 250/2.0.0>G
RSET                         | 250/2.0.0   | 250/2.0.0   | 250/2.0.0>G | 250/2.0.0>G | 250/2.0.0>G
NOOP                         | 250/2.0.0   | 250/2.0.0   | 250/2.0.0   | 250/2.0.0   | 250/2.0.0
QUIT                         | 221/2.0.0>- | 221/2.0.0>- | 221/2.0.0>- | 221/2.0.0>- | 221/2.0.0>-
VRFY alice                   | 252/2.5.0   | 252/2.5.0   | 252/2.5.0   | 252/2.5.0   | 252/2.5.0
HELP                         | 214/2.0.0   | 214/2.0.0   | 214/2.0.0   | 214/2.0.0   | 214/2.0.0
FROB                         | 500/5.5.2   | 500/5.5.2   | 500/5.5.2   | 500/5.5.2   | 500/5.5.2
""")


@pytest.mark.parametrize(("column", "command", "expected"), cells(LMTP))
def test_every_command_in_every_state_of_lmtp(new_core, column, command, expected):
    core = new_core(role=Role.LMTP).feed(SETUP[column][1].replace(EHLO, LHLO))
    core.take()
    check(core, column, command, expected)


# Where TLS is required: RFC 3207 4 leaves NOOP, EHLO, STARTTLS and QUIT, and the older ways to say EHLO.
NEEDS_TLS = table(r"""
                             | C           | G
EHLO client.example          | 250>G       | 250
HELO client.example          | 250>G       | 250
LHLO client.example          | 500/5.5.1   | 500/5.5.1
NOOP                         | 250/2.0.0   | 250/2.0.0
QUIT                         | 221/2.0.0>- | 221/2.0.0>-
STARTTLS                     | 503/5.5.1   | 220/2.0.0>...
FROB                         | 500/5.5.2   | 500/5.5.2
MAIL FROM:<a@sender.example> | 530/5.7.0   | 530/5.7.0
MAIL FROM:nonsense           | 530/5.7.0   | 530/5.7.0
RCPT TO:<alice@example.org>  | 530/5.7.0   | 530/5.7.0
DATA                         | 530/5.7.0   | 530/5.7.0
BDAT 6\r\nQUIT\r\n           | 530/5.7.0   | 530/5.7.0
BDAT six                     | 530/5.7.0   | 530/5.7.0
RSET                         | 530/5.7.0   | 530/5.7.0
HELP                         | 530/5.7.0   | 530/5.7.0
VRFY alice                   | 530/5.7.0   | 530/5.7.0
EXPN staff                   | 530/5.7.0   | 530/5.7.0
AUTH PLAIN                   | 530/5.7.0   | 530/5.7.0
ETRN example.org             | 530/5.7.0   | 530/5.7.0
""")


@pytest.mark.parametrize(("column", "command", "expected"), cells(NEEDS_TLS))
def test_every_command_before_the_tls_that_is_required(new_core, column, command, expected):
    check(in_state(new_core, column, needs_tls=True), column, command, expected)


@pytest.mark.parametrize("column", "CGMRB")
def test_with_tls_on_the_table_is_the_same_and_starttls_is_out_of_place(new_core, column):
    for (state, command), expected in TABLE.items():
        if state == column:
            core = in_state(new_core, column, tls="implicit", needs_tls=True)
            check(core, column, command, "503/5.5.1" if command.startswith(b"STARTTLS") else expected)


def test_data_and_bdat_after_only_refused_recipients(new_core):
    for command in (b"DATA\r\n", b"BDAT 6\r\nQUIT\r\n", b"BDAT 6 LAST\r\nQUIT\r\n"):
        for role, code in ((Role.MX, b"554 5.5.1 "), (Role.LMTP, b"503 5.5.1 ")):
            core = new_core(role=role).feed((LHLO if role is Role.LMTP else EHLO) + MAIL)
            core.feed(b"RCPT TO:<nobody@example.org>\r\nRCPT TO:<oops>\r\n")
            core.take()
            assert core.feed(command).take().startswith(code)
            assert core.session.state is State.MAIL
            assert not core.closed


# --- what happens between the cells -------------------------------------------------------------------------------


def replies(core, data):
    """The codes of the replies to `data`, one an answer."""
    core.take()
    core.feed(data)
    return [line[:3].decode() for line in core.take().split(b"\r\n") if line[3:4] == b" "]


def test_a_pipelined_group_is_answered_in_order(new_core):
    group = (
        EHLO + MAIL + RCPT + b"RCPT TO:<nobody@example.org>\r\nDATA\r\nHi\r\n.\r\nRSET\r\nNOOP\r\nQUIT\r\n"
    )
    assert replies(new_core(), group) == ["250", "250", "250", "550", "354", "250", "250", "250", "221"]


def test_nothing_is_read_past_a_decision_until_it_is_made():
    current = ServerSession(Profile(hostname="mx"), now=0)
    current.receive(EHLO + MAIL + RCPT, 0)
    assert isinstance(current.next_event(), Hello)
    assert current.next_event() is Signal.OWED
    assert current.waiting_octets == len(MAIL + RCPT)
    current.answer(current.welcome())
    assert isinstance(current.next_event(), MailFrom)
    assert current.next_event() is Signal.OWED
    current.answer(envelope.SENDER_OK.reply())
    assert isinstance(current.next_event(), RcptTo)


def test_the_driver_may_not_answer_what_is_not_owed():
    current = ServerSession(Profile(hostname="mx"), now=0)
    with pytest.raises(LocalProtocolError):
        current.answer(session.OK.reply())
    with pytest.raises(LocalProtocolError):
        current.welcome()


def test_a_refused_hello_leaves_the_transaction_and_its_chunks_alone():
    current = ServerSession(Profile(hostname="mx"), now=0)
    answers = {
        Hello: current.welcome,
        MailFrom: envelope.SENDER_OK.reply,
        RcptTo: envelope.RECIPIENT_OK.reply,
        BodyEnd: lambda: content.QUEUED.reply(id="1"),
    }

    def run(data, refuse=()):
        current.receive(data, 0)
        while not isinstance(event := current.next_event(), Signal):
            if event.owed:
                refused = isinstance(event, refuse)
                current.answer(envelope.REFUSED_BY_HOOK.reply() if refused else answers[type(event)]())
        return current.to_send()

    run(EHLO + MAIL + RCPT + b"BDAT 2\r\nHi")
    assert run(EHLO, refuse=Hello).startswith(b"550 ")
    assert current.state is State.CHUNKS
    assert run(b"BDAT 2 LAST\r\n\r\n").startswith(b"250 2.0.0 Queued")


def test_lmtp_answers_once_for_each_accepted_recipient(new_core):
    for body in (b"DATA\r\nHi\r\n.\r\n", b"BDAT 4 LAST\r\nHi\r\n"):
        core = new_core(role=Role.LMTP).feed(LHLO + MAIL + RCPT)
        core.feed(
            b"RCPT TO:<nobody@example.org>\r\nRCPT TO:<bob@example.org>\r\nRCPT TO:<carol@example.org>\r\n"
        )
        assert replies(core, body)[-3:] == ["250"] * 3
        assert replies(core, b"NOOP\r\n") == ["250"]


def test_lmtp_answers_a_fault_once_for_each_accepted_recipient(new_core):
    core = new_core(role=Role.LMTP).feed(LHLO + MAIL + RCPT + b"RCPT TO:<bob@example.org>\r\n")
    assert replies(core, b"DATA\r\nbare\nfeed\r\n.\r\nNOOP\r\n") == ["354", "554", "554", "250"]


def test_a_body_that_cannot_be_stored_is_eaten_and_then_refused():
    current = ServerSession(Profile(hostname="mx"), now=0)
    current.receive(EHLO + MAIL + RCPT + b"BDAT 3\r\nabcBDAT 3 LAST\r\ndefRSET\r\n", 0)
    seen = []
    while not isinstance(event := current.next_event(), Signal):
        seen.append(type(event).__name__)
        if isinstance(event, Hello):
            current.answer(current.welcome())
        elif isinstance(event, MailFrom):
            current.answer(envelope.SENDER_OK.reply())
        elif isinstance(event, RcptTo):
            current.answer(envelope.RECIPIENT_OK.reply())
        elif seen[-1] == "BodyStart":
            current.fail_body(content.DISK_FULL.reply())
    codes = [line[:3] for line in current.to_send().split(b"\r\n") if line[3:4] == b" "]
    assert codes[-3:] == [b"452", b"503", b"250"]
    assert seen[-1] == "BodyDropped"


def test_after_a_bad_chunk_no_message_comes_of_the_transfer(new_core):
    for bad in (b"BDAT x\r\n", b"BDAT 4\r\na\nbc"):
        core = new_core().feed(EHLO + MAIL + RCPT + b"BDAT 2\r\nHi" + bad + b"BDAT 4 LAST\r\n ho!")
        assert core.bodies == []
        assert replies(core, b"BDAT 0 LAST\r\nRSET\r\n" + MAIL) == ["503", "250", "250"]


def test_binarymime_is_for_bdat_alone(new_core):
    core = new_core().feed(EHLO + b"MAIL FROM:<a@sender.example> BODY=BINARYMIME\r\n" + RCPT)
    assert replies(core, b"DATA\r\nBDAT 5 LAST\r\n\0\n\r\xff.") == ["503", "250"]
    assert core.bodies == [b"\0\n\r\xff."]


def test_octets_sent_in_clear_with_starttls_do_not_survive(new_core):
    core = new_core(tls="offered").feed(EHLO)
    assert replies(core, b"STARTTLS\r\n" + MAIL + RCPT) == ["220"]
    core.feed(b"EHLO injected.example\r\n")
    core.start_tls()
    assert core.take() == b""
    assert core.session.hello == ""
    assert replies(core, MAIL + EHLO + b"STARTTLS\r\n") == ["503", "250", "503"]


def test_tls_forgets_the_login_that_was_made_in_clear(new_core):
    core = new_core(tls="offered", role=Role.SUBMISSION, login=True, login_in_clear=True)
    core.feed(EHLO + b"AUTH PLAIN " + PLAIN + b"\r\nSTARTTLS\r\n")
    core.start_tls()
    assert core.session.login == ""
    assert replies(core, EHLO + b"MAIL FROM:<alice@example.org>\r\n") == ["250", "530"]


def keywords(core, data=EHLO):
    core.take()
    return {line[4:].split(b" ")[0].decode() for line in core.feed(data).take().split(b"\r\n")[1:-1]}


def test_ehlo_lists_only_what_works(new_core):
    always = {
        "PIPELINING",
        "SIZE",
        "8BITMIME",
        "SMTPUTF8",
        "CHUNKING",
        "BINARYMIME",
        "ENHANCEDSTATUSCODES",
        "DSN",
        "LIMITS",
    }
    assert keywords(new_core()) == always
    assert keywords(new_core(tls="offered")) == always | {"STARTTLS"}
    assert keywords(new_core(tls="implicit", login=True)) == always | {"AUTH"}
    assert keywords(new_core(login=True)) == always, "no AUTH in clear"
    assert keywords(new_core(login=True, login_in_clear=True)) == always | {"AUTH"}
    assert (
        keywords(new_core(login=True, login_in_clear=True), EHLO + b"AUTH PLAIN " + PLAIN + b"\r\n" + EHLO)
        >= always
    )
    assert keywords(new_core(), b"HELO x\r\n") == set()


def test_after_helo_parameters_are_not_offered(new_core):
    core = new_core().feed(b"HELO x\r\n")
    assert replies(core, b"MAIL FROM:<a@sender.example> SIZE=10\r\nMAIL FROM:<a@sender.example>\r\n") == [
        "555",
        "250",
    ]


def test_help_lists_what_may_be_used_now(new_core):
    def listed(core):
        core.take()
        return set(core.feed(b"HELP\r\n").take().decode().split("\r\n")[0].split("Commands: ")[1].split())

    anytime = {"HELO", "EHLO", "RSET", "NOOP", "QUIT", "VRFY", "HELP"}
    assert listed(new_core()) == anytime
    assert listed(new_core(tls="offered", login=True).feed(EHLO)) == anytime | {"MAIL", "STARTTLS"}
    assert listed(new_core(tls="implicit", login=True).feed(EHLO)) == anytime | {"MAIL", "AUTH"}
    assert listed(new_core().feed(EHLO + MAIL)) == anytime | {"RCPT"}
    assert listed(new_core().feed(EHLO + MAIL + RCPT)) == anytime | {"RCPT", "DATA", "BDAT"}
    assert listed(new_core(vrfy="off")) == anytime - {"VRFY"}
    assert listed(new_core(vrfy="open")) == anytime | {"EXPN"}
    users = {"tls": "implicit", "login": True, "vrfy": "auth"}
    assert "EXPN" not in listed(new_core(**users).feed(EHLO))
    assert "EXPN" in listed(new_core(**users).feed(EHLO + b"AUTH PLAIN " + PLAIN + b"\r\n"))
    nodes = EtrnSettings(allow=("branch.example",))
    assert listed(new_core(etrn=nodes)) == anytime, "after EHLO only"
    assert listed(new_core(etrn=nodes).feed(EHLO)) == anytime | {"MAIL", "ETRN"}
    assert listed(new_core(role=Role.LMTP)) == anytime - {"HELO", "EHLO"} | {"LHLO"}


def test_too_many_mistakes_end_the_session(new_core):
    core = new_core(limits=Limits(errors=3)).feed(b"NOOP\r\n")
    assert replies(core, b"FROB\r\n\n\nNOOP\r\nQUIT\r\n") == ["500", "500", "500", "421"]
    assert core.closed


def test_too_many_messages_end_the_session(new_core):
    core = new_core(limits=Limits(messages=2)).feed(EHLO)
    assert replies(core, b"MAIL FROM:bad\r\n" + (MAIL + b"RSET\r\n") * 2) == ["501", "250", "250", "421"]
    assert core.closed


def test_too_many_recipients_leave_those_that_were_taken(new_core):
    core = new_core(limits=Limits(recipients=2)).feed(EHLO + MAIL)
    assert replies(core, RCPT * 3 + b"DATA\r\nHi\r\n.\r\n" + MAIL + RCPT) == [
        "250",
        "250",
        "452",
        "354",
        "250",
        "250",
        "250",
    ]


def test_logins_that_fail_end_the_session(new_core):
    core = new_core(login=True, login_in_clear=True, limits=Limits(login_failures=2)).feed(EHLO)
    wrong = b"AUTH PLAIN " + base64.b64encode(b"\0alice@example.org\0wrong") + b"\r\n"
    assert replies(core, wrong * 3) == ["535", "535", "421"]


def test_a_password_store_that_fails_is_not_the_clients_failure():
    profile = Profile(hostname="mx", offers_login=True, login_in_clear=True, limits=Limits(login_failures=1))
    current = ServerSession(profile, now=0)
    current.receive(EHLO + b"AUTH PLAIN " + PLAIN + b"\r\n", 0)
    current.next_event()
    current.answer(current.welcome())
    assert isinstance(current.next_event(), Login)
    current.answer(auth.BACKEND_DOWN.reply())
    assert current.next_event() is Signal.NEED_DATA


# --- time ---------------------------------------------------------------------------------------------------------

TIMES = Limits(command_timeout_s=Seconds(300), data_timeout_s=Seconds(180))


def test_silence_between_commands_ends_the_session(new_core):
    core = new_core(limits=TIMES)
    core.take()
    core.session.expire(299.0)
    core.pump()
    assert not core.closed
    core.feed(EHLO, now=200.0)
    core.take()
    core.session.expire(499.9)
    core.pump()
    assert not core.closed
    core.session.expire(500.0)
    core.pump()
    assert core.take().startswith(b"421 4.4.2 mx.example.org ")
    assert core.closed


def test_a_command_that_trickles_in_gets_no_more_time(new_core):
    core = new_core(limits=TIMES).feed(EHLO, now=100.0)
    for second in range(110, 400, 10):
        core.feed(b"N", now=float(second))
    core.session.expire(400.0)
    core.pump()
    assert core.closed
    assert b"421 4.4.2 " in core.take()


@pytest.mark.parametrize("begin", [b"DATA\r\n", b"BDAT 9\r\n"])
def test_silence_inside_a_message_ends_the_session_and_drops_it(new_core, begin):
    core = new_core(limits=TIMES).feed(EHLO + MAIL + RCPT + begin, now=10.0)
    core.feed(b"Hi\r\n", now=20.0)
    core.session.expire(199.0)
    core.pump()
    assert not core.closed
    core.session.expire(200.0)
    core.pump()
    assert core.closed
    assert b"421 4.4.2 mx.example.org no data" in core.take()
    assert type(core.events[-1]).__name__ == "BodyDropped"


def test_a_decision_that_takes_long_is_not_the_clients_silence():
    current = ServerSession(Profile(hostname="mx", limits=TIMES), now=0)
    current.receive(EHLO, 0)
    current.next_event()
    current.expire(1000)
    assert current.next_event() is Signal.OWED
    current.answer(current.welcome())
    current.renew(1000)
    current.expire(1001)
    assert current.next_event() is Signal.NEED_DATA


# --- drain --------------------------------------------------------------------------------------------------------


def drained(core):
    core.take()
    core.session.drain()
    core.pump()
    return core.take()


@pytest.mark.parametrize("column", ["C", "G", "N", "A", "X"])
def test_an_idle_session_is_closed_at_once_by_a_drain(new_core, column):
    core = in_state(new_core, column)
    assert drained(core).startswith(b"421 4.3.2 mx.example.org ")
    assert core.closed


@pytest.mark.parametrize("column", ["M", "R", "B"])
def test_in_a_transaction_the_next_command_is_the_boundary(new_core, column):
    core = in_state(new_core, column)
    assert drained(core) == b""
    assert core.feed(b"NOOP\r\nNOOP\r\n").take().startswith(b"421 4.3.2 ")
    assert core.closed


def test_a_body_on_its_way_is_finished_and_answered_before_a_drain_ends_the_session(new_core):
    core = in_state(new_core, "R").feed(b"DATA\r\nHi\r\n")
    assert drained(core) == b""
    assert [line[:3] for line in core.feed(b".\r\n").take().split(b"\r\n")[:-1]] == [b"250", b"421"]
    assert core.bodies == [b"Hi\r\n"]
    assert core.closed


def test_a_handshake_on_its_way_ends_before_a_drain_ends_the_session(new_core):
    core = in_state(new_core, "G").feed(b"STARTTLS\r\n")
    assert drained(core) == b""
    core.start_tls()
    assert core.take().startswith(b"421 4.3.2 ")


def test_a_greeting_that_says_421_closes(new_core):
    current = ServerSession(Profile(hostname="mx"), now=0, refusal=session.SHUTDOWN.reply(hostname="mx"))
    assert current.next_event() is Signal.CLOSED
    assert current.to_send() == b"421 mx shutting down, try again\r\n"


# --- cost, in work done and not in seconds ------------------------------------------------------------------------


def turns(current, data):
    """How many times the core gives others their turn while it works through `data`, how it ends, and what it says."""
    current.receive(data, 0)
    said = []
    while (event := current.next_event()) is Signal.BUSY:
        said.append(current.to_send())
    assert all(replies.count(b"\r\n") <= 202 for replies in said)
    return len(said), event, b"".join(said) + current.to_send()


def test_a_flood_of_commands_is_cut_into_turns():
    profile = Profile(hostname="mx", limits=Limits(empty_commands=100_000))
    count, event, said = turns(ServerSession(profile, now=0), b"NOOP\r\n" * 43_690)
    assert count >= 43_690 // 101
    assert event is Signal.NEED_DATA
    assert said.count(b"250 2.0.0 OK\r\n") == 43_690


def test_commands_that_lead_nowhere_come_to_an_end():
    _, event, said = turns(ServerSession(Profile(hostname="mx"), now=0), b"NOOP\r\nRSET\r\nHELP\r\n" * 1000)
    assert event is Signal.CLOSED
    assert said.count(b"\r\n250 ") + said.count(b"\r\n214 ") == 120
    assert said.endswith(b"\r\n421 4.7.0 mx too many errors, closing\r\n")


def test_a_message_lets_as_many_empty_commands_follow(new_core):
    core = new_core(limits=Limits(empty_commands=5, errors=1)).feed(EHLO)
    for _ in range(10):
        core.feed(b"NOOP\r\n" * 4 + MAIL + RCPT + b"DATA\r\nSubject: x\r\n\r\n.\r\n")
    assert not core.closed
    assert len(core.bodies) == 10


def test_a_flood_of_line_feeds_ends_the_session():
    current = ServerSession(Profile(hostname="mx"), now=0)
    count, event, said = turns(current, b"\n" * 262_144)
    assert (count, event) == (0, Signal.CLOSED)
    assert said.count(b"\r\n") == 22


def test_a_flood_of_recipients_costs_one_short_reply_each(new_core):
    core = new_core().feed(EHLO + MAIL)
    core.take()
    core.feed(RCPT * 100_000)
    out = core.take()
    assert out.count(b"\r\n") == 100_000
    assert out.count(b"452 4.5.3 ") == 99_000
    assert sum(isinstance(event, RcptTo) for event in core.events) == 1000
    assert core.session.waiting_octets == 0
