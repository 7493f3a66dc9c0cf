"""What a client says to log in, and that the server's side understands it."""

import base64

import pytest

from pillarbox.mail.reply import Reply
from pillarbox.smtp import login
from pillarbox.smtp.events import Login, Proof, SecretWanted
from pillarbox.smtp.exchange import Exchange
from pillarbox.smtp.profile import Channel, Profile
from pillarbox.smtp.sasl import BY_TOKEN, TRAITS
from pillarbox.smtp.scram import derive_keys

PROFILE = Profile(hostname="mx", offers_login=True, mechanisms=tuple(TRAITS), random=bytes)
CHANNEL = Channel(tls=True, end_point=b"certificate")


def talk(name, client):
    """Let both ends speak until the server has something to decide."""
    server = Exchange(name, PROFILE, CHANNEL)
    initial = login.auth_command(name, client.initial).decode().strip().partition(name)[2].strip()
    step = server.begin(initial)
    while not isinstance(step, Login):
        if isinstance(step, SecretWanted):
            secret = "pw" if name == "CRAM-MD5" else derive_keys(step.mechanism, "pw", b"salt", 4)
            step = server.take_secret(secret)
            continue
        assert isinstance(step, Reply)
        assert step.intermediate, step
        answer = client.step(login.read_challenge(step.text))
        step = server.take_line(login.answer_line(answer).removesuffix(b"\r\n"))
    return step


@pytest.mark.parametrize("name", login.MECHANISMS)
def test_the_server_understands_each_mechanism(name):
    client = login.mechanism(name, "b\xf6b=,x", "pw", nonce=b"nonce", end_point=b"certificate")
    found = talk(name, client)
    assert found.user == "b\xf6b=,x"
    assert found.password == "pw" if found.proof is Proof.PASSWORD else found.proof is Proof.PROVEN
    assert client.content


@pytest.mark.parametrize("name", BY_TOKEN)
def test_the_server_understands_each_mechanism_with_a_token(name):
    client = login.mechanism(name, "bob@x", "t.o.k", nonce=b"")
    assert talk(name, client) == Login(name, "bob@x", "bob@x", "t.o.k", Proof.TOKEN)
    assert login.answer_line(client.step(b'{"status":"401"}')) in {b"AQ==\r\n", b"\r\n"}


@pytest.mark.parametrize(
    ("offered", "end_point", "token", "chosen"),
    [
        ({"LOGIN", "PLAIN"}, b"", False, ["PLAIN", "LOGIN"]),
        ({"PLAIN", "SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"}, b"", False, ["SCRAM-SHA-256", "PLAIN"]),
        (
            {"PLAIN", "SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"},
            b"x",
            False,
            ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN"],
        ),
        ({"PLAIN", "XOAUTH2"}, b"", True, ["XOAUTH2"]),
        ({"GSSAPI"}, b"", False, []),
    ],
)
def test_the_best_comes_first(offered, end_point, token, chosen):
    assert login.choose(offered, token=token, end_point=end_point) == chosen


def test_commands_and_answers():
    assert login.auth_command("LOGIN", None) == b"AUTH LOGIN\r\n"
    assert login.auth_command("EXTERNAL", b"") == b"AUTH EXTERNAL =\r\n"
    assert login.answer_line(b"") == b"\r\n"
    assert login.read_challenge("") == b""
    assert login.read_challenge(base64.b64encode(b"x").decode()) == b"x"
    with pytest.raises(ValueError, match="base64"):
        login.read_challenge("Passwort:")


@pytest.mark.parametrize("name", ["PLAIN", "LOGIN"])
def test_no_secret_is_told_twice(name):
    client = login.mechanism(name, "u", "p", nonce=b"")
    with pytest.raises(ValueError, match="answer"):
        [client.step(b"") for _ in range(3)]
