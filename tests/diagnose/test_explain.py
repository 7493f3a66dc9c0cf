"""Explanations of whole texts: every kind of paste is recognised, and each recipient learns what happened.

The pastes lie in the folder `pastes`. Notations of programs that this project can run are recorded live by the tests
in `interop`; those here follow the manuals of their programs.
"""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.diagnose.diagnosis import Kind, Outcome, Role
from pillarbox.diagnose.explain import MAX_CHARACTERS, explain
from pillarbox.mail.reply import Stage, Who

PASTES = Path(__file__).parent / "pastes"
ACCEPTED, TEMPORARY, PERMANENT, IN_DOUBT, UNSENT = (
    Outcome.ACCEPTED,
    Outcome.TEMPORARY,
    Outcome.PERMANENT,
    Outcome.IN_DOUBT,
    Outcome.UNSENT,
)


def read(name):
    return explain((PASTES / name).read_text())


def fates(found):
    return [(account.address, account.outcome, account.stage) for account in found.recipients]


# --- what a text is


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("550", Kind.LOOKUP),
        ("5.1.1", Kind.LOOKUP),
        ("X.7.26", Kind.LOOKUP),
        ("envelope.relay_denied", Kind.LOOKUP),
        ("e550-1", Kind.LOOKUP),
        ("550 5.1.1 no such user", Kind.REPLY),
        ("550-5.1.1 no\r\n550 5.1.1 such user", Kind.REPLY),
        ("S: 421 4.3.2 busy", Kind.REPLY),
        ("<** 550 go away", Kind.REPLY),
        (
            "host mx.example.net[192.0.2.1] said: 550 5.1.1 no such user (in reply to RCPT TO command)",
            Kind.LOG,
        ),
        ("Remote Server returned '550 5.1.10 RESOLVER.ADR.RecipientNotFound'", Kind.LOG),
        ("connect to mx.example.net[192.0.2.1]:25: Connection timed out", Kind.LOG),
        ("ConnectionRefusedError: [Errno 111] Connection refused", Kind.LOG),
        ("", Kind.NOTHING),
        ("hello", Kind.NOTHING),
        ("Dear Ann,\nhow are you?\n", Kind.NOTHING),
        ("nobody.knows", Kind.NOTHING),
    ],
)
def test_what_a_text_is(text, kind):
    found = explain(text)
    assert found.kind is kind
    assert found.known is (kind is not Kind.NOTHING)


@pytest.mark.parametrize(
    ("name", "kind", "notation", "host"),
    [
        ("echoes.txt", Kind.TRANSCRIPT, "C: and S:", "mx.example.net"),
        ("doubt.txt", Kind.TRANSCRIPT, "no marks", "mx.example.net"),
        ("exim_verbose.txt", Kind.TRANSCRIPT, "exim -v", "mx1.example.net"),
        ("postfix_verbose.txt", Kind.TRANSCRIPT, "postfix verbose", "mx1.example.net"),
        ("sendmail_verbose.txt", Kind.TRANSCRIPT, "angle brackets", "mx1.example.net"),
        ("exchange_send.csv", Kind.TRANSCRIPT, "exchange protocol log", "192.0.2.1"),
        ("exchange_receive.csv", Kind.TRANSCRIPT, "exchange protocol log", "192.0.2.5"),
        ("login_failed.txt", Kind.TRANSCRIPT, "C: and S:", ""),
        ("postmaster_notice.txt", Kind.TRANSCRIPT, "C: and S:", "mail.example.org"),
        ("closing.txt", Kind.TRANSCRIPT, "arrows", "mx.example.net"),
        ("postfix.log", Kind.LOG, "postfix log", ""),
        ("exim.log", Kind.LOG, "exim log", ""),
        ("sendmail.log", Kind.LOG, "sendmail log", "mx1.example.net"),
        ("exchange_tracking.csv", Kind.LOG, "exchange message tracking", "mx1.example.net"),
        ("opensmtpd.log", Kind.LOG, "opensmtpd log", "mx1.example.net"),
        ("qmail.log", Kind.LOG, "qmail log", ""),
    ],
)
def test_how_a_text_is_written(name, kind, notation, host):
    found = read(name)
    assert (found.kind, found.notation, found.host) == (kind, notation, host)


# --- what became of each recipient


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("doubt.txt", [("bob@example.net", IN_DOUBT, Stage.BODY)]),
        ("exim_verbose.txt", [("bob@example.net", TEMPORARY, Stage.RCPT)]),
        ("postfix_verbose.txt", [("bob@example.net", TEMPORARY, Stage.RCPT)]),
        ("sendmail_verbose.txt", [("bob@example.net", PERMANENT, Stage.RCPT)]),
        ("exchange_send.csv", [("bob@example.net", PERMANENT, Stage.RCPT)]),
        ("exchange_receive.csv", [("x@far.example", PERMANENT, Stage.RCPT)]),
        ("login_failed.txt", [("", PERMANENT, Stage.AUTH)]),
        ("postmaster_notice.txt", [("ann@example.org", TEMPORARY, Stage.RCPT)]),
        ("greeting.txt", [("", PERMANENT, Stage.GREETING)]),
        (
            "lmtp.txt",
            [
                ("ann@example.net", ACCEPTED, Stage.BODY),
                ("ben@example.net", PERMANENT, Stage.BODY),
                ("cem@example.net", PERMANENT, Stage.RCPT),
                ("dan@example.net", IN_DOUBT, Stage.BODY),
            ],
        ),
        (
            "postfix.log",
            [
                ("bob@example.net", PERMANENT, Stage.RCPT),
                ("carol@example.org", TEMPORARY, Stage.CONNECT),
                ("dave@example.com", ACCEPTED, Stage.BODY),
                ("x@far.example", PERMANENT, Stage.RCPT),
                ("me@our.example", PERMANENT, Stage.RCPT),
                ("eve@example.com", IN_DOUBT, Stage.BODY),
                ("f@nodomain.example", PERMANENT, Stage.DNS),
            ],
        ),
        (
            "exim.log",
            [
                ("bob@example.net", PERMANENT, Stage.RCPT),
                ("carol@example.org", TEMPORARY, Stage.RCPT),
                ("d@example.org", TEMPORARY, Stage.CONNECT),
                ("dave@example.com", ACCEPTED, Stage.BODY),
                ("x@far.example", PERMANENT, Stage.RCPT),
                ("y@our.example", TEMPORARY, Stage.RCPT),
                ("old@example.net", PERMANENT, None),
            ],
        ),
        (
            "sendmail.log",
            [
                ("bob@example.net", PERMANENT, None),
                ("carol@example.net", ACCEPTED, Stage.BODY),
                ("dan@example.net", ACCEPTED, Stage.BODY),
                ("e@example.net", TEMPORARY, None),
                ("x@far.example", PERMANENT, Stage.RCPT),
            ],
        ),
        (
            "exchange_tracking.csv",
            [
                ("bob@example.net", PERMANENT, None),
                ("carol@example.net", ACCEPTED, Stage.BODY),
                ("dan@example.net", ACCEPTED, Stage.BODY),
            ],
        ),
        (
            "opensmtpd.log",
            [("bob@example.net", PERMANENT, None), ("ann@b.example", ACCEPTED, Stage.LOCAL)],
        ),
        (
            "qmail.log",
            [
                ("bob@example.net", PERMANENT, Stage.RCPT),
                ("carol@example.org", TEMPORARY, None),
                ("dan@example.com", ACCEPTED, Stage.BODY),
            ],
        ),
    ],
)
def test_what_became_of_each_recipient(name, expected):
    found = read(name)
    assert fates(found) == expected
    for account in found.recipients:
        assert account.happened.endswith((".", '".'))
        assert account.next_step
        if account.outcome is not ACCEPTED:
            assert account.meaning
            assert account.advice


def test_of_a_pipelined_group_the_first_refusal_is_the_cause_and_the_rest_its_echoes():
    found = read("echoes.txt")
    assert fates(found) == [
        ("bob@example.net", PERMANENT, Stage.MAIL),
        ("carol@example.net", PERMANENT, Stage.MAIL),
    ]
    roles = {finding.reply.code: finding.role for finding in found.replies}
    assert roles == {
        220: Role.ANSWER,
        250: Role.ANSWER,
        550: Role.CAUSE,
        503: Role.ECHO,
        221: Role.ANSWER,
    }
    account = found.recipients[0]
    assert found.replies[account.reply].command == "MAIL FROM:<a@blocked.example>"
    assert [found.replies[place].command for place in account.echoes] == [
        "RCPT TO:<bob@example.net>",
        "DATA",
    ]


def test_a_refusal_of_mail_for_want_of_a_login_is_an_echo_of_the_failed_login():
    (account,) = (found := read("login_failed.txt")).recipients
    assert found.replies[account.reply].reply.code == 535
    assert [found.replies[place].reply.code for place in account.echoes] == [530]
    assert "d3Jvbmc=" not in json.dumps(found.to_dict())


def test_the_354_that_reaches_nobody_changes_nothing():
    found = read("postfix_verbose.txt")
    assert "reached nobody" in found.notes[0]
    assert [found.replies[place].reply.code for place in found.recipients[0].echoes] == [554]


def test_421_hits_every_recipient_of_the_open_transaction():
    found = read("closing.txt")
    assert fates(found) == [
        ("ann@example.net", TEMPORARY, Stage.RCPT),
        ("ben@example.net", TEMPORARY, Stage.RCPT),
    ]
    assert {found.replies[account.reply].reply.code for account in found.recipients} == {421}


def test_a_connection_lost_before_the_dot_leaves_no_doubt():
    text = (PASTES / "doubt.txt").read_text()
    (account,) = explain(text.replace("\n250 people came\n.\n", "\n")).recipients
    assert account.outcome is TEMPORARY
    assert account.will_retry


def test_nothing_behind_the_final_250_changes_it():
    text = "220 a.example\nEHLO b\n250 a\nMAIL FROM:<a@b.example>\n250 ok\nRCPT TO:<c@d.example>\n250 ok\nDATA\n354 go\nx\n.\n250 2.0.0 queued\n421 4.4.2 bye\n"
    assert fates(explain(text)) == [("c@d.example", ACCEPTED, Stage.BODY)]


def test_a_recipient_that_was_accepted_and_got_no_message_is_unsent():
    text = "220 a.example\nEHLO b\n250 a\nMAIL FROM:<a@b.example>\n250 ok\nRCPT TO:<c@d.example>\n250 ok\nRCPT TO:<e@d.example>\n550 5.1.1 no\nRSET\n250 ok\nQUIT\n221 bye\n"
    assert [outcome for _, outcome, _ in fates(explain(text))] == [UNSENT, PERMANENT]


def test_a_second_transaction_is_told_apart():
    mail = "C: MAIL FROM:<a@b.example>\nS: 250 ok\nC: RCPT TO:<c@d.example>\nS: {}\nC: DATA\nS: 354 go\nC: .\nS: 250 ok\n"
    text = (
        "C: EHLO b\nS: 250 a\n" + mail.format("250 ok") + mail.format("550 no").replace("S: 250 ok\n", "", 0)
    )
    assert [outcome for _, outcome, _ in fates(explain(text))] == [ACCEPTED, PERMANENT]


def test_of_several_tries_the_last_counts():
    (carol,) = (one for one in read("postfix.log").recipients if one.address == "carol@example.org")
    assert (carol.attempts, carol.line, carol.message) == (2, 3, "4T8xyz1abcz")


def test_a_server_alone_can_be_understood():
    found = explain(
        "220 mx.example.net ESMTP\n250-mx.example.net\n250 DSN\n250 2.1.0 Ok\n550 5.1.1 No such user here\n221 Bye\n"
    )
    assert [(account.outcome, account.ours) for account in found.recipients] == [
        (PERMANENT, "envelope.recipient_unknown")
    ]


def test_sessions_of_several_processes_are_not_mixed():
    lines = (PASTES / "postfix_verbose.txt").read_text().splitlines()
    other = [
        line.replace("12345", "777").replace("bob@", "amy@").replace("452 4.2.2", "550 5.1.1")
        for line in lines
    ]
    both = "\n".join(line for pair in zip(lines, other, strict=True) for line in pair)
    assert [(address, outcome) for address, outcome, _ in fates(explain(both))] == [
        ("bob@example.net", TEMPORARY),
        ("amy@example.net", PERMANENT),
    ]


def test_exceptions_of_smtplib_are_read():
    found = explain(
        "smtplib.SMTPRecipientsRefused: {'nobody@example.org': (550, b'5.1.1 No such user here'), 'x@y.example': (452, b'4.2.2 Full\\nup')}"
    )
    assert fates(found) == [
        ("nobody@example.org", PERMANENT, Stage.RCPT),
        ("x@y.example", TEMPORARY, Stage.RCPT),
    ]
    (found,) = explain(
        "smtplib.SMTPAuthenticationError: (535, b'5.7.8 Wrong user name or password')"
    ).recipients
    assert found.outcome is PERMANENT


def test_our_own_log_is_read():
    line = {"at": "2026-11-26T12:08:28Z", "event": "delivery.deferred", "message": "0362B6D462A40", "recipient": "a@b.example", "stage": "rcpt", "reply": "450 4.2.1 later", "host": "mx.b.example"}  # fmt: skip
    found = explain(json.dumps(line))
    assert fates(found) == [("a@b.example", TEMPORARY, Stage.RCPT)]
    assert found.recipients[0].message == "0362B6D462A40"


def test_our_own_words_bring_our_own_cause():
    (account,) = explain("550 5.7.1 Relaying denied").recipients
    assert account.ours == "envelope.relay_denied"
    assert account.who is Who.SENDER_ADMIN


# --- any text


NOTES = [
    "",
    "S: ",
    "C: ",
    "<- ",
    "-> ",
    "<** ",
    " -> ",
    "> ",
    "< ",
    "send: b'",
    "reply: b'",
    "  SMTP<< ",
    "SMTP>> ",
]
WORDS = [
    *("220 a.example", "250-x", "250 ok", "354 go", "421 bye", "550 5.1.1 no", "334 x", "235 ok", "550"),
    *(
        "EHLO x",
        "LHLO x",
        "MAIL FROM:<a@b>",
        "RCPT TO:<c@d>",
        "DATA",
        "BDAT 3 LAST",
        "BDAT 5",
        ".",
        "RSET",
        "QUIT",
    ),
    *("AUTH LOGIN", "STARTTLS", "", "hello", "'", "\\n'", "1rNabc-0001Xy-2A ** b@c: 550 x", "\0", "\udcff"),
]
PASTE = st.lists(st.tuples(st.sampled_from(NOTES), st.sampled_from(WORDS)), max_size=40).map(
    lambda pairs: "\n".join(note + word for note, word in pairs)
)


@given(st.text(max_size=400) | PASTE | PASTE.map(lambda text: text.replace("\n", "\r\n")))
@settings(max_examples=600, deadline=None)
def test_any_text_gets_an_answer(text):
    found = explain(text)
    shown = json.loads(json.dumps(found.to_dict()))
    assert shown["known"] is found.known
    for account in found.recipients:
        assert account.reply is None or found.replies[account.reply].role is not Role.ECHO
        assert all(found.replies[place].role is not Role.ANSWER for place in account.echoes)


@given(PASTE)
@settings(max_examples=200, deadline=None)
def test_each_recipient_that_was_named_has_one_account(text):
    found = explain(text)
    if found.kind is Kind.TRANSCRIPT:
        named = sum(finding.stage is Stage.RCPT and bool(finding.command) for finding in found.replies)
        assert len(found.recipients) >= min(named, 1)


@pytest.mark.parametrize(
    "piece",
    [
        "C: RCPT TO:<c@d.example>\nS: 550 5.1.1 no\n",
        "RCPT TO:<c@d.example>\n550-5.1.1 no\n550 5.1.1 such\n",
        "Jan 10 10:00:02 mail postfix/smtp[12345]: 4T8xyz1abcz: to=<c@e.org>, relay=none, delay=30, dsn=4.4.1, status=deferred (connect to mx: timed out)\n",
        "550-",
        "x" * 1000,
        "\\" * 1000,
        "S: " * 300,
        "(" * 1000 + "\n",
        "send: b'" + "\\x00" * 100 + "\n",
        "2024-01-10 10:00:03 " * 50 + "\n",
        "<" * 500 + ">" * 500 + "\n",
        '"event":' * 100 + "{" * 1000 + "\n",
        "[" * 1000 + '"event":' + "\n",
        "a=" * 500 + "\n",
        "550 " * 250 + "\n",
        "2024-01-10T10:00:01Z," + '","' * 200 + "\n",
    ],
)
def test_hostile_text_is_answered_within_the_time_limit_of_a_test(piece):
    explain(piece * (300_000 // len(piece)))  # work that grew with the square of the length would take hours


def test_a_text_without_end_is_cut():
    found = explain("S: 550 5.1.1 no such user\n" + "x" * MAX_CHARACTERS)
    assert "only its beginning" in found.notes[-1]
