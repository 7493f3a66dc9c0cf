"""Run the server in the foreground: one worker in this process, or several below it, until a signal ends it.

What a worker consists of is the business of `service`.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal
import ssl
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
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
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class _Job:
    """What one worker is to do: `reload` reads the configuration anew, `ready` is told once it listens."""

    config: Config
    reload: Callable[[], Config] | None
    ready: Callable[[Service], None] | None
    sockets: list[socket.socket] = field(default_factory=list)
    console: socket.socket | None = None
    number: int | None = None  # None if it is the only one


def run(
    config: Config,
    reload: Callable[[], Config] | None = None,
    ready: Callable[[Service], None] | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT; SIGHUP takes the configuration that `reload` gives. Returns the exit status.

    `ready` is called once the first worker listens. Raises OSError if an address can't be bound.
    """
    # Each connection is an open file; the soft limit is low for the sake of programs that use select.
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    observe.configure(config.log)
    if config.workers == 1:
        return _work(_Job(config, reload, ready))
    return _Supervisor(_Job(config, reload, ready)).run()


def _work(job: _Job) -> int:
    """One worker, on this process's main thread."""
    factory = None
    if job.config.event_loop == "uvloop":
        import uvloop  # noqa: PLC0415 - only where it is wanted

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(_serve(job))


async def _serve(job: _Job) -> int:
    service = Service(job.config)
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[str] = loop.create_future()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop_for, stopped, number)
    loop.add_signal_handler(signal.SIGHUP, _reload, service, job)
    await service.start(job.sockets, job.console)
    observe.SERVER_STARTED.note(listeners=", ".join(f"{host}:{port}" for host, port in service.addresses))
    if job.ready is not None:
        job.ready(service)
    reason = await stopped
    observe.SERVER_STOPPING.note(reason=reason)
    await service.stop()
    return 0


def _stop_for(stopped: asyncio.Future[str], number: signal.Signals) -> None:
    if not stopped.done():  # a second signal changes nothing: draining has its own limit
        stopped.set_result(number.name)


def _reload(service: Service, job: _Job) -> None:
    """Take the new configuration if it is sound; otherwise say why and keep the old one."""
    if job.reload is None:
        return
    try:
        config = job.reload()
        service.reload(config)
    except (ConfigError, OSError, ssl.SSLError, ValueError, ImportError) as error:
        observe.CONFIG_REFUSED.note(problem=str(error))
    else:
        observe.configure(config.log, worker=job.number)
        observe.CONFIG_RELOADED.note()


class _Supervisor:
    """The parent of several equal workers; it handles no mail itself."""

    def __init__(self, job: _Job) -> None:
        """Bind all addresses, once for each worker. Raises OSError.

        The parent keeps the sockets: while a dead worker is replaced its clients wait, they are not refused.
        """
        config = job.config
        self._jobs = [
            _Job(
                config,
                job.reload,
                job.ready if number == 0 else None,
                [bind(listener.address, shared=True) for listener in config.listen],
                bind(config.console.address, shared=True) if config.console.address else None,
                number,
            )
            for number in range(config.workers)
        ]
        self._workers: dict[int, int] = {}  # process id -> number of the worker
        self._stopping = False

    def run(self) -> int:
        """Start the workers, replace those that die, and end when all have ended after a signal."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, lambda number, _frame: self._pass_on(number))
        with tempfile.TemporaryDirectory(prefix="pillarbox-metrics-", ignore_cleanup_errors=True) as metrics:
            if self._jobs[0].config.console.address:
                observe.share_metrics(Path(metrics))
            for worker in range(len(self._jobs)):
                self._spawn(worker)
            while self._workers:
                self._replace(*os.wait())
        return 0

    def _replace(self, pid: int, status: int) -> None:
        """A worker has ended: unless that was asked for, start another in its place."""
        number = self._workers.pop(pid, None)
        if number is None or self._stopping:
            return
        observe.forget_worker(pid)
        observe.WORKER_LOST.note(worker=number, reason=_describe(os.waitstatus_to_exitcode(status)))
        time.sleep(_SPAWN_PAUSE_S)
        if not self._stopping:
            self._spawn(number)

    def _spawn(self, number: int) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            self._workers[pid] = number
            observe.WORKER_STARTED.note(worker=number, pid=pid)
            return
        status = 1
        try:
            for handled in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(handled, signal.SIG_DFL)
            _die_with(parent)
            job = self._jobs[number]
            observe.configure(job.config.log, worker=number)
            status = _work(job)
        except BaseException as error:  # noqa: BLE001 - a forked child must not return into its parent's code
            observe.report_incident(error, worker=number)
        finally:
            sys.stdout.flush()
            os._exit(status)

    def _stop(self, number: int, _frame: object) -> None:
        self._stopping = True
        self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        for pid in list(self._workers):
            os.kill(pid, number)


def _describe(exit_code: int) -> str:
    """How a process ended, in words."""
    return f"killed by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"exit status {exit_code}"


def _die_with(parent: int) -> None:
    """End this worker when its parent is killed, so that no mail is handled behind the operator's back."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the call above
        os.kill(os.getpid(), signal.SIGTERM)
