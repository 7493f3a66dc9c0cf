"""swaks against `pillarbox serve`: TLS both ways, logins, pipelining, LMTP, attachments, and what arrives."""

import os
import shutil
import subprocess
from itertools import count

import pytest

SWAKS = shutil.which("swaks")
pytestmark = [
    pytest.mark.interop,
    pytest.mark.xdist_group("swaks"),
    pytest.mark.skipif(SWAKS is None, reason="swaks is not installed"),
]
MX, SUBMISSION, SUBMISSIONS, LMTP = range(4)  # the listeners
NUMBERS = count()


@pytest.fixture(scope="module")
def serving(serve, pem, password_hash):
    hashed = password_hash("builder")
    settings = f"""
        policy.relay_networks = []
        tls.certificate = "{pem.chain}"
        tls.key = "{pem.key}"
        [account."bob@example.org"]
        password = '{hashed}'
        [domain."example.org"]
        deliver = "maildir:{{folder}}/mail/{{user}}"
        users = ["alice", "bob", "carol"]
        """
    return serve(
        settings,
        [
            'role = "mx"',
            'role = "submission"',
            'role = "submission"\ntls = "implicit"',
            'role = "lmtp"',
        ],
    )


@pytest.fixture
def swaks(serving, pem):
    """Run swaks against one listener; its exit status and all it printed."""

    def run(listener, *more, to="alice@example.org"):
        trust = ("--tls-verify", "--tls-ca-path", pem.authority) if {"--tls", "--tlsc"} & {*more} else ()
        done = subprocess.run(
            [
                SWAKS, "--server", "127.0.0.1", "--port", str(serving.ports[listener]),
                "--helo", "client.example", "--from", "bob@example.org", "--to", to, "--timeout", "20",
                *more, *trust,
            ],
            capture_output=True,
            check=False,
            timeout=50,
        )  # fmt: skip
        out = (done.stdout + done.stderr).decode(errors="replace")
        if "TLS not available" in out:
            pytest.skip("swaks has no TLS: Net::SSLeay (libnet-ssleay-perl) is not installed")
        return done.returncode, out

    return run


@pytest.fixture
async def arrived(serving):
    """The message of this test in a mailbox, found by its subject."""

    async def find(subject, user="alice"):
        found = []
        await serving.until(
            lambda: found.extend(one for one in serving.peek(user) if one["Subject"] == subject) or found
        )
        (message,) = found
        return message

    return find


@pytest.fixture
def subject():
    return f"swaks {next(NUMBERS)}"


LOGIN = ("--auth-user", "bob@example.org", "--auth-password", "builder")


async def test_in_clear(swaks, arrived, subject):
    code, out = swaks(MX, "--h-Subject", subject)
    assert code == 0, out
    assert "250 2.0.0 Queued as " in out
    message = await arrived(subject)
    assert message["Return-Path"] == "<bob@example.org>"
    assert "with ESMTP " in message["Received"]


async def test_a_pipelined_group_gets_its_replies_in_order(swaks, arrived, subject):
    code, out = swaks(MX, "--pipeline", "--h-Subject", subject, to="alice@example.org,carol@example.org")
    assert code == 0, out
    # All commands left before the first reply was read.
    assert out.index(" -> DATA") < out.index("<-  250 2.1.0")
    await arrived(subject)
    await arrived(subject, "carol")


async def test_of_a_pipelined_group_one_recipient_is_refused(swaks, arrived, subject):
    to = "alice@example.org,nobody@example.org,far@elsewhere.example"
    code, out = swaks(MX, "--pipeline", "--h-Subject", subject, to=to)
    assert code == 0, out
    assert "<** 550 5.1.1 " in out
    assert "<** 550 5.7.1 " in out
    await arrived(subject)


@pytest.mark.parametrize("listener", [SUBMISSION, SUBMISSIONS])
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
async def test_tls_and_login(swaks, arrived, subject, listener, mechanism):
    tls = "--tls" if listener == SUBMISSION else "--tlsc"
    code, out = swaks(listener, tls, *LOGIN, "--auth", mechanism, "--h-Subject", subject)
    assert code == 0, out
    assert "=== TLS started with cipher TLSv1.3" in out
    assert "235 2.7.0 " in out
    message = await arrived(subject)
    assert "with ESMTPSA " in message["Received"]


async def test_tls_without_login(swaks, arrived, subject):
    code, out = swaks(MX, "--tls", "--pipeline", "--h-Subject", subject)
    assert code == 0, out
    assert "with ESMTPS " in (await arrived(subject))["Received"]


def test_no_login_in_clear(swaks):
    code, out = swaks(SUBMISSION, *LOGIN, "--auth", "PLAIN")
    assert code == 28, out
    assert "AUTH" not in out.split("EHLO")[1].split(" -> ")[0], "not even offered"


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_a_wrong_password(swaks, mechanism):
    code, out = swaks(SUBMISSIONS, "--tlsc", *LOGIN[:3], "wrong", "--auth", mechanism)
    assert code == 28, out
    assert "<~* 535 5.7.8 " in out


def test_submission_wants_a_login(swaks):
    code, out = swaks(SUBMISSION, "--tls")
    assert code == 23, out
    assert "<~* 530 5.7.0 " in out


@pytest.mark.parametrize("options", [(), ("--pipeline",)])
async def test_lmtp_answers_for_each_recipient(swaks, arrived, subject, options):
    to = "alice@example.org,carol@example.org"
    code, out = swaks(LMTP, "--protocol", "LMTP", *options, "--h-Subject", subject, to=to)
    assert code == 0, out
    assert out.count("250 2.0.0 Queued as ") == 2
    for user in ("alice", "carol"):
        assert "with LMTP " in (await arrived(subject, user))["Received"]


def test_lmtp_greets_nobody_who_says_ehlo(swaks):
    code, out = swaks(LMTP)
    assert code == 22, out
    assert "<** 500 5.5.1 " in out


def test_a_refused_recipient(swaks):
    code, out = swaks(MX, to="nobody@example.org")
    assert code == 24, out
    assert "<** 550 5.1.1 No such user here" in out


@pytest.mark.parametrize("options", [(), ("--tls",)])
async def test_attachments_arrive_as_they_were(swaks, arrived, subject, tmp_path, options):
    octets = {"small.bin": os.urandom(1000), "large.bin": os.urandom(700_000)}  # the second goes into a file
    attached = []
    for name, data in octets.items():
        (tmp_path / name).write_bytes(data)
        attached += ["--attach-type", "application/octet-stream", "--attach-name", name]
        attached += ["--attach", f"@{tmp_path / name}"]
    code, out = swaks(MX, *options, *attached, "--h-Subject", subject)
    assert code == 0, out[-2000:]
    message = await arrived(subject)
    found = {part.get_filename(): part.get_content() for part in message.iter_attachments()}
    assert found == octets
