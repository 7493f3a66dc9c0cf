"""Certificates from an authority: Pebble issues them to a running server, or refuses and leaves the old ones."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import ssl
import subprocess
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trustme
from click.testing import CliRunner

from pillarbox import observe
from pillarbox.cli.commands import cli
from pillarbox.net.chains import Source, read_chain
from pillarbox.net.challenges import answer
from pillarbox.net.listener import ConnectionLimits, Connections, bind
from pillarbox.net.renewal import AcmeSettings, Renewal

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(shutil.which("pebble") is None, reason="pebble is not installed"),
]
NAME = "mx.example.org"


class Pebble:
    """The authority, its name server, and whom its certificates have to be trusted by."""

    def __init__(self, folder: Path, free_port: Any, **more: Any) -> None:
        self.folder = folder
        self.port, self.management, self.http, self.tls = (free_port() for _ in range(4))
        ca = trustme.CA()
        ca.cert_pem.write_to_path(str(folder / "web-ca.pem"))
        ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(folder / "web.pem"))
        settings = {
            "listenAddress": f"127.0.0.1:{self.port}",
            "managementListenAddress": f"127.0.0.1:{self.management}",
            "certificate": str(folder / "web.pem"),
            "privateKey": str(folder / "web.pem"),
            "httpPort": self.http,
            "tlsPort": self.tls,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": False,
            **more,
        }
        (folder / "pebble.json").write_text(json.dumps({"pebble": settings}))
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self, resolver: str) -> None:
        command = ["pebble", "-config", str(self.folder / "pebble.json"), "-dnsserver", resolver, "-strict"]
        environment = {**os.environ, "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "20"}
        with (self.folder / "pebble.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        async with asyncio.timeout(20):
            while True:
                try:
                    await asyncio.to_thread(self.root)
                except OSError:
                    await asyncio.sleep(0.05)
                else:
                    return

    def root(self) -> str:
        """The certificate of the authority itself, in PEM."""
        trust = ssl.create_default_context(cafile=str(self.folder / "web-ca.pem"))
        with urllib.request.urlopen(f"https://127.0.0.1:{self.management}/roots/0", context=trust) as answer:
            return answer.read().decode()

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def settings(self, challenge: str, more: str = "") -> str:
        port = self.http if challenge == "http-01" else self.tls
        return f"""
[acme]
directory = "https://127.0.0.1:{self.port}/dir"
ca_file = "{self.folder}/web-ca.pem"
terms_agreed = true
email = "postmaster@example.org"
challenge = "{challenge}"
address = "127.0.0.1:{port}"
{more}
[[listen]]
address = "127.0.0.1:0"
"""


@pytest.fixture
async def open_pebble(tmp_path: Path, free_port: Any, serve_dns: Any) -> Any:
    """Start Pebble, with settings of its own, and a name server that knows our name: `pebble = await open_pebble()`."""
    here = [(f"{NAME}.", 60, "IN", "A", "127.0.0.1")]
    names = await serve_dns({f"{NAME}. A": here, f"{NAME}. *": "nothing"})
    started: list[Pebble] = []

    async def start(**more: Any) -> Pebble:
        started.append(Pebble(tmp_path, free_port, **more))
        await started[-1].start(names.address)
        return started[-1]

    yield start
    for one in started:
        one.stop()
    print((tmp_path / "pebble.log").read_text()[-3000:])


@pytest.fixture
async def pebble(open_pebble: Any) -> Pebble:
    """Pebble as it is."""
    started: Pebble = await open_pebble()
    return started


async def chain_shown(dial: Any, port: int, root: str) -> dict[str, Any]:
    """What a client learns that trusts this authority alone."""
    trust = ssl.create_default_context(cadata=root)
    caller = await dial(port)
    assert (await caller.reply()).startswith(b"220")
    assert b"STARTTLS" in await caller.ask(b"EHLO client.example")
    assert (await caller.ask(b"STARTTLS")).startswith(b"220")
    await caller.upgrade(trust)
    assert (await caller.ask(b"EHLO client.example")).startswith(b"250")
    return dict(caller.writer.get_extra_info("ssl_object").getpeercert())


def command(*arguments: str) -> tuple[int, Any]:
    done = CliRunner().invoke(cli, ["certificate", *arguments, "--json"])
    return done.exit_code, json.loads(done.stdout)


def next_keys(server: Any, which: str = "next") -> list[str]:
    """The TLSA records for the keys of the certificates that are shown now, or come next."""
    arguments = ["domain", "dns", "x.example", "--config", str(server.config), "--host", NAME, "--json"]
    records = json.loads(CliRunner().invoke(cli, arguments).stdout)["records"]
    return [one["data"] for one in records if one["type"] == "TLSA" and which in one["about"].split()]


@pytest.mark.parametrize("challenge", ["http-01", "tls-alpn-01"])
async def test_a_server_gets_its_certificates_and_renews_them(
    serve: Any, dial: Any, pebble: Pebble, challenge: str
) -> None:
    workers = 2 if challenge == "http-01" else 1
    keys = 'keys = ["ecdsa", "rsa"]'
    text = f"workers = {workers}\n" + pebble.settings(challenge, keys)
    server = await serve(text)
    await server.logged("acme.issued", key="rsa")
    for file in ("ecdsa.pem", "rsa.pem"):
        assert (server.data / "acme" / file).stat().st_mode & 0o777 == 0o600
    loaded = await server.until(
        lambda: (
            len(server.events("certificate.loaded", key="ECDSA")) == workers
            and server.events("certificate.loaded", key="RSA")
        )
    )
    assert loaded[0]["names"] == NAME
    first = await chain_shown(dial, server.port, pebble.root())
    assert ("DNS", NAME) in first["subjectAltName"]
    coming = await asyncio.to_thread(next_keys, server)
    assert not list((server.data / "acme/answers").iterdir())
    status, said = await asyncio.to_thread(command, "list", "--config", str(server.config))
    assert (status, [one["key"] for one in said["certificates"]]) == (0, ["ECDSA", "RSA"])
    assert said["certificates"][0]["names"] == [NAME]
    assert said["certificates"][0]["days_left"] > 30
    config = ("--config", str(server.config))
    assert await asyncio.to_thread(command, "renew", *config) == (0, {"renewed": [], "problem": ""})
    status, said = await asyncio.to_thread(command, "renew", "--all", *config)
    assert (status, said["renewed"]) == (0, ["ecdsa", "rsa"])
    await server.until(lambda: len(server.events("certificate.loaded", key="ECDSA")) == 2 * workers)
    shown = await asyncio.to_thread(next_keys, server, "now")
    assert set(shown) == set(coming), "the keys whose records could be published before"
    assert (await chain_shown(dial, server.port, pebble.root()))["serialNumber"] != first["serialNumber"]


async def test_E454_1_a_refusal_is_told_and_the_old_certificate_stays(
    serve: Any, dial: Any, pebble: Pebble
) -> None:
    """Nobody answers where the authority looks."""
    text = pebble.settings("http-01").replace(f"127.0.0.1:{pebble.http}", "127.0.0.1:0")
    server = await serve(text)
    failed = await server.logged("acme.failed")
    assert f"not convinced that {NAME} is ours" in failed["problem"]
    assert (failed["kept"], failed["again_s"]) == ("nothing", 900)
    caller = await dial(server.port)
    await caller.reply()
    await caller.ask(b"EHLO client.example")
    assert (await caller.ask(b"STARTTLS")).startswith(b"454 4.7.0")
    config = ("--config", str(server.config))
    status, said = await asyncio.to_thread(command, "renew", *config)
    assert status == 75
    assert "not convinced" in said["problem"]
    status, said = await asyncio.to_thread(command, "list", *config)
    assert said["certificates"][0]["problem"] == "not issued yet"
    assert said["renewal"]["times"] == 2
    old = trustme.CA()
    issued = old.issue_cert(NAME, "more.example.org")  # other names than those asked for: it is due
    issued.private_key_and_cert_chain_pem.write_to_path(str(server.data / "acme/ecdsa.pem"))
    await server.logged("certificate.loaded")
    status, said = await asyncio.to_thread(command, "renew", *config)
    assert status == 75
    assert await chain_shown(dial, server.port, old.cert_pem.bytes().decode())


async def test_a_certificate_that_has_a_third_of_its_life_left_is_renewed_and_an_older_one_is_not(
    serve: Any, dial: Any, pebble: Pebble
) -> None:
    """The server starts with one of each kind: one was issued a month ago, one two months and a bit."""
    old = trustme.CA()
    now = datetime.now(UTC)
    folder = pebble.folder / "data/acme"
    folder.mkdir(parents=True, mode=0o700)
    for kind, days, key in (("ecdsa", 30, trustme.KeyType.ECDSA), ("rsa", 61, trustme.KeyType.RSA)):
        begin = now - timedelta(days=days)
        issued = old.issue_cert(NAME, not_before=begin, not_after=begin + timedelta(days=90), key_type=key)
        issued.private_key_and_cert_chain_pem.write_to_path(str(folder / f"{kind}.pem"))
    before = (folder / "ecdsa.pem").read_bytes()
    server = await serve(pebble.settings("http-01", 'keys = ["ecdsa", "rsa"]'))
    await server.logged("acme.issued", key="rsa")
    await server.logged("certificate.loaded", key="RSA")
    assert not server.events("acme.issued", key="ecdsa")
    assert (folder / "ecdsa.pem").read_bytes() == before
    await chain_shown(dial, server.port, old.cert_pem.bytes().decode())


@pytest.fixture
async def renewal(pebble: Pebble, tmp_path: Path) -> Any:
    """A renewal whose clock stands still, `renewal.now`, with what answers the authority beside it."""
    settings = AcmeSettings(
        directory=f"https://127.0.0.1:{pebble.port}/dir", ca_file=f"{tmp_path}/web-ca.pem", terms_agreed=True
    )
    clock = SimpleNamespace(now=time.time())
    made = Renewal(settings, NAME, tmp_path, clock=lambda: clock.now)
    answers = bind(f"127.0.0.1:{pebble.http}")
    server = await answer(answers, "http-01", made.answers, Connections(ConnectionLimits()))

    async def look(after: timedelta = timedelta()) -> bytes:
        """What lies there after the next look."""
        clock.now += after.total_seconds()
        await asyncio.to_thread(made.look)
        return made.file("ecdsa").read_bytes()

    yield SimpleNamespace(look=look, failure=made.failure, file=made.file("ecdsa"))
    server.close()


async def test_the_clock_says_when_to_renew(pebble: Pebble, renewal: Any) -> None:
    first = await renewal.look()
    chain = read_chain(Source("acme", str(renewal.file)))
    life = timedelta(seconds=chain.expires - chain.begins)
    assert life > timedelta(days=80)
    assert await renewal.look() == first
    assert await renewal.look(life * 0.6) == first
    second = await renewal.look(life * 0.1)
    assert second != first
    assert second.count(b"PRIVATE KEY") == 2, "one key, and not the old one"


async def test_a_failure_is_told_leaves_the_old_one_and_is_tried_again_after_longer_and_longer(
    pebble: Pebble, renewal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(
        observe._log, "write", lambda event, facts: told.append({"event": event.name, **facts})
    )
    first = await renewal.look()
    pebble.stop()
    assert await renewal.look(timedelta(days=10_000)) == first  # it has ended long ago
    (failed,) = told
    assert failed["event"] == "acme.failed"
    assert "cannot be asked" in failed["problem"]
    assert (failed["kept"], failed["again_s"]) == ("the old one", 900)
    assert await renewal.look(timedelta(seconds=899)) == first
    assert len(told) == 1
    assert await renewal.look(timedelta(seconds=2)) == first
    assert [one["again_s"] for one in told] == [900, 1800]
    # neither does a disk that takes nothing keep it from being told, nor the loop from going on
    answers = renewal.file.parent / "answers"
    shutil.rmtree(answers)
    answers.write_text("in the way")
    assert await renewal.look(timedelta(seconds=1801)) == first
    assert told[-1]["again_s"] == 3600
    assert "File exists" in told[-1]["problem"]
    assert renewal.failure().times == 3


async def test_an_authority_that_issues_to_its_customers_alone(
    serve: Any, open_pebble: Any, dial: Any
) -> None:
    key = base64.urlsafe_b64encode(b"a key of thirty-two octets, or so").rstrip(b"=").decode()
    pebble = await open_pebble(externalAccountBindingRequired=True, externalAccountMACKeys={"kid-1": key})
    file = pebble.folder / "eab"
    server = await serve(pebble.settings("http-01"))
    failed = await server.logged("acme.failed")
    assert "externalAccountBinding" in failed["problem"]
    config = ("--config", str(server.config))
    bound = f'eab_key_id = "kid-1"\neab_key_file = "{file}"'
    server.configure(pebble.settings("http-01", bound))
    for text, problem in (("not base64url!", "holds no key in base64url"), (key[::-1], "JWS verification")):
        file.write_text(text)
        status, said = await asyncio.to_thread(command, "renew", *config)
        assert status == 75
        assert problem in said["problem"]
        assert key not in said["problem"]
    file.write_text(f"{key}\n")
    assert await asyncio.to_thread(command, "renew", *config) == (0, {"renewed": ["ecdsa"], "problem": ""})
    await server.logged("certificate.loaded", key="ECDSA")
    await chain_shown(dial, server.port, pebble.root())
