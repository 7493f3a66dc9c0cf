"""Postfix as the next hop: what Pillarbox hands over, how it asks, and what it makes of each refusal."""

import re
import socket

import pytest

from pillarbox.queue.spool import State

pytestmark = [pytest.mark.interop, pytest.mark.xdist_group("postfix")]

BODY = b"From: ann@sender.test\r\nSubject: across\r\n\r\nHello.\r\n"
ACCESS = {
    "later": "450 4.7.1 Greylisted, come back in 2 minutes",
    "busy": "450 4.2.0 Not now",
    "unwanted": "554 5.7.1 Not wanted",
    "curt": "550 5.2.1 Gone",
}
# A domain for each kind of host: the route of Pillarbox to it, and the settings of Postfix that make it so.
HOSTS = {
    "plain.test": ("", ""),
    "offered.test": ("", "smtpd_tls_security_level=may"),
    "required.test": ("?tls=required", "smtpd_tls_security_level=encrypt"),
    "implicit.test": ("?tls=implicit", "smtpd_tls_wrappermode=yes"),
    "none.test": ("?tls=none", "smtpd_tls_security_level=may"),
    "strict.test": ("?tls=none", "smtpd_tls_security_level=encrypt"),
    "clear.test": ("?tls=required", ""),
    "stranger.test": ("?tls=required", "{stranger}"),
    "trusting.test": ("", "{stranger}"),
    "misnamed.test": ("?tls=required", "{misnamed}"),
    "bare.test": (
        "",
        "smtpd_discard_ehlo_keywords=pipelining,chunking,8bitmime,dsn,size,enhancedstatuscodes,smtputf8",
    ),
    "small.test": ("", "message_size_limit=20000"),
    "silent.test": ("", "message_size_limit=20000\nsmtpd_discard_ehlo_keywords=size"),
    "few.test": ("", "smtpd_recipient_limit=10"),
    "narrow.test": ("", "smtpd_client_connection_count_limit=2\nsmtpd_client_event_limit_exceptions="),
    "choosy.test": (
        "",
        "smtpd_recipient_restrictions=check_recipient_access inline:{{ "
        + ", ".join(f"{{{{{user}@choosy.test = {reply}}}}}" for user, reply in ACCESS.items())
        + " }}",
    ),
    "picky.test": ("", "smtpd_sender_restrictions=check_sender_access inline:{{ picky@sender.test=REJECT }}"),
    "shut.test": ("", "smtpd_delay_reject=no\nsmtpd_client_restrictions=reject"),
}


@pytest.fixture(scope="module")
def host(postfix, issue, unused_port):
    stranger, misnamed = issue("127.0.0.1", stranger=True), issue("elsewhere.example")
    settings = {
        name: f"smtpd_tls_security_level=may\nsmtpd_tls_cert_file={one.chain}\nsmtpd_tls_key_file={one.key}"
        for name, one in (("stranger", stranger), ("misnamed", misnamed))
    }
    listeners = {domain: (unused_port(), text.format(**settings)) for domain, (_, text) in HOSTS.items()}
    return postfix(
        listeners,
    )


@pytest.fixture(scope="module")
def serving(serve, host, pem):
    routes = "".join(route(host, domain) for domain in HOSTS)
    return serve(f'relay.ca_file = "{pem.authority}"\nqueue.idle = "1s"\n{routes}')


def route(host, domain):
    via = f"smtp://127.0.0.1:{host.ports[domain]}{HOSTS[domain][0]}"
    return f'[[route]]\nmatch = "{domain}"\nvia = "{via}"\n'


def lines(host, pattern):
    return [line for line in host.log.splitlines() if re.search(pattern, line)]


async def test_a_message_lies_in_the_mailbox(serving, host):
    user = host.user()
    queue_id = serving.send(f"{user}@plain.test")
    fate = await serving.fate(queue_id)
    assert fate.state is State.DELIVERED
    assert fate.result.reply.text.startswith("Ok: queued as ")
    (message,) = await host.mail(user)
    assert message["Return-Path"] == "<ann@sender.test>"
    assert message["Subject"] == "across"
    assert "from pillarbox.test (localhost [127.0.0.1])" in message["Received"]
    ours = message.get_all("Received")[1]
    assert queue_id in ours


# --- encryption


@pytest.mark.parametrize(
    ("domain", "encrypted"),
    [
        ("plain.test", False),
        ("offered.test", True),
        ("required.test", True),
        ("implicit.test", True),
        ("none.test", False),
        ("trusting.test", True),  # any certificate is better than clear text
    ],
)
async def test_what_leaves_encrypted(serving, host, domain, encrypted):
    user = host.user()
    assert (await serving.fate(serving.send(f"{user}@{domain}"))).state is State.DELIVERED
    (message,) = await host.mail(user)
    assert ("(using TLSv1.3 with cipher" in message["Received"]) is encrypted


@pytest.mark.parametrize(
    ("domain", "cause", "words"),
    [
        ("clear.test", "delivery.tls_not_offered", "does not offer the TLS that is required"),
        ("stranger.test", "delivery.tls_failed", "certificate verify failed"),
        ("misnamed.test", "delivery.tls_failed", "certificate verify failed"),
    ],
)
async def test_what_stays_because_it_must_be_encrypted(serving, host, domain, cause, words):
    user = host.user()
    queue_id = serving.send(f"{user}@{domain}")
    fate = await serving.fate(queue_id)
    assert fate.state is State.QUEUED
    assert fate.result.reply.cause_id == cause
    assert words in fate.result.reply.text
    assert not lines(host, f"to=<{user}@{domain}>")


async def test_a_host_that_demands_tls_of_a_route_without_it(serving, host):
    """530 is about this server's settings: the mail is kept for the operator to mend them."""
    fate = await serving.fate(serving.send(f"{host.user()}@strict.test"))
    assert fate.state is State.QUEUED
    assert (fate.result.reply.code, fate.result.reply.status) == (530, "5.7.0")
    assert serving.events("alarm")


# --- what can be carried


async def test_octets_beyond_ascii_stay_as_they_are(serving, host):
    user = host.user()
    body = "Größe\r\n.\r\n..\r\n.x\r\n".encode() + b"\xff\xfe\r\n"
    queue_id = serving.send(f"{user}@plain.test", message=BODY + body, options=["BODY=8BITMIME"])
    assert (await serving.fate(queue_id)).state is State.DELIVERED
    await host.mail(user)
    (file,) = (host.folder / "mail" / user / "new").iterdir()
    assert file.read_bytes().endswith(body.replace(b"\r\n", b"\n"))


async def test_a_host_without_8bitmime_gets_ascii_only(serving, host):
    user = host.user()
    fine = serving.send(f"{user}@bare.test", options=["BODY=8BITMIME"])
    assert (await serving.fate(fine)).state is State.DELIVERED
    beyond = serving.send(f"{user}@bare.test", message=BODY + "ö\r\n".encode(), options=["BODY=8BITMIME"])
    fate = await serving.fate(beyond)
    assert fate.state is State.FAILED
    assert fate.result.reply.cause_id == "delivery.needs_conversion"
    assert len(await host.mail(user)) == 1


async def test_international_addresses(serving, host):
    queue_id = serving.send("jörg@plain.test", sender="änn@sender.test", options=["SMTPUTF8"])
    assert (await serving.fate(queue_id)).state is State.DELIVERED
    (message,) = await host.mail("jörg")
    assert "with UTF8SMTP" in message["Received"]
    (file,) = (host.folder / "mail/jörg/new").iterdir()
    assert "Return-Path: <änn@sender.test>".encode() in file.read_bytes()


async def test_a_host_without_smtputf8_gets_what_is_ascii(serving, host):
    user = host.user()
    queue_id = serving.send(
        f"{user}@bare.test", "jörg@bare.test", sender="ascii@sender.test", options=["SMTPUTF8"]
    )
    fine, beyond = await serving.fates(queue_id)
    assert fine.state is State.DELIVERED
    assert beyond.state is State.FAILED
    assert beyond.result.reply.cause_id == "delivery.needs_smtputf8"
    report = await serving.report("ascii")
    assert "\nStatus: 5.6.7\n" in report.get_payload(1).as_string()


async def test_a_host_that_announces_its_limit_is_not_bothered(serving, host):
    user = host.user()
    fate = await serving.fate(
        serving.send(f"{user}@small.test", message=BODY + b"x" * 998 + b"\r\n" * 20_000)
    )
    assert fate.state is State.FAILED
    assert fate.result.reply.cause_id == "delivery.over_peer_size"
    assert "over the limit of 20000" in fate.result.reply.text
    assert not lines(host, f"{user}@small.test")


async def test_a_host_that_hides_its_limit_refuses_at_the_end(serving, host):
    user = host.user()
    message = BODY + (b"x" * 70 + b"\r\n") * 1000
    fate = await serving.fate(serving.send(f"{user}@silent.test", message=message))
    assert fate.state is State.FAILED
    assert (fate.result.reply.code, fate.result.reply.status) == (552, "5.3.4")
    assert fate.result.stage.value == "body"


@pytest.mark.parametrize("domain", ["plain.test", "offered.test", "bare.test"])
async def test_a_large_message_arrives_whole(serving, host, domain):
    user = host.user()
    text = b"".join(b"%d of many\r\n.\r\n" % number for number in range(300_000))
    fate = await serving.fate(serving.send(f"{user}@{domain}", message=BODY + text))
    assert fate.state is State.DELIVERED
    (message,) = await host.mail(user)
    (file,) = (host.folder / "mail" / user / "new").iterdir()
    assert file.read_bytes().endswith(b"\nHello.\n" + text.replace(b"\r\n", b"\n"))
    queue_id = message["Received"].split(" id ")[1].split()[0]
    process = re.search(rf"smtpd\[\d+\](?=: {queue_id}:)", host.log)[0]
    began = host.log.rfind(f"{process}: connect", 0, host.log.find(queue_id))
    messages = len(re.findall(rf"{re.escape(process)}: \w+: client=", host.log[began:]))  # this one included
    way = rf"data={messages}\b" if domain == "bare.test" else r"bdat=1\b"
    await host.until(lambda: re.search(rf"{re.escape(process)}: disconnect.* {way}", host.log[began:]))


# --- refusals


async def test_unknown_recipients_bounce_and_the_others_get_their_mail(serving, host):
    one, two = host.user(), host.user()
    queue_id = serving.send(
        f"{one}@plain.test", "ghost@plain.test", f"{two}@plain.test", sender="some@sender.test"
    )
    fates = await serving.fates(queue_id)
    assert [fate.state for fate in fates] == [State.DELIVERED, State.FAILED, State.DELIVERED]
    assert (fates[1].result.reply.code, fates[1].result.reply.status) == (550, "5.1.1")
    await host.mail(one)
    await host.mail(two)
    report = await serving.report("some")
    (group,) = report.get_payload(1).get_payload()[1:]
    assert group["Final-Recipient"] == "rfc822; ghost@plain.test"
    assert group["Remote-MTA"].startswith("dns; [127.0.0.1]")
    assert group["Diagnostic-Code"].startswith(
        "smtp; 550 5.1.1 <ghost@plain.test>: Recipient address rejected"
    )


async def test_each_recipient_is_settled_as_its_reply_says(serving, host):
    queue_id = serving.send(*(f"{name}@choosy.test" for name in ACCESS), sender="many@sender.test")
    fates = dict(zip(ACCESS, await serving.fates(queue_id), strict=True))
    assert {name: fate.state.name for name, fate in fates.items()} == {
        "later": "QUEUED",
        "busy": "QUEUED",
        "unwanted": "FAILED",
        "curt": "FAILED",
    }
    first = serving.steps(queue_id)
    attempted_at = next(step.at for step in first if step.recipient == "later@choosy.test")
    assert round(fates["later"].due - attempted_at) == 120, "a greylisting host says when to come back"
    report = await serving.report("many")
    statuses = [group["Status"] for group in report.get_payload(1).get_payload()[1:]]
    assert statuses == ["5.7.1", "5.2.1"]


async def test_a_refused_sender_bounces(serving, host):
    fate = await serving.fate(serving.send(f"{host.user()}@picky.test", sender="picky@sender.test"))
    assert fate.state is State.FAILED
    assert (fate.result.reply.code, fate.result.reply.status) == (554, "5.7.1")
    assert "Sender address rejected" in (await serving.report("picky")).as_string()


async def test_a_host_that_refuses_the_connection(serving, host):
    """554 in the greeting: it may be a mistake, so two more attempts are made."""
    fate = await serving.fate(serving.send(f"{host.user()}@shut.test"))
    assert fate.state is State.QUEUED
    assert fate.result.stage.value == "greeting"
    assert fate.result.reply.code == 554


async def test_a_host_that_takes_ten_recipients_at_a_time(serving, host):
    users = [host.user() for _ in range(25)]
    fates = await serving.fates(serving.send(*(f"{user}@few.test" for user in users)))
    assert {fate.state for fate in fates} == {State.DELIVERED}
    for user in users:
        assert len(await host.mail(user)) == 1


async def test_a_host_that_takes_no_more_connections(serving, host):
    user, where = host.user(), ("127.0.0.1", host.ports["narrow.test"])
    with socket.create_connection(where) as one, socket.create_connection(where) as two:
        assert one.recv(1000).startswith(b"220 ")
        assert two.recv(1000).startswith(b"220 ")
        queue_id = serving.send(f"{user}@narrow.test")
        fate = await serving.fate(queue_id)
        assert (fate.state, fate.result.stage.value) == (State.QUEUED, "greeting")
        assert str(fate.result.reply).startswith("421 4.7.0 postfix.test Error: too many connections")
    await host.until(lambda: lines(host, "lost connection after CONNECT"))
    serving.command("queue", "retry", queue_id)
    await host.mail(user)


async def test_many_messages_share_connections(serving, host):
    user, before = host.user(), len(lines(host, "disconnect from"))
    for number in range(200):
        serving.send(f"{user}@plain.test", message=b"Subject: %d\r\n\r\n" % number)
    found = await host.mail(user, 200)
    assert sorted(int(message["Subject"]) for message in found) == list(range(200))
    connected = len(lines(host, "disconnect from")) - before
    assert connected <= 20, "as many as may go to one destination at a time"


# --- reports on delivery (RFC 3461)


async def test_who_wants_to_know_hears_it_from_the_last_host(serving, host):
    user, sender = host.user(), host.user()
    queue_id = serving.send(
        (f"{user}@plain.test", ["NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;first+2B1@example.org"]),
        sender=f"{sender}@plain.test",
        options=["ENVID=envelope+3D1", "RET=HDRS"],
    )
    fate = await serving.fate(queue_id)
    assert fate.state is State.DELIVERED
    (report,) = await host.mail(sender)
    message, group = report.get_payload(1).get_payload()
    assert message["Reporting-MTA"] == "dns; postfix.test"
    assert message["Original-Envelope-Id"] == "envelope=1"
    assert group["Original-Recipient"] == "rfc822;first+1@example.org"
    assert group["Action"] == "delivered"
    assert report.get_payload(2).get_content_type() == "text/rfc822-headers"
    assert len(host.peek(sender)) == 1, "none from Pillarbox besides"


async def test_a_host_that_does_not_report_is_spoken_for(serving, host):
    serving.send((f"{host.user()}@bare.test", ["NOTIFY=SUCCESS"]), sender="relayed@sender.test")
    report = await serving.report("relayed")
    (group,) = report.get_payload(1).get_payload()[1:]
    assert (group["Action"], group["Status"]) == ("relayed", "2.0.0")


async def test_who_wants_no_report_gets_none(serving, host):
    user = host.user()
    recipients = [(f"{name}@plain.test", ["NOTIFY=NEVER"]) for name in (user, "ghost")]
    delivered, failed = await serving.fates(serving.send(*recipients, sender="quiet@sender.test"))
    assert (delivered.state, failed.state) == (State.DELIVERED, State.FAILED)
    assert not serving.peek("quiet")
