"""What is remembered of a host beyond one message, and how long."""

import asyncio
import ssl

import pytest
import trustme

from pillarbox import testing
from pillarbox.mail.reply import Origin, Result, Stage, parse_reply
from pillarbox.relay.hosts import Hosts, Login
from pillarbox.relay.plan import Hop
from pillarbox.relay.session import Patience
from pillarbox.testing import FakeResolver, ScriptedPeer, StartTls

HASTY = Patience(connect_s=0.5, greeting_s=0.2, tls_s=0.5, command_s=0.2, end_s=0.2, quit_s=0.1)
WRONG = Result(parse_reply([b"535 5.7.8 wrong"]), Stage.AUTH, Origin.PEER, "relay.test")
LOGIN = Login("relay.test:587", "joe", 1)


def letter(*recipients, number=1, **more):
    return testing.letter(*(recipients or ("b@there.test",)), number=number, **more)


def route_to(peer):
    return f"smtp://127.0.0.1:{peer.port}"


# --- logins


def test_a_login_that_fails_is_left_alone_for_ten_minutes_and_then_twice_as_long():
    hosts, now = Hosts(), 0.0
    waits = []
    for _ in range(7):
        waits.append(hosts.refuse_login(LOGIN, WRONG, now).wait_s)
        assert hosts.refused_login(LOGIN, now + waits[-1] - 1).wait_s == 1
        now += waits[-1]
        assert hosts.refused_login(LOGIN, now) is None
    assert waits == [600, 1200, 2400, 4800, 9600, 14400, 14400]


def test_another_user_or_secret_is_another_login():
    hosts = Hosts()
    hosts.refuse_login(LOGIN, WRONG, 0.0)
    for other in (
        Login("relay.test:587", "joe", 2),
        Login("relay.test:587", "ann", 1),
        Login("r:587", "joe", 1),
    ):
        assert hosts.refused_login(other, 1.0) is None
    hosts.revive()
    assert hosts.refused_login(LOGIN, 1.0) is None


async def test_a_login_that_works_again_is_forgotten_as_a_failure(courier_for):
    script = {"AUTH": ["535 5.7.8 wrong", "535 5.7.8 wrong", "235 2.7.0 ok"]}
    async with ScriptedPeer(script, extensions=("AUTH PLAIN",)) as peer:
        route = f"smtp://joe@127.0.0.1:{peer.port}?tls=none"
        first = courier_for(route, shared=1, passwords={"joe@127.0.0.1": "pw"})
        assert (await first.deliver(letter()))[0].reply.permanent
        first._hosts.revive()  # as `queue retry` does
        other = courier_for(route, shared=1)
        assert (await other.deliver(letter(number=2)))[0].reply.permanent
        other._hosts.revive()
        assert (await courier_for(route, shared=1).deliver(letter(number=3)))[0].reply.positive


# --- size


@pytest.mark.parametrize(
    ("limits", "visits"), [(("SIZE 5000", "SIZE 5000"), 0), (("SIZE 5000", "SIZE 9000"), 1)]
)
async def test_a_message_that_is_too_big_goes_only_to_a_host_that_takes_more(
    courier_for, limits, visits, monkeypatch
):
    async with (
        ScriptedPeer({"MAIL": "552 5.3.4 too big"}, extensions=(limits[0],), host="127.0.0.2") as small,
        ScriptedPeer(extensions=(limits[1],), host="127.0.0.3", port=small.port) as large,
    ):
        monkeypatch.setattr("pillarbox.relay.destination.SMTP_PORT", small.port)
        resolver = FakeResolver(
            mx={"there.test": [(10, "a.test"), (20, "b.test")]},
            addresses={"a.test": ["127.0.0.2"], "b.test": ["127.0.0.3"]},
        )
        results = await courier_for("mx:there.test", resolver=resolver).deliver(letter())
        assert len(large.messages) == visits
    assert results[0].reply.positive is bool(visits)


# --- TLS that was given up


async def test_a_host_that_demands_tls_gets_it_although_a_handshake_failed_before(courier_for):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    script = {
        "STARTTLS": [b"220 go\r\nno handshake at all\r\n" * 3, StartTls(context)],
        "MAIL": ["530 5.7.0 Must issue a STARTTLS command first", "250 ok"],
        "RCPT": ["503 no", "250 ok"],
        "DATA": ["503 no", "354 go"],
    }
    async with ScriptedPeer(script, extensions=("PIPELINING", "STARTTLS")) as peer:
        results = await courier_for(route_to(peer), patience=HASTY).deliver(letter())
        assert results[0].reply.positive
        assert [visit.encrypted for visit in peer.visits] == [False, False, True]


# --- hosts


async def test_a_host_that_takes_no_mail_is_not_asked_again_for_a_day(courier_for, monkeypatch):
    async with (
        ScriptedPeer({"connect": "521 never any mail here"}, host="127.0.0.2") as never,
        ScriptedPeer(host="127.0.0.3", port=never.port) as other,
    ):
        monkeypatch.setattr("pillarbox.relay.destination.SMTP_PORT", never.port)
        resolver = FakeResolver(
            mx={"there.test": [(10, "a.test"), (20, "b.test")]},
            addresses={"a.test": ["127.0.0.2"], "b.test": ["127.0.0.3"]},
        )
        for number in (1, 2, 3):
            courier = courier_for("mx:there.test", resolver=resolver, shared=1)
            assert (await courier.deliver(letter(number=number)))[0].reply.positive
            await courier.close()
        assert (len(never.visits), len(other.visits)) == (1, 3)
        known = courier._hosts.no_mail
        now, hop = asyncio.get_running_loop().time(), Hop("a.test", "127.0.0.2", never.port)
        assert known.get(hop, now + 86_000) is not None
        assert known.get(hop, now + 86_500) is None


async def test_a_full_host_rests_for_a_quarter_of_an_hour(courier_for):
    async with ScriptedPeer({"MAIL": "452 4.3.1 no space"}) as peer:
        courier = courier_for(route_to(peer))
        await courier.deliver(letter())
        hop, now = Hop("127.0.0.1", "127.0.0.1", peer.port), asyncio.get_running_loop().time()
        assert courier._hosts.resting(hop, now + 890) is not None
        assert courier._hosts.resting(hop, now + 910) is None


@pytest.mark.parametrize("mail", ["550 5.7.1 not you", "553 5.1.8 who?", "550 5.1.7 syntax"])
async def test_a_refusal_of_a_sender_is_never_remembered(courier_for, mail):
    async with ScriptedPeer(
        {"MAIL": [mail, "250 ok"], "RCPT": ["503 x", "250 ok"], "DATA": ["503 x", "354 go"]}
    ) as peer:
        courier = courier_for(route_to(peer))
        assert (await courier.deliver(letter()))[0].reply.permanent
        assert (await courier.deliver(letter(number=2)))[0].reply.positive


async def test_a_421_without_a_reason_teaches_no_limit(courier_for):
    moves = ["250 ok", "250 ok", testing.Drop("421 4.3.2 shutting down"), "250 ok"]
    async with ScriptedPeer({"MAIL": moves}) as peer:
        courier = courier_for(route_to(peer))
        for number in range(6):
            assert (await courier.deliver(letter(number=number + 1)))[0].reply.positive
        assert [len(visit.messages) for visit in peer.visits] == [2, 4]
