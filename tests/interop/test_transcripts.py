"""What real clients print about sessions with this server is understood, recipient by recipient, and judged."""

import asyncio
import contextlib
import io
import re
import shutil
import smtplib
import subprocess
import sys

import pytest
from argon2 import PasswordHasher

from pillarbox.diagnose.diagnosis import Kind, Outcome, Role
from pillarbox.diagnose.explain import explain
from pillarbox.diagnose.lint import lint
from pillarbox.mail.reply import Stage

pytestmark = [pytest.mark.interop, pytest.mark.xdist_group("transcripts")]

MX, SUBMISSION = 0, 1
GOOD, BAD, FAR = "alice@example.org", "nobody@example.org", "x@far.example"
ACCEPTED, REFUSED = Outcome.ACCEPTED, Outcome.PERMANENT
FATES = [(GOOD, ACCEPTED, Stage.BODY), (BAD, REFUSED, Stage.RCPT), (FAR, REFUSED, Stage.RCPT)]
OURS = ["", "envelope.recipient_unknown", "envelope.relay_denied"]
MESSAGE = b"From: a@sender.example\r\nSubject: x\r\n\r\nHello.\r\n.dot\r\n"


@pytest.fixture(scope="module")
def serving(serve, pem):
    hashed = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("builder")
    settings = f"""
        policy.relay_networks = []
        tls.certificate = "{pem.chain}"
        tls.key = "{pem.key}"
        [account."bob@example.org"]
        password = '{hashed}'
        [domain."example.org"]
        deliver = "maildir:{{folder}}/mail/{{user}}"
        users = ["alice", "bob"]
        """
    return serve(settings, ['role = "mx"', 'role = "submission"'])


def run(name, *arguments, data=b""):
    """All that a program prints; without the program the test is skipped."""
    program = shutil.which(name) or pytest.skip(f"{name} is not installed")
    done = subprocess.run(
        [program, *map(str, arguments)],
        input=data,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=50,
    )
    return done.stdout.decode("utf-8", "surrogateescape")


def check(text, notation, fates=FATES, ours=OURS):
    """The text is understood as a session with these fates, and keeps to all rules."""
    found = explain(text)
    assert (found.kind, found.notation) == (Kind.TRANSCRIPT, notation), text
    assert [(one.address, one.outcome, one.stage) for one in found.recipients] == fates, text
    assert [one.ours for one in found.recipients] == ours
    assert lint(text).faults == (), text
    return found


@pytest.mark.parametrize(
    "options", [(), ("--pipeline",), ("--tls",), ("--tls", "--pipeline"), ("--show-time-lapse",)]
)
def test_swaks(serving, options):
    text = run("swaks", "--server", f"127.0.0.1:{serving.ports[MX]}", "--helo", "client.example", "--from", "a@sender.example", "--to", f"{GOOD},{BAD},{FAR}", *options)  # fmt: skip
    if "TLS not available" in text:
        pytest.skip("swaks has no TLS: Net::SSLeay (libnet-ssleay-perl) is not installed")
    found = check(text, "arrows")
    assert found.host == "pillarbox.test"


def test_swaks_without_a_login(serving):
    text = run("swaks", "--server", f"127.0.0.1:{serving.ports[SUBMISSION]}", "--helo", "client.example", "--from", "a@sender.example", "--to", FAR)  # fmt: skip
    check(text, "arrows", [("", REFUSED, Stage.MAIL)], ["auth.login_required"])


def test_curl(serving):
    to = [part for address in (GOOD, BAD, FAR) for part in ("--mail-rcpt", address)]
    text = run("curl", "-sv", f"smtp://127.0.0.1:{serving.ports[MX]}/client.example", "--mail-rcpt-allowfails", "--mail-from", "a@sender.example", *to, "-T", "-", data=MESSAGE)  # fmt: skip
    check(text, "angle brackets")


def test_curl_that_stops_at_the_first_refusal(serving):
    to = [part for address in (GOOD, BAD) for part in ("--mail-rcpt", address)]
    text = run("curl", "-sv", f"smtp://127.0.0.1:{serving.ports[MX]}/client.example", "--mail-from", "a@sender.example", *to, "-T", "-", data=MESSAGE)  # fmt: skip
    check(text, "angle brackets", [(GOOD, Outcome.UNSENT, Stage.RCPT), FATES[1]], OURS[:2])


def test_smtplib(serving):
    with contextlib.redirect_stderr(io.StringIO()) as told:
        client = smtplib.SMTP(local_hostname="client.example", timeout=20)
        client.set_debuglevel(1)
        client.connect("127.0.0.1", serving.ports[MX])
        client.sendmail("a@sender.example", [GOOD, BAD, FAR], MESSAGE)
        client.quit()
    check(told.getvalue(), "smtplib")


def test_the_exception_of_smtplib(serving):
    with (
        smtplib.SMTP("127.0.0.1", serving.ports[MX], "client.example", timeout=20) as client,
        pytest.raises(smtplib.SMTPRecipientsRefused) as caught,
    ):
        client.sendmail("a@sender.example", [BAD, FAR], MESSAGE)
    found = explain(f"smtplib.SMTPRecipientsRefused: {caught.value}")
    assert [(one.address, one.outcome, one.stage) for one in found.recipients] == FATES[1:]


def test_our_own_send(serving):
    to = [part for address in (GOOD, BAD, FAR) for part in ("--to", address)]
    text = run(sys.executable, "-m", "pillarbox", "send", "-s", f"127.0.0.1:{serving.ports[MX]}", "-f", "a@sender.example", "--helo", "client.example", *to)  # fmt: skip
    check(text, "arrows")


async def test_openssl_by_hand(serving, pem):
    program = shutil.which("openssl") or pytest.skip("openssl is not installed")
    process = await asyncio.create_subprocess_exec(
        program,
        *("s_client", "-starttls", "smtp", "-crlf", "-CAfile", pem.authority),
        *("-connect", f"127.0.0.1:{serving.ports[MX]}"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    told = ""

    async def until_answered(count):
        nonlocal told
        while len(re.findall(r"^\d{3} ", told, re.MULTILINE)) < count:
            octets = await asyncio.wait_for(process.stdout.read(65536), 20)
            assert octets, told
            told += octets.decode("utf-8", "surrogateescape")

    await until_answered(1)  # the end of the answer to the EHLO that openssl itself said
    # A terminal shows what is typed, a pipe does not. openssl takes a line that begins with R for a wish of its own.
    commands = ("EHLO client.example", "MAIL FROM:<a@sender.example>", f"rcpt TO:<{BAD}>", "quit")
    for count, command in enumerate(commands, 2):
        told += f"{command}\n"
        process.stdin.write(command.encode() + b"\n")
        await until_answered(count)
    process.stdin.close()
    told += (await asyncio.wait_for(process.stdout.read(), 20)).decode("utf-8", "surrogateescape")
    await process.wait()
    found = explain(told)
    assert (found.kind, found.notation) == (Kind.TRANSCRIPT, "no marks"), told
    assert [(one.address, one.outcome, one.stage) for one in found.recipients] == FATES[1:2], told


@pytest.fixture(scope="module")
def postfix_that_tells(postfix, serving, unused_port):
    way = f"transport_maps = inline:{{ {{ example.org = verbose:[127.0.0.1]:{serving.ports[MX]} }}, {{ far.example = verbose:[127.0.0.1]:{serving.ports[MX]} }} }}\n"
    return postfix(
        {"postfix.example": (unused_port(), "")}, main=way, master="verbose unix - - n - - smtp -v\n"
    )


async def test_postfix_verbose_and_its_log(postfix_that_tells):
    sender = f"{postfix_that_tells.user()}@postfix.example"
    postfix_that_tells.send(GOOD, BAD, sender=sender)
    await postfix_that_tells.until(lambda: postfix_that_tells.log.count("status=") >= 2)
    log = postfix_that_tells.log
    found = explain(log)
    assert (found.kind, found.notation) == (Kind.TRANSCRIPT, "postfix verbose")
    assert [(one.address, one.outcome, one.stage) for one in found.recipients] == FATES[:2]
    assert [finding.role for finding in found.replies].count(Role.CAUSE) == 2
    assert lint(log).faults == ()
    deliveries = explain("\n".join(line for line in log.splitlines() if "status=" in line))
    assert (deliveries.kind, deliveries.notation) == (Kind.LOG, "postfix log")
    assert {(one.address, one.outcome, one.stage) for one in deliveries.recipients if one.address in (GOOD, BAD)} == {*FATES[:2]}  # fmt: skip


def test_our_own_log(serving):
    with smtplib.SMTP("127.0.0.1", serving.ports[MX], "client.example", timeout=20) as client:
        client.ehlo()
        client.mail("a@sender.example")
        client.rcpt(FAR)
    refused = [line for line in serving.program.said.splitlines() if FAR in line and "reply.refused" in line]
    found = explain("\n".join(refused))
    assert (found.kind, found.notation) == (Kind.LOG, "pillarbox log")
    assert {(one.address, one.outcome, one.stage) for one in found.recipients} == {FATES[2]}
