"""How a store with a million queued recipients behaves: time to open, to pick what is due, to count, and memory.

    python bench/queue_million.py [FOLDER]

makes two stores below FOLDER (about 1.5 GB, removed afterwards): one with mail for 1,000 destinations, and one in which
a single destination, already full in memory, has nearly all of it. Each is measured in a process of its own.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pillarbox.mail.envelope import Envelope, Recipient
from pillarbox.mail.route import Route, Transport
from pillarbox.queue import schema
from pillarbox.queue.drafts import Bodies
from pillarbox.queue.ledger import Ledger
from pillarbox.queue.reader import Reader
from pillarbox.queue.records import pack_envelope, pack_trace
from pillarbox.queue.spool import SLOTS, Trace
from pillarbox.queue.sqlite import SqliteSpool

COUNT = 1_000_000
BUSY = Route(Transport.MX, "busy.example")
BODY = b"Subject: one of a million\r\n\r\n" + b"x" * 300


def fill(root: Path, *, saturated: bool) -> None:
    """Queue a million messages of one recipient each."""
    root.mkdir(parents=True)
    Bodies(root)
    connection = schema.connect(root / schema.FILE, cache_kib=200_000)
    connection.execute("PRAGMA synchronous = OFF")
    first = int((time.time() - 3600) * 1_000_000)
    trace = pack_trace(Trace("session", "192.0.2.1:1234", "client.example", "ESMTP"))

    def domain(number: int) -> str:
        if saturated and (number < COUNT // 2 or number % 50):
            return "busy.example"
        return f"d{number * 7919 // (50 if saturated else 1) % 1000:03}.example"

    with schema.transaction(connection):
        envelopes = {}
        for number in range(COUNT):
            name = domain(number)
            if name not in envelopes:
                envelopes[name] = pack_envelope(Envelope("from@example.org", (Recipient(f"someone@{name}"),)))
            message, at = (first + number) * SLOTS, (first + number) / 1e6
            connection.execute(
                "INSERT INTO message VALUES (?, ?, ?, ?, ?, ?)",
                (message, envelopes[name], b"Received: x\r\n" * 8, trace, at, len(BODY)),
            )
            connection.execute("INSERT INTO body VALUES (?, ?)", (message, BODY))
            connection.execute(
                "INSERT INTO recipient (message, number, slot, state, claimed, due, destination)"
                " VALUES (?, 0, 0, 0, 0, ?, ?)",
                (message, at, f"mx:{name}"),
            )
        connection.execute("INSERT INTO lease VALUES (0, '', 0, 1)")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def peak_kib() -> int:
    """The most memory that this process had; what `getrusage` says includes the process that it was forked from."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0])


async def measure(root: Path, full: list[Route]) -> None:
    """Open, pick, count; print what it took."""
    began = time.perf_counter()
    spool = SqliteSpool(root)
    opened = time.perf_counter() - began
    await spool.next_due()
    ready = time.perf_counter() - began
    reader = Reader(schema.connect(root / schema.FILE), Bodies(root))
    looks = []
    picks = []
    for _ in range(50):
        began = time.perf_counter()
        reader.pick(spool.slots, time.time(), 100, full)
        looks.append(time.perf_counter() - began)
        began = time.perf_counter()
        found = await spool.due(time.time(), 100, full)
        picks.append(time.perf_counter() - began)
        assert len(found) == 100, len(found)
        await asyncio.sleep(0.01)
    nexts = []
    for _ in range(20):
        began = time.perf_counter()
        await spool.next_due()
        nexts.append(time.perf_counter() - began)
    memory = peak_kib()
    with Ledger(root) as ledger:
        began = time.perf_counter()
        ledger.depth()
        depth = time.perf_counter() - began
        began = time.perf_counter()
        ledger.list_messages(100)
        listed = time.perf_counter() - began
    print(
        f"  open {opened * 1e3:.0f} ms, first answer {ready * 1e3:.0f} ms; "
        f"pick 100 due: first {looks[0] * 1e3:.1f} ms, median {statistics.median(looks) * 1e3:.1f} ms; "
        f"and claim them durably: median {statistics.median(picks) * 1e3:.1f} ms, worst {max(picks) * 1e3:.1f} ms; next due {statistics.median(nexts) * 1e3:.2f} ms; "
        f"peak memory {memory / 1024:.0f} MiB; "
        f"depth by destination {depth * 1e3:.0f} ms; list 100 {listed * 1e3:.1f} ms"
    )
    reader.close()
    await spool.close()


def main() -> None:
    """Fill and measure both stores, or measure one (as the child of ourselves)."""
    if len(sys.argv) == 4:
        asyncio.run(measure(Path(sys.argv[2]), [BUSY] if sys.argv[3] == "saturated" else []))
        return
    folder = Path(
        tempfile.mkdtemp(prefix="pillarbox-million-", dir=sys.argv[1] if len(sys.argv) > 1 else None)
    )
    try:
        for name in ("spread", "saturated"):
            began = time.perf_counter()
            fill(folder / name, saturated=name == "saturated")
            print(f"{name}: {COUNT:,} recipients filled in {time.perf_counter() - began:.0f} s", flush=True)
            subprocess.run([sys.executable, __file__, "--measure", str(folder / name), name], check=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
