"""More than one host: which is tried after which, and what is remembered about them."""

import asyncio
import errno
from contextlib import AsyncExitStack

import pytest

import pillarbox
from pillarbox import testing
from pillarbox.config import parse
from pillarbox.mail.catalogue import delivery
from pillarbox.mail.reply import Origin, Result, Stage
from pillarbox.queue.ledger import Ledger
from pillarbox.queue.spool import State
from pillarbox.relay.hosts import Hosts, Remembered
from pillarbox.relay.plan import Hop
from pillarbox.relay.session import Patience
from pillarbox.testing import Drop, FakeResolver, ScriptedPeer

HASTY = Patience(connect_s=0.5, command_s=0.2, end_s=0.2, quit_s=0.1)


def letter(*recipients, number=1):
    return testing.letter(*(recipients or ("b@there.test",)), number=number)


@pytest.fixture
async def exchangers(monkeypatch):
    """Start a peer for each script given, on 127.0.0.2, .3 ...; they are mx1, mx2 ... of there.test."""
    async with AsyncExitStack() as stack:

        async def start(*scripts, greeting=None):
            peers = []
            for number, script in enumerate(scripts):
                port = peers[0].port if peers else 0
                peer = ScriptedPeer(script, host=f"127.0.0.{number + 2}", port=port)
                peers.append(await stack.enter_async_context(peer))
            monkeypatch.setattr("pillarbox.relay.destination.SMTP_PORT", peers[0].port)
            return peers

        yield start


def zone(count: int, **changes) -> FakeResolver:
    values = {
        "mx": {"there.test": [(10 * number, f"mx{number}.test") for number in range(1, count + 1)]},
        "addresses": {f"mx{number}.test": [f"127.0.0.{number + 1}"] for number in range(1, count + 1)},
    }
    return FakeResolver(**{**values, **changes})


def visited(peers) -> list[int]:
    return [len(peer.visits) for peer in peers]


async def test_the_best_host_gets_the_mail_and_the_others_are_not_looked_up(courier_for, exchangers):
    peers = await exchangers({}, {})
    resolver = zone(2)
    results = await courier_for("mx:there.test", resolver=resolver).deliver(letter())
    assert results[0].reply.positive
    assert results[0].host.startswith("mx1.test[127.0.0.2]")
    assert visited(peers) == [1, 0]
    assert resolver.asked == [("mx", "there.test"), ("addresses", "mx1.test")]


@pytest.mark.parametrize(
    "script",
    [
        {"connect": Drop("421 busy")},
        {"connect": "554 no service"},
        {"connect": "521 no mail"},
        {"EHLO": "450 later"},
        {"EHLO": Drop(reset=True)},
        {"MAIL": "452 4.3.1 no space"},
        {"MAIL": "550 5.7.1 not you"},
        {"MAIL": Drop()},
        {"RCPT": Drop("421 bye")},
        {"DATA": Drop("421 bye")},
        {"EHLO": "250-x\r\n250 SIZE 5"},
    ],
)
async def test_another_host_is_tried_when_one_fails_as_a_whole(courier_for, exchangers, script):
    peers = await exchangers(script, {})
    results = await courier_for("mx:there.test", resolver=zone(2), patience=HASTY).deliver(letter())
    assert results[0].reply.positive
    assert visited(peers) == [1, 1]


@pytest.mark.parametrize(
    "script", [{"RCPT": "550 5.1.1 no"}, {"RCPT": "450 4.2.0 later"}, {".": "451 later"}, {".": "550 no"}]
)
async def test_no_other_host_is_tried_for_what_concerns_recipient_or_message(courier_for, exchangers, script):
    peers = await exchangers(script, {})
    results = await courier_for("mx:there.test", resolver=zone(2)).deliver(letter())
    assert not results[0].reply.positive
    assert visited(peers) == [1, 0]


async def test_recipients_part_ways(courier_for, exchangers):
    peers = await exchangers({"RCPT": ["250 ok", "452 4.3.1 no space", "550 5.1.1 no"]}, {})
    courier = courier_for("mx:there.test", resolver=zone(2))
    results = await courier.deliver(letter("a@there.test", "b@there.test", "c@there.test"))
    assert [results[number].reply.code for number in range(3)] == [250, 250, 550]
    assert [results[number].host[:3] for number in range(3)] == ["mx1", "mx2", "mx1"]
    assert visited(peers) == [1, 1]


async def test_a_temporary_failure_anywhere_outweighs_a_final_one(courier_for, exchangers):
    for scripts in ([{"MAIL": "550 no"}, {"MAIL": "450 later"}], [{"MAIL": "450 later"}, {"MAIL": "550 no"}]):
        peers = await exchangers(*scripts)
        results = await courier_for("mx:there.test", resolver=zone(2)).deliver(letter())
        assert results[0].reply.code == 450
        assert visited(peers) == [1, 1]
        for peer in peers:
            await peer.__aexit__()


async def test_all_hosts_that_take_no_mail_make_it_final(courier_for, exchangers):
    await exchangers({"connect": "521 no"}, {"connect": "521 no"})
    results = await courier_for("mx:there.test", resolver=zone(2)).deliver(letter())
    assert results[0].reply.code == 521


async def test_a_greeting_with_our_own_name_is_a_loop(courier_for, exchangers):
    peers = await exchangers({"connect": "220 HERE.test. ESMTP"}, {})
    results = await courier_for("mx:there.test", resolver=zone(2)).deliver(letter())
    assert results[0].reply.cause is delivery.LOOP_TO_SELF
    assert visited(peers) == [1, 0]


@pytest.mark.parametrize("domain", ["there.test", "[127.0.0.2]"])
async def test_mail_whose_best_host_has_an_address_of_ours_is_not_sent_in_circles(
    courier_for, exchangers, domain
):
    peers = await exchangers({}, {})
    mine = lambda address, _port: address == "127.0.0.2"  # noqa: E731
    results = await courier_for(f"mx:{domain}", resolver=zone(2), is_us=mine).deliver(letter())
    assert results[0].reply.cause is delivery.MX_IS_US
    assert visited(peers) == [0, 0]


async def test_only_hosts_that_are_preferred_to_an_address_of_ours_are_tried(courier_for, exchangers):
    peers = await exchangers({"MAIL": "450 later"}, {}, {}, {})
    hosts = {"there.test": [(5, "mx1.test"), (10, "mx2.test"), (10, "mx3.test"), (20, "mx4.test")]}
    resolver, port = zone(4, mx=hosts), peers[0].port
    courier = courier_for("mx:there.test", resolver=resolver, is_us=lambda *one: one == ("127.0.0.4", port))
    results = await courier.deliver(letter())
    assert results[0].reply.code == 450
    assert visited(peers) == [1, 0, 0, 0]
    assert ("addresses", "mx4.test") not in resolver.asked


async def test_a_fixed_host_may_have_our_address(courier_for):
    async with ScriptedPeer() as peer:
        courier = courier_for(f"smtp://127.0.0.1:{peer.port}", is_us=lambda *_: True)
        assert (await courier.deliver(letter())).pop(0).reply.positive


def relay(folder, more="") -> pillarbox.Server:
    """A server that relays for this machine."""
    return pillarbox.Server(
        parse(
            f'hostname = "here.test"\ndata = "{folder}"\n'
            f'[[listen]]\naddress = "127.0.0.1:0"\nrole = "relay"\n{more}',
            "test",
        )
    )


async def listed(ledger, count, **wanted):
    """Wait until so many messages are as wanted; these."""
    async with asyncio.timeout(20):
        while len(found := ledger.list_messages(**wanted)) < count:
            await asyncio.sleep(0.01)
    return found


async def test_a_server_knows_its_own_address_in_an_mx(tmp_path, monkeypatch):
    resolver = zone(1, addresses={"mx1.test": ["127.0.0.1"]})
    monkeypatch.setattr("pillarbox.service.Resolver", lambda _settings: resolver)
    async with relay(tmp_path) as server:
        monkeypatch.setattr("pillarbox.relay.destination.SMTP_PORT", server.address[1])
        await pillarbox.send(b"Subject: x\r\n\r\n", "", ["b@there.test"], server.address)
        with Ledger(tmp_path) as ledger:
            (failed,) = await listed(ledger, 1, states=[State.FAILED])
    assert failed.recipients[0].result.reply.cause is delivery.MX_IS_US


async def test_a_busy_host_is_spared_until_an_operator_wants_it_tried(tmp_path):
    def deferred(message, domain):
        (one,) = message.recipients
        return one.result is not None and one.address.endswith(domain) and not one.active

    async with ScriptedPeer({"connect": [Drop("421 4.3.2 busy"), "220 peer.test"]}) as peer:
        async with relay(
            tmp_path, f'[[route]]\nmatch = "*"\nvia = "smtp://127.0.0.1:{peer.port}"\n'
        ) as server:
            with Ledger(tmp_path) as ledger:
                for domain in ("one.test", "two.test"):
                    await pillarbox.send(b"Subject: x\r\n\r\n", "a@b.test", [f"c@{domain}"], server.address)
                    await listed(ledger, 1, wanted=lambda one, of=domain: deferred(one, of))
                found = {one.recipients[0].attempts: one for one in await listed(ledger, 2)}
                assert str(found[1].recipients[0].result.reply) == "421 4.3.2 busy"
                assert found[0].recipients[0].result.untried
                assert len(peer.visits) == 1
                ledger.apply_verb("retry", message=found[0].id)
                await listed(ledger, 1, states=[State.DELIVERED])
        assert len(peer.messages) == 1


async def test_a_fixed_host_may_have_our_name(courier_for):
    async with ScriptedPeer({"connect": "220 here.test ESMTP"}) as peer:
        results = await courier_for(f"smtp://127.0.0.1:{peer.port}").deliver(letter())
    assert results[0].reply.positive


async def test_a_host_that_refuses_connections_is_left_alone_for_a_while(courier_for, exchangers):
    first, second = await exchangers({}, {})
    await first.__aexit__()
    courier = courier_for("mx:there.test", resolver=zone(2), shared=1)
    assert (await courier.deliver(letter())).pop(0).reply.positive
    async with ScriptedPeer(host=first.host, port=first.port) as again:
        other = courier_for("mx:there.test", shared=1)
        assert (await other.deliver(letter(number=2))).pop(0).reply.positive
        assert again.visits == []
    assert len(second.messages) == 2


@pytest.mark.parametrize(
    "script",
    [
        {"connect": Drop("421 busy")},
        {"connect": "450 4.3.2 not now"},
        {"connect": Drop()},
        {"EHLO": Drop("421 bye")},
        {"MAIL": Drop("421 4.7.0 slow down")},
        {"RCPT": "452 4.3.1 no space"},
        {"DATA": "452 4.3.1 no space"},
        {".": Drop("421 4.3.2 bye")},
    ],
)
async def test_a_host_that_wants_rest_is_spared_by_the_next_message(courier_for, exchangers, script):
    peers = await exchangers(script, {})
    for number in (1, 2):
        courier = courier_for("mx:there.test", resolver=zone(2), shared=1, patience=HASTY)
        await courier.deliver(letter(number=number))
        await courier.close()
    assert len(peers[0].visits) == 1
    assert len(peers[1].messages) >= 1


@pytest.mark.parametrize(
    "script",
    [
        {"MAIL": "450 4.7.1 later"},
        {"RCPT": "450 4.2.0 later"},
        {"RCPT": "452 4.2.2 full"},
        {".": "451 4.3.0 later"},
        {"connect": "554 not you"},
    ],
)
async def test_a_host_that_minds_the_message_is_asked_about_the_next_one(courier_for, exchangers, script):
    (peer,) = await exchangers(script)
    for number in (1, 2):
        courier = courier_for("mx:there.test", resolver=zone(1), shared=1, patience=HASTY)
        await courier.deliver(letter(number=number))
        await courier.close()
    assert len(peer.visits) == 2


async def test_a_421_behind_many_messages_ends_the_connection_and_not_the_trust(courier_for, exchangers):
    (peer,) = await exchangers({"MAIL": ["250 ok", "250 ok", Drop("421 enough"), "250 ok"]})
    courier = courier_for("mx:there.test", resolver=zone(1))
    for number in range(4):
        assert (await courier.deliver(letter(number=number))).pop(0).reply.positive
    assert len(peer.visits) == 2


async def test_when_all_hosts_rest_the_message_learns_why(courier_for, exchangers):
    peers = await exchangers({"connect": Drop("421 4.3.2 closed for today")}, {"connect": Drop("421 busy")})
    first, second = [
        (await courier_for("mx:there.test", resolver=zone(2), shared=1).deliver(letter(number=number))).pop(0)
        for number in (1, 2)
    ]
    assert (first.reply.code, first.host[:3], first.untried) == (421, "mx2", False)
    assert [(str(one.reply), one.host[:3]) for one in first.others] == [("421 4.3.2 closed for today", "mx1")]
    assert (second.untried, second.reply.cause, second.host[:3]) == (True, delivery.LEFT_ALONE, "mx2")
    assert second.reply.text.endswith("; it last said: 421 busy")
    assert [one.reply.text.rpartition("; ")[2] for one in second.others] == [
        "it last said: 421 4.3.2 closed for today"
    ]
    assert visited(peers) == [1, 1]


async def test_what_all_hosts_put_off_is_not_due_before_one_of_them_may_be_tried(courier_for, exchangers):
    full, busy = {"MAIL": "452 4.3.1 no space"}, {"connect": Drop("421 busy")}
    await exchangers(full, busy)
    result = (await courier_for("mx:there.test", resolver=zone(2)).deliver(letter())).pop(0)
    assert 55 < result.wait_s <= 60  # the busy one rests for a minute, the full one for fifteen
    await exchangers(full, {"RCPT": "450 4.2.1 not now"})
    result = (await courier_for("mx:there.test", resolver=zone(2)).deliver(letter())).pop(0)
    assert result.wait_s == 0


async def test_a_delivery_tells_which_hosts_failed_before(courier_for, exchangers):
    await exchangers({"connect": "554 no service"}, {"MAIL": "451 4.3.0 later"}, {})
    result = (await courier_for("mx:there.test", resolver=zone(3)).deliver(letter())).pop(0)
    assert result.reply.positive
    assert [(str(one.reply), one.host[:3]) for one in result.others] == [
        ("554 no service", "mx1"),
        ("451 4.3.0 later", "mx2"),
    ]


async def test_hosts_that_rest_do_not_count_as_tried(courier_for, exchangers):
    busy = {"connect": Drop("421 busy")}
    peers = await exchangers(busy, busy, {})
    for number in (1, 2):
        courier = courier_for("mx:there.test", resolver=zone(3), shared=1, max_hosts=2)
        result = (await courier.deliver(letter(number=number))).pop(0)
    assert result.reply.positive
    assert visited(peers) == [1, 1, 1]


async def test_a_lack_of_files_here_is_not_the_hosts_fault(courier_for, exchangers, monkeypatch):
    (peer,) = await exchangers({})
    courier = courier_for("mx:there.test", resolver=zone(1), shared=1)

    async def no_more(*_arguments, **_options):
        raise OSError(errno.EMFILE, "too many")

    with monkeypatch.context() as patch:
        patch.setattr(asyncio.get_running_loop(), "create_connection", no_more)
        assert (await courier.deliver(letter())).pop(0).reply.cause is delivery.TOO_BUSY
    assert (await courier.deliver(letter(number=2))).pop(0).reply.positive
    assert len(peer.messages) == 1


async def test_only_so_many_hosts_are_tried_in_one_attempt(courier_for, exchangers):
    peers = await exchangers(*[{"MAIL": "450 later"}] * 4)
    results = await courier_for("mx:there.test", resolver=zone(4), max_hosts=2).deliver(letter())
    assert results[0].reply.code == 450
    assert visited(peers) == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("resolver", "cause"),
    [
        (FakeResolver(), delivery.NO_DOMAIN),
        (FakeResolver(mx={"there.test": [(0, "")]}), delivery.NULL_MX),
        (FakeResolver(failing=["there.test"]), delivery.DNS_FAILED),
        (FakeResolver(mx={"there.test": []}), delivery.NO_ROUTE),
        (FakeResolver(mx={"there.test": [(10, "here.test")]}), delivery.MX_IS_US),
        (FakeResolver(mx={"there.test": [(10, "mx1.test")]}), delivery.NO_ROUTE),
        (
            FakeResolver(mx={"there.test": [(10, "gone.test"), (20, "mx1.test")]}, failing=["mx1.test"]),
            delivery.DNS_FAILED,
        ),
        (
            FakeResolver(mx={"there.test": [(10, "mx1.test"), (20, "gone.test")]}, failing=["mx1.test"]),
            delivery.DNS_FAILED,
        ),
    ],
)
async def test_what_dns_says_is_a_result_too(courier_for, resolver, cause):
    results = await courier_for("mx:there.test", resolver=resolver).deliver(
        letter("a@there.test", "b@there.test")
    )
    assert [results[number].reply.cause for number in (0, 1)] == [cause, cause]


async def test_a_domain_without_mx_is_its_own_host(courier_for, exchangers):
    (peer,) = await exchangers({})
    resolver = FakeResolver(addresses={"there.test": ["127.0.0.2"]})
    assert (await courier_for("mx:there.test", resolver=resolver).deliver(letter())).pop(0).reply.positive
    assert len(peer.messages) == 1


async def test_an_address_literal_needs_no_dns(courier_for, exchangers):
    (peer,) = await exchangers({})
    resolver = FakeResolver()
    assert (await courier_for("mx:[127.0.0.2]", resolver=resolver).deliver(letter())).pop(0).reply.positive
    assert resolver.asked == []
    assert len(peer.messages) == 1


async def test_T13_a_refusal_by_ipv6_is_tried_once_by_ipv4(courier_for, monkeypatch):
    async with (
        ScriptedPeer({"RCPT": "550 5.7.25 no PTR"}, host="::1") as six,
        ScriptedPeer(host="127.0.0.1", port=six.port) as four,
    ):
        resolver = FakeResolver(addresses={"mx.test": ["::1", "127.0.0.1"]})
        results = await courier_for(f"smtp://mx.test:{six.port}", resolver=resolver).deliver(letter())
        assert results[0].reply.positive
        assert visited([six, four]) == [1, 1]


async def test_T13_a_refusal_by_both_families_is_final(courier_for):
    async with (
        ScriptedPeer({"RCPT": "550 5.7.25 no PTR"}, host="::1") as six,
        ScriptedPeer({"RCPT": "550 5.7.25 no PTR"}, host="127.0.0.1", port=six.port) as four,
    ):
        resolver = FakeResolver(addresses={"mx.test": ["::1", "127.0.0.1"]})
        results = await courier_for(f"smtp://mx.test:{six.port}", resolver=resolver).deliver(letter())
        assert results[0].reply.code == 550
        assert visited([six, four]) == [1, 1]


HOP = Hop("mx.test", "192.0.2.1")
BUSY = Result(delivery.TIMEOUT.reply(host="mx.test", detail="greeting"), Stage.GREETING, Origin.LOCAL)


def rest_of(hosts: Hosts, now: float) -> float:
    """For how long the host is left alone from now on."""
    return next(s for s in range(10_000) if hosts.resting(HOP, now + s) is None)


def test_rests_grow_while_a_host_is_no_better_and_end_when_it_is():
    hosts, now = Hosts(), 0.0
    rests = []
    for _ in range(5):
        hosts.rest(HOP, BUSY, now, first_s=60.0)
        hosts.rest(HOP, BUSY, now + 1.0, first_s=60.0)  # a second connection fails with the first
        rests.append(rest_of(hosts, now))
        now += rests[-1]
    assert rests == [60, 120, 240, 300, 300]
    hosts.works(HOP)
    hosts.rest(HOP, BUSY, now, first_s=60.0)
    assert rest_of(hosts, now) == 60
    hosts.revive()
    assert hosts.resting(HOP, now) is None


def test_a_failure_long_after_the_last_one_is_a_first_one():
    hosts = Hosts()
    hosts.rest(HOP, BUSY, 0.0, first_s=60.0)
    hosts.rest(HOP, BUSY, 1000.0, first_s=60.0)
    assert rest_of(hosts, 1000.0) == 60


def test_what_is_remembered_is_bounded_and_ends():
    memory: Remembered[int, str] = Remembered(max_entries=2)
    memory.put(1, "a", until=10.0)
    assert (memory.get(1, 9.9), memory.get(1, 10.0), memory.get(1, 9.0)) == ("a", None, None)
    for key in range(5):
        memory.put(key, "x", until=99.0)
    assert [memory.get(key, 0.0) for key in range(5)] == [None, None, None, "x", "x"]
    memory.forget(4)
    assert memory.get(4, 0.0) is None
