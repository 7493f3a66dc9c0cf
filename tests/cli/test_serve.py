"""`pillarbox serve`: what the sandbox says and keeps, and what a server says that can't start."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import urllib.request
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from pillarbox.cli.serve import _welcome
from pillarbox.config import sandbox as sandbox_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LISTENER = '[[listen]]\naddress = "127.0.0.1:0"\n'


@pytest.fixture
def taken() -> Iterator[str]:
    """An address on which another program listens."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield f"127.0.0.1:{sock.getsockname()[1]}"


def write(folder: Path, text: str) -> Path:
    file = folder / "p.toml"
    file.write_text(f'hostname = "mx.example.org"\ndata = "{folder}/data"\n{text}')
    return file


# --- the sandbox


def test_the_sandbox_shows_its_metrics_where_it_says(sandbox) -> None:
    address = re.search(r"metrics +(http://127\.0\.0\.1:[1-9]\d*/metrics)$", sandbox.welcome, re.MULTILINE)
    with urllib.request.urlopen(address[1], timeout=20) as answer:
        assert b"pillarbox_" in answer.read()


def test_the_sandbox_takes_everything_and_nothing_leaves_it(sandbox) -> None:
    """Not even when it is told to send it: it has no other way than to hold it."""
    ways = ["ann@example.org", "bob@[192.0.2.1]", "postmaster@localhost", "x@no-such-domain.invalid"]
    for recipient in ways:
        sent = sandbox.run("send", "--server", sandbox.address, "--to", recipient, "--from", "<>")
        assert sent.status == 0, sent.out
    assert sandbox.queue("release", "--all").status == 0
    assert sandbox.queue("retry", "--all").status in (0, 1)  # it is due already
    held = sandbox.messages("--state", "held")
    while len(held) < len(ways):
        held = sandbox.messages("--state", "held")
    assert {message["recipients"][0]["destination"] for message in held} == {"hold:"}
    assert sandbox.messages("--state", "queued") == []


def test_the_sandbox_ends_with_its_terminal(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "pillarbox",
            "serve",
            "--data",
            tmp_path,
            "--smtp",
            "127.0.0.1:0",
            "--console",
            "",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        said = "".join(iter(process.stdout.readline, "End with Ctrl-C.\n"))
        assert "metrics" not in said
        process.send_signal(signal.SIGHUP)
        assert process.wait(20) == 0


def test_the_sandbox_says_where_it_could_not_listen_and_what_helps(pillarbox, tmp_path: Path, taken) -> None:
    ran = pillarbox("serve", "--data", tmp_path, "--smtp", taken, "--console", "127.0.0.1:0")
    assert ran.status == 75
    assert f"pillarbox: cannot start: {taken}: Address already in use; " in ran.err
    assert "--smtp" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("option", ["--smtp", "--console"])
@pytest.mark.parametrize("place", ["127.0.0.1:99999", "1025"])
def test_a_place_that_is_none_is_named_with_its_option(pillarbox, option: str, place: str) -> None:
    ran = pillarbox("serve", option, place)
    said = " ".join(ran.err.split())
    assert ran.status == 64
    assert f"Invalid value for '{option}': '{place}': write HOST:PORT" in said
    assert "a port from 1 to 65535" in said


def test_a_sandbox_beside_a_configuration_says_where_its_mail_is(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("PILLARBOX_CONFIG", "")
    data = tmp_path / "pillarbox/sandbox"
    config = sandbox_settings(data=str(data), smtp="127.0.0.1:0", console="")
    service = SimpleNamespace(config=config, addresses=[("127.0.0.1", 1)], console_address=None)
    monkeypatch.setattr("pillarbox.cli.places.CONFIG_FILE", str(tmp_path / "p.toml"))
    _welcome(service)
    assert "--data" not in capsys.readouterr().out
    (tmp_path / "p.toml").touch()
    _welcome(service)
    assert f"queue list --data {data}\n" in capsys.readouterr().out


# --- what can't start


def test_every_mistake_is_named_with_file_line_key_and_what_to_write(pillarbox, tmp_path: Path) -> None:
    file = write(tmp_path, 'workrs = 2\n[limits]\nmessage = "big"\n[[listen]]\naddress = "25"\n')
    ran = pillarbox("serve", "--config", file)
    assert ran.status == 78
    assert ran.out == ""
    first, second, *_ = ran.err.splitlines()
    assert first == f'{file}:3: workrs: there is no such setting (did you mean "workers"?)'
    assert second.startswith(f"{file}:5: limits.message: not a size")


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        ('hooks = ["no_such_hooks"]\n' + LISTENER, 78, "no_such_hooks cannot be imported"),
        ('[[listen]]\naddress = "{taken}"\n', 75, "{taken}"),
        ("[[listen]\n", 78, "not TOML"),
    ],
    ids=["hooks", "address", "syntax"],
)
def test_a_server_that_cannot_start_says_why_and_ends(
    pillarbox, tmp_path: Path, taken, text: str, status: int, said: str, workers: int
) -> None:
    file = write(tmp_path, f"workers = {workers}\n" + text.replace("{taken}", taken))
    ran = pillarbox("serve", "--config", file)
    assert ran.status == status, ran.err
    assert said.replace("{taken}", taken) in ran.err.splitlines()[-1]
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("workers", [1, 2])
def test_a_store_that_cannot_be_used_may_work_later(pillarbox, tmp_path: Path, workers: int) -> None:
    file = write(tmp_path, f"workers = {workers}\n" + LISTENER)
    (tmp_path / "data").write_text("no folder")
    ran = pillarbox("serve", "--config", file)
    assert ran.status == 75
    assert ran.err.splitlines()[-1].startswith(f"pillarbox: cannot start: {tmp_path}/data")
    assert "Errno" not in ran.err


@pytest.mark.parametrize("wrong", ["key", "folder", "srs"])
def test_a_server_starts_with_no_key_that_others_may_touch(pillarbox, tmp_path: Path, wrong: str) -> None:
    file = write(tmp_path, f"[srs]\nrewrite = true\n{LISTENER}")
    (tmp_path / "data").mkdir(mode=0o700)
    assert pillarbox("dkim", "new", "example.org", "--kind", "ed25519", "--config", file).status == 0
    assert pillarbox("srs", "rotate", "--config", file).status == 0
    (key,) = tmp_path.glob("data/dkim/*/*.key")
    touched, mode, words = {
        "key": (key, 0o640, "others may read this key; chmod 600 it"),
        "folder": (key.parent, 0o770, "others may write into it, and so change its keys; chmod 700 it"),
        "srs": (tmp_path / "data/srs.keys", 0o604, "others may read this key; chmod 600 it"),
    }[wrong]
    touched.chmod(mode)
    ran = pillarbox("serve", "--config", file)
    assert ran.status == 78
    assert f"{touched}: {words}" in ran.err.splitlines()[-1]


def test_a_configuration_that_is_not_there_cannot_be_read(pillarbox, tmp_path: Path) -> None:
    ran = pillarbox("serve", "--config", tmp_path / "none.toml")
    assert ran.status == 66
    assert f"{tmp_path}/none.toml" in ran.err


def test_what_is_for_the_sandbox_is_refused_beside_a_configuration(pillarbox, tmp_path: Path) -> None:
    ran = pillarbox("serve", "--config", write(tmp_path, LISTENER), "--smtp", "127.0.0.1:0")
    assert ran.status == 64
    assert "[[listen]]" in ran.err
