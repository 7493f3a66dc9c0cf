"""Measure how fast `explain` and `lint` read long transcripts and logs: one figure a kind of text, each of 1 MiB."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable

from pillarbox.diagnose.classify import classify
from pillarbox.diagnose.explain import explain
from pillarbox.diagnose.lint import lint
from pillarbox.mail.reply import Reply, Stage

MIB = 1024 * 1024
TRANSACTION = """\
C: MAIL FROM:<a@sender.example> SIZE=1000
S: 250 2.1.0 Sender OK
C: RCPT TO:<user{n}@example.net>
S: 250 2.1.5 Recipient OK
C: RCPT TO:<nobody{n}@example.net>
S: 550 5.1.1 <nobody{n}@example.net>: Recipient address rejected: User unknown
C: DATA
S: 354 go ahead
C: Subject: number {n}
C:
C: Hello.
C: .
S: 250 2.0.0 Ok: queued as {n:010}
"""
LINE = (
    "Jan 10 10:00:01 mail postfix/smtp[12345]: 4T8x{n:08}: to=<user{n}@example.net>, relay=mx1.example.net[192.0.2.1]:25, "
    "delay=1.2, delays=0.1/0/0.6/0.5, dsn=5.1.1, status=bounced (host mx1.example.net[192.0.2.1] said: 550 5.1.1 "
    "<user{n}@example.net>: Recipient address rejected: User unknown (in reply to RCPT TO command))\n"
)


def fill(piece: str, head: str = "") -> str:
    """1 MiB of a text."""
    parts, size = [head], len(head)
    while size < MIB:
        parts.append(piece.format(n=len(parts)))
        size += len(parts[-1])
    return "".join(parts)


def measure(name: str, work: Callable[[], object], rounds: int = 3) -> None:
    """The best of some rounds."""
    best = min(timed(work) for _ in range(rounds))
    print(f"{name:42} {best:7.2f} s")


def timed(work: Callable[[], object]) -> float:
    """Seconds of this process."""
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    """Print one line a figure."""
    head = "S: 220 mx.example.net ESMTP\nC: EHLO client.example\nS: 250-mx.example.net\nS: 250 SIZE\n"
    transcript = fill(TRANSACTION, head)
    bare = transcript.replace("C: ", "").replace("S: ", "").replace("C:", "")
    log = fill(LINE)
    print(f"Python {platform.python_version()}, {platform.machine()}")
    measure("explain, a transcript with marks, 1 MiB", lambda: explain(transcript))
    measure("explain, a transcript without marks, 1 MiB", lambda: explain(bare))
    measure("explain, a Postfix log, 1 MiB", lambda: explain(log))
    measure("lint, a transcript with marks, 1 MiB", lambda: lint(transcript))
    replies = [Reply(550, "5.7.1", (f"Service unavailable; client [192.0.2.{n % 256}] blocked using list {n}",)) for n in range(2000)]  # fmt: skip
    took = timed(lambda: [classify(reply, stage=Stage.RCPT) for reply in replies])
    print(f"{'classify, replies that differ':42} {len(replies) / took:7.0f} /s")


if __name__ == "__main__":
    main()
