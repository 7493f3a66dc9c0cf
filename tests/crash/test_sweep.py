"""Stop the server under load and while it starts, exactly before its nth system call of a kind.

A quick run tries each kind of call once, `make crash` many counts of each.
"""

import itertools
import os
import random
import shutil
from collections import Counter

import pytest

KILLS = int(os.environ.get("PILLARBOX_KILLS", "0"))
# The calls that change what lasts or what others know, each with the highest count that is tried.
UNDER_LOAD = {
    "fsync": 12,
    "fdatasync": 24,
    "rename": 8,
    "pwrite64": 160,
    "unlink": 8,
    "write": 60,
    "connect": 6,
    "fcntl": 80,
    "close": 12,
}
AT_START = {"pwrite64": 12, "fdatasync": 4, "fcntl": 60, "unlink": 6, "rename": 1, "flock": 3, "ftruncate": 3}
NEW_STORE = {
    "mkdir": 70,
    "fdatasync": 4,
    "pwrite64": 40,
    "fsync": 2,
    "rename": 1,
    "ftruncate": 3,
    "fcntl": 60,
}

pytestmark = pytest.mark.timeout(3600)


def choose(kills, calls, chance):
    """So many kills, each call in its turn: pairs of call and count."""
    return [
        (call, chance.randint(1, calls[call])) for call in itertools.islice(itertools.cycle(calls), kills)
    ]


async def test_no_system_call_is_a_bad_moment(site, sink, strace, load, audit, figures, mixed, flaky, until):
    chance = random.Random(KILLS)
    sink.mood = flaky(chance)
    site.configure(*sink.routes)
    mail, met = load(mixed(large=8)), Counter()
    busy, starting = KILLS // 4 or 5, KILLS // 8 or 3
    plan = [(*one, True) for one in choose(busy, UNDER_LOAD, chance)]
    plan += [(*one, False) for one in choose(starting, AT_START, chance)]
    chance.shuffle(plan)
    async with mail.run():
        for call, nth, under_load in plan:
            if under_load:
                await site.start()
                await mail.more(10)
                await strace.attach([site.process.pid, site.writer], call, nth)
            else:
                await site.start(*strace.wrapper(call, nth))
            enough = len(mail.kept) + 500
            await until(lambda: not site.running or len(mail.kept) > enough)  # noqa: B023 - used up here
            if site.running:
                await site.kill()
            await site.ended()
            met[strace.met] += 1
    await site.start()
    await site.settled()
    found = audit()
    figures(len(plan), found, **met)
    assert not found.wrong
    assert found.by_kills <= len(plan) * site.lanes
    assert met.total() - met["none"] >= len(plan) // 2


async def test_a_store_that_was_half_made_is_completed(site, sink, strace, load, audit, figures, mixed):
    chance, met = random.Random(KILLS), Counter()
    site.configure(*sink.routes)
    kills = KILLS // 8 or 3
    for call, nth in choose(kills, NEW_STORE, chance):
        shutil.rmtree(site.data, ignore_errors=True)
        if await site.start(*strace.wrapper(call, nth)):
            await site.kill()
        await site.ended()
        met[strace.met] += 1
        sink.taken.clear()
        mail = load(mixed(large=8))
        await site.start()
        async with mail.run():
            await mail.more(10)
        await site.settled()
        found = audit()
        assert mail.kept
        assert not found.wrong
        assert not found.duplicates
        await site.kill()
    figures(kills, found, **met)
