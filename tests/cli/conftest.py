"""The commands as an operator runs them: real processes, and one sandbox server for those that need one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMAND = [sys.executable, "-m", "pillarbox"]


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run(*arguments: str | Path, input: str | bytes = b"", **environment: str) -> Ran:  # noqa: A002
    octets = input.encode() if isinstance(input, str) else input
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PILLARBOX", "XDG_"))}
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        input=octets,
        capture_output=True,
        timeout=30,
        check=False,
        env=kept | environment,
    )
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A running sandbox server."""

    process: subprocess.Popen[str]
    address: str
    data: Path
    welcome: str

    run: ClassVar = staticmethod(run)

    def queue(self, *arguments: str) -> Ran:
        return run("queue", *arguments, "--data", self.data)

    def messages(self, *arguments: str) -> list[dict[str, Any]]:
        return list(self.queue("list", *arguments, "--json").json)


@pytest.fixture(scope="session")
def pillarbox():
    """Run a command: `pillarbox("queue", "list", input="")`; further keywords are environment variables."""
    return run


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    data = tmp_path_factory.mktemp("sandbox") / "data"
    arguments = ["serve", "--data", str(data), "--smtp", "127.0.0.1:0", "--console", "127.0.0.1:0"]
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    welcome = ""
    for line in process.stdout:
        welcome += line
        if line.startswith("End with"):
            break
    found = re.search(r"SMTP +(127\.0\.0\.1:\d+)", welcome)
    assert found is not None, welcome
    yield Sandbox(process, found[1], data, welcome)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    process.stdout.close()
