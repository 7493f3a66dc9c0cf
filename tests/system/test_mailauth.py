"""A whole server asks who sent a message, as its configuration says, and signs what goes out."""

from __future__ import annotations

import asyncio
import json
import re
import signal

import dkim as oracle
from click.testing import CliRunner

from pillarbox.cli.commands import cli
from pillarbox.testing import ScriptedPeer

START = """
[limits]
min_free = 0
[policy]
relay_networks = []
[[listen]]
address = "127.0.0.1:0"
"""
CHECKS = """
[dns]
nameservers = ["127.0.0.1:{port}"]
timeout = "2s"
[spf]
check = true
fail = "warn"
[dmarc]
check = true
organization = "suffixes"
"""


def zone(name, text):
    return {f"{name} TXT": [(name, 300, "IN", "TXT", f'"{text}"')]}


def office(tmp_path):
    return f'[domain."example.org"]\ndeliver = "maildir:{tmp_path}/mail/{{user}}"\nusers = ["alice"]\n'


async def test_findings_come_with_the_mail_and_the_trace_tells_why(serve, serve_dns, send, mailbox, tmp_path):
    answers = zone("sender.test.", "v=spf1 -all") | zone("_dmarc.sender.test.", "v=DMARC1; p=none")
    names = await serve_dns(answers)
    server = await serve(START + CHECKS.format(port=names.port) + office(tmp_path))
    message = b"From: eve@sender.test\r\nSubject: x\r\n\r\nhello\r\n"
    sent = await send(server.port, "alice@example.org", sender="eve@sender.test", message=message)
    await mailbox("alice").filled()
    (raw,) = mailbox("alice").raw
    assert b"spf=fail smtp.mailfrom=sender.test" in raw
    assert b"dmarc=fail (p=none)" in raw
    shown = server.command("trace", sent.id)
    assert "TXT sender.test: v=spf1 -all" in shown["origin"]
    assert shown["warned"].startswith("550 5.7.23 ")


async def test_a_reload_takes_new_settings_and_keys(serve, send, mailbox, tmp_path):
    trusted = START.replace("relay_networks = []", 'relay_networks = ["127.0.0.0/8"]')
    server = await serve(trusted + office(tmp_path))
    message = b"From: alice@example.org\r\nSubject: x\r\n\r\nhello\r\n"
    await send(server.port, "alice@example.org", sender="alice@example.org", message=message)
    done = CliRunner().invoke(cli, ["dkim", "new", "example.org", "--data", str(server.data)])
    assert done.exit_code == 0, done.output
    server.signal(signal.SIGHUP)
    await server.logged("config.reloaded")
    await send(server.port, "alice@example.org", sender="alice@example.org", message=message)
    await mailbox("alice").filled(2)
    signed = [raw for raw in mailbox("alice").raw if b"DKIM-Signature" in raw]
    assert len(signed) == 1
    records = {one["name"]: one["record"].encode() for one in server.command("dkim", "list")}
    whole = signed[0].replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    assert oracle.verify(whole, dnsfunc=lambda name, timeout=5: records[name.decode().rstrip(".")])


class Signed:
    """A server that signs mail of example.org, and a name server with the records that were published."""

    def __init__(self, server, names, send, mailbox):
        self.server = server
        self.names = names
        self.send = send
        self.mailbox = mailbox
        self.seen = []

    def dkim(self, *arguments, status=0):
        """Run `pillarbox dkim` on the server's keys."""
        done = CliRunner().invoke(cli, ["dkim", *arguments, "--data", str(self.server.data), "--json"])
        assert done.exit_code == status, done.output
        return json.loads(done.stdout) if status == 0 else done.output

    def publish(self, keys):
        for one in keys:
            text = one["record"]
            strings = " ".join(f'"{text[at : at + 200]}"' for at in range(0, len(text), 200))
            self.names.zone[f"{one['name']}. TXT"] = [(f"{one['name']}.", 300, "IN", "TXT", strings)]

    async def reload(self):
        before = len(self.server.events("config.reloaded"))
        self.server.signal(signal.SIGHUP)
        await self.server.until(lambda: len(self.server.events("config.reloaded")) > before)

    def find(self, name, timeout=5):
        """What DNS has."""
        ((*_, strings),) = self.names.zone.get(f"{name.decode()} TXT", [("",)])
        return strings.strip('"').replace('" "', "").encode()

    async def selectors(self):
        """Those of the signatures on a new message, each of which must verify now."""
        message = b"From: alice@example.org\r\nSubject: x\r\n\r\nhello\r\n"
        await self.send(self.server.port, "alice@example.org", sender="alice@example.org", message=message)
        (raw,) = await self.server.until(lambda: [raw for raw in self.mailbox.raw if raw not in self.seen])
        self.seen.append(raw)
        found = oracle.DKIM(raw.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
        fields = [one.decode() for one in re.findall(rb"[;\s]s=([^;]+);", raw)]
        assert [found.verify(number, dnsfunc=self.find) for number in range(len(fields))] == [True] * len(
            fields
        )
        return sorted(fields)


async def test_keys_are_changed_as_an_operator_would(serve, serve_dns, send, mailbox, tmp_path):
    """New ones beside the old, published, in use, and the old ones gone: each message verifies by what DNS has then."""
    trusted = START.replace("relay_networks = []", 'relay_networks = ["127.0.0.0/8"]')
    names = await serve_dns({})
    signed = Signed(await serve(trusted + office(tmp_path)), names, send, mailbox("alice"))
    old = signed.dkim("new", "example.org")
    signed.publish(old)
    await signed.reload()
    assert await signed.selectors() == sorted(one["selector"] for one in old)
    new = signed.dkim("rotate", "example.org")
    again = signed.dkim("rotate", "example.org")
    assert sorted(one["record"] for one in again) == sorted(one["record"] for one in new), "they wait already"
    activate = ("rotate", "--activate", "example.org", "--resolver", names.address)
    assert "is not published" in await asyncio.to_thread(signed.dkim, *activate, status=1)
    signed.publish(new)
    await asyncio.to_thread(signed.dkim, *activate)
    await signed.reload()
    selectors = sorted(one["selector"] for one in new)
    assert await signed.selectors() == selectors
    signed.dkim("remove", "example.org", status=1)  # mail with them may be on its way
    gone = signed.dkim("remove", "example.org", "--older-than", "0s")["removed"]
    assert sorted(gone) == sorted(one["name"] for one in old)
    for name in gone:
        del names.zone[f"{name}. TXT"]
    await signed.reload()
    assert await signed.selectors() == selectors


async def test_forwarded_mail_tells_the_next_host_what_was_found(serve, serve_dns, send, tmp_path):
    answers = zone("sender.test.", "v=spf1 ip4:127.0.0.1 -all") | zone(
        "_dmarc.sender.test.", "v=DMARC1; p=reject"
    )
    names = await serve_dns(answers)
    (tmp_path / "data").mkdir(mode=0o700)
    done = CliRunner().invoke(cli, ["dkim", "new", "example.org", "--data", str(tmp_path / "data")])
    assert done.exit_code == 0, done.output
    async with ScriptedPeer() as peer:
        aliases = '[domain."example.org".aliases]\nfriend = "friend@far.example"\n'
        route = f'[[route]]\nmatch = "far.example"\nvia = "smtp://127.0.0.1:{peer.port}?tls=none"\n'
        checks = CHECKS.format(port=names.port) + "[arc]\ncheck = true\n"
        server = await serve(START + checks + office(tmp_path) + aliases + route)
        message = b"From: eve@sender.test\r\nSubject: x\r\n\r\nhello\r\n"
        sent = await send(server.port, "friend@example.org", sender="eve@sender.test", message=message)
        await server.reached("delivered", sent.id)
        (passed_on,) = peer.messages
    assert b"ARC-Authentication-Results: i=1; mx.example.org;\r\n\tspf=pass" in passed_on
    records = {one["name"]: one["record"].encode() for one in server.command("dkim", "list")}
    result, *_ = oracle.arc_verify(
        passed_on, dnsfunc=lambda name, timeout=5: records[name.decode().rstrip(".")]
    )
    assert result == b"pass"
