"""LMTP: one answer for each recipient behind the message (RFC 2033)."""

import asyncio

import pytest

from pillarbox import testing
from pillarbox.mail.reply import Stage
from pillarbox.relay.session import Patience
from pillarbox.testing import Drop, Hang, ScriptedPeer


def letter(*recipients):
    return testing.letter(*recipients)


def codes(results):
    return [results[number].reply.code for number in sorted(results)]


def causes(results):
    return [results[number].reply.cause_id for number in sorted(results)]


async def test_each_recipient_has_its_own_outcome(courier_for):
    script = {
        "RCPT": ["250 ok", "550 5.1.1 no", "250 ok", "250 ok"],
        ".": ["250 stored", "452 4.2.2 full", "550 5.7.1 no"],
    }
    async with ScriptedPeer(script, lmtp=True) as peer:
        courier = courier_for(f"lmtp://127.0.0.1:{peer.port}")
        results = await courier.deliver(letter("a@x.test", "b@x.test", "c@x.test", "d@x.test"))
    assert codes(results) == [250, 550, 452, 550]
    assert results[0].stage is Stage.LOCAL  # it lies in its mailbox
    assert results[2].stage is Stage.BODY
    assert peer.commands[0] == "LHLO here.test"


@pytest.mark.parametrize("end", [Hang(), Drop()])
async def test_too_few_replies_leave_the_rest_in_doubt(courier_for, end):
    async with ScriptedPeer({".": ["250 stored", end]}, lmtp=True) as peer:
        courier = courier_for(f"lmtp://127.0.0.1:{peer.port}", patience=Patience(end_s=0.1, quit_s=0.1))
        results = await courier.deliver(letter("a@x.test", "b@x.test", "c@x.test"))
    assert causes(results) == ["peer", "delivery.too_few_replies", "delivery.too_few_replies"]


async def test_a_421_among_the_replies_is_for_all_that_follow(courier_for):
    async with ScriptedPeer({".": ["250 stored", Drop("421 4.3.2 bye")]}, lmtp=True) as peer:
        courier = courier_for(f"lmtp://127.0.0.1:{peer.port}")
        results = await courier.deliver(letter("a@x.test", "b@x.test", "c@x.test"))
    assert codes(results) == [250, 421, 421]


async def test_no_reply_at_all_is_in_doubt_for_all(courier_for):
    async with ScriptedPeer({".": Drop()}, lmtp=True) as peer:
        results = await courier_for(f"lmtp://127.0.0.1:{peer.port}").deliver(letter("a@x.test", "b@x.test"))
    assert causes(results) == ["delivery.in_doubt", "delivery.in_doubt"]


async def test_a_server_that_knows_no_lhlo_is_not_greeted_as_smtp(courier_for):
    async with ScriptedPeer({"LHLO": "500 5.5.1 this is SMTP"}) as peer:
        results = await courier_for(f"lmtp://127.0.0.1:{peer.port}").deliver(letter("a@x.test"))
    assert results[0].stage is Stage.HELLO
    assert not any(one.startswith(("HELO", "MAIL")) for one in peer.commands)


async def test_a_unix_socket(courier_for, tmp_path):
    path = tmp_path / "lmtp"
    async with ScriptedPeer(lmtp=True) as peer:

        async def splice(reader, writer):
            there, back = await asyncio.open_connection("127.0.0.1", peer.port)

            async def copy(source, sink):
                while data := await source.read(65536):
                    sink.write(data)
                sink.close()

            await asyncio.gather(copy(reader, back), copy(there, writer))

        server = await asyncio.start_unix_server(splice, path)
        async with server:
            courier = courier_for(f"lmtp:unix:{path}")
            results = await courier.deliver(letter("a@x.test"))
            await courier.close()
        assert codes(results) == [250]
        assert results[0].host == f"[{path}]"
    missing = await courier_for(f"lmtp:unix:{tmp_path}/nothing").deliver(letter("a@x.test"))
    assert causes(missing) == ["delivery.connect_failed"]
