"""Sessions over real sockets, on both event loops: fairness, bounds, losses, deadlines, draining, TLS, hooks."""

import asyncio
import base64
import ssl
import time
from types import SimpleNamespace

import pytest

import pillarbox
from pillarbox import observe
from pillarbox.inbound import session as driver
from pillarbox.mail.catalogue import content, envelope
from pillarbox.mail.catalogue import session as causes
from pillarbox.mail.units import Octets, Seconds
from pillarbox.net import handshakes
from pillarbox.net.listener import ConnectionLimits
from pillarbox.policy.hooks import Action
from pillarbox.policy.rules import Role
from pillarbox.queue.spool import SpoolError
from pillarbox.smtp.profile import Limits

MAIL = b"MAIL FROM:<a@sender.example>"
RCPT = b"RCPT TO:<alice@example.org>"
OPENED = (MAIL, RCPT)
MESSAGE = b"Subject: hello\r\n\r\nHello.\r\n"
BIG = b"x" * 900 + b"\r\n"
GENEROUS = Limits(errors=10**9, empty_commands=10**9)
LARGEST = driver._MAX_WAITING_OCTETS + 262_144 + 1000  # the bound, and one read of the event loop
PLAIN = base64.b64encode(b"\0alice@example.org\0wonderland")


def the_session(office, number=0):
    return office.protocols[number]._session


async def send_message(caller, *lines, body=MESSAGE):
    for line in lines or OPENED:
        await caller.ask(line)
    assert (await caller.ask(b"DATA"))[:4] == b"354 "
    return await caller.ask(body + b".")


# --- a message -----------------------------------------------------------------------------------------------------


async def test_a_message_is_kept_as_it_came_with_our_trace_in_front(open_office, begin):
    office = await open_office()
    caller, _ = await begin(office)
    reply = await send_message(caller, body=b"..Subject: dots\r\n\r\n..\r\n.. two\r\n")
    octets, found = await office.stored()
    assert octets.startswith(b"Received: from client.example ([127.0.0.1])")
    assert octets.endswith(b"\r\n.Subject: dots\r\n\r\n.\r\n. two\r\n")
    assert reply.split()[-1] in octets
    assert found.sender == "a@sender.example"
    assert [recipient.address for recipient in found.recipients] == ["alice@example.org"]


async def test_many_messages_in_one_connection_do_not_mix(open_office, begin):
    office = await open_office()
    caller, _ = await begin(office)
    for number in range(20):
        body = b"Subject: %d\r\n\r\n%s" % (number, BIG * (number * 9 % 100))
        wire = (
            b"\r\n".join([MAIL, RCPT, b"RSET", MAIL, RCPT, b"RCPT TO:<bob@example.org>", b"DATA"]) + b"\r\n"
        )
        await caller.send(wire + body + b".\r\n")
        for expected in (b"250", b"250", b"250", b"250", b"250", b"250", b"354", b"250"):
            assert (await caller.reply())[:3] == expected
        octets, found = await office.stored(number)
        assert octets.endswith(body)
        assert len(found.recipients) == 2
    assert office.drafts == []


async def test_a_recipient_named_twice_is_kept_once_and_lmtp_still_answers_twice(open_office, begin):
    office = await open_office(role=Role.LMTP)
    caller, _ = await begin(office, MAIL, RCPT, b"RCPT TO:<ALICE@example.org>", RCPT, b"DATA")
    await caller.send(MESSAGE + b".\r\n")
    assert [(await caller.reply())[:3] for _ in range(3)] == [b"250"] * 3
    assert {recipient.address.lower() for recipient in (await office.stored())[1].recipients} == {
        "alice@example.org"
    }


async def test_a_large_message_goes_to_a_file_and_memory_stays_flat(open_office, begin):
    office = await open_office()
    caller, _ = await begin(office, *OPENED, b"DATA")
    line = b"x" * 998 + b"\r\n"
    await caller.send(b"Subject: large\r\n\r\n")
    for _ in range(200):
        await caller.send(line * 50)
        current = the_session(office)
        assert current.waiting_octets == 0
        assert sum(len(event.data) for event in current._events) == 0
    assert len(office.drafts) == 1
    assert (await caller.ask(b"."))[:3] == b"250"
    assert office.drafts == []
    assert (await office.stored())[0].endswith(b"\r\n" + line * 10_000)


async def test_E552_7_E554_3_headers_that_are_too_many_or_go_round_in_circles(open_office, begin):
    office = await open_office(limits=Limits(header_octets=Octets(2000), hops=5))
    caller, _ = await begin(office)
    assert (await send_message(caller, body=b"X: y\r\n" * 1000))[:9] == b"552 5.3.4"
    assert (await send_message(caller, body=b"X: y\r\n" * 1000 + b"\r\nbody\r\n"))[:9] == b"552 5.3.4"
    assert (await send_message(caller, body=b"Received: x\r\n" * 6 + b"\r\nbody\r\n"))[:9] == b"554 5.4.6"
    assert (await send_message(caller, body=b"Received: x\r\n" * 5 + b"\r\n" + b"body\r\n" * 1000))[
        :3
    ] == b"250"
    assert len(office.queued) == 1


async def test_a_header_in_tiny_chunks_is_found(open_office, begin):
    office = await open_office(limits=Limits(header_octets=Octets(200_000)))
    caller, _ = await begin(office, *OPENED)
    letter = office.protocols[0]._letter
    await caller.send(b"".join(b"BDAT 1\r\n%c" % octet for octet in MESSAGE))
    for _ in MESSAGE:
        assert (await caller.reply())[:3] == b"250"
    assert letter.head_complete
    assert bytes(letter.head) == b"Subject: hello\r\n\r\n"
    assert (await caller.ask(b"BDAT 0 LAST"))[:3] == b"250"


# --- one client among others -------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [b"NOOP\r\n", b"VRFY a\r\n", b"HELP\r\n", b"RSET\r\n", b"BDAT 1\r\nx"])
async def test_a_flood_does_not_starve_others_and_is_kept_within_bounds(open_office, begin, command):
    office = await open_office(limits=GENEROUS)
    flooder, _ = await begin(office)
    other, _ = await begin(office)
    times = 600_000 // len(command)
    flooder.writer.write(command * times + b"QUIT\r\n")
    seen = 0
    for _ in range(20):
        assert (await other.ask(b"NOOP"))[:3] == b"250"
        seen = max(seen, the_session(office).waiting_octets)
        assert seen <= LARGEST
        assert len(the_session(office)._events) <= 2
    out = b"\r\n" + await flooder.rest()
    assert sum(out.count(b"\r\n" + code) for code in (b"250 ", b"252 ", b"214 ", b"503 ")) == times
    assert b"\r\n221 " in out


async def test_who_is_cut_off_while_sending_still_learns_why(open_office, begin, until):
    office = await open_office(limits=Limits(errors=3))
    caller, _ = await begin(office)
    caller.writer.write(b"WRONG\r\n" * 400_000)
    out = await caller.rest()  # b"" if the connection was reset
    assert out.endswith(b"421 4.7.0 mx.example.org too many errors, closing\r\n")
    caller.cut()
    await until(lambda: not len(office.connections))


async def test_a_client_that_does_not_read_is_heard_no_more_and_cut_off_in_the_end(open_office, begin, until):
    office = await open_office(limits=GENEROUS)
    caller, _ = await begin(office)
    caller.writer.transport.pause_reading()
    caller.writer.write(b"HELP MAIL\r\n" * 400_000)
    await until(lambda: office.protocols[0]._choked)
    protocol = office.protocols[0]
    before = protocol._transport.get_write_buffer_size()
    for _ in range(50):
        await asyncio.sleep(0)
    assert protocol._transport.get_write_buffer_size() <= before
    assert before < 4_000_000
    assert the_session(office).waiting_octets <= LARGEST
    protocol.expire(time.monotonic())
    await until(lambda: len(office.connections) == 0)


async def test_a_client_that_reads_again_gets_everything(open_office, begin, until):
    office = await open_office(limits=GENEROUS)
    caller, _ = await begin(office)
    caller.writer.transport.pause_reading()
    caller.writer.write(b"HELP\r\n" * 100_000 + b"QUIT\r\n")
    await until(lambda: office.protocols[0]._choked)
    caller.writer.transport.resume_reading()
    out = await caller.rest()
    assert out.count(b"\r\n214 ") == 100_000
    assert b"\r\n221 " in out


class Gate:
    """A hook that holds each recipient until it is opened."""

    def __init__(self):
        self.open = asyncio.Event()

    async def decide_rcpt(self, client, sender, recipient):
        await self.open.wait()


async def test_while_a_decision_waits_little_is_read_and_nothing_is_answered(open_office, begin, until):
    gate = Gate()
    office = await open_office(plugins=(gate,), limits=GENEROUS)
    caller, _ = await begin(office, MAIL)
    caller.writer.write(RCPT + b"\r\n" + b"NOOP\r\n" * 500_000 + b"QUIT\r\n")
    await until(lambda: office.protocols[0]._paused)
    assert driver._MAX_WAITING_OCTETS < the_session(office).waiting_octets <= LARGEST
    gate.open.set()
    out = await caller.rest()
    assert out.startswith(b"250 2.1.5 ")
    assert out.count(b"250 2.0.0 OK\r\n") == 500_000
    assert out.endswith(b"221 2.0.0 mx.example.org closing connection\r\n")


async def test_pipelined_decisions_are_made_one_after_the_other(open_office, begin):
    class Slow:
        def __init__(self):
            self.running = self.most = 0

        async def decide_rcpt(self, client, sender, recipient):
            self.running += 1
            self.most = max(self.most, self.running)
            await asyncio.sleep(0)
            self.running -= 1
            return envelope.REFUSED_BY_HOOK.reply() if recipient.local == "bob" else None

    hook = Slow()
    office = await open_office(plugins=(hook,))
    caller, _ = await begin(office, MAIL)
    await caller.send((RCPT + b"\r\nRCPT TO:<bob@example.org>\r\nNOOP\r\n") * 20)
    assert [(await caller.reply())[:3] for _ in range(60)] == [b"250", b"550", b"250"] * 20
    assert hook.most == 1


# --- connections that end early ----------------------------------------------------------------------------------


@pytest.mark.parametrize("plugins", [(), (Gate,)])
async def test_a_client_that_is_done_sending_still_gets_its_replies(open_office, dial, plugins):
    gates = [gate() for gate in plugins]
    for gate in gates:
        asyncio.get_running_loop().call_later(0.05, gate.open.set)
    office = await open_office(plugins=tuple(gates))
    caller = await dial(office.port)
    await caller.send(
        b"EHLO x\r\n" + b"\r\n".join([*OPENED, b"DATA", b""]) + MESSAGE + b".\r\n" + MAIL + b"\r\n"
    )
    caller.writer.write_eof()
    out = await caller.rest()
    assert b"250 2.0.0 Queued as " in out
    assert out.endswith(b"250 2.1.0 Sender OK\r\n")
    assert len(office.queued) == 1


@pytest.mark.parametrize(
    "unfinished",
    [
        b"DATA\r\nSubject: x\r\n\r\n" + BIG * 200,
        b"BDAT 500000\r\nSubject: x\r\n\r\n" + BIG * 200,
        b"BDAT 90200 LAST\r\n" + BIG * 99,
        b"BDAT 90200\r\n" + BIG * 100,
        b"BDAT 1\r\nx" * 70_000,
        b"DATA\r\n" + BIG * 100 + b"\r\n.\r",
    ],
)
@pytest.mark.parametrize("how", ["reset", "end", "quit"])
async def test_a_client_that_goes_in_the_middle_leaves_nothing(open_office, begin, until, unfinished, how):
    office = await open_office()
    caller, _ = await begin(office, *OPENED)
    caller.writer.write(unfinished)
    await until(lambda: the_session(office)._transfer.open)
    await asyncio.sleep(0.02)
    if how == "reset":
        caller.cut()
    elif how == "end":
        caller.writer.close()
    else:
        caller.writer.write(b"\r\nQUIT\r\n")
        caller.writer.write_eof()
        await caller.rest()
    await until(lambda: len(office.connections) == 0)
    assert office.drafts == []
    assert office.queued == []


@pytest.mark.parametrize("ending", [b"RSET", b"EHLO again.example"])
async def test_a_transfer_that_is_given_up_leaves_nothing(open_office, begin, ending):
    office = await open_office()
    caller, _ = await begin(office, *OPENED)
    await caller.send(b"BDAT %d\r\n" % (len(BIG) * 100) + BIG * 100)
    assert (await caller.reply())[:3] == b"250"
    assert len(office.drafts) == 1
    assert (await caller.ask(ending))[:3] == b"250"
    assert office.drafts == []
    assert (await send_message(caller))[:3] == b"250"


@pytest.fixture
def hold_commits(monkeypatch):
    """Make the store of an office wait with each commit."""

    def hold(office):
        gate, commit = asyncio.Event(), office.spool.commit

        def late(draft, entry, settle):
            async def wait():
                await gate.wait()
                return await commit(draft, entry, settle)

            return asyncio.ensure_future(wait())

        monkeypatch.setattr(office.spool, "commit", late)
        return gate

    return hold


@pytest.mark.parametrize("body", [MESSAGE, BIG * 100])
async def test_a_client_that_goes_while_its_message_is_kept_changes_nothing(
    open_office, begin, until, hold_commits, body
):
    office = await open_office()
    gate = hold_commits(office)
    caller, _ = await begin(office, *OPENED, b"DATA")
    await caller.send(body + b".\r\n")
    await until(lambda: office.protocols[0]._task is not None)
    caller.cut()
    await until(lambda: len(office.connections) == 0)
    gate.set()
    await until(lambda: len(office.queued) == 1)
    assert (await office.stored())[0].endswith(body)
    assert office.drafts == []


# --- the store in trouble ----------------------------------------------------------------------------------------


def broken(reply):
    def fail(*_args):
        raise SpoolError(reply, "as the test wants it")

    return fail


@pytest.mark.parametrize("start", [b"DATA", b"BDAT"])
@pytest.mark.parametrize("place", ["draft", "write", "commit"])
@pytest.mark.parametrize("trouble", [content.DISK_FULL, content.WRITE_FAILED], ids=lambda cause: cause.id)
async def test_a_store_that_fails_says_so_and_works_again_later(
    open_office, begin, monkeypatch, start, place, trouble, noted
):
    office = await open_office()
    caller, _ = await begin(office, *OPENED)
    with monkeypatch.context() as patch:
        fail = broken(trouble.reply(incident="1234"))
        if place == "draft":
            patch.setattr(office.spool, "draft", fail)
        elif place == "write":
            patch.setattr(type(office.spool.draft()), "write", fail)
        else:

            def refuse(draft, entry, settle):
                draft.discard()
                future = asyncio.get_running_loop().create_future()
                settle(future, SpoolError(trouble.reply(incident="1234")))
                return future

            patch.setattr(office.spool, "commit", refuse)
        if start == b"DATA":
            reply = await caller.ask(b"DATA")
            if place != "draft":
                reply = await caller.ask(MESSAGE + b".")
        else:
            reply = await caller.ask(b"BDAT %d LAST\r\n%s" % (len(MESSAGE), MESSAGE[:-2]))
    assert reply == trouble.reply(incident="1234").wire
    assert (await send_message(caller))[:3] == b"250"
    assert office.drafts == []
    assert place == "draft" or any(name == "spool.trouble" for name, _ in noted)


async def test_E452_1_a_disk_that_is_nearly_full_is_told_at_mail(open_office, begin):
    office = await open_office(min_free_octets=1 << 60)
    _, reply = await begin(office, MAIL)
    assert reply[:9] == b"452 4.3.1"


async def test_E452_7_a_disk_that_is_too_slow_is_told_at_mail(open_office, begin, monkeypatch):
    office = await open_office()
    _, reply = await begin(office, MAIL)
    assert reply[:3] == b"250"
    monkeypatch.setattr(office.spool, "waiting_octets", (64 << 20) + 1, raising=False)
    _, reply = await begin(office, MAIL)
    assert reply == envelope.STORE_BEHIND.reply().wire


async def test_a_bug_costs_one_reply_and_has_an_incident_id(
    open_office, begin, monkeypatch, expected_incidents
):
    office = await open_office()
    caller, _ = await begin(office)

    def bug(*_args, **_more):
        raise ZeroDivisionError

    for owner, name, lines in (
        (office.desk.rules, "decide_mail", [MAIL]),
        (office.desk.rules, "decide_rcpt", [MAIL, RCPT]),
        (office.desk.rules, "decide_verify", [b"VRFY a"]),
        (office.spool, "draft", [MAIL, RCPT, b"DATA"]),
        (office.spool, "commit", [MAIL, RCPT, b"DATA", BIG * 100 + b"."]),
        (office.spool, "draft", [MAIL, RCPT, b"BDAT 2 LAST\r\n"]),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, bug)
            for line in lines:
                reply = await caller.ask(line)
        (incident,) = expected_incidents()
        assert reply.startswith(b"451 4.3.0 ")
        assert incident["incident"].encode() in reply
        assert (await caller.ask(b"RSET"))[:3] == b"250"
    assert office.drafts == []
    assert (await send_message(caller))[:3] == b"250"


# --- deadlines, draining, limits on connections --------------------------------------------------------------------


async def test_E421_2_a_silent_client_is_told_so_and_hung_up_on(open_office, begin):
    office = await open_office(limits=Limits(command_timeout_s=Seconds(0.05)))
    caller, _ = await begin(office)
    assert await caller.rest() == b"421 4.4.2 mx.example.org no command in time, closing\r\n"


async def test_E421_3_silence_in_a_message_drops_it(open_office, begin, until):
    office = await open_office(limits=Limits(data_timeout_s=Seconds(100), command_timeout_s=Seconds(200)))
    caller, _ = await begin(office, *OPENED, b"DATA")
    await caller.send(BIG * 100)
    await until(lambda: office.drafts)
    protocol = office.protocols[0]
    await until(lambda: protocol.deadline < time.monotonic() + 101)
    protocol.expire(time.monotonic() + 99)
    assert not protocol._transport.is_closing()
    protocol.expire(protocol.deadline)
    assert await caller.rest() == b"421 4.4.2 mx.example.org no data in time, closing\r\n"
    assert office.drafts == []


async def test_a_decision_that_takes_long_does_not_count_as_silence(open_office, begin, until):
    gate = Gate()
    office = await open_office(plugins=(gate,))
    caller, _ = await begin(office, MAIL)
    await caller.send(RCPT + b"\r\n")
    await until(lambda: office.protocols[0]._task is not None)
    office.protocols[0].expire(time.monotonic() + 10_000)
    office.protocols[0]._session.heard = 0.0
    gate.open.set()
    assert (await caller.reply())[:3] == b"250"
    assert office.protocols[0].deadline > time.monotonic() + 100


async def test_E421_1_draining_ends_idle_sessions_at_once_and_others_when_their_message_is_kept(
    open_office, begin, dial, until, hold_commits
):
    office = await open_office()
    gate = hold_commits(office)
    idle, _ = await begin(office)
    opened, _ = await begin(office, MAIL)
    sending, _ = await begin(office, *OPENED, b"DATA")
    keeping, _ = await begin(office, *OPENED, b"DATA")
    await sending.send(b"Subject: half\r\n")
    await keeping.send(MESSAGE + b".\r\n")
    await until(lambda: office.protocols[3]._task is not None)
    draining = asyncio.create_task(office.connections.drain(20))
    shut = b"421 4.3.2 mx.example.org shutting down, try again\r\n"
    assert await idle.rest() == shut
    await opened.send(RCPT + b"\r\n")
    assert await opened.rest() == shut
    late = await dial(office.port)
    assert (await late.rest()).startswith(b"421 mx.example.org ")
    await sending.send(b"\r\nrest\r\n.\r\n")
    gate.set()
    for caller in (sending, keeping):
        out = await caller.rest()
        assert out.startswith(b"250 2.0.0 Queued as ")
        assert out.endswith(shut)
    await asyncio.wait_for(draining, 20)
    assert len(office.queued) == 2


async def test_draining_cuts_off_those_that_do_not_end(open_office, begin):
    office = await open_office()
    caller, _ = await begin(office, *OPENED, b"DATA")
    await office.connections.drain(0.01)
    assert (await caller.rest()).startswith(b"421 4.3.2 ")
    assert office.drafts == []


async def test_E421_5_one_address_may_hold_only_so_many_connections(open_office, begin, dial, until):
    office = await open_office(connections=ConnectionLimits(per_address=2))
    first, _ = await begin(office)
    await begin(office)
    third = await dial(office.port)
    assert await third.rest() == b"421 mx.example.org too many connections from your address\r\n"
    await first.ask(b"QUIT")
    await until(lambda: len(office.connections) == 1)
    await begin(office)


async def test_E421_6_the_server_holds_only_so_many_connections(open_office, begin, dial):
    office = await open_office(connections=ConnectionLimits(total=1))
    await begin(office)
    second = await dial(office.port)
    assert await second.rest() == b"421 mx.example.org too many connections\r\n"


# --- TLS and AUTH --------------------------------------------------------------------------------------------------


async def test_starttls_and_login(open_office, begin, certificates):
    office = await open_office(tls="offered", role=Role.SUBMISSION, login=True)
    caller, reply = await begin(office, b"AUTH PLAIN " + PLAIN)
    assert reply[:10] == b"538 5.7.11"
    assert (await caller.ask(b"STARTTLS"))[:3] == b"220"
    await caller.upgrade(certificates.client)
    reply = await caller.ask(b"EHLO client.example")
    assert b"AUTH PLAIN LOGIN" in reply
    assert b"STARTTLS" not in reply
    assert (await caller.ask(b"AUTH LOGIN"))[:3] == b"334"
    assert (await caller.ask(base64.b64encode(b"alice@example.org")))[:3] == b"334"
    assert (await caller.ask(base64.b64encode(b"wonderland")))[:3] == b"235"
    assert (await send_message(caller, b"MAIL FROM:<alice@example.org>", b"RCPT TO:<x@elsewhere.example>"))[
        :3
    ] == b"250"
    octets, _ = await office.stored()
    assert b"with ESMTPSA" in octets
    assert b"TLS" in octets.partition(b"Subject")[0]
    assert office.protocols[0]._client.tls
    assert office.protocols[0]._client.login == "alice@example.org"


async def test_wrong_passwords_over_the_socket(open_office, begin, certificates):
    office = await open_office(tls="implicit", login=True, limits=Limits(login_failures=2))
    wrong = base64.b64encode(b"\0alice@example.org\0wrong")
    unknown = base64.b64encode(b"\0zoe@example.org\0wonderland")
    caller, first = await begin(office, b"AUTH PLAIN " + wrong, tls=certificates.client)
    await caller.send(b"AUTH PLAIN " + unknown + b"\r\n")
    assert await caller.rest() == first + b"421 4.7.0 mx.example.org too many failed logins, closing\r\n"


async def test_E500_5_an_answer_to_a_challenge_may_only_be_so_long(open_office, begin):
    office = await open_office(login=True, login_in_clear=True)
    caller, reply = await begin(office, b"AUTH LOGIN")
    assert reply[:4] == b"334 "
    assert (await caller.ask(b"A" * 12_289))[:9] == b"500 5.5.6"
    assert (await caller.ask(b"AUTH PLAIN " + PLAIN))[:3] == b"235"


async def test_what_is_said_in_clear_with_starttls_is_never_heard(open_office, begin, certificates):
    office = await open_office(tls="offered")
    caller, _ = await begin(office)
    await caller.send(b"STARTTLS\r\nEHLO injected.example\r\n" + MAIL + b"\r\n" + RCPT + b"\r\n")
    assert await caller.reply() == b"220 2.0.0 Ready to start TLS\r\n"
    await caller.upgrade(certificates.client)
    assert (await caller.ask(b"NOOP"))[:3] == b"250"
    assert the_session(office).hello == ""
    assert (await caller.ask(RCPT))[:3] == b"503"


async def test_what_is_said_right_after_the_handshake_is_heard(open_office, begin, certificates):
    office = await open_office(tls="offered", limits=GENEROUS)
    caller, _ = await begin(office)
    assert (await caller.ask(b"STARTTLS"))[:3] == b"220"
    await caller.upgrade(certificates.client)
    caller.writer.write(b"EHLO x\r\n" + b"NOOP\r\n" * 100_000 + b"QUIT\r\n")
    out = await caller.rest()
    assert out.count(b"250 2.0.0 OK\r\n") == 100_000
    assert b"\r\n221 " in out


async def test_implicit_tls(open_office, begin, certificates):
    office = await open_office(tls="implicit")
    caller, reply = await begin(office, b"STARTTLS", tls=certificates.client)
    assert reply[:3] == b"503"
    assert (await send_message(caller))[:3] == b"250"
    assert b"with ESMTPS " in (await office.stored())[0]
    assert office.protocols[0]._client.tls


@pytest.mark.parametrize("how", ["garbage", "close", "reset", "distrust"])
async def test_a_handshake_that_fails_gives_its_place_back(open_office, begin, until, how):
    office = await open_office(tls="offered")
    caller, _ = await begin(office, b"STARTTLS")
    if how == "garbage":
        await caller.send(b"NOOP\r\nNOOP\r\nthis is no handshake at all\r\n")
        await caller.rest()
    elif how == "close":
        await caller.close()
    elif how == "reset":
        caller.cut()
    else:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await caller.upgrade(ssl.create_default_context())
    await until(lambda: len(office.connections) == 0)


async def test_a_handshake_that_stalls_is_given_up(open_office, begin, until, monkeypatch):
    monkeypatch.setattr(handshakes, "HANDSHAKE_S", 0.05)
    office = await open_office(tls="offered")
    await begin(office, b"STARTTLS")
    await until(lambda: len(office.connections) == 0)


@pytest.mark.parametrize(
    ("sent", "reply", "noted_as"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"421 4.7.0 ", ["session.not_smtp"]),
        (b"GET / HTTP/1.1\r\nHost: mx.example.org\r\n\r\n", b"500 5.5.2 ", ["session.not_smtp"]),
        (b"QUIT\r\n", b"221 2.0.0 ", []),
    ],
    ids=["tls", "http", "quit"],
)
async def test_who_is_hung_up_on_is_noted_with_the_reason(
    open_office, dial, noted, monkeypatch, sent, reply, noted_as
):
    monkeypatch.setattr(observe.SESSION_ENDED, "written", True)
    office = await open_office()
    caller = await dial(office.port)
    assert (await caller.reply())[:3] == b"220"
    await caller.send(sent)
    assert (await caller.rest()).startswith(reply)
    ended = [facts for name, facts in noted if name == "session.ended"]
    assert [facts["cause"] for facts in ended] == noted_as
    assert all(facts["client"] == "127.0.0.1" for facts in ended)


async def test_who_leaves_inside_a_message_is_noted(open_office, begin, noted, until, monkeypatch):
    monkeypatch.setattr(observe.MESSAGE_INCOMPLETE, "written", True)
    office = await open_office()
    caller, _ = await begin(office, *OPENED)
    await caller.close()
    caller, _ = await begin(office, *OPENED, b"DATA")
    await caller.send(b"Subject: x\r\nmore")
    await caller.close()
    await until(lambda: len(office.connections) == 0)
    told = [facts for name, facts in noted if name == "message.incomplete"]
    assert [(facts["client"], facts["sender"], facts["octets"]) for facts in told] == [
        ("127.0.0.1", "a@sender.example", 16)
    ]


# --- hooks -----------------------------------------------------------------------------------------------------------


class Refusing:
    """A plugin that refuses at one stage."""

    def __init__(self, stage, reply):
        setattr(self, stage, self.decide)
        self.reply = reply

    async def decide(self, *_about):
        return self.reply


@pytest.mark.parametrize(
    ("stage", "lines"),
    [
        ("decide_mail", [MAIL]),
        ("decide_rcpt", [MAIL, RCPT]),
        ("decide_message", [MAIL, RCPT, b"DATA", MESSAGE + b"."]),
        ("decide_message", [MAIL, RCPT, b"DATA", BIG * 100 + b"."]),
    ],
)
async def test_E550_7_E550_20_a_hook_refuses_by_cause(open_office, begin, stage, lines):
    office = await open_office(plugins=(Refusing(stage, envelope.REFUSED_BY_HOOK.because("Not", "today")),))
    caller, reply = await begin(office, *lines)
    assert reply == b"550-5.7.1 Not\r\n550 5.7.1 today\r\n"
    assert (await caller.ask(b"NOOP"))[:3] == b"250"
    assert office.drafts == []
    assert office.queued == []


async def test_a_hook_refuses_in_the_greeting(open_office, dial):
    office = await open_office(
        plugins=(Refusing("decide_connect", causes.CLIENT_DENIED.reply(hostname="mx")),)
    )
    caller = await dial(office.port)
    assert await caller.reply() == b"554 mx no service for your address\r\n"
    assert (await caller.ask(b"EHLO x"))[:3] == b"503"
    assert (await caller.ask(b"QUIT"))[:3] == b"221"


async def test_E421_20_a_hook_that_may_only_defer_puts_a_client_off(open_office, dial):
    plugin = Refusing("decide_connect", causes.CLIENT_DENIED.because("No service for liars"))
    plugin.action = Action.DEFER
    office = await open_office(plugins=(plugin,))
    caller = await dial(office.port)
    assert await caller.rest() == b"421 mx.example.org No service for liars\r\n"


@pytest.mark.parametrize(
    ("stage", "lines"),
    [
        ("decide_connect", []),
        ("decide_hello", [b"EHLO client.example"]),
        ("decide_mail", [b"EHLO client.example", MAIL]),
        ("decide_client", [b"EHLO client.example", MAIL, RCPT]),
        ("decide_rcpt", [b"EHLO client.example", MAIL, RCPT]),
    ],
)
async def test_E421_10_a_hook_asks_to_hang_up(open_office, dial, stage, lines):
    office = await open_office(plugins=(Refusing(stage, pillarbox.disconnect("Not today")),))
    caller = await dial(office.port)
    *_, reply = [await caller.reply(), *[await caller.ask(line) for line in lines]]
    status = b"" if stage in {"decide_connect", "decide_hello"} else b"4.3.0 "
    assert reply == b"421 %smx.example.org Not today\r\n" % status
    assert await caller.rest() == b""


def ends_the_program(*_about):
    raise SystemExit(3)


def raises(*_about):
    raise RuntimeError("no")


async def raises_later(*_about):
    await asyncio.sleep(0)
    raise SystemExit


async def sleeps(*_about):
    await asyncio.sleep(1000)


def sleeps_in_a_thread(*_about):
    time.sleep(0.5)


@pytest.mark.parametrize(
    "hook",
    [
        ends_the_program,
        raises,
        raises_later,
        sleeps,
        sleeps_in_a_thread,
        lambda *_about: "yes",
        lambda *_about: True,
        lambda *_about: envelope.REFUSED_BY_HOOK,
        lambda *_about: content.START_DATA.reply(),
    ],
)
@pytest.mark.parametrize(
    ("stage", "lines"),
    [
        ("decide_mail", [MAIL]),
        ("decide_rcpt", [MAIL, RCPT]),
        ("decide_message", [MAIL, RCPT, b"DATA", MESSAGE + b"."]),
    ],
)
async def test_E451_1_a_hook_that_fails_puts_the_mail_off(open_office, begin, hook, stage, lines, noted):
    plugin = type("Plugin", (), {stage: staticmethod(hook)})
    office = await open_office(plugins=(plugin,), hook_limit_s=0.1)
    caller, reply = await begin(office, *lines)
    assert reply.startswith(b"451 4.3.0 Policy check failed, try again; incident ")
    (facts,) = [facts for name, facts in noted if name == "hook.failed"]
    assert facts["incident"].encode() in reply
    assert (await caller.ask(b"NOOP"))[:3] == b"250"
    assert office.queued == []


async def test_a_hook_may_answer_in_its_own_words(open_office, begin):
    office = await open_office(plugins=(Refusing("decide_mail", envelope.SENDER_OK.because("Welcome back")),))
    caller, reply = await begin(office, MAIL)
    assert reply == b"250 2.1.0 Welcome back\r\n"
    assert (await send_message(caller, RCPT))[:3] == b"250"


async def test_the_client_does_not_wait_for_those_who_are_notified(open_office, begin, until):
    class Told:
        def __init__(self):
            self.open, self.heard = asyncio.Event(), []

        async def notify_received(self, queue_id, message):
            await self.open.wait()
            self.heard.append((queue_id, message.envelope.sender, message.body))

    plugin = Told()
    office = await open_office(plugins=(plugin,))
    caller, _ = await begin(office)
    reply = await send_message(caller)
    assert reply[:3] == b"250"
    plugin.open.set()
    await until(lambda: plugin.heard)
    assert plugin.heard == [(reply.split()[-1].decode(), "a@sender.example", MESSAGE)]


async def test_a_hook_sees_the_whole_message_and_the_client(open_office, begin, certificates):
    seen = []

    class Looks:
        def decide_connect(self, client):
            seen.append(client)

        def decide_message(self, message):
            seen.append(message)

    office = await open_office(plugins=(Looks(),), tls="implicit")
    caller, _ = await begin(office, tls=certificates.client)
    assert (await send_message(caller))[:3] == b"250"
    client, message = seen
    assert (client.address, client.role, client.tls) == ("127.0.0.1", Role.MX, True)
    assert (message.client.helo, message.octets, message.body) == ("client.example", len(MESSAGE), MESSAGE)


@pytest.mark.parametrize("stage", ["decide_hello", "decide_mail", "decide_client", "decide_rcpt"])
async def test_who_leaves_while_it_is_decided_upon_is_no_incident(open_office, dial, until, noted, stage):
    """Otherwise anybody could fill the log with bugs that are none."""
    came, decided = asyncio.Event(), asyncio.Event()

    async def decide(*_about):
        came.set()
        await decided.wait()

    office = await open_office(plugins=(SimpleNamespace(**{stage: decide}),))
    caller = await dial(office.port)
    await caller.send(b"EHLO x.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<alice@example.org>\r\n")
    await came.wait()
    caller.cut()
    await until(lambda: not len(office.connections))
    decided.set()
    await until(lambda: office.protocols[0]._task is None)
    assert not [name for name, _ in noted if name == "incident"]
