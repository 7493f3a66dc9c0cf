"""Domains and accounts that commands or files keep: a running server takes their mail, and open sessions see the change."""

import asyncio
import base64

from click.testing import CliRunner

from pillarbox.cli.commands import cli
from pillarbox.policy.passwords import hash_password

LIMIT_S = 30


def command(server, *arguments):
    done = CliRunner().invoke(
        cli, [*arguments, "--data", str(server.data)], env={"PILLARBOX_PASSWORD": "wonderland"}
    )
    assert done.exit_code == 0, done.output


async def answered(caller, address, beginning):
    """Ask until the answer to RCPT is this: the server looks at the file once a second."""
    async with asyncio.timeout(LIMIT_S):
        while not (await caller.ask(b"RCPT TO:<%s>" % address)).startswith(beginning):
            await asyncio.sleep(0.05)


async def test_a_domain_is_served_without_a_restart(serve, dial, tmp_path):
    (tmp_path / "mail").mkdir()
    server = await serve('workers = 2\n[[listen]]\naddress = "127.0.0.1:0"\n[policy]\nrelay_networks = []\n')
    callers = [await dial(server.port) for _ in range(4)]  # some with each worker
    for caller in callers:
        await caller.reply()
        await caller.ask(b"EHLO client.example")
        await caller.ask(b"MAIL FROM:<a@sender.example>")
        assert (await caller.ask(b"RCPT TO:<ann@example.org>")).startswith(b"550 5.7.1")
    command(server, "domain", "add", "example.org", "--deliver", f"maildir:{tmp_path}/mail/{{user}}")
    for caller in callers:
        await answered(caller, b"ann@example.org", b"550 5.1.1")
    command(server, "user", "add", "ann@example.org")
    command(server, "domain", "alias", "add", "info@example.org", "ann")
    for caller in callers:
        await answered(caller, b"info@example.org", b"250 2.1.5")
        assert (await caller.ask(b"RCPT TO:<eve@example.org>")).startswith(b"550 5.1.1")
    assert (await callers[0].ask(b"DATA")).startswith(b"354")
    assert (await callers[0].ask(b"Subject: x\r\n\r\nx\r\n.")).startswith(b"250")
    mailbox = tmp_path / "mail/ann/new"
    await server.until(lambda: mailbox.exists() and list(mailbox.iterdir()))
    command(server, "domain", "remove", "example.org")
    for caller in callers[1:]:
        await answered(caller, b"ann@example.org", b"550 5.7.1")


async def test_a_policy_is_served_without_a_restart(serve):
    server = await serve('[[listen]]\naddress = "127.0.0.1:0"\nrole = "policy"\ntls = "none"\n')

    async def fetched():
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /.well-known/mta-sts.txt HTTP/1.1\r\nHost: mta-sts.example.org\r\n\r\n")
        answer = await reader.read()
        writer.close()
        return answer

    command(server, "domain", "add", "example.org", "--deliver", "hold")
    assert (await fetched()).startswith(b"HTTP/1.1 404 ")
    for mode in ("testing", "enforce"):
        command(server, "domain", "sts", "example.org", mode, "--mx", "mx.example.org")
        async with asyncio.timeout(LIMIT_S):
            while f"mode: {mode}\r\nmx: mx.example.org\r\n".encode() not in await fetched():
                await asyncio.sleep(0.05)


async def test_a_file_of_accounts_is_read_again(serve, dial, tmp_path):
    file = tmp_path / "accounts.toml"

    def write(*names):
        new = tmp_path / "new"
        new.write_text("".join(f'[account."{name}"]\npassword = "{hash_password("x")}"\n' for name in names))
        new.rename(file)

    write("ann@example.org")
    server = await serve(
        f"""accounts_file = "{file}"
[auth]
require_tls = false
[[listen]]
address = "127.0.0.1:0"
role = "submission"
login_in_clear = true
[domain."example.org"]
deliver = "hold"
users_from = ["accounts"]
"""
    )

    async def log_in(name):
        caller = await dial(server.port)
        await caller.reply()
        await caller.ask(b"EHLO client.example")
        reply = await caller.ask(b"AUTH PLAIN " + base64.b64encode(b"\0%s\0x" % name))
        return caller, reply[:3]

    caller, reply = await log_in(b"ann@example.org")
    assert reply == b"235"
    await caller.ask(b"MAIL FROM:<ann@example.org>")
    assert (await caller.ask(b"RCPT TO:<ben@example.org>")).startswith(b"550 5.1.1")
    write("ben@example.org")
    await answered(caller, b"ben@example.org", b"250")
    assert (await log_in(b"ben@example.org"))[1] == b"235"
    assert (await log_in(b"ann@example.org"))[1] == b"535"
    file.write_text("[account\n")
    trouble = await server.logged("directory.trouble")
    assert trouble["problem"].startswith(f"{file}:1: not TOML")
    assert (await log_in(b"ben@example.org"))[1] == b"235"


async def test_a_server_with_a_sandbox_listener_takes_and_holds_everything(serve, send, tmp_path):
    """Mail for the exchangers and for a domain that a command keeps, also when an operator lets it go."""
    server = await serve('[[listen]]\naddress = "127.0.0.1:0"\nrole = "sandbox"\n[limits]\nmin_free = 0\n')
    command(server, "domain", "add", "kept.example", "--deliver", f"maildir:{tmp_path}/mail/{{user}}")
    await server.stop()
    await server.start()
    sent = await send(server.port, "x@no-such-domain.invalid", "ann@kept.example")
    assert {answer[:9] for answer in sent.recipients} == {b"250 2.1.5"}
    for _ in range(2):
        for number in range(2):
            assert (await server.reached("held", sent.id, number))["destination"] == "hold:"
        command(server, "queue", "release", "--all")
    assert not (tmp_path / "mail").exists()
