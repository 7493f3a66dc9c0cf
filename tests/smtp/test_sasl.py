"""The mechanisms as the server runs them."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.mail.catalogue import auth
from pillarbox.mail.reply import Reply
from pillarbox.smtp import sasl
from pillarbox.smtp.events import Login, Proof, SecretWanted
from pillarbox.smtp.exchange import Exchange
from pillarbox.smtp.profile import Channel, Profile
from pillarbox.smtp.scram import derive_keys

KEYS = derive_keys("SCRAM-SHA-256", "pencil", b"salt", 2)


def test_plain():
    assert sasl.Plain().step(None) == b""
    assert sasl.Plain().step(b"\0alice\0secret") == Login("PLAIN", "", "alice", "secret")
    assert sasl.Plain().step("bob\0jörg\0passwört".encode()) == Login("PLAIN", "bob", "jörg", "passwört")


@pytest.mark.parametrize("response", [b"", b"alice", b"\0alice", b"\0a\0b\0c", b"\0\xff\0secret"])
def test_plain_that_cannot_be_read(response):
    assert sasl.Plain().step(response).cause is auth.MALFORMED


def test_login():
    exchange = sasl.LoginExchange()
    assert exchange.step(None) == b"Username:"
    assert exchange.step(b"alice") == b"Password:"
    assert exchange.step(b"secret") == Login("LOGIN", "", "alice", "secret")


def test_login_whose_name_comes_with_the_command():
    exchange = sasl.LoginExchange()
    assert exchange.step(b"") == b"Password:"
    assert exchange.step(b"\xff").cause is auth.MALFORMED


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


ALL = Profile(
    hostname="mx", offers_login=True, mechanisms=tuple(sasl.TRAITS), random=bytes, login_in_clear=True
)
BOUND = Channel(tls=True, certified=True, end_point=b"hash")


@given(st.lists(st.binary(max_size=30), max_size=6), st.sampled_from(sorted(sasl.TRAITS)))
def test_an_exchange_always_ends(responses, name):
    exchange = Exchange(name, ALL, BOUND)
    step = exchange.begin("")
    for response in responses:
        if isinstance(step, SecretWanted):
            step = exchange.take_secret("secret" if name == "CRAM-MD5" else KEYS)
        if not (isinstance(step, Reply) and step.intermediate):
            break
        step = exchange.take_line(base64.b64encode(response))
    assert isinstance(step, Login | Reply | SecretWanted)


def test_cram_md5():  # RFC 2195 2
    exchange = sasl.CramMd5(b"", "x")
    exchange._challenge = b"<1896.697170952@postoffice.reston.mci.net>"
    answer = b"tim b913a602c7eda7a495b4e6e7334d3890"
    assert exchange.step(answer) == SecretWanted("CRAM-MD5", "tim")
    assert exchange.take_secret("tanstaaftanstaaf") == Login("CRAM-MD5", "", "tim", "", Proof.PROVEN)
    assert exchange.take_secret("other").proof is Proof.DISPROVEN
    assert sasl.CramMd5(b"1", "x").step(None) != sasl.CramMd5(b"2", "x").step(None)


@pytest.mark.parametrize("answer", [b"", b"tim", b"\xff b913"])
def test_cram_md5_answers_that_are_none(answer):
    assert sasl.CramMd5(b"", "x").step(answer).cause is auth.MALFORMED


def test_external():
    assert sasl.External().step(None) == b""
    assert sasl.External().step(b"bob") == Login("EXTERNAL", "bob", "", "", Proof.CERTIFICATE)
    assert sasl.External().step(b"\xff").cause is auth.MALFORMED


@pytest.mark.parametrize(
    ("name", "answer", "user"),
    [
        ("OAUTHBEARER", "n,a=bob@x,\x01host=mx\x01port=587\x01auth=Bearer t.o.k\x01\x01", "bob@x"),
        ("OAUTHBEARER", "n,,\x01auth=bearer t.o.k\x01\x01", ""),
        ("OAUTHBEARER", "y,a=b=2Co=3Db,\x01auth=Bearer t.o.k\x01\x01", "b,o=b"),
        ("XOAUTH2", "user=bob@x\x01auth=Bearer t.o.k\x01\x01", "bob@x"),
    ],
)
def test_tokens(name, answer, user):
    assert sasl.Bearer(name).step(answer.encode()) == Login(name, user, user, "t.o.k", Proof.TOKEN)


@pytest.mark.parametrize("name", sasl.BY_TOKEN)
@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\xff",
        b"n,,\x01\x01",
        b"n,,\x01auth=Basic x\x01\x01",
        b"user=x\x01auth=Bearer \x01",
        b"x,,\x01auth=Basic t",
    ],
)
def test_tokens_that_are_none(name, answer):
    assert sasl.Bearer(name).step(answer).cause is auth.MALFORMED


def test_mechanisms_with_a_nonce_need_a_source_of_chance():
    with pytest.raises(ValueError, match="random"):
        Profile(hostname="mx", mechanisms=("SCRAM-SHA-256",))


def test_a_password_is_never_shown():
    assert "secret" not in repr(Login("PLAIN", "", "alice", "secret"))
