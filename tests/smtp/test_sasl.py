"""PLAIN and LOGIN as the server runs them."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.mail.catalogue import auth
from pillarbox.mail.reply import Reply
from pillarbox.smtp import sasl
from pillarbox.smtp.events import Login


def test_plain():
    assert sasl.Plain().step(None) == b""
    assert sasl.Plain().step(b"\0alice\0secret") == Login("PLAIN", "", "alice", "secret")
    assert sasl.Plain().step("bob\0jörg\0passwört".encode()) == Login("PLAIN", "bob", "jörg", "passwört")


@pytest.mark.parametrize("response", [b"", b"alice", b"\0alice", b"\0a\0b\0c", b"\0\xff\0secret"])
def test_plain_that_is_malformed_fails_like_a_wrong_password(response):
    assert sasl.Plain().step(response).cause is auth.BAD_CREDENTIALS


def test_login():
    exchange = sasl.LoginExchange()
    assert exchange.step(None) == b"Username:"
    assert exchange.step(b"alice") == b"Password:"
    assert exchange.step(b"secret") == Login("LOGIN", "", "alice", "secret")


def test_login_whose_name_comes_with_the_command():
    exchange = sasl.LoginExchange()
    assert exchange.step(b"") == b"Password:"
    assert exchange.step(b"\xff").cause is auth.BAD_CREDENTIALS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"=", b""),
        (b"", b""),
        (b"AGEAYg==", b"\0a\0b"),
        (b"*", auth.CANCELLED),
        (b"A", auth.BASE64),
        (b"AG EA", auth.BASE64),
    ]
    + [
        (text, auth.BASE64)
        for text in (b"AGEAYg", b"AGEAYg===", b"=AGEAYg=", b"AGEA\xff", b"QQ==QQ==", b"-_-_", b"==")
    ]
    + [(b"A" * 12_292, auth.ANSWER_TOO_LONG)],
)
def test_responses(text, expected):
    found = sasl.decode_response(text)
    assert (found.cause if isinstance(found, Reply) else found) == expected


@given(st.binary(max_size=100))
def test_a_challenge_reads_as_it_was_written(octets):
    assert base64.b64decode(sasl.encode_challenge(octets)) == octets
    assert sasl.decode_response(sasl.encode_challenge(octets).encode() or b"=") == octets


@given(st.lists(st.binary(max_size=30), max_size=4), st.sampled_from(sorted(sasl.MECHANISMS)))
def test_an_exchange_always_ends(responses, name):
    mechanism = sasl.MECHANISMS[name]()
    step = mechanism.step(None)
    for response in responses:
        assert isinstance(step, bytes)
        step = mechanism.step(response)
        if not isinstance(step, bytes):
            break
    assert isinstance(step, bytes | Login | Reply)


def test_a_password_is_never_shown():
    assert "secret" not in repr(Login("PLAIN", "", "alice", "secret"))
