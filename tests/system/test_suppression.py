"""The suppression list of a running server, from the refusal by another host to the report about the next message."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

import pillarbox
from pillarbox.config import parse
from pillarbox.control import lift_suppression, suppress, suppressions, trace
from pillarbox.queue.ledger import Ledger
from pillarbox.queue.spool import State, format_id
from pillarbox.testing import Drop, FakeResolver, ScriptedPeer

NO_USER = "550 5.1.1 <u@there.test>: Recipient address rejected: User unknown"
BLOCKED = "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org"


class Desk:
    """A server that relays to there.test, and what came of the mail given to it."""

    def __init__(self, server: pillarbox.Server, ledger: Ledger) -> None:
        self.server, self.ledger = server, ledger

    async def send(
        self, *recipients: str, state: State | None = State.FAILED, sender: str = "me@here.test"
    ) -> int:
        """Send a message; its number when all recipients are in this state, or None: at rest."""
        known = self._all()
        await pillarbox.send(b"Subject: x\r\n\r\n", sender, list(recipients), self.server.address)
        async with asyncio.timeout(20):
            while True:
                for number in sorted(self._all() - known):
                    found = self.ledger.show(number)
                    if found is None or found.envelope is None or not found.envelope.sender:
                        continue
                    states = {one.state for one in found.recipients}
                    done = all(one.result is not None and not one.active for one in found.recipients)
                    if states == {state} or (state is None and done):
                        return number
                await asyncio.sleep(0.01)

    def _all(self) -> set[int]:
        return {one.id for state in State for one in self.ledger.list_messages(10_000, states=[state])}

    def causes(self, number: int) -> list[str]:
        found = self.ledger.show(number)
        assert found is not None
        return [one.result.reply.cause_id for one in found.recipients if one.result is not None]

    def listed(self) -> list[str]:
        return [one.entry for one in suppressions(self.ledger, now=0.0)]


@pytest.fixture
async def desk_for(tmp_path: Path, monkeypatch):
    """`async with desk_for(peer, more)`: everything goes to that peer, by MX."""

    @contextlib.asynccontextmanager
    async def make(peer: ScriptedPeer | None, more: str = "", resolver: FakeResolver | None = None):
        dns = resolver or FakeResolver(
            mx={"there.test": [(10, "mx.there.test")]}, addresses={"mx.there.test": ["127.0.0.1"]}
        )
        monkeypatch.setattr("pillarbox.service.Resolver", lambda _settings: dns)
        if peer is not None:
            monkeypatch.setattr("pillarbox.relay.destination.SMTP_PORT", peer.port)
        config = parse(
            f'hostname = "here.test"\ndata = "{tmp_path}"\n[[listen]]\naddress = "127.0.0.1:0"\nrole = "relay"\n'
            f'[domain."here.test"]\ndeliver = "discard"\n{more}',
            "test",
        )
        async with pillarbox.Server(config) as server:
            with Ledger(tmp_path) as ledger:
                yield Desk(server, ledger)

    return make


async def test_an_address_that_does_not_exist_is_not_tried_again(desk_for):
    async with ScriptedPeer({"RCPT": NO_USER}) as peer, desk_for(peer) as desk:
        first = await desk.send("U@there.test")
        assert desk.listed() == ["u@there.test"]
        tried = len(peer.commands)
        second = await desk.send("u@there.test")
        assert desk.causes(second) == ["delivery.suppressed"]
        assert len(peer.commands) in (tried, tried + 1)  # a QUIT may have come
        steps = {one.kind: one for one in trace(desk.ledger, format_id(second)).steps}
        reply = str(steps["failed"].detail["reply"])
        for told in ("u@there.test is on this server's suppression list", "since", "User unknown"):
            assert told in reply
        assert "suppressed" in [one.kind for one in trace(desk.ledger, format_id(first)).steps]


async def test_the_sender_is_told_why_it_was_not_even_tried(desk_for):
    inbox = ScriptedPeer()
    async with inbox:
        way = f'[[route]]\nmatch = "out.test"\nvia = "smtp://127.0.0.1:{inbox.port}"\n'
        async with ScriptedPeer({"RCPT": NO_USER}) as peer, desk_for(peer, way) as desk:
            await desk.send("u@there.test", sender="me@out.test")
            await desk.send("u@there.test", sender="me@out.test")
            await inbox.until(lambda: len(inbox.messages) == 2)
    report = inbox.messages[1].replace(b" \r\n", b" ").replace(b"\r\n ", b" ")
    assert b"X-Pillarbox-Cause: delivery.suppressed" in report
    assert b"User unknown" in report
    assert b"`pillarbox" not in report  # that is for the operator


async def test_others_of_the_same_message_are_tried(desk_for):
    async with ScriptedPeer({"RCPT": [NO_USER, "250 ok"]}) as peer, desk_for(peer) as desk:
        await desk.send("u@there.test")
        await pillarbox.send(
            b"Subject: y\r\n\r\n", "me@here.test", ["u@there.test", "v@there.test"], desk.server.address
        )
        await peer.until(lambda: peer.taken == ["v@there.test"])


async def test_T3_a_block_list_hit_never_speaks_against_an_address(desk_for):
    async with ScriptedPeer({"RCPT": BLOCKED}) as peer, desk_for(peer) as desk:
        await desk.send("u@there.test", state=None)
        assert desk.listed() == []


async def test_T3_what_a_host_says_of_mailboxes_while_it_doubts_the_sender_does_not_count(desk_for):
    rate = "451 4.7.26 Your email has been rate limited because it is unauthenticated. - gsmtp"
    async with ScriptedPeer({"RCPT": [rate, NO_USER]}) as peer, desk_for(peer) as desk:
        await desk.send("v@there.test", state=None)
        await desk.send("u@there.test")
        assert desk.listed() == []


async def test_T16_an_address_that_is_only_being_checked_is_not_dead(desk_for):
    text = "450 4.1.1 <u@there.test>: Recipient address rejected: unverified address"
    async with ScriptedPeer({"RCPT": text}) as peer, desk_for(peer) as desk:
        await desk.send("u@there.test", state=None)
        assert desk.listed() == []


async def test_T15_exchanges_5_1_10_speaks_of_the_mailbox_and_not_of_the_domain(desk_for):
    text = (
        "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient u@there.test not found by SMTP address lookup"
    )
    async with ScriptedPeer({"RCPT": text}) as peer, desk_for(peer) as desk:
        await desk.send("u@there.test")
        assert "@there.test" not in desk.listed()
        await desk.send("v@there.test")
        assert len([one for one in peer.commands if one.startswith("RCPT")]) == 2


async def test_T17_a_refusal_of_several_at_the_end_of_data_speaks_against_nobody(desk_for):
    no = "554 delivery error: dd This user doesn't have a there.test account"
    async with ScriptedPeer({".": no}) as peer, desk_for(peer) as desk:
        await desk.send("u@there.test", "v@there.test")
        assert desk.listed() == []


async def test_a_domain_with_a_null_mx_is_remembered_and_never_connected_to(desk_for):
    resolver = FakeResolver(mx={"there.test": [(0, "")]})
    async with ScriptedPeer() as peer, desk_for(peer, resolver=resolver) as desk:
        first = await desk.send("u@there.test")
        assert desk.causes(first) == ["delivery.null_mx"]
        assert desk.listed() == ["@there.test"]
        assert desk.causes(await desk.send("other@there.test")) == ["delivery.suppressed"]
        assert peer.visits == []
        assert resolver.asked == [("mx", "there.test")]


async def test_a_domain_whose_hosts_all_say_521_is_remembered(desk_for):
    async with ScriptedPeer({"connect": "521 this host never takes mail"}) as peer, desk_for(peer) as desk:
        first = await desk.send("u@there.test")
        assert desk.listed() == ["@there.test"]
        found = desk.ledger.show(first)
        assert str(found.recipients[0].result.reply) == "521 this host never takes mail"
        await desk.send("v@there.test")
        assert len(peer.visits) == 1


async def test_an_operator_lifts_it_and_the_next_message_is_tried(desk_for):
    async with ScriptedPeer({"RCPT": [NO_USER, "250 ok"]}) as peer, desk_for(peer) as desk:
        await desk.send("u@there.test")
        assert lift_suppression(desk.ledger, "u@there.test", now=0.0)
        await desk.send("u@there.test", state=State.DELIVERED)
        assert peer.taken == ["u@there.test"]


async def test_what_an_operator_adds_holds_at_once(desk_for):
    async with ScriptedPeer() as peer, desk_for(peer) as desk:
        suppress(desk.ledger, "@there.test", now=1.0, for_s=1e10, note="they moved")
        async with asyncio.timeout(20):  # a running server looks once a second
            while True:
                number = await desk.send("u@there.test", state=None)
                if desk.causes(number) == ["delivery.suppressed"]:
                    break


async def test_the_list_can_be_switched_off(desk_for):
    off = "[suppression]\nenabled = false\n"
    async with ScriptedPeer({"RCPT": NO_USER}) as peer, desk_for(peer, off) as desk:
        await desk.send("u@there.test")
        await desk.send("u@there.test")
        assert desk.listed() == []
        assert len([one for one in peer.commands if one.startswith("RCPT")]) == 2


@pytest.mark.parametrize("reply", [Drop("421 4.3.2 bye"), "550 no", "550 5.7.1 policy", "571 5.7.1 no"])
async def test_T3_no_code_alone_suppresses(desk_for, reply):
    async with ScriptedPeer({"RCPT": reply}) as peer, desk_for(peer) as desk:
        await desk.send("u@there.test", state=None)
        assert desk.listed() == []
