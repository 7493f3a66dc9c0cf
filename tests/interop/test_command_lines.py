"""swaks, curl and openssl against `pillarbox serve`: TLS both ways, logins, pipelining, LMTP, and what arrives."""

import os
import shutil
import subprocess
from itertools import count

import pytest
from argon2 import PasswordHasher

pytestmark = [pytest.mark.interop, pytest.mark.xdist_group("command_lines")]
MX, SUBMISSION, SUBMISSIONS, LMTP = range(4)  # the listeners
NUMBERS = count()


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


def find(name):
    """A program of this machine; without it the test is skipped."""
    return shutil.which(name) or pytest.skip(f"{name} is not installed")


def run(*command, data=b""):
    """Run a program; its exit status and all that it wrote."""
    done = subprocess.run(
        [str(part) for part in command],
        input=data,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=50,
    )
    return done.returncode, done.stdout.decode(errors="replace")


@pytest.fixture
def swaks(serving, pem):
    """Run swaks against one listener; its exit status and all it printed."""

    program = find("swaks")

    def call(listener, *more, to="alice@example.org"):
        trust = ("--tls-verify", "--tls-ca-path", pem.authority) if {"--tls", "--tlsc"} & {*more} else ()
        code, out = run(
            program, "--server", "127.0.0.1", "--port", serving.ports[listener], "--helo", "client.example",
            "--from", "bob@example.org", "--to", to, "--timeout", "20", *more, *trust,
        )  # fmt: skip
        if "TLS not available" in out:
            pytest.skip("swaks has no TLS: Net::SSLeay (libnet-ssleay-perl) is not installed")
        return code, out

    return call


@pytest.fixture
async def arrived(serving):
    """The message of this test in a mailbox, found by its subject."""

    async def look(subject, user="alice"):
        found = []
        await serving.until(
            lambda: found.extend(one for one in serving.peek(user) if one["Subject"] == subject) or found
        )
        (message,) = found
        return message

    return look


@pytest.fixture
def subject():
    return f"message {next(NUMBERS)}"


# --- swaks

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


# --- curl


@pytest.fixture
def curl(serving, pem, tmp_path):
    """Send a file with curl to one listener; its exit status and what it wrote."""
    program = find("curl")

    def call(listener, *more, text=b"Subject: from curl\r\n\r\n", to=("alice@example.org",), scheme="smtp"):
        (tmp_path / "letter").write_bytes(text)
        recipients = [word for address in to for word in ("--mail-rcpt", address)]
        return run(
            program, "--silent", "--show-error", "--verbose", "--max-time", "40", "--cacert", pem.authority,
            f"{scheme}://127.0.0.1:{serving.ports[listener]}/client.example",
            "--mail-from", "bob@example.org", *recipients, "--upload-file", tmp_path / "letter", *more,
        )  # fmt: skip

    return call


async def test_curl_sends_a_file(curl, arrived, subject):
    text = b"dots:\r\n.\r\n..\r\n.x\r\n"
    code, out = curl(MX, text=f"Subject: {subject}\r\n\r\n".encode() + text)
    assert code == 0, out
    message = await arrived(subject)
    assert message.get_content().encode() == text.replace(b"\r\n", b"\n")
    assert "from client.example " in message["Received"]


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize(("listener", "scheme"), [(SUBMISSION, "smtp"), (SUBMISSIONS, "smtps")])
async def test_curl_with_tls_and_login(curl, arrived, subject, listener, scheme, mechanism):
    login = ("--ssl-reqd", "--user", "bob@example.org:builder", "--login-options", f"AUTH={mechanism}")
    code, out = curl(listener, *login, scheme=scheme, text=f"Subject: {subject}\r\n\r\n".encode())
    assert code == 0, out
    assert f"AUTH {mechanism}" in out
    assert "with ESMTPSA " in (await arrived(subject))["Received"]


def test_curl_does_not_trust_a_certificate_of_somebody_else(curl, issue):
    code, out = curl(MX, "--ssl-reqd", "--cacert", issue("127.0.0.1", stranger=True).authority)
    assert code == 60, out


def test_curl_with_a_wrong_password(curl):
    code, out = curl(SUBMISSIONS, "--user", "bob@example.org:wrong", scheme="smtps")
    assert code == 67, out
    assert "< 535 5.7.8 " in out


async def test_curl_goes_on_without_a_refused_recipient(curl, arrived, subject):
    to = ("nobody@example.org", "alice@example.org")
    text = f"Subject: {subject}\r\n\r\n".encode()
    code, out = curl(MX, "--mail-rcpt-allowfails", to=to, text=text)
    assert code == 0, out
    assert "< 550 5.1.1 " in out
    await arrived(subject)


async def test_curl_sends_a_large_file(curl, arrived, subject):
    lines = b"".join(b"%d of many\r\n.\r\n" % number for number in range(200_000))
    code, out = curl(MX, text=f"Subject: {subject}\r\n\r\n".encode() + lines)
    assert code == 0, out[-2000:]
    message = await arrived(subject)
    assert message.get_content().encode() == lines.replace(b"\r\n", b"\n")


def test_curl_asks_about_an_address(serving):
    where = f"smtp://127.0.0.1:{serving.ports[MX]}/client.example"
    code, out = run(find("curl"), "--silent", "--max-time", "40", "--mail-rcpt", "alice@example.org", where)
    assert code == 0, out
    assert out.startswith("252 ")


# --- openssl


@pytest.fixture
def openssl(serving, pem):
    """Talk to one listener under TLS: `openssl(listener, b"EHLO x\\r\\n", "-starttls", "smtp")`."""
    program = find("openssl")

    def call(listener, data, *more):
        return run(
            program, "s_client", "-connect", f"127.0.0.1:{serving.ports[listener]}", "-CAfile", pem.authority,
            "-verify_return_error", "-verify_ip", "127.0.0.1", "-ign_eof", *more, data=data,
        )  # fmt: skip

    return call


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize(
    ("listener", "more", "hello"),
    [
        (MX, ("-starttls", "smtp"), b"EHLO client.example\r\n"),
        (LMTP, ("-starttls", "lmtp"), b"LHLO client.example\r\n"),
        (SUBMISSIONS, (), b"EHLO client.example\r\n"),
    ],
)
def test_openssl_shakes_hands(openssl, listener, more, hello, version):
    code, out = openssl(listener, hello + b"QUIT\r\n", version, *more)
    assert code == 0, out
    assert "Verify return code: 0 (ok)" in out
    said = out.rpartition("250-pillarbox.test")[2]
    assert "STARTTLS" not in said, "TLS is offered once"
    assert "221 2.0.0 " in said


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
def test_openssl_gets_no_old_tls(openssl, version):
    code, out = openssl(SUBMISSIONS, b"", version, "-cipher", "DEFAULT@SECLEVEL=0")
    assert code == 1, out
    assert "Cipher is (NONE)" in out
