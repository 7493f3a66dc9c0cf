"""Several workers under one parent: they share the work, replace each other, and end together."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from pillarbox.testing import Hang, ScriptedPeer

HERE = "alice@ours.example"
THERE = "anne@there.example"
LARGE = b"Subject: large\r\n\r\n" + (b"x" * 70 + b"\r\n") * 2000  # has a file of its own


def config(port: int, via: str = "hold", *, domain: str = "ours.example", top: str = "") -> str:
    """Two workers that keep the mail of a domain and pass on everything else."""
    return f"""
workers = 2
{top}
[[listen]]
address = "127.0.0.1:{port}"
[domain."{domain}"]
deliver = "hold"
users = ["alice"]
[[route]]
match = "*"
via = "{via}"
[log]
levels = {{ session = "debug" }}
"""


@pytest.fixture
def reach(dial):
    """Open sessions until every worker has one: `sessions = await reach(server)`, by the number of the worker."""

    async def connect(server):
        sessions = {}
        for _ in range(100):
            before = len(server.events("session.opened"))
            caller = await dial(server.port)
            await caller.reply()
            opened = await server.until(lambda: server.events("session.opened")[before:])  # noqa: B023 - waits here
            sessions[opened[0]["worker"]] = caller
            if len(sessions) == 2:
                return sessions
        raise AssertionError(f"a hundred connections all went to {list(sessions)}")

    return connect


def ended(pid: int) -> bool:
    """Whether a process is gone, or waits only for its parent to take note."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


async def replaced(server, number: int, pid: int) -> int:
    """Wait until another process does the work of a worker; its id."""
    found = await server.until(lambda: (new := server.workers[number]) != pid and new)
    starts = len(server.events("worker.started", worker=number))
    await server.until(lambda: len(server.events("server.started", worker=number)) == starts)
    return found


# Takes over the children of children that end, as the first process of a container does, and becomes the server.
FIRST = "import ctypes, os, sys; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"


async def takes(caller, address: str) -> bool:
    await caller.ask(b"EHLO client.example")
    assert (await caller.ask(b"MAIL FROM:<a@sender.example>")).startswith(b"250")
    return (await caller.ask(b"RCPT TO:<%s>" % address.encode())).startswith(b"250")


# --- the work


async def test_all_workers_take_mail(serve, free_port, reach):
    server = await serve(config(free_port()))
    for number, caller in (await reach(server)).items():
        assert await takes(caller, HERE)
        assert (await caller.ask(b"DATA")).startswith(b"354")
        answer = await caller.ask(b".")
        assert answer.startswith(b"250")
        await server.logged("message.received", worker=number, message=answer.split()[-1].decode())
    assert len(server.queue()) == 2
    assert await server.stop() == 0


@pytest.mark.parametrize("workers", [1, 2])
async def test_another_server_on_the_same_address_does_not_start(serve, free_port, tmp_path, workers):
    port = free_port()
    await serve(config(port))
    other = tmp_path / "other.toml"
    settings = config(port).replace("workers = 2", f"workers = {workers}")
    other.write_text(f'data = "{tmp_path}/other"\n{settings}')
    command = [sys.executable, "-m", "pillarbox", "serve", "--config", str(other)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 75
    assert f"127.0.0.1:{port}: Address already in use" in done.stderr


@pytest.mark.parametrize("letter", [b"Subject: small\r\n\r\n", LARGE], ids=["small", "large"])
async def test_the_mail_of_a_killed_worker_is_delivered_by_another(serve, free_port, send, letter):
    async with ScriptedPeer({"RCPT": [Hang(), "250 2.1.5 go on"]}) as peer:
        server = await serve(config(free_port(), f"smtp://127.0.0.1:{peer.port}"))
        sent = await send(server.port, THERE, message=letter)
        await peer.until(lambda: any(command.startswith("RCPT") for command in peer.commands))
        number = (await server.logged("message.received", message=sent.id))["worker"]
        os.kill(server.workers[number], signal.SIGKILL)
        lost = await server.logged("worker.lost", worker=number)
        assert lost["reason"] == "killed by SIGKILL"
        await server.reached("delivered", sent.id)
        assert len(peer.messages) == 1
        assert peer.messages[0].endswith(letter)


async def test_nothing_that_was_acknowledged_is_lost_when_workers_are_killed_in_turn(serve, free_port, send):
    server = await serve(config(free_port(), "discard"))
    kept: list[str] = []
    enough = asyncio.Event()

    async def load() -> None:
        while not enough.is_set():
            with contextlib.suppress(OSError, AssertionError):  # a session whose worker was killed
                kept.append((await send(server.port, THERE, HERE)).id)

    clients = [asyncio.create_task(load()) for _ in range(4)]
    for number in (0, 1):
        await server.until(lambda: len(kept) >= 10 * (number + 1))  # noqa: B023 - waits here
        pid = server.workers[number]
        os.kill(pid, signal.SIGKILL)
        await replaced(server, number, pid)
    enough.set()
    await asyncio.gather(*clients)
    for queue_id in kept:
        await server.reached("delivered", queue_id, 0)
        await server.reached("held", queue_id, 1)
    assert await server.stop() == 0


async def test_clients_of_a_killed_worker_wait_for_its_successor_and_are_not_refused(
    serve, free_port, dial, reach
):
    server = await serve(config(free_port()))
    pids = list(server.workers.values())
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    await server.until(lambda: len(server.events("worker.lost")) == 2)
    caller = await dial(server.port)
    assert (await caller.reply()).startswith(b"220")
    assert set(await reach(server)) == {0, 1}
    assert not set(pids) & set(server.workers.values())


async def test_counters_go_on_when_a_worker_is_replaced(serve, free_port, send):
    console = free_port()
    server = await serve(config(free_port()) + f'[console]\naddress = "127.0.0.1:{console}"\n')

    async def received() -> int:
        def read() -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{console}/metrics", timeout=20) as answer:
                return answer.read().decode()

        text = await asyncio.to_thread(read)
        return sum(
            int(float(n))
            for n in re.findall(r"^pillarbox_message_received_total\{.*\} (\S+)$", text, re.MULTILINE)
        )

    workers = set()
    while len(workers) < 2:
        sent = await send(server.port, HERE)
        workers.add((await server.logged("message.received", message=sent.id))["worker"])
    count = len(server.queue())
    assert await received() == count
    for number in (0, 1):
        pid = server.workers[number]
        os.kill(pid, signal.SIGKILL)
        await replaced(server, number, pid)
        assert await received() == count
    await send(server.port, HERE)
    assert await received() == count + 1


# --- signals


async def test_sigterm_drains_all_workers_and_nobody_gets_in_any_more(serve, free_port, dial, reach):
    server = await serve(config(free_port(), top='drain = "20s"'))
    sessions = await reach(server)
    for caller in sessions.values():
        assert await takes(caller, HERE)
    assert (await sessions[0].ask(b"DATA")).startswith(b"354")
    server.signal(signal.SIGTERM)
    await server.until(lambda: len(server.events("server.stopping")) == 2)
    for _ in range(10):  # whichever worker it would have been
        with pytest.raises(ConnectionError):
            await dial(server.port)
    assert (await sessions[1].ask(b"DATA")).startswith(b"421 4.3.2 ")
    await server.until(lambda: ended(server.workers[1]))
    with pytest.raises(ConnectionError):
        await dial(server.port)
    assert (await sessions[0].ask(b".")).startswith(b"250")
    assert await server.ended() == 0
    assert not server.events("worker.lost")
    assert len(server.queue()) == 1


async def test_sighup_reaches_all_workers_and_those_that_come_after_it(serve, free_port, reach):
    port = free_port()
    server = await serve(config(port))
    before = await reach(server)
    server.configure(config(port, domain="new.example"))
    server.signal(signal.SIGHUP)
    await server.until(lambda: len(server.events("config.reloaded")) == 2)
    assert {event["worker"] for event in server.events("config.reloaded")} == {0, 1}
    for caller in (*before.values(), *(await reach(server)).values()):
        assert await takes(caller, "alice@new.example")
        assert not (await caller.ask(b"RCPT TO:<bob@new.example>")).startswith(b"250")
    pid = server.workers[0]
    os.kill(pid, signal.SIGKILL)
    await replaced(server, 0, pid)
    for caller in (await reach(server)).values():
        assert not await takes(caller, "bob@new.example")


@pytest.mark.parametrize(
    ("top", "problem"),
    [("wrokers = 3", 'did you mean "workers"?'), ('hooks = ["no_such_hooks"]', "no_such_hooks")],
    ids=["file", "hooks"],
)
async def test_a_broken_configuration_is_refused_once_and_never_used(serve, free_port, reach, top, problem):
    """Nor is one that nobody asked to read: a new worker takes up the configuration of the others."""
    port = free_port()
    server = await serve(config(port))
    server.configure(config(port, domain="new.example", top=top))
    server.signal(signal.SIGHUP)
    refused = await server.logged("config.refused")
    assert problem in refused["problem"]
    server.configure(config(port, domain="other.example"))
    pid = server.workers[1]
    os.kill(pid, signal.SIGKILL)
    await replaced(server, 1, pid)
    for caller in (await reach(server)).values():
        assert not await takes(caller, "bob@ours.example")
        assert (await caller.ask(b"RCPT TO:<alice@ours.example>")).startswith(b"250")
    assert len(server.events("config.refused")) == 1
    assert not server.events("config.reloaded")


async def test_a_worker_that_is_just_starting_survives_sighup_and_heeds_sigterm(serve, free_port):
    server = await serve(config(free_port()))
    pid = server.workers[0]
    os.kill(pid, signal.SIGKILL)
    await server.until(lambda: server.workers[0] != pid)
    os.kill(server.workers[0], signal.SIGHUP)
    assert await server.stop() == 0
    assert len(server.events("worker.lost")) == 1
    assert {event["worker"] for event in server.events("server.stopping")} == {0, 1}


async def test_no_worker_outlives_its_parent_and_the_next_server_can_start_at_once(serve, free_port, send):
    port = free_port()
    server = await serve(config(port))
    sent = await send(server.port, HERE)
    workers = list(server.workers.values())
    server.process.kill()
    await server.ended()
    await server.start()
    assert not set(workers) & set(server.workers.values())
    await server.until(lambda: all(map(ended, workers)))
    for _ in range(10):
        await send(server.port, HERE)
    assert server.recipient(sent.id)["state"] == "held"
    assert await server.stop() == 0


# --- workers that can't start


async def test_a_worker_that_cannot_be_replaced_now_is_tried_again(
    serve, free_port, reach, tmp_path, monkeypatch
):
    (tmp_path / "fickle_hooks.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv(
        "PYTHONDONTWRITEBYTECODE", "1"
    )  # what was compiled in the same second would be taken for new
    server = await serve(config(free_port(), top='hooks = ["fickle_hooks"]'))
    (tmp_path / "fickle_hooks.py").write_text("raise RuntimeError('not today')")
    pid = server.workers[0]
    os.kill(pid, signal.SIGKILL)
    lost = await server.until(lambda: server.events("worker.lost")[1:])
    assert lost[0]["reason"] == "hooks: fickle_hooks cannot be imported: RuntimeError: not today"
    assert server.running
    (tmp_path / "fickle_hooks.py").write_text("")
    assert set(await reach(server)) == {0, 1}


async def test_a_parent_that_is_the_first_process_looks_after_strangers_too(serve, free_port):
    server = await serve(config(free_port()), prefix=(sys.executable, "-c", FIRST))
    before = server.workers[0]
    os.kill(before, signal.SIGKILL)  # its writer, which ends too, is the parent's child then
    await replaced(server, 0, before)
    again = server.workers[1]
    os.kill(again, signal.SIGKILL)
    await replaced(server, 1, again)
