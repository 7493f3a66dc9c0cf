"""Where the writer of a store works, and how orders reach it and results come back: a thread, or a process of its own.

A thread is there at once, but has to share an interpreter with the loop, so that each keeps the other waiting; a process
must be made before there are threads or a loop. What is ordered, and what a result means, is not known here.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import pickle
import select
import signal
import socket
import struct
import threading
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

from pillarbox import observe
from pillarbox.queue.writer import Result, Writer

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from typing import NoReturn

    from pillarbox.queue.writer import Opened
    from pillarbox.queue.writing import Order

_LENGTH = struct.Struct("<I")
_PIECE_OCTETS = 65_536
_MOST_ORDERS = 256  # in one transaction
_MOST_PIECES = 128  # the same
_REST_MS = 100  # the rest of a group that has begun comes sooner
_FIRST_FD = 3  # after the standard ones
_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Workplace(Protocol):
    """A writer at work, as its store sees it."""

    opened: Opened

    def put(self, orders: list[Order]) -> None:
        """Hand orders over. Answers come in turn, but not one result for each `put`."""

    def end(self) -> None:
        """No orders come any more."""

    def join(self) -> None:
        """Wait until the writer has ended; not on the loop's thread."""

    def finish(self) -> None:
        """After that, take the results that are left."""


class InThread:
    """A writer in a thread of this process."""

    def __init__(self, root: Path, loop: asyncio.AbstractEventLoop, take: Callable[[Result], None]) -> None:
        """Open the store in `root`; `take` gets the results. Raises as `Writer` does."""
        writer = Writer(root)
        self.opened = writer.opened
        self._loop, self._take = loop, take
        self._orders: SimpleQueue[list[Order] | None] = SimpleQueue()
        self._ended = False  # as the writer knows
        self._thread = threading.Thread(target=writer.run, args=(self,), name="pillarbox-writer", daemon=True)
        self._thread.start()

    def put(self, orders: list[Order]) -> None:
        """As `Workplace` has it."""
        self._orders.put(orders)

    def end(self) -> None:
        """As `Workplace` has it."""
        self._orders.put(None)

    def join(self) -> None:
        """As `Workplace` has it."""
        self._thread.join()

    def finish(self) -> None:
        """As `Workplace` has it: the loop has got them all."""

    # The writer's side of the line.

    def get(self, timeout_s: float) -> list[Order]:
        """As `Line` has it."""
        if self._ended:
            raise EOFError
        orders = self._orders.get(timeout=timeout_s)
        batch: list[Order] = []
        while orders is not None:
            batch += orders
            if len(batch) >= _MOST_ORDERS or self._orders.empty():
                return batch
            orders = self._orders.get()
        self._ended = True
        if not batch:
            raise EOFError
        return batch

    def answer(self, result: Result) -> None:
        """Send what became of the orders got so far."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._take, result)


def _framed(what: object) -> bytes:
    octets = pickle.dumps(what, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(octets)) + octets


class _Frames:
    """Cuts what comes from the other process, which is ours, into the objects that it sent."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def begun(self) -> bool:
        """Whether the rest of an object is still to come."""
        return bool(self._buffer)

    def feed(self, octets: bytes) -> list[Any]:
        if not self._buffer and len(octets) == _length(octets):  # one, in one piece, as most are
            return [pickle.loads(memoryview(octets)[_LENGTH.size :])]  # noqa: S301 - our own process sent it
        buffer, found = self._buffer, []
        buffer += octets
        while len(buffer) >= (end := _length(buffer)):
            frame = bytes(buffer[_LENGTH.size : end])
            del buffer[:end]
            found.append(pickle.loads(frame))  # noqa: S301 - as above
        return found


def _length(octets: bytes | bytearray) -> int:
    """Of the first frame, as far as that is known."""
    if len(octets) < _LENGTH.size:
        return _LENGTH.size
    (length,) = _LENGTH.unpack_from(octets)
    return _LENGTH.size + int(length)


class InProcess:
    """A writer in a process of its own. If that dies, this one ends at once: nobody knows what was written."""

    opened: Opened

    def __init__(self, connection: socket.socket, pid: int) -> None:
        """Speak with the process that `fork` made."""
        self._socket = connection
        self._pid = pid
        self._frames = _Frames()
        self._unsent = bytearray()
        self._ending = False

    def open(self, root: Path, loop: asyncio.AbstractEventLoop, take: Callable[[Result], None]) -> None:
        """Have the store in `root` opened; `take` gets the results.

        Raises as `Writer` does, or ChildProcessError if the process has died.
        """
        try:
            self.opened = self._ask_for(root)
        except BaseException:
            self._socket.close()
            raise
        self._loop, self._take = loop, take
        self._socket.settimeout(0)
        loop.add_reader(self._socket, self._receive)

    def _ask_for(self, root: Path) -> Opened:
        self._socket.sendall(_framed(os.fspath(root)))
        found: list[Opened | BaseException] = []
        while not found:
            octets = self._socket.recv(_PIECE_OCTETS)
            if not octets:
                raise ChildProcessError("the writer's process has ended")
            found = self._frames.feed(octets)
        if isinstance(found[0], BaseException):
            raise found[0]
        return found[0]

    def put(self, orders: list[Order]) -> None:
        """As `Workplace` has it."""
        frame = _framed(orders)
        if self._unsent:
            self._unsent += frame
            return
        sent = self._send(frame)
        if sent < len(frame):
            self._unsent += memoryview(frame)[sent:]
            self._loop.add_writer(self._socket, self._send_rest)

    def _send(self, octets: bytes | bytearray) -> int:
        try:
            return self._socket.send(octets)
        except BlockingIOError:
            return 0
        except OSError:  # it has died, which is learnt where results are received
            return len(octets)

    def _send_rest(self) -> None:
        del self._unsent[: self._send(self._unsent)]
        if not self._unsent:
            self._loop.remove_writer(self._socket)
            if self._ending:
                self._hang_up()

    def _receive(self) -> None:
        try:
            octets = self._socket.recv(_PIECE_OCTETS)
        except BlockingIOError:
            return
        except OSError:
            octets = b""
        for result in self._read(octets):
            self._take(result)
        if not octets:
            self._close()
            if not self._ending:
                _end("the process that writes to the store has died")

    def _read(self, octets: bytes) -> list[Result]:
        try:
            return [Result(*result) for result in self._frames.feed(octets)]
        except Exception as error:  # noqa: BLE001 - a bug, after which nobody knows which answer is whose
            observe.report_incident(error)
            _end("what the process that writes to the store says can't be read")

    def _close(self) -> None:
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()

    def end(self) -> None:
        """As `Workplace` has it."""
        self._ending = True
        if not self._unsent:
            self._hang_up()

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):  # it has died
            self._socket.shutdown(socket.SHUT_WR)

    def join(self) -> None:
        """As `Workplace` has it."""
        with contextlib.suppress(ChildProcessError):  # somebody else has looked after it
            os.waitpid(self._pid, 0)

    def finish(self) -> None:
        """As `Workplace` has it."""
        while self._socket.fileno() >= 0:
            self._receive()


def _end(why: str) -> NoReturn:
    observe.write_behind(None)
    observe.SPOOL_TROUBLE.note(problem=f"{why}, and so this one ends")
    os._exit(os.EX_SOFTWARE)


class _Desk:
    """The writer's side of the line in its own process."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._frames = _Frames()
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)

    def get(self, timeout_s: float) -> list[Order]:
        """As `Line` has it: all groups that have come, and the rest of one that has begun."""
        orders: list[Order] = []
        heard = False
        wait_ms = math.ceil(timeout_s * 1000)
        for _ in range(_MOST_PIECES):
            if not self._poll.poll(wait_ms):
                break
            try:
                groups = self.receive()
            except EOFError:
                if not heard:
                    raise
                break  # it is met again
            for group in groups:
                heard = True
                orders += group
            if len(orders) >= _MOST_ORDERS:
                break
            wait_ms = _REST_MS if self._frames.begun else 0
        if not heard:
            raise Empty
        return orders

    def receive(self) -> list[Any]:
        """What the other side has sent. Raises EOFError."""
        try:
            octets = self._socket.recv(_PIECE_OCTETS)
        except OSError:  # the server was killed before it read all results
            octets = b""
        if not octets:
            raise EOFError
        return self._frames.feed(octets)

    def answer(self, result: Result) -> None:
        self.send(tuple(result))  # a class would have to be looked up for each

    def send(self, what: object) -> None:
        try:
            self._socket.sendall(_framed(what))
        except OSError:  # the server is gone: nobody waits
            return


def work(connection: socket.socket) -> None:
    """What a writer's process does: open the store that is asked for, say so or why not, and write till the other end hangs up."""
    desk = _Desk(connection)
    roots: list[str] = []
    try:
        while not roots:
            roots = desk.receive()
        writer = Writer(Path(roots[0]))
    except EOFError:  # nobody wants a store
        return
    except Exception as error:  # noqa: BLE001 - whoever asked decides what it means
        desk.send(error)
        return
    desk.send(writer.opened)
    writer.run(desk)


def fork() -> InProcess:
    """Make the process for a writer, which ends with this one.

    There must be no other threads, no loop and no connection to a store yet: what they hold would be in it for ever.
    """
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if not pid:
        ours.close()
        _live(theirs)
    theirs.close()
    return InProcess(ours, pid)


def _live(connection: socket.socket) -> NoReturn:
    """Be the forked process."""
    status = os.EX_SOFTWARE
    try:
        for number in _STOPS:  # they may be sent to all processes at once: it goes on as long as orders come
            signal.signal(number, signal.SIG_IGN)
        gc.disable()  # what is written makes no cycles
        gc.freeze()  # nothing that came along may be given back: its file descriptors are not ours
        os.closerange(_FIRST_FD, connection.fileno())
        os.closerange(connection.fileno() + 1, max(int(one.name) for one in Path("/dev/fd").iterdir()) + 1)
        work(connection)
        status = os.EX_OK
    except BaseException as error:  # noqa: BLE001 - a forked process must not return into its parent's code
        observe.report_incident(error)
    finally:
        os._exit(status)
