"""SCRAM against the examples of the RFCs, against itself, and against clients and servers that cheat."""

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.mail.catalogue import auth
from pillarbox.smtp.events import Login, Proof, SecretWanted
from pillarbox.smtp.scram import (
    END_POINT,
    MAX_ITERATIONS,
    ScramClient,
    ScramError,
    ScramKeys,
    ScramServer,
    derive_keys,
    format_keys,
    parse_keys,
    saslprep,
)

SHA256 = derive_keys("SCRAM-SHA-256", "pencil", b"salt", 8)
EXAMPLES = {  # RFC 5802 5, RFC 7677 3
    "SCRAM-SHA-1": (
        ("fyko+d2lbbFgONRv9qkxdawL", "3rfcNHYJY1ZVvWVs7j", "QSXCR+Q6sek8bf92"),
        "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
        "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
    ),
    "SCRAM-SHA-256": (
        ("rOprNGfwEbeRWgbNEkqO", "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0", "W22ZaJ0SNY7soEsUEjb6gQ=="),
        "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
    ),
}


def talk(client, server, keys):
    """Let both ends speak; what the server makes of it in the end."""
    step = server.step(client.initial)
    if not isinstance(step, SecretWanted):
        return step
    step = server.take_secret(keys)
    while isinstance(step, bytes):
        step = server.step(client.step(step))
    return step


@pytest.mark.parametrize("mechanism", EXAMPLES)
def test_examples_of_the_standards(mechanism):
    (client_nonce, server_nonce, salt), final, verifier = EXAMPLES[mechanism]
    client = ScramClient(mechanism, "user", "pencil", base64.b64decode(client_nonce))
    server = ScramServer(mechanism, b"")
    server._nonce = server_nonce
    assert client.initial.decode() == f"n,,n=user,r={client_nonce}"
    assert server.step(client.initial) == SecretWanted(mechanism, "user")
    challenge = server.take_secret(derive_keys(mechanism, "pencil", base64.b64decode(salt), 4096))
    assert challenge.decode() == f"r={client_nonce}{server_nonce},s={salt},i=4096"
    assert client.step(challenge).decode() == final
    assert server.step(final.encode()).decode() == verifier
    assert client.step(verifier.encode()) == b""
    assert client.proven
    assert server.step(b"") == Login(mechanism, "", "user", "", Proof.PROVEN)


@given(
    user=st.text(min_size=1, max_size=20),
    password=st.text(max_size=20),
    nonces=st.binary(min_size=2, max_size=40),
)
@settings(max_examples=200, deadline=None)
def test_who_knows_the_password_is_let_in(user, password, nonces):
    try:
        name = saslprep(user)
        keys = derive_keys("SCRAM-SHA-256", password, b"salt", 2)
    except ScramError:
        return
    if not name:
        return
    client = ScramClient("SCRAM-SHA-256", user, password, nonces[:1])
    found = talk(client, ScramServer("SCRAM-SHA-256", nonces[1:]), keys)
    assert found == Login("SCRAM-SHA-256", "", name, "", Proof.PROVEN)
    assert client.proven
    other = "x" if saslprep(password) != "x" else "y"
    wrong = ScramClient("SCRAM-SHA-256", user, other, nonces[:1])
    assert talk(wrong, ScramServer("SCRAM-SHA-256", nonces[1:]), keys).proof is Proof.DISPROVEN


def plus(client_sees=b"certificate", server_has=b"certificate"):
    client = ScramClient("SCRAM-SHA-256-PLUS", "user", "pencil", b"c", client_sees)
    return talk(client, ScramServer("SCRAM-SHA-256-PLUS", b"s", server_has), SHA256)


def test_a_login_bound_to_the_certificate_fails_behind_another_one():
    assert plus().proof is Proof.PROVEN
    assert plus(client_sees=b"that of somebody in between").proof is Proof.DISPROVEN


@pytest.mark.parametrize(
    ("mechanism", "header", "offers_plus", "taken"),
    [
        ("SCRAM-SHA-256", "n,,", True, True),
        ("SCRAM-SHA-256", "y,,", False, True),
        ("SCRAM-SHA-256", "y,,", True, False),  # somebody took -PLUS out of our offer
        ("SCRAM-SHA-256", f"p={END_POINT},,", True, False),
        ("SCRAM-SHA-256-PLUS", f"p={END_POINT},,", True, True),
        ("SCRAM-SHA-256-PLUS", "p=tls-unique,,", True, False),
        ("SCRAM-SHA-256-PLUS", "n,,", True, False),
        ("SCRAM-SHA-256", "n,a=bob,", False, True),
    ],
)
def test_channel_binding_flags(mechanism, header, offers_plus, taken):
    server = ScramServer(mechanism, b"s", b"certificate", offers_plus=offers_plus)
    step = server.step(f"{header}n=user,r=nonce".encode())
    assert isinstance(step, SecretWanted) if taken else step.cause is auth.BAD_CREDENTIALS


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"n",
        b"n,,",
        b"n,,r=x",
        b"n,,n=user",
        b"n,,n=,r=x",
        b"n,,n=a=b,r=x",
        b"n,bob,n=user,r=x",
        b"n,,m=1,n=user,r=x",
        b"\xff,,n=user,r=x",
        b"n,,n=user,r=" + b"x" * 129,
        b"n,,n=user,r=x," + b"x" * 5000,
        b"n,,n=user,rr",
    ],
)
def test_first_messages_that_are_none(first):
    assert ScramServer("SCRAM-SHA-256", b"s").step(first).cause is auth.MALFORMED


def test_an_extension_that_would_have_to_be_understood():
    assert ScramServer("SCRAM-SHA-256", b"s").step(b"n,,n=user,m=1,r=x").cause is auth.BAD_CREDENTIALS


@given(final=st.binary(max_size=80) | st.text("cr=,pbiwsXY0", max_size=60).map(str.encode))
def test_final_messages_that_prove_nothing(final):
    server = ScramServer("SCRAM-SHA-256", b"s")
    server.step(b"n,,n=user,r=nonce")
    server.take_secret(SHA256)
    step = server.step(final)
    if isinstance(step, Login):
        assert step.proof is Proof.DISPROVEN
    else:
        assert step.cause in {auth.MALFORMED, auth.BAD_CREDENTIALS}


@pytest.mark.parametrize(
    "challenge",
    [
        "",
        "r=other,s=c2FsdA==,i=8",
        "r=Yw==,s=c2FsdA==,i=8",
        "r=Yw==x,s=c2FsdA==,i=0",
        "r=Yw==x,s=!,i=8",
        f"r=Yw==x,s=c2FsdA==,i={MAX_ITERATIONS + 1}",
        "r=Yw==x,s=c2FsdA==,i=many",
        "m=1,r=Yw==x,s=c2FsdA==,i=8",
    ],
)
def test_a_client_refuses_challenges_that_are_none(challenge):
    with pytest.raises(ValueError):
        ScramClient("SCRAM-SHA-256", "user", "pencil", b"c").step(challenge.encode())


def test_a_server_that_does_not_know_the_password_is_found_out():
    client = ScramClient("SCRAM-SHA-256", "user", "pencil", b"c")
    client.step(b"r=Yw==server,s=c2FsdA==,i=8")
    with pytest.raises(ScramError):
        client.step(b"v=" + base64.b64encode(bytes(32)))
    assert not client.proven


def test_keys_are_written_and_read():
    text = format_keys("SCRAM-SHA-256", SHA256)
    assert text.startswith("SCRAM-SHA-256$8:c2FsdA==$")
    assert parse_keys(text) == ("SCRAM-SHA-256", SHA256)
    assert "stored" not in repr(SHA256)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pencil",
        "SCRAM-MD5$8:c2FsdA==$eA==:eA==",
        "SCRAM-SHA-256$8:c2FsdA==$eA==:eA==",
        "SCRAM-SHA-256$x:c2Fs$:",
    ]
    + [
        format_keys("SCRAM-SHA-256", ScramKeys(b"s", n, bytes(32), bytes(32)))
        for n in (0, MAX_ITERATIONS + 1)
    ],
)
def test_keys_that_can_not_be_read(text):
    with pytest.raises(ValueError, match="not SCRAM keys"):
        parse_keys(text)


@pytest.mark.parametrize(
    ("text", "prepared"),  # RFC 4013 3
    [
        ("I\u00adX", "IX"),
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("a\u00a0b", "a b"),
    ],
)
def test_names_and_passwords_have_one_form(text, prepared):
    assert saslprep(text) == prepared


@pytest.mark.parametrize("text", ["\u0007", "\u06271", "\ue000", "\ufffd", "\u0627a\u0627"])
def test_passwords_that_are_none(text):
    with pytest.raises(ScramError):
        saslprep(text)
