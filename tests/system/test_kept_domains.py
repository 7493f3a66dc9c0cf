"""Domains and accounts that commands keep: a running server takes their mail, and an open session sees the change."""

import asyncio

from click.testing import CliRunner

from pillarbox.cli.commands import cli

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
