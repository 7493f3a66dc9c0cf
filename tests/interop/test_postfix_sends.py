"""Postfix as the client: what it hands to Pillarbox, how it asks, and what it makes of each refusal."""

import smtplib
from collections import Counter

import pytest

pytestmark = [pytest.mark.interop, pytest.mark.xdist_group("postfix")]

BODY = b"From: ann@postfix.example\r\nSubject: across\r\n\r\nHello.\r\n"
HOOK = """
import pillarbox

seen = set()

def decide_rcpt(client, sender, recipient):
    if recipient.local == "later" and (sender, recipient) not in seen:
        seen.add((sender, recipient))
        return pillarbox.refuse("envelope.no_space")
    return None

def decide_message(message):
    if message.head.get("subject") == "unwanted":
        return pillarbox.refuse("envelope.refused_by_hook", "Nobody here wants this")
    return None
"""
SETTINGS = """
hooks = ["policy_of_the_test"]
policy.relay_networks = []
limits.message = 8000000
limits.recipients = 20
limits.messages = 50
tls.certificate = "{pem.chain}"
tls.key = "{pem.key}"
{domains}
[[route]]
match = "postfix.example"
via = "smtp://127.0.0.1:{back}"
"""
LISTENERS = ('role = "mx"', 'role = "mx"\ntls = "implicit"', 'role = "lmtp"')
# Domains of Pillarbox, by the way that Postfix takes to them.
WAYS = {
    "here.test": "smtp:[127.0.0.1]:{}",
    "offered.test": "opportunistic:[127.0.0.1]:{}",
    "implicit.test": "wrapped:[127.0.0.1]:{}",
    "lmtp.test": "lmtp:inet:127.0.0.1:{}",
    "secure.test": "secure:[127.0.0.1]:{}",
}
MAIN = """
transport_maps = inline:{{ {ways} }}
lmtp_tls_security_level = may
smtp_connection_cache_destinations = 127.0.0.1
address_verify_map =
address_verify_poll_delay = 1s
unverified_recipient_reject_code = 550
queue_run_delay = 1s
minimal_backoff_time = 1s
maximal_backoff_time = 2s
"""
MASTER = """
opportunistic unix - - n - - smtp
  -o smtp_tls_security_level=may
secure unix - - n - - smtp
  -o smtp_tls_security_level=secure
  -o smtp_tls_secure_cert_match=mx.example.org
wrapped unix - - n - - smtp
  -o smtp_tls_security_level=encrypt
  -o smtp_tls_wrappermode=yes
"""
BOXES = [f"box{number}" for number in range(40)]  # mailboxes of Pillarbox, for one test each
CROWD = [f"crowd{number}" for number in range(30)]


@pytest.fixture(scope="module")
def back(unused_port):
    """Where Postfix listens."""
    return unused_port()


@pytest.fixture(scope="module")
def serving(serve, pem, back, open_folder):
    (folder := open_folder()).joinpath("policy_of_the_test.py").write_text(HOOK)
    domains = "".join(
        f'[domain."{domain}"]\ndeliver = "maildir:{{folder}}/mail/{{user}}"\nusers = {[*BOXES, *CROWD, "later", "jörg"]}\n'
        for domain in WAYS
    )
    settings = SETTINGS.format(pem=pem, back=back, domains=domains)
    return serve(settings, LISTENERS, PYTHONPATH=str(folder))


@pytest.fixture(scope="module")
def client(postfix, serving, back, unused_port):
    """A Postfix that knows the way to Pillarbox, and nobody else."""
    mx, implicit, lmtp = serving.ports
    ports = {"implicit.test": implicit, "lmtp.test": lmtp}
    ways = ", ".join(f"{{ {domain} = {way.format(ports.get(domain, mx))} }}" for domain, way in WAYS.items())
    gate = "smtpd_recipient_restrictions=reject_unverified_recipient"
    listeners = {"postfix.example": (back, ""), "gate.example": (unused_port(), gate)}
    return postfix(listeners, main=MAIN.format(ways=ways), master=MASTER)


@pytest.fixture(scope="module")
def boxes():
    return iter(BOXES)


@pytest.fixture
def box(boxes):
    """Somebody at Pillarbox whose mailbox is still empty."""
    return next(boxes)


@pytest.fixture
def sender(client):
    """Somebody at Postfix who has no mail yet."""
    return client.user()


def sessions(serving, box):
    """How many messages for a mailbox came in each session."""
    events = serving.events("message.received")
    ours = {
        event["message"]
        for event in serving.events("delivery.ok")
        if event["recipient"].startswith(f"{box}@")
    }
    return Counter(event["session"] for event in events if event["message"] in ours)


@pytest.mark.parametrize(
    ("domain", "protocol"),
    [
        ("here.test", "ESMTP"),
        ("offered.test", "ESMTPS"),
        ("secure.test", "ESMTPS"),  # with a certificate that Postfix verifies
        ("implicit.test", "ESMTPS"),
        ("lmtp.test", "LMTPS"),
    ],
)
async def test_a_message_lies_in_the_mailbox(serving, client, box, sender, domain, protocol):
    client.send(f"{box}@{domain}", sender=f"{sender}@postfix.example")
    (message,) = await serving.mail(box)
    assert message["Subject"] == "across"
    assert message["Return-Path"] == f"<{sender}@postfix.example>"
    assert f"with {protocol} " in message["Received"]


async def test_many_messages_come_on_kept_connections(serving, client, box, sender):
    for number in range(300):
        message = b"Subject: %d\r\n\r\n" % number
        client.send(f"{box}@here.test", sender=f"{sender}@postfix.example", message=message)
    found = await serving.mail(box, 300)
    assert sorted(int(message["Subject"]) for message in found) == list(range(300))
    came = sessions(serving, box)
    assert sum(came.values()) == 300
    assert 5 <= max(came.values()) <= 50, "no more than a session may bring"


async def test_a_large_message_arrives_whole(serving, client, box, sender):
    text = b"".join(b"%d of many\r\n.\r\n" % number for number in range(300_000))
    client.send(f"{box}@here.test", sender=f"{sender}@postfix.example", message=BODY + text)
    await serving.mail(box)
    (file,) = (serving.folder / "mail" / box / "new").iterdir()
    assert file.read_bytes().endswith(b"\nHello.\n" + text.replace(b"\r\n", b"\n"))


async def test_a_message_over_the_limit_is_refused_before_it_is_sent(serving, client, box, sender):
    client.send(
        f"{box}@here.test", sender=f"{sender}@postfix.example", message=BODY + (b"x" * 70 + b"\r\n") * 130_000
    )
    (report,) = await client.mail(sender)
    (group,) = report.get_payload(1).get_payload()[1:]
    assert group["Status"] == "5.3.4"
    assert (
        "8000000" in group["Diagnostic-Code"]
    )  # Postfix says so itself, or on a kept connection Pillarbox at MAIL
    assert not serving.peek(box)


async def test_octets_beyond_ascii_stay_as_they_are(serving, client, box, sender):
    text = "Größe\r\n".encode() + b"\xff\xfe\r\n"
    client.send(
        f"{box}@here.test",
        sender=f"{sender}@postfix.example",
        message=BODY + text,
        options=["BODY=8BITMIME"],
    )
    await serving.mail(box)
    (file,) = (serving.folder / "mail" / box / "new").iterdir()
    assert file.read_bytes().endswith(text.replace(b"\r\n", b"\n"))


@pytest.mark.parametrize(
    "parameters",
    [
        ["ORCPT=rfc822;first@example.org"],
        [],  # then Postfix says ORCPT=rfc822;j+C3+B6rg@here.test
    ],
)
async def test_international_addresses(serving, client, parameters):
    before = len(serving.peek("jörg")), client.log.count("to=<jörg@here.test>")
    client.send(("jörg@here.test", parameters), sender="jörg@postfix.example", options=["SMTPUTF8"])
    await client.until(lambda: client.log.count("to=<jörg@here.test>") > before[1])
    assert "status=sent" in next(
        line for line in reversed(client.log.splitlines()) if "to=<jörg@here" in line
    )
    found = await serving.mail("jörg", before[0] + 1)
    assert "with UTF8SMTP " in found[-1]["Received"]
    octets = b"".join(file.read_bytes() for file in (serving.folder / "mail/jörg/new").iterdir())
    assert "Return-Path: <jörg@postfix.example>\n".encode() in octets


@pytest.mark.parametrize("domain", ["here.test", "lmtp.test"])
async def test_postfix_bounces_whom_pillarbox_does_not_know(serving, client, box, sender, domain):
    client.send(f"ghost@{domain}", f"{box}@{domain}", sender=f"{sender}@postfix.example")
    await serving.mail(box)
    (report,) = await client.mail(sender)
    (group,) = report.get_payload(1).get_payload()[1:]
    assert group["Final-Recipient"] == f"rfc822; ghost@{domain}"
    assert (group["Action"], group["Status"]) == ("failed", "5.1.1")
    assert group["Diagnostic-Code"] == "smtp; 550 5.1.1 No such user here"


@pytest.mark.parametrize("domain", ["here.test", "lmtp.test"])
async def test_postfix_bounces_what_is_refused_after_the_data(serving, client, box, sender, domain):
    message = b"Subject: unwanted\r\n\r\n"
    client.send(f"{box}@{domain}", sender=f"{sender}@postfix.example", message=message)
    (report,) = await client.mail(sender)
    (group,) = report.get_payload(1).get_payload()[1:]
    assert group["Diagnostic-Code"] == "smtp; 550 5.7.1 Nobody here wants this"
    assert not serving.peek(box)


@pytest.mark.parametrize("domain", ["here.test", "lmtp.test"])
async def test_postfix_keeps_what_is_put_off_and_comes_again(serving, client, sender, domain):
    before = len(serving.peek("later"))
    client.send(f"later@{domain}", sender=f"{sender}@postfix.example")
    await serving.mail("later", before + 1)
    ours = [line for line in client.log.splitlines() if f"to=<later@{domain}>" in line]
    assert "dsn=4.3.1, status=deferred" in ours[0]
    assert "said: 452 4.3.1" in ours[0]
    assert "dsn=2.0.0, status=sent (250 2.0.0 Queued as " in ours[-1]
    assert not client.peek(sender)


async def test_more_recipients_than_a_message_may_have(serving, client, sender):
    """452 4.5.3 to those beyond the twentieth: Postfix brings them later."""
    client.send(*(f"{user}@here.test" for user in CROWD), sender=f"{sender}@postfix.example")
    await serving.until(lambda: all(map(serving.peek, CROWD)))
    assert {len(serving.peek(user)) for user in CROWD} == {1}
    assert not client.peek(sender)


async def test_success_is_reported_to_who_asked_for_it(serving, client, box, sender):
    client.send(
        (f"{box}@here.test", ["NOTIFY=SUCCESS", "ORCPT=rfc822;first+2B1@example.org"]),
        sender=f"{sender}@postfix.example",
        options=["ENVID=envelope+3D1"],
    )
    (report,) = await client.mail(sender)
    message, group = report.get_payload(1).get_payload()
    assert message["Reporting-MTA"] == "dns; pillarbox.test"
    assert message["Original-Envelope-Id"] == "envelope=1"
    assert group["Original-Recipient"] == "rfc822; first+1@example.org"
    assert (group["Action"], group["Status"]) == ("delivered", "2.0.0")
    assert len(await serving.mail(box)) == 1


def test_postfix_asks_whether_a_recipient_exists(serving, client, box):
    """Its probe ends after RCPT: Pillarbox hears QUIT where a message might come."""
    with smtplib.SMTP("127.0.0.1", client.ports["gate.example"], timeout=40) as session:
        session.ehlo()
        session.mail("ann@postfix.example")
        assert session.rcpt(f"{box}@here.test")[0] == 250
        code, text = session.rcpt("ghost@here.test")
        assert code == 550
        assert b"said: 550 5.1.1 No such user here" in text
