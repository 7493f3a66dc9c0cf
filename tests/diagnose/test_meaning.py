"""Explanations: everything that can be asked gets an answer, and an honest one."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.diagnose.meaning import Basis, look_up
from pillarbox.mail.catalogue import CAUSES, registry
from pillarbox.mail.reply import Who


@pytest.mark.parametrize("cause_id", CAUSES)
def test_every_cause_explains_itself(cause_id):
    cause = CAUSES[cause_id]
    found = look_up(cause_id)
    assert found.basis is Basis.CAUSE
    assert found.known
    assert found.causes == (cause,)
    assert (found.meaning, found.who, found.advice) == (cause.meaning, cause.who, cause.advice)
    assert cause in look_up(str(cause.code)).causes
    if cause.status:
        assert cause in look_up(cause.status).causes
    for scenario in cause.scenarios:
        assert cause in look_up(scenario).causes


@pytest.mark.parametrize("code", registry.codes())
def test_every_standard_code_is_known(code):
    found = look_up(str(code))
    assert found.basis is Basis.CODE
    assert found.meaning
    assert found.client
    assert found.advice


@pytest.mark.parametrize("status", registry.statuses())
def test_every_registered_status_is_known(status):
    for first in "245Xx":
        found = look_up(f"{first}.{status}")
        assert found.basis is Basis.STATUS
        assert found.explanation


@pytest.mark.parametrize(
    ("text", "basis", "title"),
    [
        ("550 5.1.1 No such user", Basis.STATUS, "550 5.1.1: bad destination mailbox address"),
        ("550 5.1.1 No such user here", Basis.CAUSE, "envelope.recipient_unknown: 550 5.1.1"),
        ("  550 5.1.1 No such user here \n", Basis.CAUSE, "envelope.recipient_unknown: 550 5.1.1"),
        ("550-5.1.1 one\r\n550 5.1.1 two", Basis.STATUS, "550 5.1.1: bad destination mailbox address"),
        ("<** 550 go away", Basis.CODE, "550: refused"),
        ("S: 421 busy", Basis.CODE, "421: service not available, closing"),
        ("5.2.2 mailbox full", Basis.STATUS, "5.2.2: mailbox full"),
        ("571 5.7.1 Message refused", Basis.STATUS, "571 5.7.1: delivery not authorised, message refused"),
        ("571", Basis.CLASS, "571: permanent negative completion"),
        ("5.7.606", Basis.CLASS, "5.7.606: not registered"),
        (
            "552 5.3.4 Message of 7 octets is over the limit of 5 that mx.example.net announces",
            Basis.CAUSE,
            "delivery.over_peer_size: 552 5.3.4",
        ),
        ("E550-1", Basis.CAUSE, "envelope.recipient_unknown: 550 5.1.1"),
    ],
)
def test_what_is_asked_is_recognised(text, basis, title):
    found = look_up(text)
    assert (found.basis, found.title) == (basis, title)


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("554 4.4.7 Message expired", "Code and status disagree"),
        ("421 5.7.32 aligned", "5.7.32 is not registered"),
        ("250-a\n421 b", "421 counts"),
        ("591 no", "second digit"),
        ("5.1.1", "refused for good"),
        ("envelope.recipient_unknow", "Did you mean envelope.recipient_unknown"),
    ],
)
def test_oddities_are_told(text, note):
    assert note in " ".join(look_up(text).notes)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "12",
        "999",
        "199",
        "999 x",
        "X.9.99",
        "nobody.knows",
        "E999-1",
        "5.1",
        "250 fine\nnot a reply",
        "\u0665\u0665\u0660",
        "\0",
    ],
)
def test_what_is_unknown_is_said_to_be_so(text):
    found = look_up(text)
    assert not found.known
    assert found.notes
    assert not found.causes


def test_a_reply_tells_what_a_sending_host_does():
    assert "later" in look_up("451 4.3.0 broken").client
    assert look_up("535 5.7.8 no").who is Who.SENDER


@given(st.text(max_size=300) | st.from_regex(r"[2-5][0-9]{2}[ -][245]\.[0-9]\.[0-9] .{0,80}"))
def test_anything_gets_an_answer(text):
    found = look_up(text)
    shown = json.loads(json.dumps(found.to_dict()))
    assert shown["known"] is found.known
    assert shown["title"].isascii()
    assert shown["asked"].isprintable()


def test_hostile_text_is_answered_quickly():
    for text in (
        "550 " + "a" * 1_000_000,
        "550-x\n" * 100_000,
        "552 5.3.4 Message of " + " octets is over" * 30,
        "S: " * 100_000,
    ):
        look_up(text)
