"""Messages sent to scripted hosts: what each way to misbehave leads to."""

import asyncio
import ssl

import pytest
import trustme

from pillarbox import testing
from pillarbox.mail.catalogue import delivery
from pillarbox.mail.envelope import Body, Notify, Recipient, Ret, ValidSince
from pillarbox.mail.reply import Origin
from pillarbox.mailauth.dns import Answer
from pillarbox.relay.session import Patience
from pillarbox.testing import Drop, Halves, Hang, Late, ScriptedPeer, StartTls

HASTY = Patience(
    connect_s=0.5,
    greeting_s=0.1,
    hello_s=0.1,
    tls_s=0.5,
    auth_s=0.1,
    command_s=0.1,
    block_s=0.3,
    end_s=0.1,
    quit_s=0.1,
)


BODY = b"Subject: hello\r\n\r\n.a line with a dot\r\n"


def letter(*recipients, body=BODY, number=1, file=None, sender="a@here.test", **parameters):
    who = recipients or ("b@there.test",)
    return testing.letter(*who, sender=sender, body=body, file=file, number=number, parameters=parameters)


def told(results):
    """The outcome of each recipient, short: stage, code and status."""
    return {
        number: f"{result.stage.value} {result.reply.code} {result.reply.status}".strip()
        for number, result in sorted(results.items())
    }


def causes(results):
    return {number: result.reply.cause_id for number, result in sorted(results.items())}


def route_to(peer: ScriptedPeer, options: str = "") -> str:
    return f"smtp://127.0.0.1:{peer.port}{options}"


def recipients_of(peer):
    """The recipients of each transaction."""
    told = []
    for command in peer.commands:
        if command.startswith("MAIL"):
            told.append([])
        elif command.startswith("RCPT"):
            told[-1].append(command.partition("<")[2].partition(">")[0])
    return told


# --- the ordinary way


async def test_a_message_takes_two_round_trips_on_a_kept_connection(courier_for):
    async with ScriptedPeer() as peer:
        courier = courier_for(route_to(peer))
        for number in range(3):
            assert told(await courier.deliver(letter("b@x.test", "c@x.test", number=number + 1))) == {
                0: "body 250 2.0.0",
                1: "body 250 2.0.0",
            }
        (visit,) = peer.visits
        assert visit.messages == [BODY] * 3
        assert visit.reads[1:3] * 3 == visit.reads[1:]
        assert visit.reads[1].endswith(b"RCPT TO:<b@x.test>\r\nRCPT TO:<c@x.test>\r\nDATA\r\n")
        await courier.close()
    assert peer.visits[0].commands[-1] == "QUIT"


async def test_results_say_who_said_what(courier_for):
    async with ScriptedPeer({"RCPT": ["250 ok", "550 5.1.1 Who?"]}) as peer:
        results = await courier_for(route_to(peer)).deliver(letter("b@x.test", "c@x.test"))
    assert results[0].origin is results[1].origin is Origin.PEER
    assert results[1].host == f"[127.0.0.1]:{peer.port}"
    assert results[0].reports
    assert told(results) == {0: "body 250 2.0.0", 1: "rcpt 550 5.1.1"}


async def test_without_pipelining_each_command_waits(courier_for):
    async with ScriptedPeer(extensions=()) as peer:
        results = await courier_for(route_to(peer)).deliver(letter("b@x.test", "c@x.test"))
    assert told(results) == {0: "body 250 2.0.0", 1: "body 250 2.0.0"}
    assert not results[0].reports
    assert all(read.count(b"\r\n") == 1 for read in peer.visits[0].reads[:5])


@pytest.mark.parametrize("cut", [1, 3, 5, 20])
async def test_replies_may_come_in_halves(courier_for, cut):
    script = {
        name: Halves(text, cut)
        for name, text in {"connect": "220 hi", "MAIL": "250-a\r\n250 b", ".": "250 ok"}.items()
    }
    async with ScriptedPeer(script) as peer:
        assert told(await courier_for(route_to(peer)).deliver(letter())) == {0: "body 250"}


async def test_many_recipients_go_in_transactions_of_limited_size(courier_for):
    async with ScriptedPeer(extensions=("PIPELINING", "LIMITS RCPTMAX=4")) as peer:
        results = await courier_for(route_to(peer)).deliver(letter(*(f"u{n}@x.test" for n in range(10))))
    assert set(told(results).values()) == {"body 250 2.0.0"}
    assert len(results) == 10
    groups = "\n".join(peer.commands).split("MAIL")[1:]
    assert [group.count("RCPT") for group in groups] == [4, 4, 2]


async def test_a_connection_carries_only_so_many_messages(courier_for):
    async with ScriptedPeer(extensions=("PIPELINING", "LIMITS MAILMAX=2")) as peer:
        courier = courier_for(route_to(peer))
        for number in range(5):
            await courier.deliver(letter(number=number + 1))
        assert [len(visit.messages) for visit in peer.visits] == [2, 2, 1]
    async with ScriptedPeer() as peer:
        courier = courier_for(route_to(peer), max_messages=1, max_recipients=1)
        results = await courier.deliver(letter("a@x.test", "b@x.test", "c@x.test"))
        assert set(told(results).values()) == {"body 250 2.0.0"}
        assert len(peer.visits) == 3


async def test_dsn_parameters_go_with_the_message(courier_for):
    who = Recipient("b@x.test", Notify.SUCCESS, "rfc822;old@x.test")
    async with ScriptedPeer() as peer:
        await courier_for(route_to(peer)).deliver(letter(who, ret=Ret.HEADERS, envid="Q1"))
    assert "RET=HDRS ENVID=Q1" in peer.commands[1]
    assert peer.commands[2] == "RCPT TO:<b@x.test> NOTIFY=SUCCESS ORCPT=rfc822;old@x.test"


async def test_a_null_sender(courier_for):
    async with ScriptedPeer() as peer:
        await courier_for(route_to(peer)).deliver(letter(sender=""))
    assert peer.commands[1].startswith("MAIL FROM:<>")


# --- large messages


async def test_a_large_message_goes_piece_by_piece_from_its_file(courier_for, tmp_path):
    body = b"Subject: x\r\n\r\n" + b".long line of text\r\n" * 60_000
    async with ScriptedPeer() as peer:
        results = await courier_for(route_to(peer)).deliver(letter(body=body, file=tmp_path / "body"))
    assert told(results) == {0: "body 250 2.0.0"}
    assert peer.messages == [body]


async def test_a_large_message_goes_in_one_chunk_where_chunks_are_taken(courier_for, tmp_path):
    body = b"Subject: x\r\n\r\n" + b".long line of text\r\n" * 60_000
    async with ScriptedPeer(extensions=("PIPELINING", "CHUNKING")) as peer:
        results = await courier_for(route_to(peer)).deliver(letter(body=body, file=tmp_path / "body"))
    assert told(results) == {0: "body 250 2.0.0"}
    assert peer.messages == [body]
    assert f"BDAT {len(body)} LAST" in peer.commands
    assert "DATA" not in peer.commands


async def test_an_early_refusal_of_a_large_message_is_its_answer(courier_for, tmp_path):
    body = b"x" * 998 + b"\r\n"
    async with ScriptedPeer({"DATA": Halves("354 go\r\n552 5.3.4 too big already", 8)}) as peer:
        results = await courier_for(route_to(peer)).deliver(
            letter(body=body * 20_000, file=tmp_path / "body")
        )
    assert told(results) == {0: "body 552 5.3.4"}


@pytest.mark.parametrize("extensions", [(), ("PIPELINING",)])
async def test_a_refusal_that_comes_with_the_leave_to_send_is_the_answer(courier_for, extensions):
    move = b"354 go\r\n552 5.3.4 too big\r\n"
    async with ScriptedPeer({"DATA": [move, "354 go"]}, extensions=extensions) as peer:
        courier = courier_for(route_to(peer))
        assert told(await courier.deliver(letter())) == {0: "body 552 5.3.4"}
        assert peer.messages == []
        assert told(await courier.deliver(letter(number=2))) == {0: "body 250 2.0.0"}


async def test_a_message_file_that_was_cut_is_never_sent_as_whole(courier_for, tmp_path):
    queued = letter(body=b"line\r\n" * 1000, file=tmp_path / "body")
    (tmp_path / "body").write_bytes(b"line\r\n" * 900)
    async with ScriptedPeer() as peer:
        courier = courier_for(route_to(peer))
        assert causes(await courier.deliver(queued)) == {0: "delivery.damaged"}
        assert peer.messages == []
        (tmp_path / "body").unlink()
        assert causes(await courier.deliver(queued)) == {0: "delivery.damaged"}
        assert told(await courier.deliver(letter())) == {0: "body 250 2.0.0"}


async def test_bare_line_ends_never_reach_the_wire_by_data(courier_for):
    async with ScriptedPeer() as peer:
        await courier_for(route_to(peer)).deliver(letter(body=b"a\n.\nMAIL FROM:<evil@x.test>\r.\rb"))
    assert b"".join(peer.visits[0].reads).count(b"\n.\n") == 0
    assert len(peer.messages) == 1
    assert not any("evil" in one for one in peer.commands)


# --- content that a host may not be able to carry


def typed(content: bytes, declared: Body):
    return testing.letter("b@there.test", body=content, parameters={"body": declared})


@pytest.mark.parametrize(
    ("body", "declared", "extensions", "outcome"),
    [
        (b"plain\r\n", Body.EIGHT_BIT, (), "body 250 2.0.0"),
        (b"\xe4\r\n", Body.EIGHT_BIT, ("8BITMIME",), "body 250 2.0.0"),
        (b"\xe4\r\n", Body.EIGHT_BIT, (), "mail 554 5.6.3"),
        (b"text\r\n", Body.BINARY, (), "body 250 2.0.0"),
        (b"te\0xt\n", Body.BINARY, ("8BITMIME",), "mail 554 5.6.3"),
        (b"te\0xt\n", Body.BINARY, ("8BITMIME", "CHUNKING", "BINARYMIME"), "body 250 2.0.0"),
        (b"x" * 999 + b"\r\n", Body.BINARY, ("8BITMIME",), "mail 554 5.6.3"),
        (b"x" * 998 + b"\r\n", Body.BINARY, ("8BITMIME",), "body 250 2.0.0"),
    ],
)
async def test_E554_8_content_goes_only_where_it_can_be_carried(
    courier_for, body, declared, extensions, outcome
):
    async with ScriptedPeer(extensions=extensions) as peer:
        results = await courier_for(route_to(peer)).deliver(typed(body, declared))
    assert told(results) == {0: outcome}
    assert peer.messages == ([body] if "250" in outcome else [])


async def test_E550_18_internationalised_mail_needs_a_host_that_takes_it(courier_for):
    async with ScriptedPeer(extensions=("PIPELINING",)) as peer:
        courier = courier_for(route_to(peer))
        results = await courier.deliver(
            letter("jos\xe9@x.test", "b@x.test", "c@b\xfccher.test", smtputf8=True)
        )
        assert told(results) == {0: "mail 550 5.6.7", 1: "body 250 2.0.0", 2: "body 250 2.0.0"}
        assert "RCPT TO:<c@xn--bcher-kva.test>" in peer.commands
        head = letter("b@x.test", body="Subject: \xe4\r\n\r\n".encode(), smtputf8=True)
        assert told(await courier.deliver(head)) == {0: "mail 550 5.6.7"}
    async with ScriptedPeer() as peer:
        results = await courier_for(route_to(peer)).deliver(letter("jos\xe9@x.test"))
        assert told(results) == {0: "body 250 2.0.0"}
        assert "SMTPUTF8" in peer.commands[1]


async def test_a_message_over_the_announced_size_is_not_even_begun(courier_for):
    async with ScriptedPeer(extensions=("SIZE 10",)) as peer:
        results = await courier_for(route_to(peer)).deliver(letter())
    assert causes(results) == {0: "delivery.over_peer_size"}
    assert peer.commands == ["EHLO here.test"]


# --- traps


async def test_T1_recipients_over_the_limit_go_in_another_transaction_at_once(courier_for):
    script = {"RCPT": ["250 ok", "250 ok", "452 4.5.3 too many", "452 4.5.3 too many", "250 ok"]}
    async with ScriptedPeer(script) as peer:
        results = await courier_for(route_to(peer)).deliver(letter(*(f"u{n}@x.test" for n in range(4))))
    assert set(told(results).values()) == {"body 250 2.0.0"}
    assert len(peer.visits) == 1
    assert len(peer.messages) == 2


async def test_T1_a_first_recipient_over_the_limit_is_just_retried(courier_for):
    async with ScriptedPeer({"RCPT": "452 4.5.3 too many"}) as peer:
        results = await courier_for(route_to(peer)).deliver(letter("a@x.test", "b@x.test"))
    assert told(results) == {0: "rcpt 452 4.5.3", 1: "rcpt 452 4.5.3"}


@pytest.mark.parametrize("at", ["connect", "EHLO", "MAIL", "RCPT", "DATA", "."])
async def test_T4_a_421_ends_the_session_wherever_it_comes(courier_for, at):
    async with ScriptedPeer({at: Drop("421 4.3.2 bye")}) as peer:
        results = await courier_for(route_to(peer)).deliver(letter("b@x.test", "c@x.test"))
    assert {result.reply.code for result in results.values()} == {421}
    assert len(results) == 2


async def test_T4_a_421_between_messages_costs_nothing(courier_for):
    async with ScriptedPeer({".": [b"250 2.0.0 ok\r\n421 4.3.2 bye\r\n", "250 2.0.0 ok"]}) as peer:
        courier = courier_for(route_to(peer))
        assert told(await courier.deliver(letter())) == {0: "body 250 2.0.0"}
        assert told(await courier.deliver(letter(number=2))) == {0: "body 250 2.0.0"}
        assert len(peer.visits) == 2


async def test_T4_a_host_that_hangs_up_between_messages_is_called_again(courier_for):
    async with ScriptedPeer({".": [Drop("250 2.0.0 ok"), "250 2.0.0 ok"]}) as peer:
        courier = courier_for(route_to(peer))
        await courier.deliver(letter())
        assert told(await courier.deliver(letter(number=2))) == {0: "body 250 2.0.0"}
        assert len(peer.visits) == 2


async def test_T4_the_number_of_messages_before_a_421_is_learnt(courier_for):
    script = {
        "MAIL": [
            "250 ok",
            "250 ok",
            "250 ok",
            Drop("421 4.7.0 Too many messages in this connection"),
            "250 ok",
        ]
    }
    async with ScriptedPeer(script) as peer:
        courier = courier_for(route_to(peer))
        for number in range(9):
            assert told(await courier.deliver(letter(number=number + 1))) == {0: "body 250 2.0.0"}
        assert [len(visit.messages) for visit in peer.visits] == [3, 3, 3]


async def test_T5_a_refused_mail_is_the_answer_for_all(courier_for):
    script = {"MAIL": "550 5.7.1 not you", "RCPT": "503 5.5.1 MAIL first", "DATA": "503 5.5.1 RCPT first"}
    async with ScriptedPeer(script) as peer:
        results = await courier_for(route_to(peer)).deliver(letter("b@x.test", "c@x.test"))
    assert told(results) == {0: "mail 550 5.7.1", 1: "mail 550 5.7.1"}


async def test_T6_data_for_nobody_is_ended_by_a_lone_dot(courier_for):
    async with ScriptedPeer({"RCPT": ["550 5.1.1 no", "250 ok"]}) as peer:
        courier = courier_for(route_to(peer))
        assert told(await courier.deliver(letter())) == {0: "rcpt 550 5.1.1"}
        assert told(await courier.deliver(letter(number=2))) == {0: "body 250 2.0.0"}
        assert peer.messages == [b"", BODY]
        assert len(peer.visits) == 1


@pytest.mark.parametrize("end", [Drop(), Drop(reset=True), Hang(), b"\xff\xff\r\nnonsense\r\n"])
async def test_T7_without_an_answer_to_the_dot_the_outcome_is_in_doubt(courier_for, end):
    async with ScriptedPeer({".": end}) as peer:
        results = await courier_for(route_to(peer), patience=HASTY).deliver(letter("b@x.test", "c@x.test"))
    assert causes(results) == {0: "delivery.in_doubt", 1: "delivery.in_doubt"}
    assert results[0].in_doubt


@pytest.mark.parametrize("at", ["MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize("how", [Drop(), Drop(reset=True), Hang()])
async def test_T7_before_the_dot_nothing_is_in_doubt(courier_for, at, how):
    async with ScriptedPeer({at: how}) as peer:
        results = await courier_for(route_to(peer), patience=HASTY).deliver(letter())
    assert causes(results)[0] in ("delivery.connection_lost", "delivery.timeout")
    assert results[0].reply.temporary
    assert results[0].stage.value == at.lower()


async def test_T7_a_message_in_doubt_goes_to_the_same_host_first(courier_for):
    resolver = FakeMx()
    async with (
        ScriptedPeer({".": [Drop(), "250 2.0.0 ok"]}, host="127.0.0.2") as first,
        ScriptedPeer(host="127.0.0.3", port=first.port) as second,
    ):
        courier = courier_for(f"smtp://hosts.test:{first.port}", resolver=resolver, shared=1)
        resolver.order = ["127.0.0.2"]
        assert causes(await courier.deliver(letter())) == {0: "delivery.in_doubt"}
        resolver.order = ["127.0.0.3", "127.0.0.2"]
        other = courier_for(f"smtp://hosts.test:{first.port}", shared=1)
        assert told(await other.deliver(letter())) == {0: "body 250 2.0.0"}
        assert len(first.visits) == 2
        assert second.visits == []


class FakeMx:
    """A resolver whose only host has the addresses in `order`."""

    order: list[str]

    async def addresses(self, _host: str):
        return Answer(tuple(self.order))


async def test_T8_codes_that_differ_in_one_reply(courier_for):
    async with ScriptedPeer({"RCPT": "250-5.1.1 yes\r\n550 5.1.1 no"}) as peer:
        results = await courier_for(route_to(peer)).deliver(letter())
    assert results[0].reply.code == 550


# --- nonsense


@pytest.mark.parametrize(
    ("at", "what"),
    [
        ("connect", b"x" * 20_000),
        ("connect", b"220-hello\r\n" * 200),
        ("EHLO", b"250-" + b"A" * 9000),
        ("MAIL", b"999 what\r\n"),
        ("MAIL", b"354 go\r\n"),
        ("RCPT", b"hello\r\nhello\r\n"),
        ("DATA", b"250 not a go-ahead\r\n"),
        (".", b"354 more\r\n"),
        ("EHLO", b"250 x\r\n250 y\r\n"),
    ],
)
async def test_a_host_that_makes_no_sense_costs_one_attempt(courier_for, at, what):
    async with ScriptedPeer({at: what}) as peer:
        courier = courier_for(route_to(peer), patience=HASTY)
        results = await courier.deliver(letter())
    assert results[0].reply.temporary
    assert results[0].reply.cause in (delivery.PROTOCOL, delivery.IN_DOUBT)


async def test_unasked_replies_do_not_shift_the_later_ones(courier_for):
    async with ScriptedPeer(
        {".": b"250 2.0.0 ok\r\n250 2.0.0 and more\r\n", "RCPT": ["250 ok", "550 5.1.1 no"]}
    ) as peer:
        courier = courier_for(route_to(peer))
        assert told(await courier.deliver(letter())) == {0: "body 250 2.0.0"}
        assert told(await courier.deliver(letter(number=2))) == {0: "rcpt 550 5.1.1"}
        assert len(peer.visits) == 2


async def test_peer_text_stays_one_line_wherever_it_is_shown(courier_for):
    async with ScriptedPeer({"MAIL": b"999 \x1b[31m\r\n"}) as peer:
        results = await courier_for(route_to(peer)).deliver(letter())
    assert str(results[0].reply).isprintable()


@pytest.mark.parametrize("at", ["connect", "EHLO", "MAIL", "DATA"])
async def test_a_silent_host_is_left_in_time(courier_for, at):
    async with ScriptedPeer({at: Hang()}) as peer:
        results = await courier_for(route_to(peer), patience=HASTY).deliver(letter())
    assert causes(results) == {0: "delivery.timeout"}


async def test_a_slow_answer_in_time_is_taken(courier_for):
    async with ScriptedPeer({"MAIL": Late(0.05, "250 ok"), "RCPT": Late(0.05, "250 ok")}) as peer:
        patience = Patience(command_s=5)
        assert told(await courier_for(route_to(peer), patience=patience).deliver(letter())) == {
            0: "body 250 2.0.0"
        }


async def test_a_cancelled_delivery_leaves_nothing_open(courier_for):
    async with ScriptedPeer({".": Hang()}) as peer:
        courier = courier_for(route_to(peer))
        task = asyncio.create_task(courier.deliver(letter()))
        await peer.until(lambda: bool(peer.messages))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await peer.until(lambda: peer.visits[0].lost)


# --- parameters and greetings


async def test_hints_are_left_out_when_the_host_chokes_on_them(courier_for):
    script = {"MAIL": ["555 5.5.4 SIZE?", "250 ok"], "RCPT": ["503 x", "250 ok"], "DATA": ["503 x", "354 go"]}
    async with ScriptedPeer(script) as peer:
        results = await courier_for(route_to(peer)).deliver(letter())
    assert told(results) == {0: "body 250 2.0.0"}
    assert not results[0].reports
    mails = [one for one in peer.commands if one.startswith("MAIL")]
    assert ["SIZE" in one for one in mails] == [True, False]


async def test_a_host_without_ehlo_gets_helo(courier_for):
    async with ScriptedPeer({"EHLO": "502 5.5.1 what?"}) as peer:
        assert told(await courier_for(route_to(peer)).deliver(letter())) == {0: "body 250 2.0.0"}
    assert peer.commands[:3] == ["EHLO here.test", "HELO here.test", "MAIL FROM:<a@here.test>"]


async def test_a_bad_sequence_is_tried_once_on_a_new_connection(courier_for):
    script = {"MAIL": ["503 5.5.1 huh", "250 ok"], "RCPT": ["503 x", "250 ok"], "DATA": ["503 x", "354 go"]}
    async with ScriptedPeer(script) as peer:
        assert told(await courier_for(route_to(peer)).deliver(letter())) == {0: "body 250 2.0.0"}
        assert len(peer.visits) == 2
    async with ScriptedPeer({"MAIL": "503 5.5.1 huh", "RCPT": "503 x", "DATA": "503 x"}) as peer:
        assert told(await courier_for(route_to(peer)).deliver(letter())) == {0: "mail 503 5.5.1"}
        assert len(peer.visits) == 2


async def test_an_open_transaction_is_reset_before_the_next_message(courier_for):
    async with ScriptedPeer({"RCPT": ["550 5.1.1 no", "250 ok"], "DATA": ["503 5.5.1 no", "354 go"]}) as peer:
        courier = courier_for(route_to(peer))
        await courier.deliver(letter())
        assert told(await courier.deliver(letter(number=2))) == {0: "body 250 2.0.0"}
        assert "RSET" in peer.commands
        assert len(peer.visits) == 1


# --- TLS


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def server_tls(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "mx.test").configure_cert(context)
    return context


@pytest.fixture
def ca_file(authority, tmp_path):
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return str(tmp_path / "ca.pem")


WITH_TLS = ("PIPELINING", "STARTTLS")


async def test_starttls_is_used_where_it_is_offered(courier_for, server_tls):
    async with ScriptedPeer({"STARTTLS": StartTls(server_tls)}, extensions=WITH_TLS) as peer:
        assert told(await courier_for(route_to(peer)).deliver(letter())) == {0: "body 250 2.0.0"}
        assert peer.visits[0].encrypted
    assert peer.commands[:3] == ["EHLO here.test", "STARTTLS", "EHLO here.test"]


@pytest.mark.parametrize(
    "injected",
    [
        b"250-evil.test\r\n250-CHUNKING\r\n250 AUTH PLAIN\r\n354 go\r\n250-half",
        b"250-evil.test\r\n250-PIPELINING\r\n250 CHUNKING\r\n" + b"250 2.0.0 ok\r\n" * 4,
        b"550 5.7.1 go away\r\n" * 3,
        b"421 4.3.2 evil.test closing\r\n",
    ],
    ids=["half", "the whole transaction", "refusals", "an end"],
)
async def test_what_was_said_in_clear_behind_the_answer_to_starttls_is_dropped(
    courier_for, server_tls, injected
):
    script = {"STARTTLS": StartTls(server_tls, injected)}
    async with ScriptedPeer(script, extensions=WITH_TLS) as peer:
        assert told(await courier_for(route_to(peer)).deliver(letter())) == {0: "body 250 2.0.0"}
        assert peer.visits[0].encrypted
        assert len(peer.visits) == 1
    verbs = [line.split()[0] for line in peer.commands[:6]]
    assert verbs == ["EHLO", "STARTTLS", "EHLO", "MAIL", "RCPT", "DATA"]


async def test_replies_in_clear_where_the_handshake_of_the_host_should_be_are_no_replies(courier_for):
    """They come once the client has begun to shake hands, so nothing of them waits in front of it."""
    heard = []

    async def serve(reader, writer):
        writer.write(b"220 there.test\r\n")
        answers = {b"EHLO": b"250-there.test\r\n250 STARTTLS\r\n", b"STAR": b"220 go\r\n"}
        while line := await reader.readline():
            heard.append(line[:4])
            writer.write(answers.get(line[:4], b""))
            if line[:4] == b"STAR":
                heard.append((await reader.read(65_536))[:1])
                writer.write(b"250-evil.test\r\n250 CHUNKING\r\n" + b"250 2.0.0 ok\r\n" * 9)
                break
        heard.append(await reader.read())
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        route = f"smtp://127.0.0.1:{port}?tls=required"
        results = await courier_for(route, patience=HASTY).deliver(letter())
    assert results[0].reply.temporary
    assert results[0].stage.value == "tls"
    assert heard[:3] == [b"EHLO", b"STAR", b"\x16"]
    assert b"MAIL" not in b"".join(heard)


@pytest.mark.parametrize("answer", ["454 4.7.0 not now", "502 5.5.1 no"])
async def test_opportunistic_tls_goes_on_in_clear_when_it_is_refused(courier_for, answer):
    async with ScriptedPeer({"STARTTLS": answer}, extensions=WITH_TLS) as peer:
        assert told(await courier_for(route_to(peer)).deliver(letter())) == {0: "body 250 2.0.0"}
        assert len(peer.visits) == 1


async def test_opportunistic_tls_calls_again_in_clear_when_the_handshake_fails(courier_for):
    script = {"STARTTLS": b"220 go\r\nthis is no handshake at all, not at all\r\n" * 3}
    async with ScriptedPeer(script, extensions=WITH_TLS) as peer:
        courier = courier_for(route_to(peer), shared=1, patience=HASTY)
        assert told(await courier.deliver(letter())) == {0: "body 250 2.0.0"}
        assert len(peer.visits) == 2
        other = courier_for(route_to(peer), shared=1)
        assert told(await other.deliver(letter())) == {0: "body 250 2.0.0"}
        assert len(peer.visits) == 3  # the broken handshake is remembered
    assert peer.commands.count("STARTTLS") == 1


@pytest.mark.parametrize(
    "answer", ["454 4.7.0 not now", "502 5.5.1 no", b"220 go\r\n\x15\x03\x01\x00\x02\x02\x28"]
)
async def test_required_tls_is_required(courier_for, answer):
    async with ScriptedPeer({"STARTTLS": answer}, extensions=WITH_TLS) as peer:
        results = await courier_for(route_to(peer, "?tls=required"), patience=HASTY).deliver(letter())
    assert results[0].stage.value in ("starttls", "tls")
    assert not any(one.startswith("MAIL") for one in peer.commands)


async def test_required_tls_that_is_not_offered(courier_for):
    async with ScriptedPeer() as peer:
        results = await courier_for(route_to(peer, "?tls=required")).deliver(letter())
    assert causes(results) == {0: "delivery.tls_not_offered"}


async def test_required_tls_checks_the_certificate(courier_for, server_tls, ca_file):
    async with ScriptedPeer({"STARTTLS": StartTls(server_tls)}, extensions=WITH_TLS) as peer:
        strict = await courier_for(route_to(peer, "?tls=required")).deliver(letter())
        assert causes(strict) == {0: "delivery.tls_failed"}
        trusting = courier_for(route_to(peer, "?tls=required"), ca_file=ca_file)
        assert told(await trusting.deliver(letter())) == {0: "body 250 2.0.0"}
        lax = courier_for(route_to(peer, "?tls=required"), verify_certificates=False)
        assert told(await lax.deliver(letter())) == {0: "body 250 2.0.0"}


async def test_implicit_tls(courier_for, server_tls, ca_file):
    async with ScriptedPeer(tls=server_tls) as peer:
        courier = courier_for(route_to(peer, "?tls=implicit"), ca_file=ca_file)
        assert told(await courier.deliver(letter())) == {0: "body 250 2.0.0"}
        strict = courier_for(route_to(peer, "?tls=implicit"))
        assert causes(await strict.deliver(letter())) == {0: "delivery.tls_failed"}


async def test_a_large_message_goes_through_tls(courier_for, server_tls, tmp_path):
    body = b"Subject: x\r\n\r\n" + b"x" * 70 + b"\r\n" * 200_000
    async with ScriptedPeer({"STARTTLS": StartTls(server_tls)}, extensions=WITH_TLS) as peer:
        results = await courier_for(route_to(peer)).deliver(letter(body=body, file=tmp_path / "body"))
    assert told(results) == {0: "body 250 2.0.0"}
    assert peer.messages == [body]


# --- login


AUTH = ("PIPELINING", "STARTTLS", "AUTH PLAIN LOGIN")


def login_route(peer: ScriptedPeer, options: str = "") -> str:
    return f"smtp://joe@127.0.0.1:{peer.port}{options}"


async def test_login_by_plain_under_tls(courier_for, server_tls, ca_file):
    script = {"STARTTLS": StartTls(server_tls), "AUTH": "235 2.7.0 welcome"}
    async with ScriptedPeer(script, extensions=AUTH) as peer:
        courier = courier_for(login_route(peer), ca_file=ca_file, passwords={"joe@127.0.0.1": "pw"})
        assert told(await courier.deliver(letter())) == {0: "body 250 2.0.0"}
    assert "AUTH PLAIN AGpvZQBwdw==" in peer.commands


async def test_login_tries_the_other_mechanism(courier_for):
    script = {
        "AUTH": ["504 5.5.4 no PLAIN", "334 VXNlcm5hbWU6"],
        "answer": ["334 UGFzc3dvcmQ6", "235 2.7.0 ok"],
    }
    async with ScriptedPeer(script, extensions=AUTH) as peer:
        courier = courier_for(login_route(peer, "?tls=none"), passwords={"joe@127.0.0.1": "pw"})
        assert told(await courier.deliver(letter())) == {0: "body 250 2.0.0"}
    assert peer.commands[2:5] == ["AUTH LOGIN", "am9l", "cHc="]


@pytest.mark.parametrize("answer", ["535 5.7.8 wrong", "454 4.7.0 later"])
async def test_a_failed_login_is_the_relays_trouble(courier_for, answer):
    async with ScriptedPeer({"AUTH": answer}, extensions=AUTH) as peer:
        results = await courier_for(login_route(peer, "?tls=none")).deliver(letter())
    assert results[0].stage.value == "auth"
    assert str(results[0].reply) == answer


async def test_no_password_goes_in_clear_unless_the_route_says_so(courier_for):
    async with ScriptedPeer(extensions=("AUTH PLAIN",)) as peer:
        results = await courier_for(login_route(peer, "?tls=opportunistic")).deliver(letter())
    assert causes(results) == {0: "delivery.login_not_possible"}
    assert not any(one.startswith("AUTH") for one in peer.commands)


# --- recipients who must have had their address at a given time (RFC 7293)


@pytest.mark.parametrize("options", [{}, {"verp": ("here.test",)}, {"max_recipients": 1}])
@pytest.mark.parametrize("chunking", [(), ("CHUNKING",)])
async def test_a_large_message_gets_the_field_in_front_for_each_recipient_alone(
    courier_for, tmp_path, options, chunking
):
    known = [Recipient(f"{name}@there.test", valid_since=ValidSince(0.0, refuse=False)) for name in "bc"]
    body = BODY + b"x" * 70 * 1000 + b"\r\n"
    async with ScriptedPeer(extensions=("PIPELINING", "SIZE 75000", *chunking)) as peer:
        courier = courier_for(route_to(peer), **options)
        results = await courier.deliver(
            letter(known[0], "d@there.test", known[1], body=body, file=tmp_path / "x")
        )
    assert all(result.reply.positive for result in results.values())
    fields = {
        address: b"Require-Recipient-Valid-Since: %s;\r\n\tThu, 01 Jan 1970 00:00:00 +0000\r\n"
        % address.encode()
        for address in ("b@there.test", "c@there.test")
    }
    expected = {
        address: fields.get(address, b"") + body
        for address in ("b@there.test", "c@there.test", "d@there.test")
    }
    assert {
        address: message for (address,), message in zip(recipients_of(peer), peer.messages, strict=True)
    } == expected


async def test_the_field_counts_for_the_size_of_a_message(courier_for):
    known = Recipient("b@there.test", valid_since=ValidSince(0.0, refuse=False))
    async with ScriptedPeer(extensions=(f"SIZE {len(BODY) + 10}",)) as peer:
        results = await courier_for(route_to(peer)).deliver(letter(known, "c@there.test"))
    assert causes(results) == {0: "delivery.over_peer_size", 1: "peer"}
    assert peer.taken == ["c@there.test"]


async def test_a_host_by_lmtp_gets_no_field(courier_for):
    known = Recipient("b@there.test", valid_since=ValidSince(0.0))
    async with ScriptedPeer(lmtp=True) as peer:
        results = await courier_for(f"lmtp://127.0.0.1:{peer.port}").deliver(letter(known, "c@there.test"))
    assert all(result.reply.positive for result in results.values())
    assert peer.messages == [BODY]


# --- limits that a host announces (RFC 9422)


async def test_a_transaction_has_recipients_of_no_more_domains_than_the_host_takes(courier_for):
    async with ScriptedPeer(extensions=("PIPELINING", "LIMITS RCPTDOMAINMAX=2")) as peer:
        courier = courier_for(route_to(peer))
        addresses = ["a@one.test", "b@two.test", "c@ONE.test", "d@three.test", "e@four.test", "f@five.test"]
        results = await courier.deliver(letter(*addresses))
    assert all(result.reply.positive for result in results.values())
    assert len(results) == len(addresses)
    assert recipients_of(peer) == [addresses[:3], addresses[3:5], addresses[5:]]
