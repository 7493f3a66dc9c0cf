"""The client's side of a conversation, without any input or output."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.mail.envelope import Body, Envelope, Notify, Recipient, Ret
from pillarbox.mail.reply import Reply, Stage, parse_reply
from pillarbox.smtp.client import (
    ChunkWriter,
    DataWriter,
    Mode,
    Next,
    Transaction,
    command,
    mail_command,
    rcpt_command,
)
from pillarbox.smtp.grammar import parse_rcpt
from pillarbox.smtp.replies import Extensions, ProtocolError, ReplyReader, parse_extensions
from pillarbox.smtp.wire import DataReader

PLAIN = Extensions()
FULL = Extensions(
    keywords=frozenset({"PIPELINING", "SIZE", "8BITMIME", "SMTPUTF8", "DSN", "CHUNKING", "BINARYMIME"})
)
PIPELINING = Extensions(keywords=frozenset({"PIPELINING"}))


def said(*texts: str) -> list[Reply]:
    return [parse_reply([line.encode() for line in text.split("\n")]) for text in texts]


def envelope(*recipients: str, **parameters) -> Envelope:
    return Envelope("a@b.test", tuple(Recipient(one) for one in recipients or ("x@y.test",)), **parameters)


def settled(transaction: Transaction) -> dict[int, str]:
    return {index: f"{stage.value} {reply}" for index, (stage, reply) in transaction.settled.items()}


# --- commands


def test_mail_carries_what_the_server_offers():
    message = envelope(body=Body.EIGHT_BIT, smtputf8=True, ret=Ret.HEADERS, envid="Q+1=a")
    assert mail_command(message, 99, FULL) == (
        b"MAIL FROM:<a@b.test> SMTPUTF8 BODY=8BITMIME SIZE=99 RET=HDRS ENVID=Q+2B1+3Da\r\n"
    )
    assert mail_command(envelope(body=Body.EIGHT_BIT, ret=Ret.FULL), 99, PLAIN) == b"MAIL FROM:<a@b.test>\r\n"
    assert mail_command(message, 99, FULL, hints=False) == b"MAIL FROM:<a@b.test> SMTPUTF8 BODY=8BITMIME\r\n"
    assert mail_command(Envelope("", ()), 1, PLAIN) == b"MAIL FROM:<>\r\n"


def test_rcpt_carries_what_the_server_offers():
    one = Recipient("x@y.test", Notify.SUCCESS | Notify.DELAY, "rfc822;old+1@y.test")
    assert (
        rcpt_command(one, FULL) == b"RCPT TO:<x@y.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;old+2B1@y.test\r\n"
    )
    assert rcpt_command(one, FULL, hints=False) == b"RCPT TO:<x@y.test>\r\n"
    assert rcpt_command(one, PLAIN) == b"RCPT TO:<x@y.test>\r\n"
    assert rcpt_command(Recipient("x@y.test", Notify.NEVER), FULL).endswith(b" NOTIFY=NEVER\r\n")
    assert rcpt_command(Recipient("jos\xe9@y.test"), PLAIN) == "RCPT TO:<jos\xe9@y.test>\r\n".encode()


@pytest.mark.parametrize("text", ["a\r\nRSET", "a\nb", "a\0b", "a\rb", "a\x7f"])
def test_no_text_can_become_a_second_command(text):
    with pytest.raises(ValueError, match="control"):
        command(f"EHLO {text}")
    with pytest.raises(ValueError, match="control"):
        rcpt_command(Recipient(text), FULL)
    with pytest.raises(ValueError, match="control"):
        mail_command(Envelope(text, ()), 1, FULL)


def test_envid_and_orcpt_hide_control_characters_in_xtext():
    assert b"\r" not in mail_command(envelope(envid="a\r\nb"), 1, FULL).removesuffix(b"\r\n")
    assert rcpt_command(Recipient("x@y.test", orcpt="rfc822;a\r\nb"), FULL).count(b"\r\n") == 1


@pytest.mark.parametrize(
    ("orcpt", "written"),
    [
        ("rfc822;a+b@c.test", "rfc822;a+2Bb@c.test"),
        ("utf-8;jörg@c.test", "utf-8;j\\x{F6}rg@c.test"),
        ("utf-8;a+b@c.test", "utf-8;a\\x{2B}b@c.test"),
    ],
)
def test_the_original_recipient_is_passed_on_in_ascii(orcpt, written):
    recipient = Recipient("x@y.test", orcpt=orcpt)
    command = rcpt_command(recipient, FULL)
    assert command == f"RCPT TO:<x@y.test> ORCPT={written}\r\n".encode()
    assert parse_rcpt(command[5:].decode().rstrip(), frozenset({"DSN"}), smtputf8=False).orcpt == orcpt


# --- what the server offers


def test_extensions_are_read():
    (hello,) = said(
        "250-mx.test hello\n250-pipelining\n250-SIZE 1000\n250-AUTH PLAIN login\n250-LIMITS RCPTMAX=5 MAILMAX=7\n250 DSN"
    )
    offered = parse_extensions(hello)
    assert offered.keywords == {"PIPELINING", "SIZE", "AUTH", "LIMITS", "DSN"}
    assert "DSN" in offered
    assert (offered.max_octets, offered.mechanisms) == (1000, {"PLAIN", "LOGIN"})
    assert (offered.max_recipients, offered.max_messages) == (5, 7)


@pytest.mark.parametrize(
    "line",
    [
        "SIZE",
        "SIZE x",
        "SIZE -5",
        "SIZE +5",
        "SIZE 1_0",
        f"SIZE {'9' * 5000}",
        "SIZE \u0663",
        "LIMITS RCPTMAX=",
    ],
)
def test_numbers_that_are_none_count_as_not_said(line):
    offered = parse_extensions(said(f"250-mx.test\n250 {line}")[0])
    assert (offered.max_octets, offered.max_recipients) == (0, 0)


def test_the_old_spelling_of_auth_is_understood():
    assert parse_extensions(said("250-mx.test\n250 AUTH=LOGIN PLAIN")[0]).mechanisms == {"LOGIN", "PLAIN"}


# --- replies


def read(data: bytes) -> list[str]:
    return [str(reply) for reply in ReplyReader().feed(data)]


@pytest.mark.parametrize(
    ("data", "replies"),
    [
        (b"250 2.1.0 OK\r\n", ["250 2.1.0 OK"]),
        (b"250-a\r\n250-b\r\n250 c\r\n354 go\r\n", ["250 a b c", "354 go"]),
        (b"250\r\n", ["250 "]),
        (b"250 \r\n", ["250 "]),
        (b"250-\r\n250\r\n", ["250  "]),
        (b"250 bare line feed\n", ["250 bare line feed"]),
        (b"250 " + b"x" * 600 + b"\r\n", ["250 " + "x" * 506]),
        (b"garbage\r\n250 ok\r\n", ["250 ok"]),
        (b"250_ok\r\n250 ok\r\n", ["250 ok"]),
        (b"550-5.1.1 a\r\n550 5.1.1 b\r\n", ["550 5.1.1 a b"]),
        (b"250 a", []),
    ],
)
def test_T9_oddities_are_tolerated(data, replies):
    assert read(data) == replies


def test_T8_codes_that_differ_count_as_the_last_but_a_421_wins():
    assert read(b"250-a\r\n550 b\r\n") == ["550 a b"]
    assert read(b"421-a\r\n250 b\r\n") == ["421 a b"]


@pytest.mark.parametrize(
    "data",
    [
        b"x" * 9000,
        b"250 " + b"x" * 9000 + b"\r\n",
        b"250-x\r\n" * 100,
        b"hello\r\nhello\r\n",
        b"25\r\n2 0\r\n",
        b"100 go on\r\n",
        b"650 no\r\n",
        b"\xd9\xa2\xd9\xa5\xd9\xa0 ok\r\nx\r\n",
        b"\r\n\r\n",
    ],
)
def test_T9_a_server_that_makes_no_sense_is_given_up(data):
    with pytest.raises(ProtocolError):
        ReplyReader().feed(data)


def test_what_follows_the_answer_to_starttls_is_dropped():
    reader = ReplyReader()
    assert reader.feed_first(b"220-go\r\n22") == []
    assert [str(reply) for reply in reader.feed_first(b"0 on\r\n250-evil\r\nxx\r\nxx\r\n250-ev")] == [
        "220 go on"
    ]
    assert [str(reply) for reply in reader.feed(b"250 fresh\r\n")] == ["250 fresh"]


def feed_all(pieces: list[bytes]) -> tuple[list[Reply], str]:
    reader, replies = ReplyReader(), []
    try:
        for piece in pieces:
            replies += reader.feed(piece)
    except ProtocolError as error:
        return [], str(error)
    return replies, ""


LINES = st.sampled_from(
    [
        b"250 ok\r\n",
        b"250-a\r\n",
        b"421 bye\r\n",
        b"250\n",
        b"x\r\n",
        b"550 5.1.1 no\r\n",
        b"354 \r\n",
        b"\0\xff\r",
        b"-",
    ]
)


@given(st.lists(LINES | st.binary(max_size=12), max_size=12).map(b"".join), st.data())
def test_any_chunking_reads_the_same_replies(data, choice):
    cuts = sorted(choice.draw(st.lists(st.integers(0, len(data)), max_size=6)))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    whole, error = feed_all([data])
    cut, cut_error = feed_all(pieces)
    assert (cut, cut_error) == (whole, error)


# --- transactions


def test_with_pipelining_all_goes_in_one_group():
    transaction = Transaction(envelope("x@y.test", "z@y.test"), 9, PIPELINING)
    octets, count = transaction.commands()
    assert octets == b"MAIL FROM:<a@b.test>\r\nRCPT TO:<x@y.test>\r\nRCPT TO:<z@y.test>\r\nDATA\r\n"
    assert count == 4
    transaction.take(said("250 ok", "250 ok", "550 5.1.1 no", "354 go"))
    assert (transaction.next, transaction.accepted, transaction.final_replies) == (Next.BODY, 1, 1)
    transaction.take_final(said("250 2.0.0 queued"))
    assert settled(transaction) == {0: "body 250 2.0.0 queued", 1: "rcpt 550 5.1.1 no"}
    assert (transaction.next, transaction.dirty) == (Next.NOTHING, False)


def converse(transaction: Transaction, *replies: str) -> list[bytes]:
    """Without pipelining: one command, one reply."""
    asked = []
    for reply in replies:
        octets, count = transaction.commands()
        assert count == 1
        asked.append(octets.split(b" ")[0].strip())
        transaction.take(said(reply))
    return asked


def test_without_pipelining_commands_go_one_by_one():
    transaction = Transaction(envelope("x@y.test", "z@y.test"), 9, PLAIN)
    assert converse(transaction, "250 ok", "450 no", "251 ok", "354 go") == [
        b"MAIL",
        b"RCPT",
        b"RCPT",
        b"DATA",
    ]
    assert transaction.next is Next.BODY


def test_without_pipelining_nothing_follows_a_refused_mail():
    transaction = Transaction(envelope("x@y.test", "z@y.test"), 9, PLAIN)
    converse(transaction, "550 5.1.8 no")
    assert transaction.next is Next.NOTHING
    assert settled(transaction) == {0: "mail 550 5.1.8 no", 1: "mail 550 5.1.8 no"}


def test_without_pipelining_there_is_no_data_for_nobody():
    transaction = Transaction(envelope("x@y.test", "z@y.test"), 9, PLAIN)
    converse(transaction, "250 ok", "550 5.1.1 a", "450 4.2.0 b")
    assert (transaction.next, transaction.dirty) == (Next.NOTHING, True)
    again = Transaction(envelope(), 9, PIPELINING, Mode.RESET)
    octets, count = again.commands()
    assert octets.startswith(b"RSET\r\nMAIL ")
    again.take(said("250 flushed", "250 ok", "250 ok", "354 go"))
    assert (count, again.next) == (4, Next.BODY)


def test_T5_the_echo_of_a_refused_mail_is_not_reported():
    transaction = Transaction(envelope("x@y.test", "z@y.test"), 9, PIPELINING)
    transaction.commands()
    transaction.take(
        said("550 5.7.1 not you", "503 5.5.1 MAIL first", "503 5.5.1 MAIL first", "503 5.5.1 no")
    )
    assert set(settled(transaction).values()) == {"mail 550 5.7.1 not you"}
    assert transaction.next is Next.NOTHING


def test_T5_the_echo_of_refused_recipients_is_not_reported():
    transaction = Transaction(envelope("x@y.test", "z@y.test"), 9, PIPELINING)
    transaction.commands()
    transaction.take(said("250 ok", "550 5.1.1 a", "450 4.2.0 b", "554 5.5.1 no valid recipients"))
    assert settled(transaction) == {0: "rcpt 550 5.1.1 a", 1: "rcpt 450 4.2.0 b"}
    assert (transaction.next, transaction.dirty) == (Next.NOTHING, True)


def test_T6_data_accepted_for_nobody_is_ended_and_its_reply_ignored():
    transaction = Transaction(envelope("x@y.test"), 9, PIPELINING)
    transaction.commands()
    transaction.take(said("250 ok", "550 5.1.1 a", "354 go"))
    assert transaction.next is Next.LONE_DOT
    transaction.nobody_got_it()
    assert settled(transaction) == {0: "rcpt 550 5.1.1 a"}


def test_T4_a_421_in_the_middle_leaves_all_that_are_not_refused_unsettled_by_anything_else():
    transaction = Transaction(envelope("p@y.test", "q@y.test", "r@y.test", "s@y.test"), 9, PIPELINING)
    transaction.commands()
    transaction.take(said("250 ok", "250 ok", "550 5.1.1 no", "421 4.3.2 bye"))
    assert settled(transaction) == {
        0: "rcpt 421 4.3.2 bye",
        1: "rcpt 550 5.1.1 no",
        2: "rcpt 421 4.3.2 bye",
        3: "rcpt 421 4.3.2 bye",
    }


def test_a_connection_lost_settles_the_rest_at_its_stage():
    transaction = Transaction(envelope("p@y.test", "q@y.test"), 9, PIPELINING)
    transaction.commands()
    transaction.take(said("250 ok", "550 5.1.1 no"))
    transaction.broken_off(said("451 4.4.2 lost")[0])
    assert settled(transaction) == {0: "rcpt 550 5.1.1 no", 1: "rcpt 451 4.4.2 lost"}


@pytest.mark.parametrize(
    "replies",
    [["354 go"], ["250 ok", "354 go"], ["250 ok", "250 ok", "250 ok"], ["334 who", "250 ok", "250 ok"]],
)
def test_replies_of_the_wrong_class_break_the_protocol(replies):
    transaction = Transaction(envelope(), 9, PIPELINING)
    transaction.commands()
    with pytest.raises(ProtocolError):
        transaction.take(said(*replies))
    transaction.broken_off(said("451 4.5.0 nonsense")[0])
    assert len(transaction.settled) == 1


def test_a_3xx_at_the_end_of_the_message_breaks_the_protocol():
    transaction = Transaction(envelope(), 9, PIPELINING)
    transaction.commands()
    transaction.take(said("250 ok", "250 ok", "354 go"))
    with pytest.raises(ProtocolError):
        transaction.take_final(said("354 go on"))


def test_lmtp_settles_each_accepted_recipient_by_its_own_reply():
    transaction = Transaction(envelope("p@y.test", "q@y.test", "r@y.test"), 9, PIPELINING, Mode.LMTP)
    transaction.commands()
    transaction.take(said("250 ok", "250 ok", "550 5.1.1 no", "250 ok", "354 go"))
    assert transaction.final_replies == 2
    transaction.take_final(said("250 2.0.0 stored", "452 4.2.2 full"))
    assert settled(transaction) == {
        0: "body 250 2.0.0 stored",
        1: "rcpt 550 5.1.1 no",
        2: "body 452 4.2.2 full",
    }


def test_lmtp_replies_that_are_missing_leave_their_recipients_open():
    transaction = Transaction(envelope("p@y.test", "q@y.test"), 9, PIPELINING, Mode.LMTP)
    transaction.commands()
    transaction.take(said("250 ok", "250 ok", "250 ok", "354 go"))
    transaction.take_final(said("250 2.0.0 stored"))
    assert settled(transaction) == {0: "body 250 2.0.0 stored"}
    transaction.broken_off(said("451 4.5.0 too few")[0])
    assert settled(transaction)[1] == "body 451 4.5.0 too few"


def test_chunks_need_no_data():
    transaction = Transaction(envelope(body=Body.BINARY), 9, FULL, Mode.CHUNKED)
    octets, count = transaction.commands()
    assert octets == b"MAIL FROM:<a@b.test> BODY=BINARYMIME SIZE=9\r\nRCPT TO:<x@y.test>\r\n"
    transaction.take(said("250 ok", "250 ok"))
    assert (count, transaction.next) == (2, Next.BODY)
    transaction.take_final(said("552 5.3.4 too big"))
    assert transaction.dirty  # RSET before the next one


REPLIES = st.sampled_from(
    ["250 ok", "251 ok", "354 go", "421 bye", "450 4.2.0 x", "452 4.5.3 x", "550 x", "503 x", "254 x"]
)


@given(st.lists(REPLIES, min_size=1, max_size=8), st.integers(1, 4), st.booleans(), st.booleans())
def test_whatever_a_server_says_every_recipient_is_settled_in_the_end(replies, recipients, pipelining, lmtp):
    names = [f"{number}@y.test" for number in range(recipients)]
    offered = PIPELINING if pipelining else PLAIN
    transaction = Transaction(envelope(*names), 9, offered, Mode.LMTP if lmtp else Mode.NOTHING)
    left = said(*replies)
    try:
        while transaction.next is Next.COMMANDS and left:
            _, count = transaction.commands()
            transaction.take(left[:count])
            left = left[count:]
            if len(left) == 0:
                break
        if transaction.next is Next.BODY:
            transaction.take_final(left[: transaction.final_replies])
    except ProtocolError:
        pass
    transaction.broken_off(said("451 4.4.2 lost")[0])
    assert set(transaction.settled) == set(range(recipients))
    for stage, reply in transaction.settled.values():
        assert not reply.intermediate
        assert not reply.positive or stage is Stage.BODY  # success is said at the end of the message alone


# --- the message on the wire


def encode(pieces: list[bytes]) -> bytes:
    writer = DataWriter()
    return b"".join([*map(writer.encode, pieces), writer.finish()])


@pytest.mark.parametrize(
    ("pieces", "wire"),
    [
        ([b""], b".\r\n"),
        ([b"a\r\n"], b"a\r\n.\r\n"),
        ([b"a"], b"a\r\n.\r\n"),
        ([b".\r\n"], b"..\r\n.\r\n"),
        ([b".a\r\n..b\r\nc.\r\n"], b"..a\r\n...b\r\nc.\r\n.\r\n"),
        ([b"a\r", b"\n", b".", b"\r\n"], b"a\r\n..\r\n.\r\n"),
        ([b"a\n.\nb\r.\rc"], b"a\r\n..\r\nb . c\r\n.\r\n"),
        ([b"a\r", b".\r\n"], b"a .\r\n.\r\n"),
        ([b"a\r"], b"a\r\n.\r\n"),
        ([b"a\r\r\n.\r\n"], b"a \r\n..\r\n.\r\n"),
        ([b"a\r\n\0.\r\n"], b"a\r\n .\r\n.\r\n"),
        ([b"a\r\n.\0\r\n"], b"a\r\n.. \r\n.\r\n"),
    ],
)
def test_dots_are_doubled_and_lines_end_in_crlf_alone(pieces, wire):
    assert encode(pieces) == wire


@given(
    st.lists(
        st.lists(st.sampled_from([b"\r", b"\n", b".", b"a", b"\r\n", b"\0"]), max_size=8).map(b"".join),
        max_size=6,
    )
)
def test_no_body_can_end_itself_or_smuggle_a_line_end(pieces):
    wire = encode(pieces)
    assert wire.endswith(b".\r\n")
    assert wire.count(b"\r") == wire.count(b"\n") == wire.count(b"\r\n")
    assert b"\0" not in wire
    assert (b"\r\n" + wire).find(b"\r\n.\r\n") == len(wire) - 3
    assert wire == encode([b"".join(pieces)])
    reader = DataReader()
    text = reader.feed(wire)
    assert reader.rest == b""
    whole = b"".join(pieces)
    ends = whole.count(b"\r\n")
    if whole.count(b"\r") == whole.count(b"\n") == ends and b"\0" not in whole and whole.endswith(b"\r\n"):
        assert text == whole


def test_a_chunk_is_the_message_as_it_is():
    writer = ChunkWriter(6)
    assert writer.encode(b".\r") + writer.encode(b"\n\n\0a") + writer.finish() == b"BDAT 6 LAST\r\n.\r\n\n\0a"
    assert ChunkWriter(0).finish() == b"BDAT 0 LAST\r\n"
