"""Certificates of a running server, as clients see them: by name, by key, after a change on disk, without any."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import re
import shutil
import signal
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
import trustme
from click.testing import CliRunner

from pillarbox.cli.commands import cli
from pillarbox.smtp.scram import ScramClient, derive_keys, format_keys

BOTH = """
[[listen]]
address = "127.0.0.1:0"
[[listen]]
address = "127.0.0.1:0"
tls = "implicit"
"""


class Authority:
    """Issues certificates into files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = trustme.CA()
        self.ca.cert_pem.write_to_path(str(folder / "ca.pem"))

    def write(self, name: str, *names: str, kind: trustme.KeyType = trustme.KeyType.ECDSA) -> Any:
        issued = self.ca.issue_cert(*names, key_type=kind)
        new = self.folder / f"{name}.new"
        issued.private_key_and_cert_chain_pem.write_to_path(str(new))
        new.rename(self.folder / f"{name}.pem")
        return issued

    def client(self, *names: str) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        if names:
            self.ca.issue_cert(*names).configure_cert(context)
        return context

    def tls(self, name: str, more: str = "") -> str:
        return f'[tls]\ncertificate = "{self.folder}/{name}.pem"\nkey = "{self.folder}/{name}.pem"\n{more}\n'


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def s_client(port: int, *options: str, starttls: bool = True, send: str = "QUIT\r\n") -> str:
    """What OpenSSL's own client says of a handshake."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-ign_eof"]
    command += ["-starttls", "smtp"] if starttls else []
    ran = subprocess.run(
        [*command, *options], input=send, capture_output=True, text=True, timeout=20, check=False
    )
    return ran.stdout + ran.stderr


async def shown(port: int, *options: str, starttls: bool = True) -> tuple[str, str]:
    """The name in the certificate that OpenSSL's client is shown, and the kind of its key."""
    said = await asyncio.to_thread(s_client, port, "-showcerts", *options, starttls=starttls)
    pem = re.search("-----BEGIN CERT.*?-----END CERTIFICATE-----", said, re.DOTALL)
    assert pem is not None, said
    ran = await asyncio.to_thread(
        subprocess.run, ["openssl", "x509", "-noout", "-text"], input=pem[0], capture_output=True, text=True
    )
    name = re.search("DNS:([^,\n]+)", ran.stdout)
    assert name is not None, ran.stdout
    return name[1], "ECDSA" if "id-ecPublicKey" in ran.stdout else "RSA"


async def greeted(dial: Any, port: int, tls: ssl.SSLContext | None = None) -> Any:
    caller = await dial(port, tls=tls)
    assert (await caller.reply()).startswith(b"220")
    assert (await caller.ask(b"EHLO client.example")).startswith(b"250")
    return caller


async def test_each_client_gets_the_certificate_for_the_name_and_the_key_that_it_knows(
    serve: Any, authority: Authority
) -> None:
    authority.write("default", "mx.example.org")
    authority.write("rsa", "mx.example.org", kind=trustme.KeyType.RSA)
    authority.write("other", "mail.example.net", "*.wild.example")
    more = "".join(f'[[certificate]]\nchain = "{authority.folder}/{name}.pem"\n' for name in ("rsa", "other"))
    server = await serve(authority.tls("default") + more + BOTH)
    for port, starttls in zip(server.ports, (True, False), strict=True):
        for name, expected in (
            ("mx.example.org", "mx.example.org"),
            ("MAIL.example.net", "mail.example.net"),
            ("a.wild.example", "mail.example.net"),
            ("a.b.wild.example", "mx.example.org"),
            ("nobody.example", "mx.example.org"),
        ):
            assert (await shown(port, "-servername", name, starttls=starttls)) == (expected, "ECDSA")
    for version in ("-tls1_2", "-tls1_3"):
        only_rsa = ("-sigalgs", "rsa_pss_rsae_sha256:rsa_pkcs1_sha256")
        assert await shown(server.port, version, "-servername", "mx.example.org") == (
            "mx.example.org",
            "ECDSA",
        )
        assert await shown(server.port, version, *only_rsa) == ("mx.example.org", "RSA")


async def test_files_that_change_are_taken_and_broken_ones_leave_the_old(
    serve: Any, dial: Any, authority: Authority
) -> None:
    authority.write("default", "old.example.org")
    server = await serve(authority.tls("default") + BOTH)
    open_one = await greeted(dial, server.port)
    assert (await shown(server.port))[0] == "old.example.org"
    authority.write("default", "new.example.org", kind=trustme.KeyType.RSA)
    loaded = await server.logged("certificate.loaded")
    assert loaded["names"] == "new.example.org"
    for port, starttls in zip(server.ports, (True, False), strict=True):
        assert await shown(port, starttls=starttls) == ("new.example.org", "RSA")
    (authority.folder / "default.pem").write_text("-----BEGIN NONSENSE-----\n")
    refused = await server.logged("certificate.refused")
    assert refused["file"] == f"{authority.folder}/default.pem"
    assert refused["problem"] == "holds no certificate in PEM"
    assert refused["kept"] == "the old one"
    (authority.folder / "default.pem").unlink()
    await server.logged("certificate.refused", problem="cannot be read: No such file or directory")
    assert (await shown(server.port))[0] == "new.example.org"
    assert (await open_one.ask(b"NOOP")).startswith(b"250")


async def test_E454_1_certificates_that_cannot_be_read(serve: Any, dial: Any, authority: Authority) -> None:
    (authority.folder / "default.pem").write_text("")
    server = await serve(authority.tls("default") + BOTH)
    refused = await server.logged("certificate.refused")
    assert (refused["problem"], refused["kept"]) == ("holds no certificate in PEM", "nothing")
    caller = await greeted(dial, server.port)
    assert (await caller.ask(b"STARTTLS")).startswith(b"454 4.7.0 TLS is not available")
    assert (await caller.ask(b"MAIL FROM:<a@sender.example>")).startswith(b"250")
    with pytest.raises(OSError):
        await dial(server.ports[1], tls=authority.client())
    authority.write("default", "mx.example.org")
    await server.logged("certificate.loaded")
    await caller.ask(b"RSET")
    assert (await caller.ask(b"STARTTLS")).startswith(b"220")
    await caller.upgrade(authority.client())
    assert (await caller.ask(b"EHLO client.example")).startswith(b"250")
    await greeted(dial, server.ports[1], authority.client())


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
async def test_sessions_are_resumed_by_any_worker(
    serve: Any, authority: Authority, free_port: Any, version: str
) -> None:
    authority.write("default", "mx.example.org")
    port = free_port()
    listener = f'[[listen]]\naddress = "127.0.0.1:{port}"\n'
    server = await serve(f"workers = 2\n{authority.tls('default')}{listener}")
    kept = authority.folder / f"session{version}"

    async def resumed(option: str) -> tuple[bool, int]:
        said = await asyncio.to_thread(
            s_client, port, version, "-servername", "mx.example.org", option, str(kept)
        )
        assert "221" in said, said
        return "Reused, TLSv1" in said, said.count("New, TLSv1")

    assert not (await resumed("-sess_out"))[0]
    for _ in range(8):  # the kernel gives each connection to one of the two
        assert (await resumed("-sess_in"))[0]
    os.kill(server.workers[0], signal.SIGKILL)
    os.kill(server.workers[1], signal.SIGKILL)
    await server.until(lambda: len(server.events("server.started")) == 4)
    assert (await resumed("-sess_in"))[0], "a worker that took another's place"


async def test_E554_6_a_listener_for_clients_with_certificates(
    serve: Any, dial: Any, authority: Authority
) -> None:
    authority.write("default", "mx.example.org")
    rule = 'client_certificate = "require"\n'
    listeners = f'[[listen]]\naddress = "127.0.0.1:0"\n{rule}[[listen]]\naddress = "127.0.0.1:0"\ntls = "implicit"\n{rule}'
    text = authority.tls("default", f'client_ca = "{authority.folder}/ca.pem"') + listeners
    server = await serve(text)
    for context, code in ((authority.client(), b"554"), (authority.client("a@example.org"), b"250")):
        caller = await greeted(dial, server.port)
        assert (await caller.ask(b"STARTTLS")).startswith(b"220")
        await caller.upgrade(context)
        reply = await caller.ask(b"EHLO client.example")
        assert reply.startswith(code)
        caller = await dial(server.ports[1], tls=context)
        assert (await caller.reply()).startswith(b"554" if code == b"554" else b"220")
        reply = await caller.ask(b"EHLO client.example")
        assert reply.startswith(code)
    # a reload with another authority counts for both kinds of listeners, and no session of before is resumed
    (authority.folder / "others").mkdir()
    others = Authority(authority.folder / "others")
    server.configure(text.replace(f"{authority.folder}/ca.pem", f"{others.folder}/ca.pem"))
    server.signal(signal.SIGHUP)
    await server.logged("config.reloaded")
    trusted = others.client("a@example.org")
    authority.ca.configure_trust(trusted)
    await greeted(dial, server.ports[1], trusted)
    with contextlib.suppress(
        OSError
    ):  # the client of TLS 1.3 has finished when the server looks at its certificate
        caller = await dial(server.ports[1], tls=authority.client("a@example.org"))
        assert await caller.reply() == b""


async def test_whom_to_trust_about_clients_is_read_again_when_the_file_changes(
    serve: Any, dial: Any, authority: Authority, free_port: Any
) -> None:
    """Nobody is let in by a session that was begun under the old authority, not even by a worker that is new."""
    authority.write("default", "mx.example.org")
    (authority.folder / "others").mkdir()
    others = Authority(authority.folder / "others")
    trusted = authority.folder / "users-ca.pem"
    authority.ca.cert_pem.write_to_path(str(trusted))
    plain, encrypted = free_port(), free_port()
    rule = 'client_certificate = "require"\n'
    listeners = f'[[listen]]\naddress = "127.0.0.1:{plain}"\n{rule}[[listen]]\naddress = "127.0.0.1:{encrypted}"\ntls = "implicit"\n{rule}'
    server = await serve("workers = 2\n" + authority.tls("default", f'client_ca = "{trusted}"') + listeners)
    for ca in (authority, others):
        issued = ca.ca.issue_cert("a@example.org")
        issued.private_key_and_cert_chain_pem.write_to_path(str(ca.folder / "client.pem"))
    session = authority.folder / "session"

    async def said_to(ca: Authority, *options: str) -> str:
        shown = ("-cert", f"{ca.folder}/client.pem", "-key", f"{ca.folder}/client.pem")
        return await asyncio.to_thread(s_client, encrypted, *shown, *options, starttls=False)

    async def is_refused() -> None:
        said = await said_to(authority)
        assert "220 " not in said, said
        assert "220 " not in await said_to(authority, "-sess_in", str(session))
        caller = await greeted(dial, plain)
        assert (await caller.ask(b"STARTTLS")).startswith(b"220")
        with contextlib.suppress(OSError):
            await caller.upgrade(authority.client("a@example.org"))
            assert await caller.ask(b"EHLO client.example") == b""

    assert "220 " in await said_to(authority, "-sess_out", str(session))
    said = await said_to(authority, "-sess_in", str(session))
    assert "220 " in said
    assert "Reused, TLSv1" in said
    new = trusted.with_suffix(".new")
    others.ca.cert_pem.write_to_path(str(new))
    new.rename(trusted)
    await server.until(lambda: len(server.events("certificate.authorities")) == 2)
    await is_refused()
    assert "220 " in await said_to(others)
    for pid in server.workers.values():
        os.kill(pid, signal.SIGKILL)
    await server.until(lambda: len(server.events("server.started")) == 4)
    await is_refused()
    trusted.write_text("no certificates")
    refused = await server.logged("certificate.refused", file=str(trusted))
    assert refused["kept"] == "the old one"
    assert "220 " in await said_to(others)


async def test_E554_6_one_listener_wants_newer_tls_than_the_other(
    serve: Any, dial: Any, authority: Authority
) -> None:
    authority.write("default", "mx.example.org")
    listener = '[[listen]]\naddress = "127.0.0.1:0"\ntls = "implicit"\n'
    server = await serve(f'{authority.tls("default")}{listener}min_tls = "1.3"\n{listener}')
    old = authority.client()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    assert (await (await dial(server.ports[0], tls=old)).reply()).startswith(b"554 ")
    assert (await (await dial(server.ports[1], tls=old)).reply()).startswith(b"220 ")
    assert (await (await dial(server.ports[0], tls=authority.client())).reply()).startswith(b"220 ")


class Spoken:
    """A client that speaks by way of OpenSSL's own, which can be told which signatures it knows."""

    def __init__(self, port: int, *options: str) -> None:
        command = ["openssl", "s_client", "-quiet", "-connect", f"127.0.0.1:{port}", *options]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self.reply().startswith(b"220 ")

    def ask(self, line: bytes) -> bytes:
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\r\n")
        self._process.stdin.flush()
        return self.reply()

    def reply(self) -> bytes:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return line if line[3:4] != b"-" else line + self.reply()

    def log_in(self, end_point: bytes) -> bytes:
        client = ScramClient("SCRAM-SHA-256-PLUS", "ann@example.org", "wonderland", b"nonce", end_point)
        reply = self.ask(b"AUTH SCRAM-SHA-256-PLUS " + base64.b64encode(client.initial))
        while reply.startswith(b"334"):
            reply = self.ask(base64.b64encode(client.step(base64.b64decode(reply[4:]))) or b"=")
        return reply

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
async def test_a_login_is_bound_to_the_certificate_that_was_shown_whatever_its_kind(
    serve: Any, authority: Authority, version: str
) -> None:
    end_points = {}
    for name, kind in (("ECDSA", trustme.KeyType.ECDSA), ("RSA", trustme.KeyType.RSA)):
        issued = authority.write(name, "mx.example.org", kind=kind)
        leaf = ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())
        end_points[name] = hashlib.sha256(leaf).digest()
    keys = format_keys("SCRAM-SHA-256", derive_keys("SCRAM-SHA-256", "wonderland", b"salt" * 4, 4096))
    more = f"""
[[certificate]]
chain = "{authority.folder}/RSA.pem"
[auth]
mechanisms = ["SCRAM-SHA-256-PLUS", "PLAIN"]
[account."ann@example.org"]
password = "$argon2id$v=19$m=8,t=1,p=1$NseeUAmrEVZ67yo1AjU7pA$RSY5xEGT+po5kEpF9THrmsnLh8nv+8Vj4xFr0pBkULg"
scram = ["{keys}"]
"""
    server = await serve(authority.tls("ECDSA") + more + BOTH)

    def try_it(kind: str, session: tuple[str, ...] = ()) -> None:
        known = ("-sigalgs", "rsa_pss_rsae_sha256:rsa_pkcs1_sha256") if kind == "RSA" else ()
        other = "ECDSA" if kind == "RSA" else "RSA"
        client = Spoken(server.ports[1], version, *known, *session)
        try:
            assert b"AUTH SCRAM-SHA-256-PLUS PLAIN" in client.ask(b"EHLO client.example")
            assert client.log_in(end_points[other]).startswith(b"535 5.7.8")
            assert client.log_in(end_points[kind]).startswith(b"235 2.7.0")
        finally:
            client.end()

    for kind in end_points:
        await asyncio.to_thread(try_it, kind)
    (authority.folder / "password").write_text("wonderland\n")
    where = ("--server", f"127.0.0.1:{server.ports[1]}", "--tls", "--no-verify", "--quit-after", "auth")
    who = ("--auth", "ann@example.org", "--password-file", str(authority.folder / "password"))
    ran = await asyncio.to_thread(
        CliRunner().invoke, cli, ["send", *where, *who, "--from", "ann@example.org", "--to", "x@example.net"]
    )
    assert "AUTH SCRAM-SHA-256-PLUS" in ran.output
    assert "235 2.7.0" in ran.output
    session = str(authority.folder / "session")
    await asyncio.to_thread(s_client, server.ports[1], version, "-sess_out", session, starttls=False)
    said = await asyncio.to_thread(s_client, server.ports[1], version, "-sess_in", session, starttls=False)
    if "Reused, TLSv1" in said:  # by a client of TLS 1.2, which needs no ticket for it
        assert version == "-tls1_2"
        said = await asyncio.to_thread(
            s_client, server.ports[1], version, "-sess_in", session, starttls=False, send="EHLO x\r\nQUIT\r\n"
        )
        assert "AUTH PLAIN\n" in said.replace("\r", "")


async def test_old_versions_and_weak_ciphers_are_not_spoken(serve: Any, authority: Authority) -> None:
    authority.write("default", "mx.example.org", kind=trustme.KeyType.RSA)
    server = await serve(authority.tls("default") + BOTH)
    weak = "-cipher", "AES128-SHA:ECDHE-RSA-AES256-SHA384:ECDHE-RSA-AES128-SHA@SECLEVEL=0", "-tls1_2"
    for options in (("-tls1_1", "-cipher", "ALL@SECLEVEL=0"), weak):
        said = await asyncio.to_thread(s_client, server.port, *options)
        assert "Cipher is (NONE)" in said, said


async def test_the_sandbox_makes_a_certificate_when_it_is_asked_for_tls(
    serve: Any, dial: Any, tmp_path: Path
) -> None:
    listener = '[[listen]]\naddress = "127.0.0.1:0"\nrole = "sandbox"\n'
    server = await serve(f'[tls]\nself_signed = true\n{listener}{listener}tls = "implicit"\n')
    made = server.data / "self-signed.pem"
    assert not made.exists()
    caller = await greeted(dial, server.port)
    assert (await caller.ask(b"STARTTLS")).startswith(b"220")
    trust = ssl.create_default_context(cafile=str(made))
    await caller.upgrade(trust)
    assert made.stat().st_mode & 0o777 == 0o600
    before = made.read_bytes()
    await greeted(dial, server.ports[1], trust)
    await server.stop()
    await server.start()
    await greeted(dial, server.ports[1], trust)
    assert made.read_bytes() == before


async def test_a_server_for_the_world_makes_no_certificate_unless_it_is_told_to_and_then_says_so(
    serve: Any, dial: Any, authority: Authority
) -> None:
    listener = '[[listen]]\naddress = "127.0.0.1:0"\n'
    server = await serve(listener)
    caller = await dial(server.port)
    await caller.reply()
    assert b"STARTTLS" not in await caller.ask(b"EHLO client.example")
    assert (await caller.ask(b"STARTTLS")).startswith(b"502 5.5.1")
    # neither does it when those that it should show can't be read
    server.configure(authority.tls("none") + listener)
    server.signal(signal.SIGHUP)
    await server.logged("config.refused")
    await server.stop()
    await server.start()
    await server.logged("certificate.refused", kept="nothing")
    caller = await greeted(dial, server.port)
    assert (await caller.ask(b"STARTTLS")).startswith(b"454 4.7.0")
    assert not list(server.data.glob("*.pem"))
    assert not server.events("certificate.self_signed")
    server.configure("tls.self_signed = true\n" + listener)
    server.signal(signal.SIGHUP)
    await server.logged("certificate.self_signed", level="warning")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("testssl") is None, reason="testssl.sh is not installed")
async def test_testssl_finds_no_weakness(serve: Any, authority: Authority, tmp_path: Path) -> None:
    """The quick part of it: protocols, kinds of ciphers, forward secrecy, what the server prefers."""
    authority.write("default", "mx.example.org")
    server = await serve(authority.tls("default") + BOTH)
    report = tmp_path / "report.csv"
    command = ["testssl", "--quiet", "--color", "0", "-p", "-s", "--csvfile", str(report), "--nodns", "none"]
    ran = await asyncio.to_thread(
        subprocess.run,
        [*command, "-t", "smtp", f"127.0.0.1:{server.port}"],
        capture_output=True,
        text=True,
        timeout=55,
    )
    found = [line.split('","') for line in report.read_text().splitlines()[1:]]
    assert len(found) > 10, ran.stdout
    assert not [line for line in found if line[3] in {"LOW", "MEDIUM", "HIGH", "CRITICAL", "FATAL"}]
