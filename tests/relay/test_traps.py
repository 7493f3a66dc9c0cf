"""The traps of the sending side against hosts that misbehave on cue; each test carries the number of its trap.

More of T1 and T4 to T8 is in test_transaction_smtp.py, T13 in test_hosts.py, what the queue makes of replies in
tests/queue/test_outcome.py.
"""

import json
import random

import pytest

from pillarbox import observe, testing
from pillarbox.mail.envelope import Notify
from pillarbox.queue.outcome import History, settle
from pillarbox.queue.schedule import RetrySettings
from pillarbox.queue.spool import State
from pillarbox.relay.session import Patience
from pillarbox.testing import Drop, Halves, Hang, Late, ScriptedPeer

HASTY = Patience(
    connect_s=0.5,
    greeting_s=0.15,
    hello_s=0.15,
    tls_s=0.5,
    auth_s=0.15,
    command_s=0.15,
    block_s=0.3,
    end_s=0.15,
    quit_s=0.1,
)
ALL_OK = {0: "body 250 2.0.0", 1: "body 250 2.0.0", 2: "body 250 2.0.0"}


def letter(*recipients, number=1, **more):
    return testing.letter(*(recipients or ("b@there.test",)), number=number, **more)


def three():
    return letter("a@x.test", "b@x.test", "c@x.test")


def told(results):
    return {
        number: f"{one.stage.value} {one.reply.code} {one.reply.status}".strip()
        for number, one in sorted(results.items())
    }


def causes(results):
    return [results[number].reply.cause_id for number in sorted(results)]


def states(results, attempts=0):
    """What the queue makes of them."""
    before = History(attempts, 0.0, delay_notified=False, sender="s@here.test", notify=Notify.UNSAID)
    return [settle(results[number], before, RetrySettings(), 60.0).state for number in sorted(results)]


def route_to(peer, options=""):
    return f"smtp://127.0.0.1:{peer.port}{options}"


@pytest.fixture
def alarms(tmp_path):
    """The alarms that the log has, so far."""
    file = (tmp_path / "log").open("w+b")
    observe.configure(observe.LogSettings(format="json"), descriptor=file.fileno())
    yield lambda: [
        line["problem"]
        for line in map(json.loads, (tmp_path / "log").read_text().splitlines())
        if line["event"] == "alarm"
    ]
    observe.configure(observe.LogSettings(level="warning"))
    file.close()


# --- T1: too many recipients


async def test_T1_a_bare_552_behind_an_accepted_recipient_splits(courier_for):
    async with ScriptedPeer({"RCPT": ["250 ok", "552 too many", "552 too many", "250 ok"]}) as peer:
        results = await courier_for(route_to(peer)).deliver(three())
        assert {one.split()[1] for one in told(results).values()} == {"250"}
        assert sorted(peer.taken) == ["a@x.test", "b@x.test", "c@x.test"]


async def test_T1_what_is_refused_alone_too_is_no_longer_split(courier_for):
    async with ScriptedPeer({"RCPT": ["250 ok", "552 no", "552 no"]}) as peer:
        results = await courier_for(route_to(peer)).deliver(letter("a@x.test", "b@x.test"))
        assert told(results) == {0: "body 250 2.0.0", 1: "rcpt 552"}
        assert len(peer.visits[0].messages) == 2  # the second one is a lone dot
    assert states(results) == [State.DELIVERED, State.QUEUED]


async def test_T1_a_full_mailbox_is_never_split(courier_for):
    async with ScriptedPeer({"RCPT": ["250 ok", "552 5.2.2 mailbox full"]}) as peer:
        results = await courier_for(route_to(peer)).deliver(letter("a@x.test", "b@x.test"))
        assert told(results) == {0: "body 250 2.0.0", 1: "rcpt 552 5.2.2"}
        assert len([one for one in peer.commands if one.startswith("MAIL")]) == 1


async def test_T1_the_limit_is_remembered_for_the_next_connection(courier_for):
    script = {"RCPT": ["250 ok", "250 ok", "452 4.5.3 too many", "250 ok"]}
    async with ScriptedPeer(script) as peer:
        first = courier_for(route_to(peer), shared=1)
        assert set(told(await first.deliver(three()))) == {0, 1, 2}
        await first.close()
        await courier_for(route_to(peer), shared=1).deliver(three())
        groups = "\n".join(peer.visits[1].commands).split("MAIL")[1:]
    assert [group.count("RCPT") for group in groups] == [2, 1]


# --- T2, T3: what a code alone never means


@pytest.mark.parametrize("at", ["MAIL", "RCPT", "DATA", "."])
@pytest.mark.parametrize("text", ["452 no", "452 4.2.2 full", "452 4.5.3 many", "452 4.3.1 disk"])
async def test_T2_no_452_bounces_at_any_stage(courier_for, at, text):
    async with ScriptedPeer({at: text}) as peer:
        results = await courier_for(route_to(peer)).deliver(letter())
    assert [states(results, attempts=number) for number in range(9)] == [[State.QUEUED]] * 9


# --- T4: 421 at any moment


@pytest.mark.parametrize(
    "rcpt",
    [
        ["250 ok", b"250 ok\r\n421 4.3.2 bye\r\n", "250 ok"],
        ["250 ok", "421 4.3.2 bye", "250 ok"],
        ["250 ok", "250 ok", Drop("421 4.3.2 bye")],
        ["250 ok", Halves("250-a\r\n421 4.3.2 bye", 9), "250 ok"],
    ],
)
async def test_T4_an_unasked_421_between_the_replies_of_a_group_leaves_all_queued(courier_for, rcpt):
    async with ScriptedPeer({"RCPT": rcpt}) as peer:
        results = await courier_for(route_to(peer)).deliver(three())
        assert {one.reply.code for one in results.values()} == {421}
        assert peer.taken == []
    assert states(results) == [State.QUEUED] * 3


async def test_T4_a_421_while_the_message_is_being_sent_is_its_answer(courier_for, tmp_path):
    big = letter(body=(b"x" * 98 + b"\r\n") * 100_000, file=tmp_path / "body")
    async with ScriptedPeer({"DATA": Halves("354 go\r\n421 4.3.2 shutting down", 8)}) as peer:
        results = await courier_for(route_to(peer)).deliver(big)
        assert peer.taken == []
    assert told(results) == {0: "body 421 4.3.2"}


# --- T5: the echo of an earlier refusal


@pytest.mark.parametrize("mail", ["550 5.7.1 not you", "451 4.3.0 later", "553 5.1.8 who?"])
@pytest.mark.parametrize("echo", ["503 5.5.1 MAIL first", "554 5.5.1 no valid recipients", "500 what"])
async def test_T5_a_refused_mail_is_the_answer_whatever_its_echoes_say(courier_for, mail, echo):
    async with ScriptedPeer({"MAIL": mail, "RCPT": echo, "DATA": echo}) as peer:
        results = await courier_for(route_to(peer)).deliver(three())
    assert {str(one.reply) for one in results.values()} == {mail}


@pytest.mark.parametrize("echo", ["503 5.5.1 RCPT first", "554 5.5.1 no valid recipients"])
async def test_T5_refused_recipients_are_the_answer_and_not_the_refused_data(courier_for, echo):
    async with ScriptedPeer({"RCPT": ["550 5.1.1 a", "450 4.2.0 b"], "DATA": echo}) as peer:
        results = await courier_for(route_to(peer)).deliver(letter("a@x.test", "b@x.test"))
        assert len(peer.visits) == 1
    assert told(results) == {0: "rcpt 550 5.1.1", 1: "rcpt 450 4.2.0"}


# --- T6: 354 for nobody


@pytest.mark.parametrize("end", ["250 2.0.0 queued for nobody", "554 5.5.1 no recipients", "451 hm"])
async def test_T6_whatever_follows_a_lone_dot_concerns_nobody(courier_for, end):
    async with ScriptedPeer({"RCPT": ["550 5.1.1 no", "250 ok"], ".": [end, "250 2.0.0 ok"]}) as peer:
        courier = courier_for(route_to(peer))
        assert told(await courier.deliver(letter())) == {0: "rcpt 550 5.1.1"}
        assert told(await courier.deliver(letter(number=2))) == {0: "body 250 2.0.0"}
        assert (peer.messages[0], len(peer.visits)) == (b"", 1)


# --- T7: in doubt


@pytest.mark.parametrize("end", [Drop(), Drop(reset=True), Hang(), b"25", Late(5, "250 ok")])
async def test_T7_a_lost_answer_is_in_doubt_counted_and_tried_at_the_same_host(courier_for, end):
    async with ScriptedPeer({".": end}) as peer:
        results = await courier_for(route_to(peer), patience=HASTY).deliver(letter())
    assert causes(results) == ["delivery.in_doubt"]
    before = History(0, 0.0, delay_notified=False, sender="s@here.test", notify=Notify.UNSAID)
    found = settle(results[0], before, RetrySettings(), 60.0)
    assert (found.state, found.maybe_duplicate) == (State.QUEUED, True)


# --- T8: codes that differ in one reply


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (b"250-5.1.1 yes\r\n550 5.1.1 no\r\n", 550),
        (b"550-5.1.1 no\r\n250 yes\r\n", 250),
        (b"250-a\r\n421-4.3.2 bye\r\n250 b\r\n", 421),
        (b"450-a\r\n550-b\r\n451 c\r\n", 451),
    ],
)
async def test_T8_the_last_code_counts_but_421_wins_and_the_operator_hears_of_it(
    courier_for, alarms, reply, code
):
    async with ScriptedPeer({"RCPT": reply}) as peer:
        results = await courier_for(route_to(peer)).deliver(letter())
        assert results[0].reply.code == code
        assert len(alarms()) == 1
        assert "the codes of one reply differ" in alarms()[0]


# --- T9: lines that are no replies


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (b"550\r\n", "rcpt 550"),
        (b"550 \r\n", "rcpt 550"),
        (b"550\t5.1.1 tab\r\n", "rcpt 550 5.1.1"),
        (b"550 5.1.1 bare line feed\n", "rcpt 550 5.1.1"),
        (b"550-5.1.1 one\n550 5.1.1 two\r\n", "rcpt 550 5.1.1"),
        (b"550 5.1.1 a\0b\r\n", "rcpt 550 5.1.1"),
        ("550 5.1.1 gibt es nicht: M\xfcller".encode() + b"\r\n", "rcpt 550 5.1.1"),
        (b"550 5.1.1 \xff\xfe\r\n", "rcpt 550 5.1.1"),
        (b"550 5.1.1 " + b"x" * 600 + b"\r\n", "rcpt 550 5.1.1"),
        (b"550 5.1.1 " + b"x" * 8000 + b"\r\n", "rcpt 550 5.1.1"),
        (b"550-5.1.1 x\r\n" * 99 + b"550 5.1.1 end\r\n", "rcpt 550 5.1.1"),
        (b"hello there\r\n550 5.1.1 one strike\r\n", "rcpt 550 5.1.1"),
        (b"250_ok\r\n550 5.1.1 one strike\r\n", "rcpt 550 5.1.1"),
        (b"\r\n550 5.1.1 an empty line\r\n", "rcpt 550 5.1.1"),
    ],
)
async def test_T9_what_can_be_read_is_read(courier_for, reply, outcome):
    async with ScriptedPeer({"RCPT": reply}) as peer:
        results = await courier_for(route_to(peer)).deliver(letter())
    assert told(results) == {0: outcome}
    assert str(results[0].reply).isprintable() or not reply.isascii() or b"\0" in reply


@pytest.mark.parametrize(
    "reply",
    [
        b"250_ok\r\n250_ok\r\n",
        b"letters\r\nand more\r\n",
        b"250-x\r\n" * 101,
        b"250 " + b"x" * 9000,
        b"250-" + b"x" * 9000 + b"\r\n250 x\r\n",
        b"199 what\r\n",
        b"600 what\r\n",
        b"354 go\r\n",
        b"25\r\n2\r\n",
    ],
)
async def test_T9_a_host_that_makes_no_sense_is_retried_and_told_of_after_three_times(courier_for, reply):
    async with ScriptedPeer({"RCPT": reply}) as peer:
        results = await courier_for(route_to(peer), patience=HASTY).deliver(letter())
        await peer.until(lambda: peer.visits[0].lost)
    assert causes(results) == ["delivery.protocol"]
    before = History(0, 0.0, delay_notified=False, sender="s@here.test", notify=Notify.UNSAID)
    found = settle(results[0], before, RetrySettings(), 60.0)
    assert (found.state, found.alarm_after) == (State.QUEUED, 3)


@pytest.mark.parametrize("again", [b"250 2.1.5 ok\r\n250 2.1.5 ok\r\n", b"550 5.1.1 a\r\n550 5.1.1 b\r\n"])
async def test_T9_replies_that_have_shifted_are_nobodys(courier_for, again):
    async with ScriptedPeer({"RCPT": ["250 ok", again, "550 5.1.1 no"]}) as peer:
        results = await courier_for(route_to(peer), patience=HASTY).deliver(three())
        assert set(causes(results)) == {"delivery.protocol"}
        assert peer.messages == []
    assert states(results) == [State.QUEUED] * 3


async def test_T9_more_lmtp_answers_than_recipients_leave_all_in_doubt(courier_for):
    twice = b"250 2.0.0 one\r\n550 5.1.1 two\r\n250 2.0.0 three\r\n250 2.0.0 four\r\n"
    async with ScriptedPeer({".": [twice, b"", b""]}, lmtp=True) as peer:
        results = await courier_for(f"lmtp://127.0.0.1:{peer.port}").deliver(three())
    assert causes(results) == ["delivery.in_doubt"] * 3


# --- T10, T11: class, status and words that disagree


@pytest.mark.parametrize(
    ("at", "text", "state"),
    [
        ("RCPT", "421 5.7.32 From is not aligned - gsmtp", State.QUEUED),
        ("RCPT", "450 5.1.1 no such user", State.QUEUED),
        (".", "554 4.4.7 Message expired", State.FAILED),
        ("RCPT", "550 4.4.7 gave up", State.FAILED),
        (".", "254 4.7.1 Suppression for user", State.DELIVERED),
    ],
)
async def test_T10_the_basic_code_wins(courier_for, at, text, state):
    async with ScriptedPeer({at: text}) as peer:
        results = await courier_for(route_to(peer)).deliver(letter())
    assert states(results) == [state]


@pytest.mark.parametrize(
    "text",
    [
        "421 4.7.0 [TSS04] Messages from 192.0.2.1 permanently deferred; Retrying will NOT succeed",
        "451 Open relay not allowed",
        "451 Account inbounds disabled",
    ],
)
async def test_T11_what_will_not_pass_is_given_up_within_hours(courier_for, text):
    async with ScriptedPeer({"RCPT": text}) as peer:
        results = await courier_for(route_to(peer)).deliver(letter())
    tried = [states(results, attempts=number)[0] for number in range(6)]
    assert tried == [State.QUEUED] * 5 + [State.FAILED]


async def test_T11_what_passes_by_itself_is_tried_again_although_it_is_refused_for_good(courier_for):
    text = "550 5.2.121 The recipient has exceeded their limit for the number of messages per hour [x.prod.outlook.com]"
    async with ScriptedPeer({"RCPT": text}) as peer:
        results = await courier_for(route_to(peer)).deliver(letter())
    assert [states(results, attempts=number)[0] for number in range(3)] == [
        State.QUEUED,
        State.QUEUED,
        State.FAILED,
    ]


# --- T12: logins


LOGIN = ("PIPELINING", "AUTH PLAIN")


@pytest.mark.parametrize(
    "text", ["454 4.7.0 Temporary authentication failure", "421 4.7.0 try later", "435 not now"]
)
async def test_T12_a_login_that_cannot_be_checked_now_is_no_wrong_password(courier_for, text):
    async with ScriptedPeer({"AUTH": [text, "235 2.7.0 ok"]}, extensions=LOGIN) as peer:
        route = f"smtp://joe@127.0.0.1:{peer.port}?tls=none"
        results = await courier_for(route, shared=1, dead_s=0.0).deliver(letter())
        assert states(results) == [State.QUEUED]
        again = await courier_for(route, shared=1).deliver(letter(number=2))
        assert again[0].reply.positive


async def test_T12_a_wrong_password_is_not_tried_again_and_again(courier_for):
    async with ScriptedPeer({"AUTH": "535 5.7.8 wrong"}, extensions=LOGIN) as peer:
        route = f"smtp://joe@127.0.0.1:{peer.port}?tls=none"
        for number, heard in enumerate(("auth 535 5.7.8", "local 451 4.4.0", "local 451 4.4.0")):
            results = await courier_for(route, shared=1).deliver(letter(number=number + 1))
            assert told(results) == {0: heard}
            assert results[0].reply.text.endswith("535 5.7.8 wrong" if number else "wrong")
            assert states(results, attempts=99) == [State.QUEUED]
            assert 0 < results[0].wait_s <= 600
        assert len(peer.visits) == 1


# --- T14 to T17: what receivers mean by it


@pytest.mark.parametrize("at", ["connect", "MAIL", "RCPT"])
async def test_T14_a_resolver_that_a_block_list_refuses_is_the_receivers_fault(courier_for, at):
    text = "554 5.7.1 Service unavailable; zen.spamhaus.org: Error: open resolver; check-host"
    async with ScriptedPeer({at: text}) as peer:
        results = await courier_for(route_to(peer)).deliver(letter())
    before = History(9, 0.0, delay_notified=False, sender="s@here.test", notify=Notify.UNSAID)
    found = settle(results[0], before, RetrySettings(), 60.0)
    assert (found.state, found.suspend_s) == (State.QUEUED, 0.0)


async def test_T15_251_is_a_success(courier_for):
    async with ScriptedPeer({"RCPT": "251 User not local; will forward to <new@y.test>"}) as peer:
        assert (await courier_for(route_to(peer)).deliver(letter()))[0].reply.positive
        assert len(peer.taken) == 1


async def test_T17_one_bad_mailbox_named_at_the_end_of_data_does_not_cost_the_others(courier_for):
    no = "554 delivery error: dd This user doesn't have a yahoo.com account (b@x.test) [0]"
    async with ScriptedPeer({".": [no, "250 2.0.0 ok", no, "250 2.0.0 ok"]}) as peer:
        results = await courier_for(route_to(peer)).deliver(three())
        assert told(results) == {0: "body 250 2.0.0", 1: "body 554", 2: "body 250 2.0.0"}
        assert peer.taken == ["a@x.test", "c@x.test"]
        assert not results[1].shared
    assert states(results) == [State.DELIVERED, State.FAILED, State.DELIVERED]


async def test_T17_a_refusal_of_the_message_that_names_nobody_is_for_all(courier_for):
    async with ScriptedPeer({".": "554 5.7.1 looks like spam"}) as peer:
        results = await courier_for(route_to(peer)).deliver(three())
        assert set(told(results).values()) == {"body 554 5.7.1"}
        assert len(peer.messages) == 1
    assert all(one.shared for one in results.values())


# --- no recipient is ever lost, and nobody gets a message twice unless an answer was

_NOISE = [
    "250 2.0.0 ok",
    "250 2.0.0 ok",
    "250 2.0.0 ok",
    "251 fine",
    "421 4.3.2 bye",
    "450 4.2.0 later",
    "452 4.5.3 too many",
    "452 no",
    "455 4.5.4 hm",
    "500 5.5.2 what",
    "503 5.5.1 no",
    "550 5.1.1 no such user",
    "552 too many",
    "554 5.7.1 blocked using zen.spamhaus.org",
    "555 5.5.4 SIZE?",
    "354 go",
    "571 5.7.1 odd",
    "999 what",
    "250-a\r\n250 b",
    b"garbage\r\n",
    b"250 one\r\n250 two\r\n",
    Drop(),
    Drop("421 bye"),
    Drop("250 ok"),
    Drop(reset=True),
    Hang(),
    Halves("250 2.1.5 ok", 2),
    Late(0.02, "250 2.0.0 ok"),
]
# A server that answers for its recipients more often than it has any, or goes on behind a 421, can't be understood.
_NO_LMTP_NOISE = ("421 4.3.2 bye", b"250 one\r\n250 two\r\n")
_DOUBT = {"delivery.in_doubt", "delivery.too_few_replies", "delivery.protocol"}


def noise(chance, calm):
    """A few moves for one verb, most of them as a sane host makes them."""
    return [chance.choice(_NOISE) if chance.random() < 0.4 else calm for _ in range(6)] + [calm]


@pytest.mark.parametrize("lmtp", [False, True])
@pytest.mark.parametrize("seed", range(60))
async def test_random_replies_never_lose_a_recipient_nor_send_twice(courier_for, seed, lmtp):
    chance = random.Random(seed)
    calm = {"connect": "220 hi", "MAIL": "250 ok", "RCPT": "250 ok", "DATA": "354 go", ".": "250 ok"}
    noisy = chance.sample(sorted(calm), chance.randint(1, 4))
    script = {verb: noise(chance, calm[verb]) for verb in noisy}
    if lmtp and "." in script:
        script["."] = [one for one in script["."] if one not in _NO_LMTP_NOISE]
    extensions = ("PIPELINING", "SIZE", "DSN") if chance.random() < 0.7 else ("SIZE",)
    async with ScriptedPeer(script, extensions=extensions, lmtp=lmtp) as peer:
        courier = courier_for(
            f"{'lmtp' if lmtp else 'smtp'}://127.0.0.1:{peer.port}", patience=HASTY, dead_s=0.0
        )
        waiting = {number: f"u{number}@x.test" for number in range(4)}
        doubtful = set()
        for _ in range(5):
            queued = letter(*(f"u{number}@x.test" for number in range(4)))
            queued.pending = [one for one in queued.pending if one.number in waiting]
            results = await courier.deliver(queued)
            assert set(results) == set(waiting)
            for number, state in zip(sorted(results), states(results), strict=True):
                address = f"u{number}@x.test"
                if results[number].reply.cause_id in _DOUBT:
                    doubtful.add(address)
                if state is State.DELIVERED:
                    assert peer.taken.count(address) >= 1
                if state is not State.QUEUED:
                    del waiting[number]
            if not waiting:
                break
        for address in {f"u{number}@x.test" for number in range(4)} - doubtful:
            assert peer.taken.count(address) <= 1, script


# --- goodbyes that nobody asked for


@pytest.mark.parametrize("at", ["MAIL", "RCPT", "DATA"])
async def test_T4_a_221_to_anything_but_quit_is_a_lost_connection(courier_for, at):
    async with ScriptedPeer({at: "221 2.0.0 bye"}) as peer:
        results = await courier_for(route_to(peer)).deliver(three())
        assert peer.messages == []
    assert set(causes(results)) == {"delivery.connection_lost"}
    assert all(" lost before it answered MAIL" in one.reply.text for one in results.values())
    assert states(results) == [State.QUEUED] * 3


async def test_T7_a_221_to_the_message_leaves_it_in_doubt(courier_for):
    async with ScriptedPeer({".": "221 2.0.0 bye"}) as peer:
        results = await courier_for(route_to(peer)).deliver(letter())
    assert causes(results) == ["delivery.in_doubt"]


async def test_T15_where_a_251_forwards_to_is_kept_as_a_remark(courier_for):
    async with ScriptedPeer({"RCPT": ["251 2.1.5 will forward to <new@y.test>", "250 ok"]}) as peer:
        results = await courier_for(route_to(peer)).deliver(letter("a@x.test", "b@x.test"))
    assert [results[number].remark for number in (0, 1)] == ["251 2.1.5 will forward to <new@y.test>", ""]


async def test_T10_a_254_counts_as_taken_and_the_operator_hears_of_it(courier_for):
    async with ScriptedPeer({".": "254 4.7.1 Suppression for user"}) as peer:
        results = await courier_for(route_to(peer)).deliver(letter())
    before = History(0, 0.0, delay_notified=False, sender="s@here.test", notify=Notify.UNSAID)
    found = settle(results[0], before, RetrySettings(), 60.0)
    assert found.state is State.DELIVERED
    assert "yet says that it will not deliver it" in found.alarm


@pytest.mark.parametrize(
    ("answer", "heard"), [("501 your name?", 1), ("504 no such name", 1), ("502 what?", 0)]
)
async def test_a_name_that_a_host_minds_is_told_even_if_helo_does(courier_for, alarms, answer, heard):
    async with ScriptedPeer({"EHLO": answer}) as peer:
        assert (await courier_for(route_to(peer)).deliver(letter()))[0].reply.positive
    assert len(alarms()) == heard
