"""The linter: each rule has a session that breaks it, and sessions that keep to all of them have no fault."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.diagnose.lint import lint
from pillarbox.diagnose.rules import RULES

HELLO = "S: 220 a.example\nC: EHLO b.example\nS: 250-a.example\nS: 250-PIPELINING\nS: 250-SIZE 1000\nS: 250-LIMITS RCPTMAX=1\nS: 250 ENHANCEDSTATUSCODES\n"
PLAIN = "S: 220 a.example\nC: HELO b.example\nS: 250 a.example\n"
MAIL = "C: MAIL FROM:<a@b.example>\nS: 250 2.1.0 ok\nC: RCPT TO:<c@d.example>\nS: 250 2.1.5 ok\n"
DATA = "C: DATA\nS: 354 go\nC: Subject: x\nC: \n"
DOT = "C: .\nS: 250 2.0.0 ok\nC: QUIT\nS: 221 2.0.0 a.example bye\n"

BREACHES = {
    "unreadable-reply": PLAIN + "C: NOOP\nS: hello\nS: 250 ok\n",
    "bad-code": PLAIN + "C: NOOP\nS: 571 x\n",
    "unknown-code": PLAIN + "C: RCPT TO:<a@b.example>\nS: 542 x\n",
    "mixed-codes": PLAIN + "C: NOOP\nS: 250-a\nS: 251 b\n",
    "reply-without-end": PLAIN + "C: NOOP\nS: 250-a\n",
    "long-reply-line": PLAIN + f"C: NOOP\nS: 250 {'x' * 507}\n",
    "reply-line-end": "send: b'NOOP\\r\\n'\nreply: b'250 ok\\n'\n",
    "reply-characters": PLAIN + "C: NOOP\nS: 250 \N{LATIN SMALL LETTER E WITH ACUTE}\n",
    "status-class": HELLO + "C: NOOP\nS: 421 5.3.2 a.example closing\n",
    "status-not-here": "S: 220 2.0.0 a.example\nC: HELO b.example\nS: 250 a.example\n",
    "status-on-3xx": HELLO + MAIL + "C: DATA\nS: 354 2.0.0 go\nC: x\n" + DOT,
    "status-varies": HELLO + "C: NOOP\nS: 250-2.0.0 a\nS: 250 2.1.0 b\n",
    "status-missing": HELLO + "C: NOOP\nS: 250 ok\n",
    "status-unregistered": HELLO + "C: MAIL FROM:<a@b.example>\nS: 550 5.7.606 banned\n",
    "code-not-here": PLAIN + "C: MAIL FROM:<a@b.example>\nS: 354 go\n",
    "accepted-out-of-order": PLAIN + "C: RCPT TO:<a@b.example>\nS: 250 ok\n",
    "name-missing": "S: 220 welcome\nC: HELO b.example\nS: 250 a.example\n",
    "new-address-missing": PLAIN + MAIL.replace("250 2.1.5 ok", "251 will forward"),
    "unasked-reply": PLAIN + "C: NOOP\nS: 250 ok\nS: 250 ok\nC: QUIT\nS: 221 a.example\n",
    "missing-reply": PLAIN + "C: NOOP\nC: NOOP\nC: NOOP\nS: 250 ok\n",
    "too-few-replies": "S: 220 a.example\nC: LHLO b.example\nS: 250 a.example\n" + MAIL + "C: RCPT TO:<e@d.example>\nS: 250 ok\n" + DATA + "C: .\nS: 250 ok\n",
    "bad-keyword": "S: 220 a.example\nC: EHLO b.example\nS: 250-a.example\nS: 250 _X\n",
    "offered-not-served": "S: 220 a.example\nC: EHLO b.example\nS: 250-a.example\nS: 250 STARTTLS\nC: STARTTLS\nS: 502 no\n",
    "tls-in-tls": "S: 220 a.example\nC: EHLO b.example\nS: 250-a.example\nS: 250 STARTTLS\nC: STARTTLS\nS: 220 go\nC: EHLO b.example\nS: 250-a.example\nS: 250 STARTTLS\n",
    "command-order": PLAIN + "C: RCPT TO:<a@b.example>\nS: 503 no\n",
    "unknown-command": PLAIN + "C: FROB\nS: 500 no\n",
    "bad-argument": PLAIN + "C: MAIL FROM:<a@@b>\nS: 501 no\n",
    "space-after-colon": PLAIN + "C: MAIL FROM: <a@b.example>\nS: 250 ok\n",
    "not-offered": PLAIN + "C: MAIL FROM:<a@b.example> SIZE=7\nS: 555 no\n",
    "long-command": PLAIN + f"C: NOOP {'x' * 506}\nS: 500 no\n",
    "command-line-end": "send: b'NOOP\\n'\nreply: b'250 ok\\r\\n'\n",
    "command-characters": PLAIN + "C: NOOP \N{LATIN SMALL LETTER E WITH ACUTE}\nS: 500 no\n",
    "not-base64": HELLO + "C: AUTH LOGIN\nS: 334 VXNlcm5hbWU6\nC: alice@example.org\nS: 501 5.5.2 no\n",
    "early-talker": "C: EHLO b.example\nS: 220 a.example\nS: 250 a.example\n",
    "pipelined-unoffered": PLAIN + "C: MAIL FROM:<a@b.example>\nC: RCPT TO:<c@d.example>\nS: 250 ok\nS: 250 ok\n",
    "pipelined-past": HELLO.replace("S: 250-a.example\n", "C: NOOP\nS: 250-a.example\n") + "S: 250 2.0.0 ok\n",
    "limit-ignored": HELLO + MAIL + "C: RCPT TO:<e@d.example>\nS: 452 4.5.3 no\n",
    "message-to-nobody": HELLO + "C: MAIL FROM:<a@b.example>\nS: 250 2.1.0 ok\nC: RCPT TO:<c@d.example>\nS: 550 5.1.1 no\n" + DATA + DOT,
    "long-text-line": HELLO + MAIL + DATA + f"C: {'x' * 999}\n" + DOT,
    "dot-not-doubled": HELLO + MAIL + DATA + "C: .x\n" + DOT,
    "text-line-end": "send: b'data\\r\\n'\nreply: b'354 go\\r\\n'\nsend: b'a\\nb\\r\\n.\\r\\n'\nreply: b'250 ok\\r\\n'\n",
    "undeclared-8bit": HELLO + MAIL + DATA + "C: caf\N{LATIN SMALL LETTER E WITH ACUTE}\n" + DOT,
    "size-untrue": HELLO + MAIL.replace("b.example>", "b.example> SIZE=3") + DATA + DOT,
    "size-over-limit": HELLO + MAIL.replace("b.example>", "b.example> SIZE=3000") + DATA + DOT,
}  # fmt: skip


def rules_broken(text):
    return {fault.rule.id for fault in lint(text).faults}


@pytest.mark.parametrize("name", RULES)
def test_each_rule_is_noticed_when_it_is_broken(name):
    assert name in rules_broken(BREACHES[name])


@pytest.mark.parametrize(
    "text",
    [
        HELLO + MAIL + DATA + "C: ..dots\n" + DOT,
        PLAIN + MAIL.replace("2.1.0 ", "").replace("2.1.5 ", "") + DATA + DOT.replace(" 2.0.0", ""),
        HELLO
        + "C: MAIL FROM:<>\nC: RCPT TO:<c@d.example>\nC: DATA\nS: 250 2.1.0 ok\nS: 550 5.1.1 no\nS: 554 5.5.1 no\n",
        HELLO + "S: 421 4.4.2 a.example you are silent\n",
        "S: 554 a.example no\nC: QUIT\nS: 221 2.0.0 a.example bye\n",
        "250 ok",
    ],
)
def test_a_session_that_keeps_to_the_rules_has_no_fault(text):
    found = lint(text)
    assert found.sessions == 1
    assert found.faults == ()


def test_a_fault_says_where_it_is():
    fault = lint(PLAIN + "C: NOOP\nS: 250-a\nS: 251 b\n").faults[-1]
    assert (fault.line, fault.rule.clause, fault.detail) == (6, "RFC 5321 4.2.1", "251 behind 250")


def test_other_text_is_no_session():
    assert lint("Dear Ann,\nhow are you?").sessions == 0


PIECE = st.sampled_from([line + "\n" for text in BREACHES.values() for line in text.split("\n")])


@given(st.text(max_size=300) | st.lists(PIECE, max_size=30).map("".join))
@settings(max_examples=400, deadline=None)
def test_any_text_can_be_judged(text):
    found = lint(text)
    assert [fault["line"] for fault in json.loads(json.dumps(found.to_dict()))["faults"]] == sorted(
        fault.line for fault in found.faults
    )
