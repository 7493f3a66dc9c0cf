"""The server among other things on a machine: its user, its folder, and the service manager that starts it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from click.testing import CliRunner

from pillarbox.cli.commands import cli

PACKAGING = Path(__file__).parents[2] / "packaging"
KEEPS = '[[route]]\nmatch = "*"\nvia = "hold"\n[domain."example.org"]\ndeliver = "hold"\n'
LISTENS = '[[listen]]\naddress = "127.0.0.1:{}"\n'
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a server as somebody else")
# Becomes the command behind it, with the descriptors named first as the sockets of a service manager.
PASSING = """
import os, sys
count = int(sys.argv[1])
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(count)}
for number in range(count):
    os.set_inheritable(3 + number, True)
os.execvp(sys.argv[2], sys.argv[2:])
"""


def start_in_vain(config: Path) -> tuple[int, str]:
    """The exit status of a server that can't start, and what it says."""
    command = [sys.executable, "-m", "pillarbox", "serve", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.returncode, done.stderr


@pytest.fixture
def open_to_all():
    """A folder that every user of the machine may enter."""
    folder = Path(tempfile.mkdtemp(prefix="pillarbox-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def configured(tmp_path):
    """Write a configuration for a data folder that is there already; its path."""

    def write(text: str = "") -> Path:
        file = tmp_path / "server.toml"
        top = f'hostname = "mx.example.org"\ndata = "{tmp_path / "data"}"\n'
        file.write_text(top + text + LISTENS.format(0) + KEEPS)
        (tmp_path / "data").mkdir(exist_ok=True)
        return file

    return write


# --- user and folder ---------------------------------------------------------------------------------------------------


@AS_ROOT
@pytest.mark.parametrize("workers", [1, 2])
async def test_who_is_started_as_root_goes_on_as_somebody_else(serve, send, open_to_all, free_port, workers):
    port = free_port()
    text = f'user = "nobody"\nworkers = {workers}\n' + LISTENS.format(port) + KEEPS
    server = await serve(text, folder=open_to_all)
    await send(port, "a@example.org")
    nobody = pwd.getpwnam("nobody")
    for pid in [server.process.pid, *server.workers.values()]:
        lines = Path(f"/proc/{pid}/status").read_text()
        assert re.search(r"^Uid:\t(.*)$", lines, re.MULTILINE)[1].split() == [str(nobody.pw_uid)] * 4
        assert re.search(r"^Gid:\t(.*)$", lines, re.MULTILINE)[1].split() == [str(nobody.pw_gid)] * 4
        assert re.search(r"^Groups:\t(.*)$", lines, re.MULTILINE)[1].split() == [str(nobody.pw_gid)]
    files = [server.data, *server.data.rglob("*")]
    assert {file.stat().st_uid for file in files} == {nobody.pw_uid}
    assert not any(file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO) for file in files)


@AS_ROOT
async def test_a_user_who_may_not_read_the_code_is_warned_of(serve, open_to_all, tmp_path, free_port):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    text = 'user = "nobody"\n' + LISTENS.format(free_port()) + KEEPS
    server = await serve(text, folder=open_to_all, prefix=("env", f"PYTHONPATH={closed}"))
    problems = [event["problem"] for event in server.events("alarm")]
    assert any(problem.startswith(f"user nobody may not read {closed}, ") for problem in problems)


@AS_ROOT
def test_a_user_that_is_not_there_is_named(configured):
    assert start_in_vain(configured('user = "nosuchuser"\n')) == (
        78,
        "pillarbox: cannot start: user: this machine has no user 'nosuchuser'; use: useradd --system nosuchuser\n",
    )


@AS_ROOT
def test_a_folder_of_somebody_else_is_refused_with_the_way_out(configured, tmp_path):
    config = configured()
    os.chown(tmp_path / "data", pwd.getpwnam("nobody").pw_uid, -1)
    status, said = start_in_vain(config)
    assert status == 78
    assert f"{tmp_path / 'data'} belongs to nobody, and the server runs as root; use: chown -R root" in said


def test_a_folder_that_others_may_write_to_is_refused(configured, tmp_path):
    config = configured()
    (tmp_path / "data").chmod(0o770)
    status, said = start_in_vain(config)
    assert status == 78
    assert f"others may write to {tmp_path / 'data'}; use: chmod go-w {tmp_path / 'data'}" in said


# --- the service manager -----------------------------------------------------------------------------------------------


@pytest.fixture
def passing():
    """Bind sockets as descriptors from 3 on, for the server to inherit: the command in front of it, and their ports."""
    kept = []

    def bind(count: int) -> tuple[list[str], list[int]]:
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
        kept.extend(sockets)
        moves = " ".join(f"{3 + number}<&{sock.fileno()}" for number, sock in enumerate(sockets))
        for sock in sockets:
            sock.set_inheritable(True)
        script = f'exec "$@" {moves}'
        shell = ["bash", "-c", script, "bash", sys.executable, "-c", PASSING, str(count)]
        return shell, [sock.getsockname()[1] for sock in sockets]

    yield bind
    for sock in kept:
        sock.close()


@pytest.fixture
def inheriting(monkeypatch):
    """Let child processes of this test inherit what is marked so."""
    plain = subprocess.Popen.__init__

    def start(self, *arguments, **named):
        plain(self, *arguments, **named | {"close_fds": False})

    monkeypatch.setattr(subprocess.Popen, "__init__", start)


@pytest.mark.parametrize("workers", [1, 2])
async def test_sockets_that_are_passed_are_served(serve, send, passing, inheriting, workers):
    prefix, ports = passing(2)
    text = f"workers = {workers}\n" + "".join(LISTENS.format(port) for port in reversed(ports)) + KEEPS
    server = await serve(text, prefix=prefix)
    for port in ports:
        await send(port, "a@example.org")
    assert len(server.queue()) == 2


def test_a_socket_that_is_not_configured_is_named(configured, passing, inheriting):
    prefix, (port,) = passing(1)
    command = [*prefix, sys.executable, "-m", "pillarbox", "serve", "--config", str(configured())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 78
    assert f"a socket for 127.0.0.1:{port} was passed, and no [[listen]] has that address" in done.stderr


class Manager:
    """The end of the service manager: what it was told so far."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(0)
        self.heard: list[str] = []

    async def hears(self, state: str) -> None:
        """Wait until it is told `state`; what it was told before is forgotten."""
        async with asyncio.timeout(30):
            while state not in self.heard:
                try:
                    self.heard += self._socket.recv(4096).decode().split("\n")
                except BlockingIOError:
                    await asyncio.sleep(0.01)
        del self.heard[: self.heard.index(state) + 1]

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path, monkeypatch):
    found = Manager(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "100000")
    yield found
    found.close()


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_service_manager_is_told_how_the_server_fares(serve, manager, free_port, workers):
    server = await serve(f"workers = {workers}\n" + LISTENS.format(free_port()) + KEEPS)
    await manager.hears("READY=1")
    await manager.hears("WATCHDOG=1")
    await manager.hears("WATCHDOG=1")
    server.signal(signal.SIGHUP)
    await manager.hears("RELOADING=1")
    assert any(re.fullmatch(r"MONOTONIC_USEC=\d+", state) for state in manager.heard)
    await manager.hears("READY=1")
    server.signal(signal.SIGTERM)
    await manager.hears("STOPPING=1")
    assert await server.ended() == 0


WITH_SYSTEMD = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


@WITH_SYSTEMD
@pytest.mark.parametrize("unit", ["pillarbox.service", "pillarbox.socket"])
def test_the_units_are_understood_whole(tmp_path, unit):
    """What systemd does not know it ignores, and then the service is another one."""
    for name in ("pillarbox.service", "pillarbox.socket"):
        text = (PACKAGING / name).read_text().replace("/usr/bin/pillarbox", "/bin/true")
        (tmp_path / name).write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert str(tmp_path) not in done.stderr
    assert done.returncode == 0, done.stderr


@WITH_SYSTEMD
def test_the_unit_leaves_little_open():
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", PACKAGING / "pillarbox.service"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert float(re.search(r"Overall exposure level.*: ([\d.]+)", done.stdout)[1]) <= 1.7


# --- secrets -----------------------------------------------------------------------------------------------------------

SECRETS = """
[log]
level = "debug"
[[listen]]
address = "127.0.0.1:0"
role = "submission"
login_in_clear = true
[account."alice@example.org"]
password = "{hash}"
[[route]]
match = "*"
via = "smtp://office@127.0.0.1:9?tls=none"
[relay.passwords]
"office@127.0.0.1" = "open sesame"
[domain."example.org"]
deliver = "webhook:hook"
[webhook.hook]
url = "http://127.0.0.1:9/in"
secret = "shared secret"
allow_private = true
headers = {{ Authorization = "Bearer 5up3r" }}
"""


async def test_no_secret_is_in_the_log_nor_in_what_commands_say(serve, dial, tmp_path):
    """Whatever is configured, typed at the right place or at a wrong one, and however much is logged."""
    hashed = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("wonderland")
    server = await serve(SECRETS.format(hash=hashed))
    places = ["--data", str(server.data)]
    for arguments in (
        ("user", "add", "bob@example.org"),
        ("user", "app-password", "add", "bob@example.org", "phone"),
    ):
        done = CliRunner().invoke(
            cli,
            [*arguments, *places, *(["--password-file", "-"] if arguments[1] == "add" else [])],
            input="builder\n",
        )
        assert done.exit_code == 0, done.output
    app_password = done.stdout.strip()
    right, wrong = (
        base64.b64encode(b"\0alice@example.org\0" + word) for word in (b"wonderland", b"letmein-now")
    )
    for login in (wrong, right):
        caller = await dial(server.port)
        await caller.reply()
        await caller.ask(b"EHLO client.example")
        reply = await caller.ask(b"AUTH PLAIN " + login)
    assert reply.startswith(b"235")
    assert (await caller.ask(b"bGV0bWVpbi1ub3c=")).startswith(b"500")  # a program that has lost its place
    for line in (b"MAIL FROM:<alice@example.org>", b"RCPT TO:<x@far.example>", b"RCPT TO:<y@example.org>"):
        assert (await caller.ask(line)).startswith(b"250")
    assert (await caller.ask(b"DATA")).startswith(b"354")
    queue_id = (await caller.ask(b"From: alice@example.org\r\n\r\nx\r\n.")).split()[-1].decode()
    await server.until(lambda: len(server.events("delivery.deferred", message=queue_id)) == 2)
    said = [
        server.log_text,
        *(json.dumps(server.command(*words)) for words in (("queue", "list"), ("queue", "show", queue_id))),
        *(json.dumps(server.command(*words)) for words in (("trace", queue_id), ("user", "list"))),
        json.dumps(server.command("user", "app-password", "list", "bob@example.org")),
        CliRunner().invoke(cli, ["check-config", "--json", str(server.config)]).output,
    ]
    secrets = [
        *("wonderland", "letmein-now", "builder", app_password, hashed, "$argon2", "open sesame"),
        *("shared secret", "5up3r", right.decode(), wrong.decode(), "bGV0bWVpbi1ub3c="),
    ]
    assert all(text for text in said)
    assert [
        (secret, number) for number, text in enumerate(said) for secret in secrets if secret in text
    ] == []
