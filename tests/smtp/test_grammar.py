"""Arguments and parameters: what is read, what is refused, and what is written reads the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.mail.address import Address
from pillarbox.mail.catalogue import envelope
from pillarbox.mail.envelope import Body, Notify, Ret
from pillarbox.mail.reply import Reply
from pillarbox.smtp import grammar
from pillarbox.smtp.client import xtext_encode
from pillarbox.smtp.events import MailFrom, RcptTo

ALL = frozenset({"SIZE", "8BITMIME", "BINARYMIME", "SMTPUTF8", "DSN", "AUTH", "CHUNKING"})


def mail(argument, offered=ALL):
    return grammar.parse_mail(argument, offered)


def rcpt(argument, *, smtputf8=False, offered=ALL):
    return grammar.parse_rcpt(argument, offered, smtputf8=smtputf8)


@pytest.mark.parametrize(
    ("argument", "address"),
    [
        ("FROM:<a@b.example>", Address("a", "b.example")),
        ("from:<a@B.Example>", Address("a", "b.example")),
        ("FROM: \t<a@b.example>  ", Address("a", "b.example")),
        ("FROM:<>", None),
        ('FROM:<"a b>c"@b.example>', Address("a b>c", "b.example")),
        (r'FROM:<"a\"b"@b.example>', Address('a"b', "b.example")),
        ("FROM:<@x.example,@y.example:a@b.example>", Address("a", "b.example")),
        ("FROM:<a@[192.0.2.1]>", Address("a", "[192.0.2.1]")),
        ("FROM:<a@[IPv6:2001:DB8::0:1]>", Address("a", "[IPv6:2001:db8::1]")),
        ("FROM:<a@localhost>", Address("a", "localhost")),
    ],
)
def test_reverse_paths(argument, address):
    found = mail(argument)
    assert isinstance(found, MailFrom)
    assert found.sender == address


@pytest.mark.parametrize(
    "argument",
    [
        "",
        "FROM",
        "FROM:",
        "FROM <a@b.example>",
        "TO:<a@b.example>",
        "FROM:a@b.example",
        "FROM:<a@b.example",
        "FROM:<<a@b.example>>",
        "FROM:<a@b.example>>",
        "FROM:<a@b.example>SIZE=1",
        "FROM:<a@b@c.example>",
        "FROM:<a\x85b@b.example>",
        "FROM:<a\u2028b@b.example> SMTPUTF8",
        "FROM:\x0b<a@b.example>",
        "FROM:\u00a0<a@b.example>",
        "FROM:<postmaster>",
        'FROM:<"a@b.example>',
        "FROM:<" + "a" * 65 + "@b.example>",
        "FROM:<a@" + "b" * 64 + ".example>",
        "FROM:<a@b.example.>",
        "FROM:<a@[1.2.3]>",
    ],
)
def test_reverse_paths_that_cannot_be_read(argument):
    assert mail(argument).cause is envelope.SENDER_SYNTAX


def test_all_parameters_of_mail():
    found = mail("FROM:<a@b.example> size=12345 BODY=8bitmime\tSMTPUTF8 RET=hdrs ENVID=QQ+2B+3D1  AUTH=<>")
    assert found.parameters.size == 12345
    assert found.parameters.body is Body.EIGHT_BIT
    assert found.parameters.smtputf8 is True
    assert found.parameters.ret is Ret.HEADERS
    assert found.parameters.envid == "QQ+=1"


def test_all_parameters_of_rcpt():
    found = rcpt("TO:<a@b.example> NOTIFY=success,DELAY ORCPT=rfc822;X+2BY@b.example")
    assert found == RcptTo(Address("a", "b.example"), Notify.SUCCESS | Notify.DELAY, "rfc822;X+Y@b.example")
    assert rcpt("TO:<a@b.example> NOTIFY=NEVER").notify is Notify.NEVER
    assert rcpt("TO:<postmaster>").recipient == Address("postmaster", "")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("utf-8;j\\x{F6}rg@b.example", "utf-8;jörg@b.example"),
        ("UTF-8;jörg@b.example", "UTF-8;jörg@b.example"),
        ("rfc822;j+C3+B6rg@b.example", "utf-8;jörg@b.example"),  # as Postfix writes it
    ],
)
def test_an_original_recipient_in_utf_8(value, expected):
    assert rcpt(f"TO:<a@b.example> ORCPT={value}", smtputf8=True).orcpt == expected
    if value.isascii():
        assert rcpt(f"TO:<a@b.example> ORCPT={value}", smtputf8=False).orcpt == expected


@pytest.mark.parametrize(
    "value",
    [
        "utf-8;a\u2028Bcc:x",
        "utf-8;a\x85Bcc:x",
        "utf-8;a\\x{D}\\x{A}Bcc:x",
        "utf-8;a\\x{0D}Bcc:x",
        "utf-8;a\\x{2028}Bcc:x",
        "utf-8;a\\x{D800}",
        "utf-8;a\\x{110000}",
        "rfc822;a+0D+0ABcc:x",
        "rfc822;a+0dx",
        "rfc822;a+FFb",
        "rfc822;a+E2+80+A8b",
        "rfc822;a+C2+85b",
        "x400;a+C3+B6",
        "rfc822",
        ";a@b.example",
        "r²;a@b.example",
        "rfc822;" + "a" * 500,
    ],
)
def test_an_original_recipient_may_not_hide_anything(value):
    found = rcpt(f"TO:<a@b.example> ORCPT={value}", smtputf8=True)
    if value == "utf-8;a\\x{D}\\x{A}Bcc:x":  # one digit is no escape: it stays as it is, and hides nothing
        assert found.orcpt == value
    else:
        assert found.cause is envelope.PARAMETER_VALUE


@pytest.mark.parametrize(
    "size", ["", "abc", "+5", "-5", "1_0", "5.0", "٥", "²", " 5", "1" * 21, "0x10", "1" * 5000]
)
def test_sizes_that_are_no_numbers(size):
    assert mail(f"FROM:<> SIZE={size}").cause is envelope.PARAMETER_VALUE


@pytest.mark.parametrize("name", ["SIZE", "BODY", "RET", "ENVID", "AUTH"])
def test_parameters_that_need_a_value(name):
    assert mail(f"FROM:<> {name}").cause is envelope.PARAMETER_VALUE


@pytest.mark.parametrize(
    ("parameter", "extension"),
    [
        ("SIZE=1", "SIZE"),
        ("BODY=7BIT", "8BITMIME"),
        ("BODY=BINARYMIME", "BINARYMIME"),
        ("SMTPUTF8", "SMTPUTF8"),
        ("RET=FULL", "DSN"),
        ("ENVID=x", "DSN"),
        ("AUTH=<>", "AUTH"),
    ],
)
def test_a_parameter_that_is_not_offered_is_unknown(parameter, extension):
    assert isinstance(mail(f"FROM:<> {parameter}"), MailFrom)
    assert mail(f"FROM:<> {parameter}", ALL - {extension}).cause is envelope.PARAMETER_UNKNOWN


def test_addresses_beyond_ascii_need_the_parameter():
    assert mail("FROM:<jörg@b.example>").cause is envelope.NEEDS_SMTPUTF8
    assert isinstance(mail("FROM:<jörg@b.example> SMTPUTF8"), MailFrom)
    assert rcpt("TO:<a@bücher.example>").cause is envelope.NEEDS_SMTPUTF8
    assert isinstance(rcpt("TO:<a@bücher.example>", smtputf8=True), RcptTo)


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("0", (0, False)),
        ("12 LAST", (12, True)),
        ("12  last", (12, True)),
        ("00012", (12, False)),
        ("9" * 20, (10**20 - 1, False)),
        ("9" * 21, None),
        ("", None),
        ("LAST", None),
        ("-1", None),
        ("+1", None),
        ("1_0", None),
        ("٣", None),
        ("3 FIRST", None),
        ("3 LAST x", None),
        ("3\x0bLAST", None),
        ("3\u2003LAST", None),
    ],
)
def test_bdat(argument, expected):
    assert grammar.parse_bdat(argument) == expected


@pytest.mark.parametrize(
    "name",
    ["client.example", "localhost", "under_score", "[192.0.2.1]", "[IPv6:::1]", "[::1]", "::1", "-x.y"],
)
def test_names_of_clients(name):
    assert grammar.parse_hello(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "two names",
        "a\x0b",
        "a(b)",
        "<a>",
        "a" * 256,
        "a\u2028b",
        "ü" * 300,
        "a/b",
        "é.x",
        "[foo]",
        "[999.1.1.1]",
        "[192.0.2.1",
        "a[b]",
    ],
)
def test_names_that_are_none(name):
    assert grammar.parse_hello(name) is None


def test_whom_vrfy_asks_about():
    assert grammar.parse_verify("alice") == Address("alice", "[127.0.0.1]")
    assert grammar.parse_verify("<alice@b.example> SMTPUTF8") == Address("alice", "b.example")
    assert grammar.parse_verify("a b") is None
    assert grammar.parse_verify("") is None


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40))
def test_xtext_reads_as_it_was_written(text):
    written = xtext_encode(text)
    assert written.isascii()
    assert "=" not in written
    assert " " not in written
    assert grammar.xtext_decode(written) == text


@given(st.text(max_size=80) | st.text('<>@":.,=+;[]\\ \tabSIZE10', max_size=40))
def test_any_argument_gets_an_answer(text):
    for argument in (text, f"FROM:{text}", f"TO:{text}", f"FROM:<> {text}", f"TO:<a@b.example> {text}"):
        assert isinstance(mail(argument), MailFrom | Reply)
        assert isinstance(rcpt(argument, smtputf8=True), RcptTo | Reply)
    grammar.parse_bdat(text)
    grammar.parse_hello(text)
    grammar.parse_verify(text)
    with_reply = mail(f"FROM:<> {text}")
    if isinstance(with_reply, Reply):
        assert with_reply.wire.count(b"\r\n") == 1
        assert with_reply.wire.isascii()


@given(
    st.from_regex(r"[a-z0-9!#$%&'*+/=?^_`{|}~-]{1,9}(\.[a-z]{1,5})?", fullmatch=True)
    | st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=20),
    st.from_regex(r"[a-z]{1,9}(-[a-z]{1,3})?(\.[a-z]{2,5}){0,2}", fullmatch=True),
)
def test_an_address_reads_as_it_was_written(local, domain):
    address = Address(local, domain)
    assert mail(f"FROM:<{address}>").sender == address
