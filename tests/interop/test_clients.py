"""Real clients against the live server: smtplib, aiosmtplib and Postfix's smtp-source."""

import asyncio
import shutil
import smtplib
from email.message import EmailMessage
from pathlib import Path

import aiosmtplib
import pytest

from pillarbox.policy.rules import Role

pytestmark = pytest.mark.interop
SMTP_SOURCE = shutil.which("smtp-source", path=f"{Path('/usr/sbin')}:{Path('/usr/libexec/postfix')}")
needs_smtp_source = pytest.mark.skipif(SMTP_SOURCE is None, reason="smtp-source (Postfix) is not installed")


def letter(text="Hello.\n", **headers):
    message = EmailMessage()
    message["From"] = "a@sender.example"
    message["To"] = "alice@example.org"
    message["Subject"] = "from a real client"
    for name, value in headers.items():
        message[name] = value
    message.set_content(text)
    return message


async def run(*command, data=b""):
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(data), 50)
    return process.returncode, out.decode("utf-8", "replace")


# --- smtplib --------------------------------------------------------------------------------------------------------


async def test_smtplib_sends_a_message(open_office):
    office = await open_office()

    def send():
        with smtplib.SMTP("127.0.0.1", office.port, timeout=20) as client:
            return client.send_message(letter("Dots:\n.\n..\n.x\n" + "x" * 900 + "\n"))

    assert await asyncio.to_thread(send) == {}
    octets, found = await office.stored()
    assert octets.partition(b"\r\n\r\n")[2].startswith(b"Dots:\r\n.\r\n..\r\n.x\r\n")
    assert found.sender == "a@sender.example"


async def test_smtplib_learns_who_was_refused(open_office):
    office = await open_office()

    def send():
        with smtplib.SMTP("127.0.0.1", office.port, timeout=20) as client:
            to = ["alice@example.org", "nobody@example.org", "x@elsewhere.example"]
            refused = client.sendmail("a@sender.example", to, "Subject: x\r\n\r\nx\r\n")
            with pytest.raises(smtplib.SMTPRecipientsRefused):
                client.sendmail("a@sender.example", to[1:], "Subject: x\r\n\r\nx\r\n")
            return refused

    refused = await asyncio.to_thread(send)
    assert {address: code for address, (code, _) in refused.items()} == {
        "nobody@example.org": 550,
        "x@elsewhere.example": 550,
    }


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
async def test_smtplib_with_starttls_and_login(open_office, certificates, mechanism):
    office = await open_office(role=Role.SUBMISSION, tls="offered", login=True)

    def send():
        with smtplib.SMTP("127.0.0.1", office.port, timeout=20) as client:
            client.starttls(context=certificates.client)
            client.ehlo()
            client.user, client.password = "alice@example.org", "wonderland"
            client.auth(mechanism, getattr(client, f"auth_{mechanism.lower()}"))
            client.sendmail("alice@example.org", ["far@elsewhere.example"], "Subject: x\r\n\r\nx\r\n")

    await asyncio.to_thread(send)
    octets, _ = await office.stored()
    assert b"with ESMTPSA" in octets
    assert b"\r\nMessage-ID: " in octets, "what a user's program leaves out is added"


async def test_smtplib_with_a_wrong_password(open_office, certificates):
    office = await open_office(tls="implicit", login=True)

    def send():
        with smtplib.SMTP_SSL("127.0.0.1", office.port, timeout=20, context=certificates.client) as client:
            with pytest.raises(smtplib.SMTPAuthenticationError) as caught:
                client.login("alice@example.org", "wrong")
            return caught.value.smtp_code

    assert await asyncio.to_thread(send) == 535


async def test_smtplib_with_lmtp(open_office):
    office = await open_office(role=Role.LMTP)

    def send():
        with smtplib.LMTP("127.0.0.1", office.port, timeout=20) as client:
            client.ehlo_or_helo_if_needed()
            client.mail("a@sender.example")
            client.rcpt("alice@example.org")
            client.rcpt("bob@example.org")
            first = client.data("Subject: x\r\n\r\nx\r\n")
            return first, client.getreply()

    first, second = await asyncio.to_thread(send)
    assert first[0] == second[0] == 250
    assert len((await office.stored())[1].recipients) == 2


async def test_smtplib_with_international_addresses(open_office):
    office = await open_office(relay=("127.0.0.0/8",))

    def send():
        with smtplib.SMTP("127.0.0.1", office.port, timeout=20) as client:
            message = letter()
            message.replace_header("To", "jörg@bücher.example")
            client.send_message(message)

    await asyncio.to_thread(send)
    _, found = await office.stored()
    assert found.recipients[0].address == "jörg@bücher.example"
    assert found.smtputf8


# --- aiosmtplib -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", ["none", "offered", "implicit"])
async def test_aiosmtplib(open_office, certificates, tls):
    office = await open_office(tls=tls, login=tls != "none")
    await aiosmtplib.send(
        letter(),
        hostname="127.0.0.1",
        port=office.port,
        use_tls=tls == "implicit",
        start_tls=tls == "offered",
        tls_context=None if tls == "none" else certificates.client,
        username=None if tls == "none" else "bob@example.org",
        password=None if tls == "none" else "builder",
        timeout=20,
    )
    octets, _ = await office.stored()
    assert b"with ESMTPSA" in octets if tls != "none" else b"with ESMTP " in octets


async def test_aiosmtplib_sends_many_at_once(open_office):
    office = await open_office()

    async def send(number):
        await aiosmtplib.send(letter(f"{number}\n"), hostname="127.0.0.1", port=office.port, timeout=30)

    await asyncio.gather(*map(send, range(40)))
    bodies = {(await office.stored(number))[0].partition(b"\r\n\r\n")[2] for number in range(40)}
    assert bodies == {b"%d\r\n" % number for number in range(40)}


# --- smtp-source ----------------------------------------------------------------------------------------------------


@needs_smtp_source
@pytest.mark.parametrize(
    ("more", "count", "octets"),
    [
        (("-s", "10", "-m", "100", "-l", "1024"), 100, 1024),
        (("-s", "5", "-m", "100", "-d", "-l", "1024"), 100, 1024),
        (("-s", "2", "-m", "10", "-l", "1000000"), 10, 1_000_000),
        (("-s", "2", "-m", "20", "-r", "3"), 20, 1),
        (("-L", "-s", "3", "-m", "30"), 30, 1),
    ],
)
async def test_smtp_source(open_office, more, count, octets):
    role = Role.LMTP if "-L" in more else Role.MX
    office = await open_office(role=role, relay=("127.0.0.0/8",))
    to = "alice@elsewhere.example" if role is Role.MX else "alice@example.org"
    code, out = await run(
        SMTP_SOURCE, *more, "-f", "a@sender.example", "-t", to, f"inet:127.0.0.1:{office.port}"
    )
    assert code == 0, out
    assert out == ""
    assert len(office.queued) == count
    kept, found = await office.stored(count - 1)
    assert len(kept) >= octets
    assert len(found.recipients) == (3 if "-r" in more else 1)
    assert office.drafts == []
