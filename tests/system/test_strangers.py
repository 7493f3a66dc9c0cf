"""A server whose checks are all switched on by its configuration, strangers who call it, and what operators see of it."""

from __future__ import annotations

import asyncio
import signal

POINTER = "1.0.0.127.in-addr.arpa."
CONFIG = """
workers = {workers}
[[listen]]
address = "127.0.0.1:0"
[domain."example.org"]
deliver = "hold"
users = ["alice"]
[policy]
relay_networks = []
[dns]
nameservers = ["{nameserver}"]
timeout = "1s"
{checks}
"""
MAIL, RCPT = b"MAIL FROM:<a@sender.test>", b"RCPT TO:<alice@example.org>"


async def talk(dial, server, *lines):
    caller = await dial(server.port)
    replies = [await caller.reply()]
    replies += [await caller.ask(line) for line in (b"EHLO client.test", *lines)]
    await caller.close()
    return replies


async def test_checks_on_trial_are_seen_in_the_log_and_in_the_trace(serve, serve_dns, dial):
    names = await serve_dns({"1.0.0.127.bl.test. A": [("1.0.0.127.bl.test.", 300, "IN", "A", "127.0.0.2")]})
    checks = """
[dns_lists]
action = "warn"
zone = [{ zone = "bl.test" }]
[reverse_dns]
action = "warn"
[sender]
domain = "warn"
[greylist]
action = "warn"
[message]
strict = "warn"
[log]
level = "info"
"""
    server = await serve(CONFIG.format(workers=1, nameserver=names.address, checks=checks))
    *_, reply = await talk(dial, server, MAIL, RCPT, b"DATA", b"Subject: x\r\n\r\nx\r\n.")
    assert reply.startswith(b"250 2.0.0 ")
    queue_id = reply.split()[-1].decode()
    await server.logged("message.received", message=queue_id)
    causes = [event["cause"] for event in server.events("check.warned")]
    assert causes == [
        "policy.client_listed",
        "policy.sender_domain_missing",
        "policy.reverse_name_missing",
        "policy.greylisted",
        "policy.malformed",
    ]
    told = server.command("trace", queue_id)["warned"].split("; ")
    assert [line[:3] for line in told] == ["554", "550", "550", "450", "554"]
    assert "listed by bl.test" in told[0]


async def test_workers_count_and_greylist_together(serve, serve_dns, dial):
    names = await serve_dns({})
    checks = """
[greylist]
action = "defer"
delay = "1s"
[rate]
client = "12/h"
"""
    server = await serve(CONFIG.format(workers=2, nameserver=names.address, checks=checks))
    first = await talk(dial, server, MAIL, RCPT)
    assert first[-1] == b"450 4.7.1 Greylisted, try again in 1 seconds\r\n"
    for _ in range(100):  # the kernel chooses the worker
        *_, reply = await talk(dial, server, MAIL, RCPT)
        if not reply.startswith(b"450 4.7.1 Greylisted"):
            break
        await asyncio.sleep(0.25)
    assert reply == b"250 2.1.5 Recipient OK\r\n"
    replies = [(await talk(dial, server, MAIL))[-1][:3] for _ in range(12)]
    assert replies[-1] == b"450"
    assert replies == sorted(replies), "once the share is used up it stays so, whichever worker is asked"


async def test_a_reload_switches_checks_on_for_new_sessions(serve, serve_dns, dial):
    names = await serve_dns({})
    text = CONFIG.format(workers=1, nameserver=names.address, checks="")
    server = await serve(text)
    assert (await talk(dial, server, MAIL))[-1].startswith(b"250 ")
    server.configure(text + '[sender]\ndomain = "reject"\n')
    server.signal(signal.SIGHUP)
    await server.logged("config.reloaded")
    assert (await talk(dial, server, MAIL))[-1].startswith(b"550 5.1.8 ")
