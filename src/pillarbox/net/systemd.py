"""Talk to the service manager: take the sockets that it has bound, tell it how the server fares.

Both are its documented protocols (sd_listen_fds, sd_notify); without a service manager nothing here does anything. When
what is told is the business of `supervisor`.
"""

from __future__ import annotations

import os
import socket
import time

_FIRST = 3  # the descriptor of the first socket that is passed


def passed_sockets() -> list[socket.socket]:
    """The listening sockets that were passed to this process, each once: they are not handed on to children."""
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    sockets = []
    for descriptor in range(_FIRST, _FIRST + int(count)):
        os.set_inheritable(descriptor, False)  # noqa: FBT003 - so it is called
        sock = socket.socket(fileno=descriptor)
        sock.settimeout(0)
        sockets.append(sock)
    return sockets


def watchdog_s() -> float:
    """How often the service manager wants to hear that this process works, twice as often to be sure; 0 if never."""
    wanted = os.environ.get("WATCHDOG_USEC", "")
    meant = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(wanted) / 2_000_000 if wanted.isdigit() and meant else 0.0


def notify(*states: str) -> None:
    """Tell such as "READY=1". Whether anybody hears it does not matter to the server."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect("\0" + address[1:] if address[0] == "@" else address)
            sock.send("\n".join(states).encode())
        except OSError:
            return


def notify_reloading() -> None:
    """Tell that the configuration is being read anew; `notify("READY=1")` follows."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
