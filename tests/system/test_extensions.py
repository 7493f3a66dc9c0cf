"""What a sender asks of a message's way: deadlines, later release, priorities, TLS all the way, and a node that asks for its mail."""

from __future__ import annotations

import asyncio
import ssl
from datetime import datetime

import pytest

from pillarbox.policy.passwords import hash_password
from pillarbox.testing import Late, ScriptedPeer, StartTls

SUBMISSION = """
[[listen]]
address = "127.0.0.1:0"
role = "submission"
login_in_clear = true
[account."alice@sender.example"]
password = "{password}"
"""


def to(peer, extra="", queue="", tls=""):
    """A server that sends all mail to a peer, and keeps that for the sender."""
    return f"""
[limits]
min_free = 0
[queue]
idle = "100ms"
{queue}
[queue.retry]
first = "50ms"
max = "1h"
factor = 1000.0
[[listen]]
address = "127.0.0.1:0"
[[route]]
match = "*"
via = "smtp://127.0.0.1:{peer.port}{tls}"
{extra}"""


def mailboxes(tmp_path):
    return f"""
[domain."sender.example"]
deliver = "maildir:{tmp_path}/mail/{{user}}"
"""


async def mail(caller, parameters, sender="a@sender.example"):
    """The reply to MAIL with these parameters; a transaction is given up."""
    await caller.ask(b"RSET")
    return await caller.ask(f"MAIL FROM:<{sender}> {parameters}".encode())


async def greeted(dial, port, **options):
    caller = await dial(port, **options)
    await caller.reply()
    await caller.ask(b"EHLO client.example")
    return caller


async def until_reply(ask, start):
    """Ask until the reply begins as it should."""
    async with asyncio.timeout(30):
        while not (reply := await ask()).startswith(start):
            await asyncio.sleep(0.05)
    return reply


# --- deadlines


async def test_the_time_that_is_left_is_passed_on(serve, send, tmp_path):
    async with ScriptedPeer(extensions=("DELIVERBY 10", "MT-PRIORITY")) as peer:
        server = await serve(to(peer))
        sent = await send(server.port, "x@far.example", sender="a@sender.example BY=600;RT MT-PRIORITY=-2")
        await server.reached("delivered", sent.id)
    words = next(command for command in peer.commands if command.startswith("MAIL")).split()
    (by,) = [word for word in words if word.startswith("BY=")]
    assert 590 <= int(by[3:6]) <= 600
    assert by.endswith(";RT")
    assert "MT-PRIORITY=-2" in words


async def test_a_message_that_is_late_comes_back(serve, send, mailbox, tmp_path):
    async with ScriptedPeer({"RCPT": "450 4.2.1 locked"}, extensions=("DELIVERBY",)) as peer:
        extra = mailboxes(tmp_path) + '[extensions]\ndeliverby_min = "1s"\n'
        server = await serve(to(peer, extra))
        sent = await send(server.port, "x@far.example", sender="a@sender.example BY=2;R")
        failed = await server.reached("failed", sent.id)
        (report,) = await mailbox("a").filled()
    assert failed["reply"].startswith("550 5.4.7")
    assert "Status: 5.4.7" in report.as_string()
    assert "Action: failed" in report.as_string()


async def test_a_late_message_comes_back_from_a_destination_that_is_suspended(serve, send, mailbox, tmp_path):
    async with ScriptedPeer(extensions=("DELIVERBY",)) as peer:
        extra = mailboxes(tmp_path) + '[extensions]\ndeliverby_min = "1s"\n'
        server = await serve(to(peer, extra))
        await server.stop()
        server.command("queue", "suspend", f"smtp://127.0.0.1:{peer.port}")
        await server.start()
        sent = await send(server.port, "x@far.example", sender="a@sender.example BY=2;R")
        await server.reached("failed", sent.id)
        assert len(await mailbox("a").filled()) == 1
    assert not peer.messages


async def test_who_wants_to_be_notified_is_told_of_the_delay_and_the_message_goes_on(
    serve, send, mailbox, tmp_path
):
    script = {"RCPT": ["450 4.2.1 locked", "450 4.2.1 locked", "250 ok"]}
    async with ScriptedPeer(script, extensions=()) as peer:
        server = await serve(to(peer, mailboxes(tmp_path)))
        sent = await send(server.port, "x@far.example", sender="a@sender.example BY=2;N")
        (report,) = await mailbox("a").filled()
        server.command("queue", "retry", sent.id)
        await server.reached("delivered", sent.id)
    assert "Status: 4.4.7" in report.as_string()
    assert "Action: delayed" in report.as_string()
    assert len(mailbox("a").files) == 1


async def test_a_host_that_knows_no_deadlines_gets_no_message_that_is_to_come_back(
    serve, send, mailbox, tmp_path
):
    async with ScriptedPeer(extensions=()) as peer:
        server = await serve(to(peer, mailboxes(tmp_path)))
        sent = await send(server.port, "x@far.example", sender="a@sender.example BY=600;R")
        failed = await server.reached("failed", sent.id)
        other = await send(server.port, "x@far.example", sender="a@sender.example BY=600;N")
        await server.reached("delivered", other.id)
    assert failed["reply"].startswith("550 5.4.7")
    assert len(peer.messages) == 1


async def test_E455_1_E450_7_a_busy_queue_takes_on_no_deadline_and_no_mail_that_can_wait(serve, send, dial):
    """One delivery at a time, and the host takes its time: the next message waits for its turn."""
    extra = '[extensions]\ndeliverby_min = "1s"\nbusy_after = "1s"\nbusy_priority = -1\n'
    async with ScriptedPeer({"DATA": Late(60.0, "354 go")}) as peer:
        server = await serve(to(peer, extra, queue="lanes = 1"))
        caller = await greeted(dial, server.port)
        assert (await mail(caller, "BY=1;R")).startswith(b"250 ")
        assert (await mail(caller, "MT-PRIORITY=-3")).startswith(b"250 ")
        for _ in range(2):
            await send(server.port, "x@far.example")
        refused = await until_reply(lambda: mail(caller, "BY=1;R"), b"455 4.5.4 Mail waits about ")
        assert b"BY=1;R can't be kept" in refused
        assert (await mail(caller, "BY=600;R")).startswith(b"250 ")
        assert (await mail(caller, "MT-PRIORITY=-3")).startswith(b"450 4.7.15 ")
        assert (await mail(caller, "MT-PRIORITY=-1")).startswith(b"250 ")


# --- held mail


async def test_mail_is_held_until_it_is_due_and_survives_a_restart(serve, dial, mailbox, tmp_path):
    extra = SUBMISSION.format(password=hash_password("wonderland")) + mailboxes(tmp_path)
    async with ScriptedPeer() as peer:
        server = await serve(to(peer, extra))
        caller = await greeted(dial, server.ports[1])
        assert (await caller.ask(b"AUTH PLAIN AGFsaWNlQHNlbmRlci5leGFtcGxlAHdvbmRlcmxhbmQ=")).startswith(
            b"235"
        )
        for wait, name in ((3, b"soon"), (86_400, b"late")):
            assert (await mail(caller, f"HOLDFOR={wait}", "alice@sender.example")).startswith(b"250")
            await caller.ask(b"RCPT TO:<bob@sender.example>")
            await caller.ask(b"DATA")
            await caller.send(b"Subject: %s\r\n\r\nx\r\n.\r\n" % name)
            assert (await caller.reply()).startswith(b"250")
        waiting = server.queue()
        assert len(waiting) == 2
        assert not mailbox("bob").files
        await server.stop()
        await server.start()
        (first,) = await mailbox("bob").filled()
        assert first["Subject"] == "soon"
        (left,) = await server.until(
            lambda: len(found := server.queue()) == 1 and found
        )  # it is recorded a moment later
    due, received = (
        datetime.fromisoformat(text) for text in (left["recipients"][0]["due"], left["received_at"])
    )
    assert (due - received).total_seconds() == pytest.approx(86_400, abs=2)


# --- priorities


async def test_urgent_mail_goes_first(serve, send, tmp_path):
    async with ScriptedPeer({"DATA": [Late(1.5, "354 go"), "354 go"]}) as peer:
        server = await serve(to(peer, queue="lanes = 1"))
        sent = [
            await send(
                server.port,
                "x@far.example",
                sender=f"a@sender.example MT-PRIORITY={priority}",
                message=b"Subject: %d\r\n\r\nx\r\n" % priority,
            )
            for priority in (0, -4, 0, 3, 0, 9)
        ]
        for one in sent:
            await server.reached("delivered", one.id)
    subjects = [message.split(b"Subject: ")[1].split()[0] for message in peer.messages]
    assert subjects == [b"0", b"9", b"3", b"0", b"0", b"-4"]


async def test_urgent_mail_goes_first_after_a_restart(serve, send):
    async with ScriptedPeer() as peer:
        server = await serve(to(peer, queue="lanes = 1"))
        await server.stop()
        server.command("queue", "suspend", f"smtp://127.0.0.1:{peer.port}")
        await server.start()
        sent = [
            await send(
                server.port,
                "x@far.example",
                sender=f"a@sender.example MT-PRIORITY={priority}",
                message=b"Subject: %d\r\n\r\nx\r\n" % priority,
            )
            for priority in (-1, 0, 5)
        ]
        await server.stop()
        await server.start()
        server.command("queue", "resume", f"smtp://127.0.0.1:{peer.port}")
        for one in sent:
            await server.reached("delivered", one.id)
    assert [message.split(b"Subject: ")[1].split()[0] for message in peer.messages] == [b"5", b"0", b"-1"]


# --- only for those whom the sender knows (RFC 7293)

OWNERS = """
[domain."example.org"]
deliver = "maildir:{folder}/mail/{{user}}"
users = ["alice", "bob"]
[domain."example.org".user.carol]
since = 2024-06-01T00:00:00Z
"""
FIELD = b"Require-Recipient-Valid-Since: %s; Sat, 1 Jun 2019 09:23:01 -0700\r\n"


@pytest.mark.parametrize("size", [10, 1_500_000])
async def test_a_new_owner_gets_nothing_and_others_do_not_see_the_field(serve, send, mailbox, tmp_path, size):
    async with ScriptedPeer() as peer:
        server = await serve(to(peer, mailboxes(tmp_path) + OWNERS.format(folder=tmp_path)))
        body = b"\r\n" + b"0123456789\r\n" * (size // 10)
        fields = FIELD % b"carol@example.org" + b"To: all\r\n" + FIELD % b"bob@example.org"
        await send(
            server.port,
            *[f"{name}@example.org" for name in ("alice", "bob", "carol")],
            sender="a@sender.example",
            message=fields + b"Subject: x\r\n" + body,
        )
        (report,) = await mailbox("a").filled()
        for name in ("alice", "bob"):
            (copy,) = await mailbox(name).filled()
            assert copy["Require-Recipient-Valid-Since"] is None
            assert (copy["To"], copy["Subject"]) == ("all", "x")
            assert copy.get_payload().encode() == body[2:].replace(b"\r\n", b"\n")
        assert not mailbox("carol").files
    text = report.as_string()
    assert "Status: 5.7.17" in text
    assert "Final-Recipient: rfc822;carol@example.org" in text.replace("; ", ";")


async def test_the_field_is_heeded_only_while_the_extension_is_on(serve, send, mailbox, tmp_path):
    text = '[[listen]]\naddress = "127.0.0.1:0"\n' + OWNERS.format(folder=tmp_path)
    server = await serve(text + '[extensions]\nrrvs = "off"\n')
    letter = FIELD % b"carol@example.org" + b"Subject: x\r\n\r\nx\r\n"
    await send(server.port, "carol@example.org", message=letter)
    (copy,) = await mailbox("carol").filled()
    assert copy["Require-Recipient-Valid-Since"].startswith("carol@example.org; ")
    server.configure(text)
    server.signal(1)
    await server.logged("config.reloaded")
    refused = await send(server.port, "carol@example.org", message=letter)
    assert refused.replies[0].startswith(b"550 5.7.17 ")


async def test_a_host_with_rrvs_is_told_since_when_a_recipient_is_known(serve, send, tmp_path):
    async with ScriptedPeer(extensions=("RRVS",)) as peer:
        server = await serve(to(peer, OWNERS.format(folder=tmp_path)))
        sent = await send(
            server.port,
            "x@far.example RRVS=2024-01-01T00:00:00Z",
            "y@far.example RRVS=2024-01-01T00:00:00Z;C",
            "z@far.example",
            sender="a@sender.example",
            message=FIELD % b"z@far.example" + b"Subject: x\r\n\r\nx\r\n",
        )
        for number in range(3):
            await server.reached("delivered", sent.id, number)
    said = [command.partition("<")[2] for command in peer.commands if command.startswith("RCPT")]
    assert said == [
        "x@far.example> RRVS=2024-01-01T00:00:00Z;R",
        "y@far.example> RRVS=2024-01-01T00:00:00Z;C",
        "z@far.example> RRVS=2019-06-01T16:23:01Z;C",
    ]


async def test_a_host_without_rrvs_gets_the_field_for_each_recipient_alone(serve, send, mailbox, tmp_path):
    async with ScriptedPeer(extensions=()) as peer:
        server = await serve(to(peer, mailboxes(tmp_path) + OWNERS.format(folder=tmp_path)))
        sent = await send(
            server.port,
            "u@far.example",
            "w@far.example",
            "x@far.example RRVS=2024-01-01T00:00:00Z;C",
            "y@far.example RRVS=2024-01-01T00:00:00Z",
            sender="a@sender.example",
        )
        for number in range(3):
            await server.reached("delivered", sent.id, number)
        (report,) = await mailbox("a").filled()
        again = await send(
            server.port,
            "z@far.example",
            sender="a@sender.example",
            message=FIELD % b"z@far.example" + b"Subject: x\r\n\r\nx\r\n",
        )
        await server.reached("delivered", again.id)
    assert "Status: 5.7.19" in report.as_string()
    assert [message.count(b"Require-Recipient-Valid-Since: ") for message in peer.messages] == [0, 1, 1]
    assert peer.messages[1].startswith(
        b"Require-Recipient-Valid-Since: x@far.example;\r\n\tMon, 01 Jan 2024 00:00:00 +0000\r\nReceived: "
    )


# --- TLS all the way


@pytest.mark.parametrize(("keyword", "status"), [("STARTTLS", "5.7.30"), ("REQUIRETLS", "5.7.10")])
async def test_E550_19_mail_that_must_stay_under_tls(
    serve, dial, mailbox, verified, tmp_path, keyword, status
):
    """The host has TLS and makes no promise, or makes one and has no TLS."""
    context, trust = verified
    tls = await _own_certificate(tmp_path)
    extra = f'[tls]\ncertificate = "{tls}"\nkey = "{tls}"\n{trust}' + mailboxes(tmp_path)
    async with ScriptedPeer({"STARTTLS": StartTls(context)}, extensions=(keyword,)) as peer:
        server = await serve(to(peer, extra))
        caller = await _under_tls(dial, server.port)
        queue_id = await _hand_in_secret(caller, "x@far.example")
        failed = await server.reached("failed", queue_id)
        (report,) = await mailbox("a").filled()
    assert failed["reply"].startswith(f"550 {status}")
    assert not peer.messages
    assert f"Status: {status}" in report.as_string()
    assert "not for all" not in report.as_string()  # the header section alone goes back


@pytest.fixture
def verified(tmp_path):
    """The TLS settings of a host with a certificate for 127.0.0.1, and a file with who issued it."""
    import trustme  # noqa: PLC0415

    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context, f'[relay]\nca_file = "{tmp_path}/ca.pem"\n'


async def test_a_verified_host_gets_mail_that_must_stay_under_tls(serve, dial, verified, tmp_path):
    context, trust = verified
    tls = await _own_certificate(tmp_path)
    extra = f'[tls]\ncertificate = "{tls}"\nkey = "{tls}"\n{trust}'
    script = {"STARTTLS": StartTls(context)}
    async with ScriptedPeer(script, extensions=("STARTTLS", "REQUIRETLS")) as peer:
        server = await serve(to(peer, extra))
        queue_id = await _hand_in_secret(await _under_tls(dial, server.port), "x@far.example")
        await server.reached("delivered", queue_id)
    (visit,) = peer.visits
    assert visit.encrypted
    assert visit.commands.index("STARTTLS") < visit.commands.index("MAIL FROM:<a@sender.example> REQUIRETLS")
    (message,) = peer.messages
    assert message.endswith(b"\r\nnot for all\r\n")


async def test_a_verified_host_without_requiretls_gets_nothing_and_the_bounce_stays_under_tls(
    serve, dial, verified, tmp_path
):
    """The bounce leaves by another host, which gets it with REQUIRETLS, and the header section alone."""
    context, trust = verified
    tls = await _own_certificate(tmp_path)
    script = {"STARTTLS": StartTls(context)}
    async with (
        ScriptedPeer(script, extensions=("STARTTLS",)) as peer,
        ScriptedPeer(script, extensions=("STARTTLS", "REQUIRETLS", "DSN")) as other,
    ):
        extra = f'[tls]\ncertificate = "{tls}"\nkey = "{tls}"\n{trust}'
        back = f'[[route]]\nmatch = "sender.example"\nvia = "smtp://127.0.0.1:{other.port}"\n'
        server = await serve(to(peer, extra).replace("[[route]]", f"{back}[[route]]", 1))
        queue_id = await _hand_in_secret(await _under_tls(dial, server.port), "x@far.example")
        failed = await server.reached("failed", queue_id)
        await server.until(lambda: other.messages)
    assert failed["reply"].startswith("550 5.7.30")
    assert not peer.messages
    (visit,) = other.visits
    assert visit.encrypted
    assert "MAIL FROM:<> REQUIRETLS" in [command.replace(" RET=HDRS", "") for command in visit.commands]
    (report,) = other.messages
    assert b"text/rfc822-headers" in report
    assert b"Subject: secret" in report
    assert b"not for all" not in report


async def _hand_in_secret(caller, recipient):
    """Hand a message in with REQUIRETLS; its queue id."""
    assert (await mail(caller, "REQUIRETLS")).startswith(b"250")
    await caller.ask(b"RCPT TO:<%s>" % recipient.encode())
    await caller.ask(b"DATA")
    await caller.send(b"Subject: secret\r\n\r\nnot for all\r\n.\r\n")
    return (await caller.reply()).split()[-1].decode()


async def _own_certificate(tmp_path):
    import trustme  # noqa: PLC0415

    file = tmp_path / "own.pem"
    trustme.CA().issue_cert("mx.example.org").private_key_and_cert_chain_pem.write_to_path(str(file))
    return file


async def _under_tls(dial, port):
    caller = await greeted(dial, port)
    assert (await caller.ask(b"STARTTLS")).startswith(b"220")
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    await caller.upgrade(trusting)
    assert b"REQUIRETLS" in await caller.ask(b"EHLO client.example")
    return caller


async def test_E554_6_tls_that_is_too_weak(serve, dial, tmp_path):
    tls = await _own_certificate(tmp_path)
    server = await serve(
        f"""
[tls]
certificate = "{tls}"
key = "{tls}"
min_version = "1.3"
[[listen]]
address = "127.0.0.1:0"
[[listen]]
address = "127.0.0.1:0"
tls = "implicit"
[domain."example.org"]
deliver = "hold"
"""
    )
    old = ssl.create_default_context()
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    caller = await greeted(dial, server.port)
    assert (await caller.ask(b"STARTTLS")).startswith(b"220")
    await caller.upgrade(old)
    for command in (b"EHLO client.example", b"NOOP", b"MAIL FROM:<a@sender.example>", b"STARTTLS", b"FROB"):
        assert (await caller.ask(command)).startswith(b"554 5.7.0 ")
    assert (await caller.ask(b"QUIT")).startswith(b"221 ")
    caller = await dial(server.ports[1], tls=old)
    assert (await caller.reply()).startswith(b"554 ")
    assert (await caller.ask(b"EHLO client.example")).startswith(b"554 5.7.0 ")
    assert (await caller.ask(b"QUIT")).startswith(b"221 ")
    new = ssl.create_default_context()
    new.check_hostname, new.verify_mode = False, ssl.CERT_NONE
    caller = await dial(server.ports[1], tls=new)
    assert (await caller.reply()).startswith(b"220 ")


# --- extensions that are suspended while sessions are open


async def test_E455_3_an_extension_is_suspended_while_a_session_knows_of_it(serve, dial):
    text = """
[[listen]]
address = "127.0.0.1:0"
[domain."example.org"]
deliver = "hold"
"""
    server = await serve(text)
    before = await greeted(dial, server.port)
    for word in ("SMTPUTF8", "RET=FULL", "BODY=BINARYMIME", "MT-PRIORITY=1"):
        assert (await mail(before, word)).startswith(b"250 ")
    server.configure(
        text + '[extensions]\nsmtputf8 = "suspended"\ndsn = "suspended"\nbinarymime = "suspended"\n'
        'mt_priority = "off"\n'
    )
    server.signal(1)
    await server.logged("config.reloaded")
    for word in ("SMTPUTF8", "RET=FULL", "BODY=BINARYMIME"):
        assert (await mail(before, word)).startswith(b"455 4.5.4 ")
    assert (await mail(before, "MT-PRIORITY=1")).startswith(b"250 ")  # only new sessions do without
    await mail(before, "")
    assert (await before.ask(b"RCPT TO:<x@example.org> NOTIFY=NEVER")).startswith(b"455 4.5.4 ")
    again = await before.ask(b"EHLO client.example")
    assert b"SMTPUTF8" not in again
    assert (await mail(before, "SMTPUTF8")).startswith(b"555 5.5.4 ")
    after = await greeted(dial, server.port)
    for word in ("SMTPUTF8", "RET=FULL", "BODY=BINARYMIME", "MT-PRIORITY=1"):
        assert (await mail(after, word)).startswith(b"555 5.5.4 ")
    server.configure(text)
    server.signal(1)
    await server.until(lambda: len(server.events("config.reloaded")) == 2)
    last = await greeted(dial, server.port)
    assert (await mail(last, "SMTPUTF8")).startswith(b"250 ")


# --- a full queue


async def test_E452_6_a_full_queue_takes_no_more_until_there_is_room(serve, send, dial):
    async with ScriptedPeer({"RCPT": ["450 4.2.1 locked", "450 4.2.1 locked", "250 ok"]}) as peer:
        server = await serve(to(peer, queue="max_messages = 2"))
        caller = await greeted(dial, server.port)
        sent = [await send(server.port, "x@far.example") for _ in range(2)]
        assert (await mail(caller, "")).startswith(b"452 4.3.1 ")
        for one in sent:
            server.command("queue", "retry", one.id)
            await server.reached("delivered", one.id)
        await until_reply(lambda: mail(caller, ""), b"250 ")


# --- ETRN


async def test_E253_1_E250_8_E251_3_E530_1_a_node_asks_for_its_mail(serve, send, dial):
    script = {"RCPT": [*["450 4.2.1 locked"] * 3, "250 ok"]}
    async with ScriptedPeer(script) as peer:
        extra = '[etrn]\nallow = ["far.example", "*.example"]\n'
        server = await serve(to(peer, extra).replace('first = "50ms"', 'first = "1h"'))
        sent = [await send(server.port, "x@far.example") for _ in range(3)]
        for one in sent:
            await server.until(lambda one=one: server.recipient(one.id)["attempts"] == 1)
        caller = await greeted(dial, server.port)
        await server.until(lambda: not any(server.recipient(one.id)["active"] for one in sent))
        assert await caller.ask(b"ETRN far.example") == (
            b"253 2.5.0 OK, 3 pending messages for node far.example started\r\n"
        )
        for one in sent:
            await server.reached("delivered", one.id)
        assert (await caller.ask(b"ETRN far.example")).startswith(b"251 2.5.0 ")
        assert (await caller.ask(b"ETRN @far.example")).startswith(b"250 2.5.0 Queuing for node @far.example")
        assert (await caller.ask(b"ETRN example.org")).startswith(b"459 4.7.1 ")
        server.configure(to(peer, extra + "login = true\n"))
        server.signal(1)
        await server.logged("config.reloaded")
        caller = await greeted(dial, server.port)
        assert (await caller.ask(b"ETRN far.example")).startswith(b"530 5.7.0 ")


async def test_E458_1_no_queue_is_started_while_all_lanes_are_busy(serve, send, dial):
    async with ScriptedPeer({"DATA": Late(60.0, "354 go")}) as peer:
        extra = '[etrn]\nallow = ["*"]\n'
        server = await serve(to(peer, extra, queue="lanes = 1"))
        await send(server.port, "x@far.example")
        caller = await greeted(dial, server.port)
        await until_reply(
            lambda: caller.ask(b"ETRN far.example"),
            b"458 4.5.0 Unable to queue messages for node far.example",
        )
