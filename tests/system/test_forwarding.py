"""Mail for an alias goes on to another host in our name, and its bounce finds the way back."""

from __future__ import annotations

import json
import signal
import time

import pytest
from click.testing import CliRunner

from pillarbox.cli.commands import cli
from pillarbox.mail.address import Address, parse_address
from pillarbox.mail.srs import Rewriter
from pillarbox.policy.forwarding import add_key, load_keys
from pillarbox.testing import ScriptedPeer

START = """
[limits]
min_free = 0
[policy]
relay_networks = []
[srs]
rewrite = true
[[listen]]
address = "127.0.0.1:0"
[domain."example.org"]
deliver = "maildir:{folder}/mail/{{user}}"
users = ["alice"]
[domain."example.org".aliases]
friend = "friend@far.example"
both = ["alice", "friend@far.example"]
[[route]]
match = "*"
via = "smtp://127.0.0.1:{port}?tls=none"
"""
WRITER = "eve@sender.test"


@pytest.fixture
async def peer():
    async with ScriptedPeer() as peer:
        yield peer


@pytest.fixture
async def forwarder(serve, peer, tmp_path):
    return await serve(START.format(folder=tmp_path, port=peer.port))


def senders(peer):
    return [line.split("<")[1].split(">")[0] for line in peer.commands if line.startswith("MAIL")]


async def test_a_strangers_mail_leaves_in_our_name_and_its_bounce_reaches_the_stranger(forwarder, peer, send):
    sent = await send(forwarder.port, "friend@example.org", sender=WRITER)
    await forwarder.reached("delivered", sent.id)
    (sender,) = senders(peer)
    assert sender.startswith("SRS0=")
    assert sender.endswith("=sender.test=eve@example.org")
    bounce = await send(forwarder.port, sender.lower(), sender="")
    await forwarder.reached("delivered", bounce.id)
    assert senders(peer) == [sender, ""]
    assert any(line.startswith(f"RCPT TO:<{WRITER}>") for line in peer.commands)
    shown = CliRunner().invoke(cli, ["srs", "show", sender, "--data", str(forwarder.data)])
    assert (shown.exit_code, shown.output) == (0, f"{WRITER}\n")


LONG = "bounce-4IDNASXYtY_FG21s4IoV1XzCfCtHkb2RZY_qdGZ8Q-6A@news.sender.test"


@pytest.mark.parametrize("writer", [LONG, "joe%far@sender.test"])
async def test_a_sender_that_does_not_fit_is_found_by_its_message(forwarder, peer, send, writer):
    """No host has to take a local part of more than 64 octets, nor one that looks like a route."""
    sent = await send(forwarder.port, "friend@example.org", sender=writer)
    await forwarder.reached("delivered", sent.id)
    (sender,) = senders(peer)
    local, _, domain = sender.partition("@")
    assert (len(local) <= 64, local[:5], domain) == (True, "SRS0=", "example.org")
    bounce = await send(forwarder.port, sender.lower(), sender="")
    await forwarder.reached("delivered", bounce.id)
    assert any(line.startswith(f"RCPT TO:<{writer}>") for line in peer.commands)
    assert forwarder.command("srs", "show", sender) == {"sender": writer, "problem": None}


async def test_the_trace_tells_the_sender_of_a_copy(forwarder, peer, send):
    sent = await send(forwarder.port, "friend@example.org", sender=WRITER)
    await forwarder.reached("delivered", sent.id)
    notes = await forwarder.until(
        lambda: [one["note"] for one in forwarder.command("trace", sent.id)["steps"] if "note" in one]
    )
    assert notes == [f"sent as from {senders(peer)[0]}, so that bounces come back here"]
    shown = CliRunner().invoke(cli, ["trace", sent.id, "--data", str(forwarder.data)])
    assert " ".join(notes[0].split()) in " ".join(shown.output.split())


async def test_who_sent_a_message_is_forgotten_with_it(forwarder, send):
    """The store may not keep its history for as long as an address would hold."""
    rewriter = Rewriter(load_keys(forwarder.data))
    gone = rewriter.rewrite(parse_address(LONG), "example.org", now=time.time(), queue_id="0000000000001")
    sent = await send(forwarder.port, str(gone), sender="")
    assert sent.recipients[0].startswith(b"550 5.1.6 ")


async def test_what_needs_no_other_sender_keeps_its_own(forwarder, peer, send, mailbox):
    """Copies that stay here, reports, and mail of our own users."""
    sent = await send(forwarder.port, "both@example.org", sender=WRITER)
    await forwarder.reached("delivered", sent.id, 1)
    assert [one["Return-Path"] for one in await mailbox("alice").filled()] == [f"<{WRITER}>"]
    for sender in ("", "alice@example.org"):
        again = await send(forwarder.port, "friend@example.org", sender=sender)
        await forwarder.reached("delivered", again.id)
    first, *others = senders(peer)
    assert first.startswith("SRS0=")
    assert others == ["", "alice@example.org"]


async def test_copies_with_different_senders_travel_apart(serve, send, peer, tmp_path):
    text = START.replace("relay_networks = []", 'relay_networks = ["127.0.0.0/8"]')
    server = await serve(text.format(folder=tmp_path, port=peer.port))
    sent = await send(server.port, "joe@far.example", "friend@example.org", sender=WRITER)
    for number in (0, 1):
        await server.reached("delivered", sent.id, number)
    assert [sender.partition("=")[0] for sender in senders(peer)] == [WRITER, "SRS0"]


async def test_E550_22_nobody_can_make_such_an_address_up(forwarder, send, peer):
    sent = await send(forwarder.port, "SRS0=aaaaaa=bb=victim.test=joe@example.org", sender="")
    (reply,) = sent.recipients
    assert reply.startswith(b"550 5.1.1 ")
    assert peer.commands == []


async def test_E550_23_an_address_of_last_month_has_expired(forwarder, send):
    made = Rewriter(load_keys(forwarder.data)).rewrite(
        Address("eve", "sender.test"), "example.org", now=time.time() - 30 * 86_400
    )
    sent = await send(forwarder.port, str(made), sender="")
    (reply,) = sent.recipients
    assert reply.startswith(b"550 5.1.6 ")
    shown = CliRunner().invoke(cli, ["srs", "show", str(made), "--data", str(forwarder.data), "--json"])
    assert (shown.exit_code, json.loads(shown.output)["problem"]) == (1, "expired")


async def test_a_new_key_takes_over_and_the_old_one_is_believed_for_weeks(forwarder, send, peer):
    first = await send(forwarder.port, "friend@example.org", sender=WRITER)
    await forwarder.reached("delivered", first.id)
    assert forwarder.command("srs", "rotate") == {"keys": 2, "dropped": 0}
    forwarder.signal(signal.SIGHUP)
    await forwarder.logged("config.reloaded")
    second = await send(forwarder.port, "friend@example.org", sender=WRITER)
    await forwarder.reached("delivered", second.id)
    old, new = senders(peer)
    assert old != new
    for sender in (old, new):
        bounce = await send(forwarder.port, sender, sender="")
        assert bounce.recipients[0].startswith(b"250 ")


def test_keys_are_dropped_when_all_their_addresses_have_expired(tmp_path):
    now = time.time()
    (old,) = load_keys(tmp_path)
    assert add_key(tmp_path, now=now) == (2, 0)
    assert add_key(tmp_path, now=now + 20 * 86_400) == (3, 0)
    assert add_key(tmp_path, now=now + 30 * 86_400) == (3, 1)
    assert old not in load_keys(tmp_path)
    (tmp_path / "srs.keys").chmod(0o644)
    shown = CliRunner().invoke(cli, ["srs", "rotate", "--data", str(tmp_path)])
    assert shown.exit_code == 78
    assert "others may read" in shown.output
