"""The words of HELP."""

from __future__ import annotations

import pytest

from pillarbox.mail.catalogue import session
from pillarbox.mail.help import help_lines

VERBS = [
    "EHLO",
    "HELO",
    "LHLO",
    "MAIL",
    "RCPT",
    "DATA",
    "BDAT",
    "RSET",
    "NOOP",
    "QUIT",
    "VRFY",
    "EXPN",
    "HELP",
    "AUTH",
    "STARTTLS",
    "ETRN",
]


def test_bare_help_lists_what_can_be_used_now():
    assert help_lines("", ["EHLO", "QUIT"])[0] == "Commands: EHLO QUIT"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_that_fits_a_reply(verb):
    lines = help_lines(f" {verb.lower()} ", VERBS)
    assert lines[0].startswith(verb)
    assert any(line[:3].isdigit() for line in lines)
    reply = session.HELP.because(*lines)
    assert reply.lines == lines
    assert all(len(line) <= 512 for line in reply.wire.splitlines(keepends=True))


def test_replies_come_from_the_catalogue():
    lines = help_lines("RCPT", VERBS)
    assert "550 5.1.1 - The domain is ours, the mailbox does not exist." in lines
    assert not any("delivery" in line or "DNS says" in line for line in lines)


@pytest.mark.parametrize("topic", ["FROBNICATE", "MAIL FROM", "x" * 1000])
def test_unknown_topics(topic):
    assert help_lines(topic, VERBS) is None


def test_parameters_are_told_of_extensions_on_offer_alone():
    assert help_lines("MAIL", VERBS)[1].startswith("Begins")
    lines = help_lines("MAIL", VERBS, {"SIZE", "DELIVERBY", "MT-PRIORITY"})
    assert lines[1:4] == ("SIZE=octets", "BY=seconds;R|N[T]", "MT-PRIORITY=-9 to 9")
    assert help_lines("RCPT", VERBS, {"RRVS"})[1] == "RRVS=date-time[;C|R]"
