"""The messages of LDAP: filters are put into octets, and what a server sends is read or refused, never more."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.net.ldap_message import (
    Entry,
    bind_request,
    parse_filter,
    read_answer,
    read_entry,
    read_result,
)

NAMES = ("address", "user")


def encoded(text, **values):
    return parse_filter(text, NAMES).encode({"address": "", "user": ""} | values)


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        ("(mail=a)", b"\xa3\x09\x04\x04mail\x04\x01a"),
        ("(mail=)", b"\xa3\x08\x04\x04mail\x04\x00"),
        ("(mail=*)", b"\x87\x04mail"),
        ("(a>=1)", b"\xa5\x06\x04\x01a\x04\x011"),
        ("(a<=1)", b"\xa6\x06\x04\x01a\x04\x011"),
        ("(a~=1)", b"\xa8\x06\x04\x01a\x04\x011"),
        ("(a=x*y*z)", b"\xa4\x0e\x04\x01a0\x09\x80\x01x\x81\x01y\x82\x01z"),
        ("(a=*y*)", b"\xa4\x08\x04\x01a0\x03\x81\x01y"),
        ("(a=\\2a)", b"\xa3\x06\x04\x01a\x04\x01*"),
        ("(&(a=1)(b=2))", b"\xa0\x10\xa3\x06\x04\x01a\x04\x011\xa3\x06\x04\x01b\x04\x012"),
        ("(|(!(a=1)))", b"\xa1\x0a\xa2\x08\xa3\x06\x04\x01a\x04\x011"),
        ("(a:1.2:=x)", b"\xa9\x0b\x81\x031.2\x82\x01a\x83\x01x"),
        ("(a:dn:=x)", b"\xa9\x09\x82\x01a\x83\x01x\x84\x01\xff"),
        (" (a={user}) ", b"\xa3\x05\x04\x01a\x04\x00"),
    ],
)
def test_filters(text, octets):
    assert encoded(text) == octets


@pytest.mark.parametrize(
    "text",
    ["", "mail=a", "(mail=a", "(mail)", "(mail=a))", "(&)", "(!(a=1)(b=2))", "(=a)", "(a={who})", "(a={)", "(a=\\zz)",
     "(" * 50 + "a=1", "(a=(b))", "(&(a=1)x)"],
)  # fmt: skip
def test_what_is_no_filter(text):
    with pytest.raises(ValueError):
        parse_filter(text, NAMES)


@given(st.text())
def test_no_value_changes_what_is_asked(value):
    value = value.encode(errors="ignore").decode()
    octets = value.encode()
    found = encoded("(mail={address})", address=value)
    assert found.endswith(octets)
    assert (
        len(found) - len(octets) <= len(encoded("(mail={address})")) + 8
    )  # longer lengths, and nothing else
    assert encoded("(mail=x*{address})", address="*")[-3:] == b"\x82\x01*"


def test_what_a_server_says():
    answer = read_answer(b"\x02\x01\x07\x61\x0a\x0a\x01\x31\x04\x00\x04\x03bad")
    assert (answer.number, answer.kind, read_result(answer.body)) == (7, 0x61, (49, "bad"))
    mail = b"\x30\x0b\x04\x04Mail\x31\x03\x04\x01a"
    assert read_entry(b"\x04\x01d\x30" + bytes([len(mail)]) + mail) == Entry("d", {"mail": ("a",)})
    assert len(bind_request(1, "d", "x" * 300)) > 300


@given(st.binary(max_size=60))
def test_nonsense_is_refused(octets):
    for read in read_answer, read_result, read_entry:
        with contextlib.suppress(ValueError):
            read(octets)
