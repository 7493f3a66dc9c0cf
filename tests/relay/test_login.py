"""Logging in at a relay: against our own server, and against relays that cheat or want something else."""

import base64

import pytest

from pillarbox.policy.rules import Role
from pillarbox.testing import ScriptedPeer, letter

SECRETS = {"alice@example.org@127.0.0.1": "wonderland"}
MAIL = {"sender": "alice@example.org"}


def outcome(results):
    return str(results[0].reply)


def route(port, options="?tls=implicit"):
    return f"smtp://alice%40example.org@127.0.0.1:{port}{options}"


def said(peer):
    return [line for line in peer.commands if line.startswith("AUTH ")]


@pytest.mark.parametrize(
    "mechanisms",
    ["SCRAM-SHA-256-PLUS PLAIN", "SCRAM-SHA-256 PLAIN", "SCRAM-SHA-1", "CRAM-MD5", "LOGIN", "PLAIN"],
)
async def test_the_best_mechanism_that_both_have_is_used(open_office, courier_for, certificates, mechanisms):
    office = await open_office(role=Role.SUBMISSION, tls="implicit", login=True, mechanisms=mechanisms)
    courier = courier_for(route(office.port), ca_file=certificates.authority, passwords=SECRETS)
    assert outcome(await courier.deliver(letter("x@elsewhere.example", **MAIL))).startswith("250")
    assert office.protocols[-1]._session._exchange._name == mechanisms.split()[0]


async def test_a_token_is_read_anew_for_each_login(courier_for, tmp_path):
    token = tmp_path / "token"
    token.write_text("first\n")
    script = {"AUTH": ["334 eyJzdGF0dXMiOiI0MDEifQ==", "235 2.7.0 ok"], "answer": "535 5.7.8 expired"}
    async with ScriptedPeer(script, extensions=("AUTH PLAIN XOAUTH2",)) as peer:
        courier = courier_for(
            f"smtp://joe@127.0.0.1:{peer.port}?tls=none", token_files={"joe@127.0.0.1": str(token)}
        )
        assert outcome(await courier.deliver(letter("x@elsewhere.example"))).startswith("535")
        token.unlink()
    assert said(peer) == ["AUTH XOAUTH2 " + base64.b64encode(b"user=joe\1auth=Bearer first\1\1").decode()]


async def test_without_its_token_nothing_is_tried(courier_for, tmp_path):
    async with ScriptedPeer(extensions=("AUTH PLAIN XOAUTH2",)) as peer:
        missing = {"joe@127.0.0.1": str(tmp_path / "missing")}
        courier = courier_for(f"smtp://joe@127.0.0.1:{peer.port}?tls=none", token_files=missing)
        assert "login mechanism" in outcome(await courier.deliver(letter("x@elsewhere.example")))
    assert said(peer) == []


async def test_a_relay_that_does_not_know_the_password_never_gets_to_see_it(courier_for):
    script = {"AUTH": "235 2.7.0 whoever you are"}
    async with ScriptedPeer(script, extensions=("AUTH SCRAM-SHA-256 PLAIN",)) as peer:
        courier = courier_for(f"smtp://joe@127.0.0.1:{peer.port}?tls=none", passwords={"joe@127.0.0.1": "pw"})
        assert "could not show" in outcome(await courier.deliver(letter("x@elsewhere.example")))
    assert len(said(peer)) == 1


async def test_a_relay_without_keys_gets_the_password_by_the_next_mechanism(courier_for):
    script = {"AUTH": ["432 4.7.12 log in once with PLAIN", "235 2.7.0 ok"]}
    async with ScriptedPeer(script, extensions=("AUTH SCRAM-SHA-256 PLAIN",)) as peer:
        courier = courier_for(f"smtp://joe@127.0.0.1:{peer.port}?tls=none", passwords={"joe@127.0.0.1": "pw"})
        assert outcome(await courier.deliver(letter("x@elsewhere.example"))).startswith("250")
    assert [line.split()[1] for line in said(peer)] == ["SCRAM-SHA-256", "PLAIN"]
