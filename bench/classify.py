"""Measure the classifier and the bounce reader: how fast, and how often right on the bounces in tests/data/bounces.

Rates are by seconds of processor time, so that other work on the machine does not count.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SECONDS = 2.0
LONG = b"550 " + b"mailbox user does not " * 400


def rate(work: Callable[[Any], object], items: Sequence[object]) -> float:
    """How many of the items a second."""
    done, start = 0, time.process_time()
    while (spent := time.process_time() - start) < SECONDS:
        for item in items:
            work(item)
        done += len(items)
    return done / spent


def timed(work: Callable[[], Any], what: str) -> Any:
    """Do it and tell how long it took."""
    start = time.process_time()
    found = work()
    print(f"{what}: {1000 * (time.process_time() - start):.0f} ms")
    return found


def main() -> None:
    """Print the figures."""
    reading = timed(lambda: import_module("pillarbox.mail.reply"), "import of replies")
    classifier = timed(lambda: import_module("pillarbox.diagnose.classify"), "import of the classifier")
    book = timed(lambda: import_module("pillarbox.diagnose.dialects").book(), "reading the patterns")
    bounces = import_module("pillarbox.diagnose.bounce")
    sys.path.insert(0, str(ROOT / "tests" / "diagnose"))
    corpus = import_module("corpus")

    samples = [one for pattern in book.patterns for one in pattern.samples if one[:3].isdigit()]
    replies = [reading.parse_reply([line.encode() for line in one.split("\n")]) for one in samples]
    print(
        f"{len(book.patterns)} patterns, {len(replies)} replies: {rate(classifier.classify, replies):,.0f} a second"
    )
    longest = [reading.parse_reply([LONG])]
    print(f"8 KiB of known words: {rate(classifier.classify, longest):,.0f} a second")
    messages = [(corpus.FOLDER / name).read_bytes() for name in corpus.EXPECTED]
    kib = sum(map(len, messages)) / len(messages) / 1024
    print(f"{len(messages)} bounces of {kib:.1f} KiB: {rate(bounces.read_bounce, messages):,.0f} a second")
    for number in (0, 1):
        found = corpus.figures([name for name in corpus.EXPECTED if corpus.half(name) == number])
        print(f"half {number}:", ", ".join(f"{key} {value:.4g}" for key, value in found.items()))


if __name__ == "__main__":
    main()
