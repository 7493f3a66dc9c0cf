"""msmtp, gsasl, swaks, curl, smtplib and aiosmtplib log in, each by all mechanisms that it knows."""

import asyncio
import shutil
import smtplib
import subprocess

import aiosmtplib
import pytest

from pillarbox.policy.rules import Role

pytestmark = [pytest.mark.interop, pytest.mark.xdist_group("logins")]
EVERY = "SCRAM-SHA-256-PLUS SCRAM-SHA-256 SCRAM-SHA-1 CRAM-MD5 PLAIN LOGIN"
USER, PASSWORD = "alice@example.org", "wonderland"
MESSAGE = b"Subject: x\r\n\r\nx\r\n"


@pytest.fixture
async def office(open_office):
    return await open_office(role=Role.SUBMISSION, tls="offered", login=True, mechanisms=EVERY)


def find(name):
    return shutil.which(name) or pytest.skip(f"{name} is not installed")


async def run(*command, data=b""):
    """Run a program beside the server; its exit status and all that it wrote."""
    done = await asyncio.to_thread(
        subprocess.run,
        [str(part) for part in command],
        input=data,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=50,
    )
    return done.returncode, done.stdout.decode(errors="replace")


def used(office):
    """The mechanism by which somebody logged in last."""
    core = office.protocols[-1]._session
    assert core.login == USER
    return core._exchange._name


@pytest.mark.parametrize("mechanism", ["scram-sha-256", "scram-sha-1", "cram-md5", "plain", "login"])
async def test_msmtp(office, certificates, mechanism):
    code, out = await run(
        find("msmtp"), "--host=127.0.0.1", f"--port={office.port}", "--tls=on",
        f"--tls-trust-file={certificates.authority}", f"--auth={mechanism}", f"--user={USER}",
        f"--passwordeval=echo {PASSWORD}", f"--from={USER}", "x@elsewhere.example", data=MESSAGE,
    )  # fmt: skip
    assert code == 0, out
    assert used(office) == mechanism.upper()


async def test_msmtp_with_a_wrong_password(office, certificates):
    code, out = await run(
        find("msmtp"), "--host=127.0.0.1", f"--port={office.port}", "--tls=on",
        f"--tls-trust-file={certificates.authority}", "--auth=scram-sha-256", f"--user={USER}",
        "--passwordeval=echo wrong", f"--from={USER}", "x@elsewhere.example", data=MESSAGE,
    )  # fmt: skip
    assert code == 77, out  # EX_NOPERM
    assert "535 5.7.8" in out


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5", "PLAIN", "LOGIN"])
async def test_gsasl(open_office, mechanism):
    office = await open_office(login=True, login_in_clear=True, mechanisms=EVERY)
    code, out = await run(
        find("gsasl"), "--smtp", "--no-starttls", f"--connect=127.0.0.1:{office.port}",
        f"--mechanism={mechanism}", f"--authentication-id={USER}", f"--password={PASSWORD}",
    )  # fmt: skip
    assert code == 0, out
    assert "235 2.7.0" in out


@pytest.mark.parametrize("mechanism", ["CRAM-MD5", "PLAIN", "LOGIN"])
async def test_swaks(office, certificates, mechanism):
    code, out = await run(
        find("swaks"), "--server", "127.0.0.1", "--port", office.port, "--tls", "--from", USER,
        "--to", "x@elsewhere.example", "--auth", mechanism, "--auth-user", USER, "--auth-password", PASSWORD,
    )  # fmt: skip
    if "TLS not available" in out or "auth not available" in out:
        pytest.skip("swaks lacks a module of Perl")
    assert code == 0, out
    assert used(office) == mechanism


@pytest.mark.parametrize("mechanism", ["CRAM-MD5", "PLAIN", "LOGIN"])
async def test_curl(office, certificates, mechanism):
    code, out = await run(
        find("curl"), "-sS", f"smtp://127.0.0.1:{office.port}", "--ssl-reqd", "--cacert", certificates.authority,
        "--mail-from", USER, "--mail-rcpt", "x@elsewhere.example", "--user", f"{USER}:{PASSWORD}",
        "--login-options", f"AUTH={mechanism}", "-T", "-", data=MESSAGE,
    )  # fmt: skip
    assert code == 0, out
    assert used(office) == mechanism


@pytest.mark.parametrize("mechanism", ["CRAM-MD5", "PLAIN", "LOGIN"])
async def test_smtplib(office, certificates, mechanism):
    def send():
        with smtplib.SMTP("127.0.0.1", office.port, timeout=20) as client:
            client.starttls(context=certificates.client)
            client.ehlo()
            client.user, client.password = USER, PASSWORD
            client.auth(
                mechanism,
                getattr(client, f"auth_{mechanism.lower().replace('-', '_')}"),
                initial_response_ok=mechanism == "PLAIN",
            )
            client.sendmail(USER, ["x@elsewhere.example"], MESSAGE)

    await asyncio.to_thread(send)
    assert used(office) == mechanism


async def test_aiosmtplib(office, certificates):
    async with aiosmtplib.SMTP(
        hostname="127.0.0.1", port=office.port, start_tls=True, tls_context=certificates.client
    ) as client:
        await client.login(USER, PASSWORD)
        await client.sendmail(USER, ["x@elsewhere.example"], MESSAGE)
    assert used(office) in EVERY.split()
