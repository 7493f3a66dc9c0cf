"""Run the server in the foreground: one worker in this process, or several below it, until a signal ends it.

What a worker consists of is the business of `service`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import apsw
import msgspec
from msgspec.structs import replace

from pillarbox import observe, privileges
from pillarbox.config import ConfigError
from pillarbox.net import systemd
from pillarbox.net.handshakes import new_contexts
from pillarbox.net.listener import bind_for, claim
from pillarbox.policies import try_policy
from pillarbox.queue import workplace
from pillarbox.queue.schema import StoreError
from pillarbox.queue.spool import SpoolError
from pillarbox.service import Service, take_over

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Iterator
    from typing import NoReturn, TypeAlias

    from pillarbox.config import Config, Problem
    from pillarbox.net.tls import ListenerContext
    from pillarbox.queue.workplace import InProcess

    Warn: TypeAlias = Callable[[Config], list[Problem]]

_SPAWN_PAUSE_S = 1.0  # a worker that dies at once is not started again faster than this
_PR_SET_PDEATHSIG = 1
_MAX_PROBLEM_OCTETS = 4000  # of the reason why a worker can't start; a pipe takes it whole
_STOPS = (signal.SIGTERM, signal.SIGINT)
_SIGNALS = (*_STOPS, signal.SIGHUP, signal.SIGCHLD)
_UNUSABLE = (ConfigError, ValueError, ImportError)
_NOT_NOW = (OSError, StoreError, SpoolError, apsw.Error)


class StartError(Exception):
    """The server can't start. `lasting` tells that only another configuration helps."""

    def __init__(self, problem: str, *, lasting: bool) -> None:
        """Say what is wrong."""
        super().__init__(problem)
        self.lasting = lasting


class _Job(msgspec.Struct, frozen=True):
    """What one worker is to do: `reload` reads the configuration anew, `ready` is told once it listens.

    `warn` finds what is unwise in a configuration.
    """

    config: Config
    warn: Warn
    reload: Callable[[], Config] | None
    ready: Callable[[Service], None] | None
    sockets: list[socket.socket] = msgspec.field(default_factory=list)
    # Of the listeners; all workers share them.
    tls: list[ListenerContext | None] = msgspec.field(default_factory=list)
    console: socket.socket | None = None
    answers: socket.socket | None = None  # where an ACME authority asks
    number: int | None = None  # None if it is the only one


def run(
    config: Config,
    warn: Warn,
    *,
    reload: Callable[[], Config] | None = None,
    ready: Callable[[Service], None] | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT; SIGHUP takes the configuration that `reload` gives, without it ends the server.

    What `warn` finds in a configuration is logged. `ready` is called once the first worker listens. Returns the exit status,
    or does not return. Raises StartError.
    """
    # Each connection is an open file; the soft limit is low for the sake of programs that use select.
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    observe.configure(config.log)
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # they wait until there is somebody to handle them
    with _starting():
        privileges.prepare_folder(Path(config.data), config.user)
        jobs = _bind(_Job(config, warn, reload, ready))
        if len(jobs) > 1:
            import ctypes  # noqa: F401, PLC0415 - the user as whom workers go on may not be able to read it
        privileges.drop(config.user)
        _say_warnings(warn(config))  # not as root: to look for a module may import others
    return _work(replace(jobs[0], number=None)) if len(jobs) == 1 else _Supervisor(jobs).run()


def _bind(job: _Job) -> list[_Job]:
    """The same job for each worker, with sockets of its own. What the service manager has bound, all workers share.

    Raises OSError, or ValueError for a socket that was passed and is not configured.
    """
    config, passed = job.config, systemd.passed_sockets()
    addresses = [listener.address for listener in config.listen]
    given = claim(passed, [*addresses, config.console.address, config.acme.listens_on])

    contexts = new_contexts(config.tls_manners, config.tls.client_ca)

    def listening(address: str) -> list[socket.socket]:
        """One for each worker."""
        if address in given:
            return [given[address].dup() for _ in range(config.workers)]
        return bind_for(config.workers, address)

    nowhere: list[None] = [None] * config.workers
    listeners = [listening(address) for address in addresses]
    consoles = listening(config.console.address) if config.console.address else nowhere
    answers = listening(config.acme.listens_on) if config.acme.listens_on else nowhere
    jobs = [
        _Job(
            config,
            job.warn,
            job.reload,
            job.ready if number == 0 else None,
            [sockets[number] for sockets in listeners],
            contexts,
            consoles[number],
            answers[number],
            number,
        )
        for number in range(config.workers)
    ]
    for sock in passed:
        sock.close()
    return jobs


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    """Whatever keeps the server from starting is a StartError; anything else is a bug."""
    try:
        yield
    except _UNUSABLE as error:
        raise StartError(str(error), lasting=True) from error
    except _NOT_NOW as error:
        raise StartError(_in_words(error), lasting=False) from error


def _in_words(error: Exception) -> str:
    """What went wrong, without the numbers that only programs need."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


def _work(job: _Job) -> NoReturn:
    """One worker, on this process's main thread, which ends with it. Raises StartError."""
    with _starting():
        writer = workplace.fork()
    factory = None
    if job.config.event_loop == "uvloop":
        import uvloop  # noqa: PLC0415 - only where it is wanted

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_serve(job, writer))
        # All is closed that has to be. A hook that hangs in its thread must not keep the process from ending.
        sys.stdout.flush()
        os._exit(os.EX_OK)


async def _serve(job: _Job, writer: InProcess) -> None:
    service = Service(job.config, contexts=job.tls, writer=writer)
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[str] = loop.create_future()
    for number in _STOPS if job.reload is not None else (*_STOPS, signal.SIGHUP):
        loop.add_signal_handler(number, _stop_for, stopped, number)
    if job.reload is not None:
        loop.add_signal_handler(signal.SIGHUP, _reload, service, job)
    with _starting():
        await service.start(job.sockets, job.console, job.answers)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    _spare_the_collector()
    observe.SERVER_STARTED.note(listeners=", ".join(f"{host}:{port}" for host, port in service.addresses))
    if job.ready is not None:
        job.ready(service)
    if not job.number:  # the only worker, or the first of several
        systemd.notify("READY=1")
    watched = asyncio.create_task(_feed_watchdog(systemd.watchdog_s()))
    reason = await stopped
    observe.SERVER_STOPPING.note(reason=reason)
    if job.number is None:
        systemd.notify("STOPPING=1")
    await service.stop()
    watched.cancel()
    observe.SERVER_STOPPED.note()


async def _feed_watchdog(every_s: float) -> None:
    """Tell the service manager that the loop turns; in one of several workers their parent does."""
    while every_s:
        systemd.notify("WATCHDOG=1")
        await asyncio.sleep(every_s)


def _spare_the_collector() -> None:
    """What lives now lives for ever: the collector need not look at it again, and cycles are rare here.

    It does not look at it now either: a start leaves a few hundred objects behind, and clients wait for their 220.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _stop_for(stopped: asyncio.Future[str], number: signal.Signals) -> None:
    if not stopped.done():  # a second signal changes nothing: draining has its own limit
        stopped.set_result(number.name)


def _reload(service: Service, job: _Job) -> None:
    """Take the new configuration if it is sound; otherwise say why and keep the old one."""
    assert job.reload is not None  # else there is no handler
    with _told_of_reload(alone=job.number is None):
        try:
            config = job.reload()
            warnings = job.warn(config) if job.number is None else []
            waiting = service.reload(config)
        except (*_UNUSABLE, *_NOT_NOW) as error:
            observe.CONFIG_REFUSED.note(problem=str(error))
        else:
            observe.configure(config.log, worker=job.number)
            if job.number is None:
                _say_warnings(warnings, waiting)
            observe.CONFIG_RELOADED.note()


def _say_warnings(warnings: Iterable[Problem], waiting: Iterable[str] = ()) -> None:
    """Log what is unwise in a configuration, and which of its settings a reload could not take."""
    for problem in warnings:
        observe.CONFIG_UNWISE.note(problem=str(problem))
    if settings := ", ".join(waiting):
        observe.CONFIG_WAITS.note(settings=settings)


@contextlib.contextmanager
def _told_of_reload(*, alone: bool) -> Iterator[None]:
    """The service manager hears of a reload from the process that it has started, not from each worker."""
    if alone:
        systemd.notify_reloading()
    try:
        yield
    finally:
        if alone:
            systemd.notify("READY=1")


class _Worker(msgspec.Struct):
    """A process of a supervisor. Why it can't start, if it can't, comes out of `problem`."""

    number: int
    problem: int  # a file descriptor


class _Supervisor:
    """The parent of several equal workers; it handles no mail itself."""

    def __init__(self, jobs: list[_Job]) -> None:
        """One job for each worker.

        The parent keeps the sockets: while a dead worker is replaced its clients wait, they are not refused.
        """
        self._jobs = jobs
        self._workers: dict[int, _Worker] = {}  # by process id
        self._absent: dict[int, float] = dict.fromkeys(range(len(jobs)), 0.0)  # number -> when to start it
        self._replaced: set[int] = set()
        self._stopping = False
        self._failure: StartError | None = None

    def run(self) -> int:
        """Start the workers, replace those that die, and end when all have ended after a signal. Raises StartError."""
        config = self._jobs[0].config
        metrics = observe.share_metrics(Path(config.data) / "metrics") if config.console.address else None
        while self._workers or self._absent:
            for number in [number for number, at in self._absent.items() if at <= time.monotonic()]:
                del self._absent[number]
                self._spawn(number)
            self._handle_signal()
        if metrics is not None:
            import shutil  # noqa: PLC0415 - few need it, and a user without rights may not even be able to read it

            shutil.rmtree(metrics, ignore_errors=True)
        if self._failure is not None:
            raise self._failure
        return os.EX_OK

    def _handle_signal(self) -> None:
        """Wait for the next signal, or until a worker is to be started or the service manager to be told."""
        every_s = systemd.watchdog_s()
        if every_s:
            systemd.notify("WATCHDOG=1")
        wait_s = min([at - time.monotonic() for at in self._absent.values()], default=3600.0)
        wait_s = min(wait_s, every_s or wait_s)
        came = signal.sigtimedwait(_SIGNALS, max(wait_s, 0.0))
        if came is None:
            return
        if came.si_signo == signal.SIGCHLD:
            self._reap()
        elif came.si_signo == signal.SIGHUP and self._jobs[0].reload is not None:
            self._reload(self._jobs[0].reload)
        else:
            self._stop(came.si_signo)

    def _reap(self) -> None:
        """Look after all workers that have ended."""
        while self._workers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            if pid in self._workers:  # not a stranger, as come to who is the first process of a container
                self._lose(pid, os.waitstatus_to_exitcode(status))

    def _lose(self, pid: int, exit_code: int) -> None:
        """A worker has ended: unless that was asked for, start another in its place.

        One that could not even start the first time would not do so the next time: then the server ends.
        """
        worker = self._workers.pop(pid)
        problem = os.read(worker.problem, _MAX_PROBLEM_OCTETS).decode()
        os.close(worker.problem)
        if self._stopping:
            return
        observe.forget_worker(pid)
        if problem and worker.number not in self._replaced:
            self._failure = StartError(problem, lasting=exit_code == os.EX_CONFIG)
            self._stop(signal.SIGTERM)
            return
        observe.WORKER_LOST.note(worker=worker.number, reason=problem or _describe(exit_code))
        self._replaced.add(worker.number)
        self._absent[worker.number] = time.monotonic() + _SPAWN_PAUSE_S

    def _spawn(self, number: int) -> None:
        """Start a worker; signals are blocked in it until it handles them."""
        parent = os.getpid()
        problem, told = os.pipe()
        pid = os.fork()
        if pid:
            os.close(told)
            self._workers[pid] = _Worker(number, problem)
            observe.WORKER_STARTED.note(worker=number, pid=pid)
            return
        status = os.EX_SOFTWARE
        try:
            self._close_sockets(besides=number)
            _die_with(parent)
            job = self._jobs[number]
            observe.configure(job.config.log, worker=number)
            _work(job)
        except StartError as error:
            status = os.EX_CONFIG if error.lasting else os.EX_TEMPFAIL
            os.write(told, str(error).encode()[:_MAX_PROBLEM_OCTETS])
        except BaseException as error:  # noqa: BLE001 - a forked child must not return into its parent's code
            observe.report_incident(error, worker=number)
        finally:
            os._exit(status)

    def _close_sockets(self, *, besides: int | None = None) -> None:
        """Close what others listen on: an address is free only when nobody holds it."""
        for job in self._jobs:
            if job.number != besides:
                for sock in filter(None, (*job.sockets, job.console, job.answers)):
                    sock.close()

    def _reload(self, reload: Callable[[], Config]) -> None:
        """Let the workers take the new configuration, and start others with it from now on, if it is sound."""
        with _told_of_reload(alone=True):
            before = self._jobs[0].config
            try:
                new = reload()
                warnings = self._jobs[0].warn(new)
                config, waiting = take_over(before, new)
            except (*_UNUSABLE, *_NOT_NOW) as error:
                observe.CONFIG_REFUSED.note(problem=str(error))
                return
            if _is_usable(config):
                contexts = (
                    new_contexts(config.tls_manners, config.tls.client_ca)
                    if _tls_of(config) != _tls_of(before)
                    else self._jobs[0].tls
                )
                self._jobs = [replace(job, config=config, tls=contexts) for job in self._jobs]
                observe.configure(config.log)
                _say_warnings(warnings, waiting)
                self._pass_on(signal.SIGHUP)

    def _stop(self, number: int) -> None:
        self._stopping = True
        systemd.notify("STOPPING=1")
        self._absent.clear()
        self._close_sockets()
        self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        # Those that have ended meanwhile can still be signalled: they are not reaped yet.
        for pid in self._workers:
            os.kill(pid, number)


def _tls_of(config: Config) -> object:
    """What the contexts of the listeners depend on."""
    return config.tls_manners, config.tls


def _is_usable(config: Config) -> bool:
    """Try the policy that a configuration calls for, in a process of its own: hooks are other people's code."""
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1] == 0
    status = os.EX_CONFIG
    try:
        try_policy(config)
        status = os.EX_OK
    except _UNUSABLE as error:
        observe.CONFIG_REFUSED.note(problem=str(error))
    except BaseException as error:  # noqa: BLE001 - as in _spawn
        observe.report_incident(error)
    finally:
        os._exit(status)


def _describe(exit_code: int) -> str:
    """How a process ended, in words."""
    return f"killed by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"exit status {exit_code}"


def _die_with(parent: int) -> None:
    """End this worker when its parent is killed, so that no mail is handled behind the operator's back."""
    import ctypes  # noqa: PLC0415 - as above

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the call above
        os.kill(os.getpid(), signal.SIGTERM)
