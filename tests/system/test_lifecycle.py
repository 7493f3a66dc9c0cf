"""The life of a server process: how it starts, takes a new configuration, and ends."""

from __future__ import annotations

import os
import signal

import pytest

from pillarbox.testing import Hang, Late, Say, ScriptedPeer

ANNE = "anne@there.example"


def relay(via: str = "hold", *, port: int = 0, top: str = "", more: str = "") -> str:
    """A server that takes mail from this machine and sends all of it one way."""
    return f"""
{top}
[[listen]]
address = "127.0.0.1:{port}"
role = "relay"
[[route]]
match = "*"
via = "{via}"
{more}
"""


async def begin(caller, *, until: bytes = b"DATA") -> None:
    """Go as far into a transaction as this command."""
    await caller.reply()
    for command in (b"EHLO client.example", b"MAIL FROM:<a@sender.example>", b"RCPT TO:<anne@there.example>"):
        assert (await caller.ask(command)).startswith(b"250")
        if command.startswith(until):
            return
    assert (await caller.ask(b"DATA")).startswith(b"354")


# --- the start

# Each takes long to load, and only some servers need it, or none before there is mail to deliver or an error to tell of.
HEAVY = {
    *(
        "argon2",
        "asyncpg",
        "cryptography",
        "dns",
        "httpx2",
        "idna",
        "jinja2",
        "prometheus_client",
        "publicsuffixlist",
    ),
    *(
        "rich",
        "starlette",
        "structlog",
        "uvicorn",
        "ctypes",
        "dataclasses",
        "difflib",
        "email",
        "json",
        "tempfile",
    ),
    *("pillarbox.inbound.origin", "pillarbox.mailauth.dkim", "pillarbox.mailauth.spf", "pillarbox.net.acme"),
    *("pillarbox.console.api", "pillarbox.policy.signing", "pillarbox.relay.sts", "pillarbox.testing"),
}
MOST_MODULES = 430  # of ours, of Python's and of others; 400 when this was written


async def test_a_plain_server_greets_before_it_loads_what_only_others_need(serve, dial):
    server = await serve(relay(), prefix=["env", "PYTHONPROFILEIMPORTTIME=1"])
    caller = await dial(server.port)
    assert (await caller.reply()).startswith(b"220")
    until_now = [
        line.rpartition("|")[2].strip() for line in server.log_text.splitlines() if "import time:" in line
    ]
    assert "pillarbox.inbound.session" in until_now
    assert not HEAVY & set(until_now)
    assert len(until_now) < MOST_MODULES


# --- the end


async def test_a_server_starts_and_ends_when_asked(serve, dial):
    server = await serve(relay())
    caller = await dial(server.port)
    assert (await caller.reply()).startswith(b"220 mx.example.org ")
    await caller.ask(b"QUIT")
    assert await server.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_idle_sessions_are_told_at_once(serve, dial, number):
    server = await serve(relay())
    callers = [await dial(server.port) for _ in range(3)]
    await callers[0].reply()
    await callers[1].reply()
    await callers[1].ask(b"EHLO client.example")
    await begin(callers[2])
    assert (await callers[2].ask(b".")).startswith(b"250")  # its transaction is over
    server.signal(number)
    for caller in callers:
        assert (await caller.rest()).startswith(b"421 4.3.2 ")
    assert await server.ended() == 0
    assert server.events("server.stopping", reason=number.name)
    assert len(server.events("server.stopped")) == 1


async def test_a_transaction_ends_at_the_next_command_and_a_message_under_way_is_still_taken(serve, dial):
    server = await serve(relay())
    sending, between = await dial(server.port), await dial(server.port)
    await begin(sending)
    await sending.send(b"Subject: half of it\r\n")
    await begin(between, until=b"MAIL")
    server.signal(signal.SIGTERM)
    await server.logged("server.stopping")
    with pytest.raises(ConnectionError):
        await dial(server.port)
    assert (await between.ask(b"RCPT TO:<anne@there.example>")).startswith(b"421 4.3.2 ")
    assert await between.rest() == b""
    await sending.send(b"\r\nand the rest\r\n.\r\n")
    answer = await sending.reply()
    assert answer.startswith(b"250 2.0.0 ")
    assert (await sending.rest()).startswith(b"421 4.3.2 ")
    assert await server.ended() == 0
    assert [message["id"] for message in server.queue()] == [answer.split()[-1].decode()]


async def test_the_drain_limit_cuts_off_those_who_stay_and_a_second_signal_changes_nothing(serve, dial):
    server = await serve(relay(top='drain = "2s"'))
    caller = await dial(server.port)
    await begin(caller)
    server.signal(signal.SIGTERM)
    await server.logged("server.stopping")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        server.signal(number)
    await caller.send(b"still here\r\n")
    assert (await caller.rest()).startswith(b"421 4.3.2 ")
    assert await server.ended() == 0
    assert len(server.events("server.stopping")) == 1
    assert server.queue() == []


async def test_a_delivery_under_way_is_finished(serve, send):
    async with ScriptedPeer({".": [Late(0.5, Say("250 2.0.0 taken"))]}) as peer:
        server = await serve(relay(f"smtp://127.0.0.1:{peer.port}"))
        sent = await send(server.port, ANNE)
        await peer.until(lambda: peer.messages)
        server.signal(signal.SIGTERM)
        assert await server.ended() == 0
        assert peer.commands[-1] == "QUIT"
    assert server.recipient(sent.id)["state"] == "delivered"


async def test_a_delivery_that_takes_too_long_is_released_and_made_after_the_next_start(serve, send):
    async with ScriptedPeer({"RCPT": Hang()}) as peer:
        port = peer.port
        server = await serve(relay(f"smtp://127.0.0.1:{port}", top='drain = "300ms"'))
        sent = await send(server.port, ANNE)
        await peer.until(lambda: any(command.startswith("RCPT") for command in peer.commands))
        assert await server.stop() == 0
    waiting = server.recipient(sent.id)
    assert (waiting["state"], waiting["active"], waiting["attempts"]) == ("queued", False, 0)
    async with ScriptedPeer(port=port) as peer:
        await server.start()
        await server.reached("delivered", sent.id)
        assert len(peer.messages) == 1
    assert await server.stop() == 0


async def test_mail_that_nobody_had_time_for_is_delivered_after_the_next_start(serve, send, dial):
    """Taken while the server drains, or waiting behind a delivery that hangs."""
    async with ScriptedPeer({"RCPT": [Hang()]}) as peer:
        port = peer.port
        limits = "[queue]\nlanes = 1\n"
        server = await serve(relay(f"smtp://127.0.0.1:{port}", top='drain = "1s"', more=limits))
        ids = [(await send(server.port, ANNE)).id for _ in range(5)]
        late = await dial(server.port)
        await begin(late)
        server.signal(signal.SIGTERM)
        await server.logged("server.stopping")
        answer = await late.ask(b".")
        assert answer.startswith(b"250")
        ids.append(answer.split()[-1].decode())
        assert await server.ended() == 0
    assert {(message["id"]) for message in server.queue()} == set(ids)
    async with ScriptedPeer(port=port) as peer:
        await server.start()
        for queue_id in ids:
            await server.reached("delivered", queue_id)
        assert len(peer.messages) == len(ids)
    assert await server.stop() == 0


# --- hooks at the end


@pytest.fixture
def hooks(tmp_path, monkeypatch):
    """Write a hook module that a configuration can name: `hooks("def decide_mail(...): ...")`."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)

    def write(text: str) -> str:
        (tmp_path / "my_hooks.py").write_text(text)
        return 'hooks = ["my_hooks"]\n'

    return write


async def test_a_hook_that_hangs_does_not_keep_the_server_from_ending(serve, dial, hooks, tmp_path):
    hanging = f"""
import pathlib, time
def decide_mail(client, sender):
    pathlib.Path("{tmp_path}/asked").touch()
    time.sleep(120)
"""
    server = await serve(relay(top=hooks(hanging) + 'drain = "300ms"'))
    caller = await dial(server.port)
    await caller.reply()
    await caller.ask(b"EHLO client.example")
    await caller.send(b"MAIL FROM:<a@sender.example>\r\n")
    await server.until((tmp_path / "asked").exists)
    assert await server.stop() == 0


async def test_who_is_told_of_a_message_is_told_before_the_end(serve, send, hooks, tmp_path):
    slow = f"""
import pathlib, time
def notify_received(queue_id, message):
    pathlib.Path("{tmp_path}/begun").touch()
    time.sleep(0.5)
    pathlib.Path("{tmp_path}/told").write_text(queue_id)
"""
    server = await serve(relay(top=hooks(slow)))
    sent = await send(server.port, ANNE)
    await server.until((tmp_path / "begun").exists)
    assert await server.stop() == 0
    assert (tmp_path / "told").read_text() == sent.id
