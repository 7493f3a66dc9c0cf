"""Run the server in the foreground: one worker in this process, or several below it, until a signal ends it.

What a worker consists of is the business of `service`.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
import time
from typing import TYPE_CHECKING

from pillarbox import observe
from pillarbox.config import ConfigError
from pillarbox.net.listener import bind
from pillarbox.service import Service

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from pillarbox.config import Config

_SPAWN_PAUSE_S = 1.0  # a worker that dies at once is not started again faster than this


def run(
    config: Config, reload: Callable[[], Config] | None = None, ready: Callable[[Service], None] | None = None
) -> int:
    """Serve until SIGTERM or SIGINT; SIGHUP takes the configuration that `reload` gives. Returns the exit status.

    `ready` is called once the first worker listens. Raises OSError if an address can't be bound.
    """
    _raise_file_limit()
    observe.configure(config.log)
    if config.workers == 1:
        return _run_worker(config, reload, [], ready)
    return _Supervisor(config, reload, ready).run()


def _raise_file_limit() -> None:
    """Each connection is an open file; the soft limit is for programs that use select."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _run_worker(
    config: Config,
    reload: Callable[[], Config] | None,
    sockets: list[socket.socket],
    ready: Callable[[Service], None] | None,
) -> int:
    """One worker, on this process's main thread."""
    if config.event_loop == "uvloop":
        import uvloop  # noqa: PLC0415 - only where it is wanted

        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    else:
        runner = asyncio.Runner()
    with runner:
        return runner.run(_serve(config, reload, sockets, ready))


async def _serve(
    config: Config,
    reload: Callable[[], Config] | None,
    sockets: list[socket.socket],
    ready: Callable[[Service], None] | None,
) -> int:
    service = Service(config)
    await service.start(sockets)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    loop.add_signal_handler(signal.SIGHUP, _reload, service, reload)
    observe.SERVER_STARTED.note(addresses=[f"{host}:{port}" for host, port in service.addresses])
    if ready is not None:
        ready(service)
    await stopped.wait()
    observe.SERVER_STOPPING.note()
    await service.stop()
    return 0


def _reload(service: Service, reload: Callable[[], Config] | None) -> None:
    """Take the new configuration if it is sound; otherwise say why and keep the old one."""
    if reload is None:
        return
    try:
        service.reload(reload())
    except (ConfigError, OSError, ValueError, ImportError) as error:
        observe.CONFIG_REFUSED.note(error=str(error))
    else:
        observe.CONFIG_RELOADED.note()


class _Supervisor:
    """The parent of several equal workers; it handles no mail itself."""

    def __init__(
        self, config: Config, reload: Callable[[], Config] | None, ready: Callable[[Service], None] | None
    ) -> None:
        self._config = config
        self._reload = reload
        self._ready = ready
        # The parent keeps each worker's sockets: while a dead worker is replaced its clients wait, they are not refused.
        self._sockets = [
            [bind(listener.address, shared=True) for listener in config.listen] for _ in range(config.workers)
        ]
        self._workers: dict[int, int] = {}  # process id -> number of the worker
        self._stopping = False

    def run(self) -> int:
        """Start the workers, replace those that die, and end when all have ended after a signal."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, lambda number, _frame: self._pass_on(number))
        for worker in range(self._config.workers):
            self._spawn(worker)
        while self._workers:
            pid, status = os.wait()
            worker = self._workers.pop(pid, None)
            if worker is None or self._stopping:
                continue
            observe.WORKER_LOST.note(worker=worker, status=os.waitstatus_to_exitcode(status))
            time.sleep(_SPAWN_PAUSE_S)
            self._spawn(worker)
        return 0

    def _spawn(self, worker: int) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            self._workers[pid] = worker
            observe.WORKER_STARTED.note(worker=worker, pid=pid)
            return
        status = 1
        try:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            _die_with(parent)
            first = self._ready if worker == 0 else None
            status = _run_worker(self._config, self._reload, self._sockets[worker], first)
        finally:
            sys.stdout.flush()
            os._exit(status)

    def _stop(self, number: int, _frame: object) -> None:
        self._stopping = True
        self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        for pid in list(self._workers):
            os.kill(pid, number)


def _die_with(parent: int) -> None:
    """End this worker when its parent is killed, so that no mail is handled behind the operator's back."""
    import ctypes  # noqa: PLC0415 - for this one call, in workers alone

    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)
