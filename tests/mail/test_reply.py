"""Replies: built, refused, written and read; peers' octets in any shape."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.mail.catalogue import content, delivery, envelope, session
from pillarbox.mail.reply import Cause, Origin, Reply, Result, Stage, parse_reply, printable


def cause(code=250, status="2.0.0", text="OK"):
    return Cause("test.cause", code, status, text, (Stage.ANY,), "RFC 5321 4.2", "A test.")


@pytest.mark.parametrize(
    ("code", "status"), [(250, "5.0.0"), (550, "4.1.1"), (354, "3.0.0"), (354, "2.0.0"), (199, ""), (600, "")]
)
def test_wrong_class_can_not_be_built(code, status):
    with pytest.raises(ValueError):
        Reply(code, status, ("x",), envelope.SENDER_OK)


@pytest.mark.parametrize(
    "lines", [(), ("a\r\nb",), ("a\nb",), ("a\rb",), ("nul\0",), ("x" * 600,), ("é" * 300,)]
)
def test_lines_that_could_be_split_can_not_be_built(lines):
    with pytest.raises(ValueError):
        Reply(250, "2.0.0", lines, envelope.SENDER_OK)


def test_wire_forms():
    assert cause().reply().wire == b"250 2.0.0 OK\r\n"
    assert cause(text="one\ntwo").reply().wire == b"250-2.0.0 one\r\n250 2.0.0 two\r\n"
    assert cause(text="one\ntwo").reply().bare_wire == b"250-one\r\n250 two\r\n"
    assert cause(354, "", "go").reply().bare_wire == b"354 go\r\n"
    assert str(cause().reply()) == "250 2.0.0 OK"
    assert str(Reply(250, "", ("a", "b"))) == "250 a b"


def test_fields_are_filled_and_escaped():
    reply = content.TOO_BIG.reply(limit=10)
    assert reply.text == "Message is over the limit of 10 octets"
    reply = session.NEED_HELLO.reply(verb="E\r\nHLO")
    assert reply.text == r"Say E\r\nHLO first"
    assert reply.cause_id == "session.need_hello"
    assert Reply(250, "", ("x",)).cause_id == "peer"


def test_classes():
    kinds = {250: "positive", 354: "intermediate", 421: "temporary", 550: "permanent", 599: "permanent"}
    for code, name in kinds.items():
        reply = Reply(code, "", ("x",))
        for other in ("positive", "intermediate", "temporary", "permanent"):
            assert getattr(reply, other) is (other == name)


@pytest.mark.parametrize(
    ("wire", "code", "status", "lines"),
    [
        ([b"250 2.1.0 OK"], 250, "2.1.0", ("OK",)),
        ([b"250"], 250, "", ("",)),
        ([b"250 "], 250, "", ("",)),
        ([b"550-5.1.1 a", b"550 5.1.1 b"], 550, "5.1.1", ("a", "b")),
        ([b"550-5.1.1 a", b"550 b"], 550, "5.1.1", ("a", "b")),
        ([b"250-a", b"421 b"], 421, "", ("a", "b")),
        ([b"421-a", b"250 b"], 421, "", ("a", "b")),
        ([b"554 4.4.7 expired"], 554, "4.4.7", ("expired",)),
        ([b"550 5.1.1"], 550, "5.1.1", ("",)),
        ([b"550 5.1.1000 x"], 550, "", ("5.1.1000 x",)),
        ([b"550 5.1.1x"], 550, "", ("5.1.1x",)),
        ([b"250_odd"], 250, "", ("odd",)),
        ([b"591 5.7.1 second digit"], 591, "5.7.1", ("second digit",)),
        ([b"550-5.1.10 a", b"550 5.1.1 b"], 550, "5.1.10", ("a", "5.1.1 b")),
        ([b"550-5.1.1 a", b"550 5.1.10 b"], 550, "5.1.1", ("a", "5.1.10 b")),
    ],
)
def test_peers_replies_are_read_as_they_come(wire, code, status, lines):
    reply = parse_reply(wire)
    assert (reply.code, reply.status, reply.lines) == (code, status, lines)
    assert reply.cause is None


@pytest.mark.parametrize(
    "line", [b"", b"25", b"abc hello", b"2\xb250 x", b"+55 x", b"\xd9\xa1\xd9\xa2\xd9\xa3"]
)
def test_what_is_no_reply(line):
    with pytest.raises(ValueError, match="not a reply"):
        parse_reply([line])
    with pytest.raises(ValueError, match="not a reply"):
        parse_reply([b"250-fine", line])


@given(st.lists(st.binary(max_size=80), max_size=6))
def test_any_octets_give_a_reply_or_a_value_error(lines):
    try:
        reply = parse_reply(lines)
    except ValueError:
        return
    assert 0 <= reply.code <= 999
    assert len(reply.lines) == len(lines)
    assert isinstance(str(reply), str)
    assert isinstance(reply.wire, bytes)
    assert printable(str(reply)).isascii()


def test_no_lines_are_no_reply():
    with pytest.raises(ValueError):
        parse_reply([])


@given(
    st.integers(200, 599),
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=50), min_size=1, max_size=5
    ),
)
def test_written_replies_read_back(code, texts):
    lines = tuple(texts)
    reply = parse_reply(Reply(code, "", lines).wire.removesuffix(b"\r\n").split(b"\r\n"))
    assert reply.code == code
    if not reply.status:
        assert reply.lines == lines


@given(
    st.integers(200, 599).filter(lambda code: code // 100 != 3),
    st.integers(0, 999),
    st.integers(0, 999),
    st.lists(st.from_regex(r"[a-z][!-~ ]{0,40}", fullmatch=True), min_size=1, max_size=5),
)
def test_statuses_read_back(code, subject, detail, texts):
    status = f"{code // 100}.{subject}.{detail}"
    built = Reply(code, status, tuple(texts))
    assert parse_reply(built.wire.removesuffix(b"\r\n").split(b"\r\n")) == built


@given(st.text(max_size=400) | st.binary(max_size=400), st.integers(10, 300))
def test_printable_is_short_and_clean(text, limit):
    shown = printable(text, limit)
    assert len(shown) <= limit
    assert all(" " <= letter <= "~" for letter in shown)


def test_printable_keeps_what_is_clean():
    assert printable("plain text") == "plain text"
    assert printable("a\r\nb\0é\u2028") == r"a\r\nb\x00\xe9\u2028"
    assert printable(b"\xff\xfe") == r"\xff\xfe"
    assert printable("x" * 300) == "x" * 197 + "..."


def test_results_know_when_they_are_in_doubt():
    lost = delivery.IN_DOUBT.reply(host="h")
    assert Result(lost, Stage.BODY, Origin.LOCAL, "h").in_doubt
    assert not Result(Reply(451, "4.4.2", ("x",)), Stage.BODY, Origin.PEER, "h").in_doubt


def test_what_a_debugger_shows_is_short_and_fits_a_terminal():
    assert repr(envelope.SENDER_OK) == "<Cause envelope.sender_ok 250>"
    assert repr(parse_reply([b"550 5.1.1 \x1b[31mno"])) == "<Reply 550 5.1.1 \\x1b[31mno>"
    assert repr(cause(text="Taken").reply()) == "<Reply 250 2.0.0 Taken (test.cause)>"
    assert len(repr(Reply(250, "", ("x" * 9000,)))) < 250
