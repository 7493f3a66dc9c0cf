"""SIGHUP: a running server takes a new configuration, or says why it does not, and drops nobody."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import ssl
from pathlib import Path

import pytest
import trustme

from pillarbox.policy.passwords import hash_password

PASSWORD = base64.b64encode(b"\0alice\0wonderland")


def mailboxes(*users: str, more: str = "", listener: str = "") -> str:
    """A server that takes mail for these users of a domain and keeps it."""
    names = ", ".join(f'"{user}"' for user in users)
    return f"""
[[listen]]
address = "127.0.0.1:0"
{listener}
[domain."example.org"]
deliver = "hold"
users = [{names}]
{more}
"""


async def reload(server, text: str, event: str = "config.reloaded") -> dict:
    """Give the server another configuration, and wait until it has said what it thinks of it."""
    before = len(server.events(event))
    server.configure(text)
    server.signal(signal.SIGHUP)
    return (await server.until(lambda: server.events(event)[before:]))[0]


async def takes(caller, address: str, *, greet: bool = False) -> bool:
    """Whether a session takes mail for an address."""
    if greet:
        await caller.reply()
        await caller.ask(b"EHLO client.example")
    await caller.ask(b"RSET")
    await caller.ask(b"MAIL FROM:<a@sender.example>")
    return (await caller.ask(b"RCPT TO:<%s>" % address.encode())).startswith(b"250")


async def test_all_sessions_get_new_rules_and_open_ones_go_on(serve, dial):
    server = await serve(mailboxes("alice"))
    before = await dial(server.port)
    assert not await takes(before, "bob@example.org", greet=True)
    assert await takes(before, "alice@example.org")
    for _ in range(2):  # also those that have followed once
        await reload(server, mailboxes("alice"))
        await reload(server, mailboxes("alice", "bob"))
    assert await takes(await dial(server.port), "bob@example.org", greet=True)
    # the transaction is still open
    assert (await before.ask(b"RCPT TO:<bob@example.org>")).startswith(b"250")
    assert await takes(before, "bob@example.org")
    assert (await before.ask(b"DATA")).startswith(b"354")
    assert (await before.ask(b".")).startswith(b"250")
    assert (await before.ask(b"QUIT")).startswith(b"221")


BROKEN = {
    "a key that nobody knows": ('[limits]\nmesage = "1M"\n', 'limits.mesage: there is no such setting (did you mean "message"?)'),
    "no TOML": ("[limits\n", "not TOML"),
    "nonsense": ('[policy]\nrelay_networks = ["everywhere"]\n', "policy.relay_networks[1]: 'everywhere' does not appear to be"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_configuration_is_refused_and_the_old_one_goes_on(serve, dial, name):
    more, problem = BROKEN[name]
    server = await serve(mailboxes("alice"))
    caller = await dial(server.port)
    assert await takes(caller, "alice@example.org", greet=True)
    refused = await reload(server, mailboxes("bob", more=more), "config.refused")
    line = server.config.read_text()[: server.config.read_text().index(more)].count("\n") + more.count("\n")
    assert refused["problem"].startswith(f"{server.config}:{line}: ")
    assert problem in refused["problem"]
    assert await takes(caller, "alice@example.org")
    assert await takes(await dial(server.port), "alice@example.org", greet=True)
    await reload(server, mailboxes("bob"))
    assert await takes(await dial(server.port), "bob@example.org", greet=True)


@pytest.mark.parametrize(
    "module", ["raise RuntimeError('not today')", "import nothing_of_this_name", "def x(:"]
)
async def test_a_hook_module_that_cannot_be_imported_is_refused(serve, dial, tmp_path, monkeypatch, module):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "broken_hook.py").write_text(module)
    server = await serve(mailboxes("alice"))
    refused = await reload(server, 'hooks = ["broken_hook"]\n' + mailboxes("bob"), "config.refused")
    assert "broken_hook" in refused["problem"]
    assert await takes(await dial(server.port), "alice@example.org", greet=True)


async def test_what_needs_a_restart_stays_and_is_named(serve, dial):
    """A listener that was left out or moved keeps its address and its role."""
    two = mailboxes("alice") + '[[listen]]\naddress = "127.0.0.1:0"\nrole = "no_mail"\n'
    server = await serve(two)
    await reload(server, "workers = 2\n[queue]\nlanes = 7\n" + mailboxes("bob"))
    (said,) = server.events("config.waits")
    assert (said["level"], said["settings"]) == ("warning", "workers, listen, queue")
    greeting = await (await dial(server.ports[1])).reply()
    assert greeting.startswith(b"521 ")
    assert await takes(await dial(server.ports[0]), "bob@example.org", greet=True)
    await reload(server, two)
    assert len(server.events("config.waits")) == 1


@pytest.mark.parametrize("workers", [1, 2])
async def test_what_is_unwise_is_told_at_the_start_and_after_a_reload_and_once(serve, workers):
    few = mailboxes("alice", more="[limits]\nrecipients = 3\n")
    server = await serve(f"workers = {workers}\n{few}")
    line = f"{server.config}:12: limits.recipients: 3 is little: RFC 5321 4.5.3.1.8 asks for 100 (write 100 or more)"
    assert len(server.events("config.unwise", level="warning", problem=line)) == 1
    await reload(server, f"workers = {workers}\n{few}[queue]\nlanes = 7\n")
    await server.until(lambda: len(server.events("config.reloaded")) == workers)
    assert len(server.events("config.unwise", problem=line)) == 2
    assert len(server.events("config.waits", settings="queue")) == 1


async def test_a_listener_may_become_stricter(serve, dial):
    server = await serve(mailboxes("alice"))
    await reload(server, mailboxes("alice", listener='role = "no_mail"'))
    assert not server.events("config.waits")
    assert (await (await dial(server.port)).reply()).startswith(b"521 ")


async def test_programs_and_routes_are_those_of_the_present_configuration(serve, send, tmp_path):
    """Also for a lane that is open: the second message goes to another program within the linger of the first."""
    output = tmp_path / "output"

    def through(word: str) -> str:
        command = f'["/bin/sh", "-c", "cat >/dev/null; echo {word} >>{output}"]'
        return f"""
[[listen]]
address = "127.0.0.1:0"
[domain."example.org"]
deliver = "pipe:bot"
[program.bot]
command = {command}
"""

    server = await serve(through("first"))
    for word in ("first", "second", "third"):
        await reload(server, through(word))
        sent = await send(server.port, "alice@example.org")
        await server.reached("delivered", sent.id)
    assert output.read_text().split() == ["first", "second", "third"]


# --- certificates


@pytest.fixture
def identity(tmp_path):
    """Write a certificate and its key to where the configuration has them; a context that trusts it alone."""

    def write(kind: trustme.KeyType = trustme.KeyType.ECDSA, *, key: bool = True) -> ssl.SSLContext:
        authority = trustme.CA()
        leaf = authority.issue_cert("mx.example.org", key_type=kind)
        (tmp_path / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        if key:
            (tmp_path / "key.pem").write_bytes(leaf.private_key_pem.bytes())
        context = ssl.create_default_context()
        authority.configure_trust(context)
        return context

    return write


def encrypted(folder: Path) -> str:
    return f"""
[tls]
certificate = "{folder}/cert.pem"
key = "{folder}/key.pem"
[[listen]]
address = "127.0.0.1:0"
[[listen]]
address = "127.0.0.1:0"
tls = "implicit"
"""


async def shakes_hands(dial, server, trust: ssl.SSLContext) -> bool:
    """Whether a client that trusts only this authority gets through, by STARTTLS and by TLS from the start."""
    found = []
    plain = await dial(server.ports[0])
    await plain.reply()
    await plain.ask(b"EHLO client.example")
    assert (await plain.ask(b"STARTTLS")).startswith(b"220")
    try:
        await plain.upgrade(trust)
        found.append((await plain.ask(b"NOOP")).startswith(b"250"))
    except ssl.SSLCertVerificationError:
        found.append(False)
    try:
        found.append((await (await dial(server.ports[1], tls=trust)).reply()).startswith(b"220"))
    except ssl.SSLCertVerificationError:
        found.append(False)
    assert len(set(found)) == 1, found
    return found[0]


@pytest.mark.parametrize("kind", trustme.KeyType)
async def test_a_renewed_certificate_is_used_for_new_connections(serve, dial, tmp_path, identity, kind):
    old = identity(trustme.KeyType.RSA)
    server = await serve(encrypted(tmp_path))
    assert await shakes_hands(dial, server, old)
    before = [await dial(port, tls=old if port == server.ports[1] else None) for port in server.ports]
    new = identity(kind)
    await reload(server, encrypted(tmp_path))
    assert await shakes_hands(dial, server, new)
    assert not await shakes_hands(dial, server, old)
    for caller in before:
        assert (await caller.reply()).startswith(b"220")
        assert (await caller.ask(b"EHLO client.example")).startswith(b"250")


async def test_a_certificate_reaches_clients_that_name_no_host(serve, dial, tmp_path, identity):
    identity()
    server = await serve(encrypted(tmp_path))
    new = identity()
    await reload(server, encrypted(tmp_path))
    new.check_hostname = False
    reader, writer = await asyncio.open_connection("127.0.0.1", server.ports[1], ssl=new, server_hostname="")
    assert (await reader.readline()).startswith(b"220")
    writer.close()
    await writer.wait_closed()


async def test_a_certificate_without_its_key_is_refused(serve, dial, tmp_path, identity):
    old = identity()
    server = await serve(encrypted(tmp_path))
    identity(key=False)
    refused = await reload(server, encrypted(tmp_path), "config.refused")
    assert str(tmp_path / "cert.pem") in refused["problem"]
    assert await shakes_hands(dial, server, old)
    (tmp_path / "key.pem").unlink()
    refused = await reload(server, encrypted(tmp_path), "config.refused")
    assert f"{tmp_path}/key.pem" in refused["problem"]
    assert await shakes_hands(dial, server, old)


async def test_a_certificate_that_is_still_needed_cannot_be_taken_away(serve, dial, tmp_path, identity):
    trust = identity()
    server = await serve(encrypted(tmp_path))
    without = '[[listen]]\naddress = "127.0.0.1:0"\n'
    refused = await reload(server, without, "config.refused")
    assert "restart" in refused["problem"]
    assert await shakes_hands(dial, server, trust)


# --- what is left behind


def accounts(*names: str) -> str:
    account = f'password = "{hash_password("wonderland")}"\n'
    listener = '[[listen]]\naddress = "127.0.0.1:0"\nrole = "submission"\nlogin_in_clear = true\n'
    return listener + "".join(f"[account.{name}]\n{account}" for name in names)


async def test_a_session_that_is_open_can_still_log_in(serve, dial):
    server = await serve(accounts("alice"))
    caller = await dial(server.port)
    await caller.reply()
    await caller.ask(b"EHLO client.example")
    await reload(server, accounts("bob"))
    assert (await caller.ask(b"AUTH PLAIN " + PASSWORD)).startswith(b"235")
    late = await dial(server.port)
    await late.reply()
    await late.ask(b"EHLO client.example")
    assert (await late.ask(b"AUTH PLAIN " + PASSWORD)).startswith(b"535")


async def test_no_threads_and_no_files_stay_behind(serve, dial, tmp_path, monkeypatch):
    """Of what was replaced: the pools of logins and hooks, the couriers, the log."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "slow_hook.py").write_text("def decide_mail(client, sender):\n    pass\n")
    text = 'hooks = ["slow_hook"]\n' + accounts("alice")
    server = await serve(text)
    process = Path(f"/proc/{server.process.pid}")

    def held() -> list[int]:
        """How many threads and files it has."""
        return [len(list((process / kind).iterdir())) for kind in ("task", "fd")]

    async def use() -> None:
        caller = await dial(server.port)
        await caller.reply()
        await caller.ask(b"EHLO client.example")
        assert (await caller.ask(b"AUTH PLAIN " + PASSWORD)).startswith(b"235")
        assert (await caller.ask(b"MAIL FROM:<a@sender.example>")).startswith(b"250")
        await caller.close()

    await use()
    await reload(server, text)
    await use()
    before, times = held(), 5
    for _ in range(times):
        await reload(server, text)
        await use()
    # What ends, ends a little later; and how many threads a pool has started depends on how busy it was.
    await server.until(lambda: all(now < then + times for now, then in zip(held(), before, strict=True)))
