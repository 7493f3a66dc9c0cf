"""Certificates from an authority: Pebble issues them to a running server, or refuses and leaves the old ones."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import ssl
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import trustme
from click.testing import CliRunner

from pillarbox.cli.commands import cli

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(shutil.which("pebble") is None, reason="pebble is not installed"),
]
NAME = "mx.example.org"


class Pebble:
    """The authority, its name server, and whom its certificates have to be trusted by."""

    def __init__(self, folder: Path, free_port: Any) -> None:
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
async def pebble(tmp_path: Path, free_port: Any, serve_dns: Any) -> Any:
    """Pebble, and a name server that knows our name."""
    here = [(f"{NAME}.", 60, "IN", "A", "127.0.0.1")]
    names = await serve_dns({f"{NAME}. A": here, f"{NAME}. *": "nothing"})
    pebble = Pebble(tmp_path, free_port)
    await pebble.start(names.address)
    yield pebble
    pebble.stop()
    print((tmp_path / "pebble.log").read_text()[-3000:])


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
