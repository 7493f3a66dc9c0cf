"""Kill the server under load, again and again: what got its 250 is never lost.

`make crash` sets PILLARBOX_KILLS, the kills of all loops together; without it there are as many as a quick run bears.
"""

import asyncio
import os
import random

import pytest

KILLS = int(os.environ.get("PILLARBOX_KILLS", "0"))

pytestmark = pytest.mark.timeout(3600)


@pytest.mark.parametrize("via", ["hold", "discard"])
async def test_what_was_acknowledged_survives(site, load, audit, figures, mixed, via):
    site.configure(via)
    mail, chance = load(mixed()), random.Random(KILLS)
    kills = KILLS // 8 or 3
    async with mail.run():
        for _ in range(kills):
            await site.start()
            await mail.more()
            await asyncio.sleep(chance.uniform(0, 0.3))
            await site.kill()
    await site.start()
    await site.settled()
    found = audit()
    figures(kills, found)
    assert mail.kept
    assert not found.wrong
    mail.kept.add("m0.700@never.example")  # the audit sees a loss
    assert audit().lost == {"m0.700@never.example"}


async def test_what_is_relayed_by_a_flaky_host_survives(site, sink, load, audit, figures, mixed, flaky):
    chance = random.Random(KILLS)
    sink.mood = flaky(chance)
    site.configure(*sink.routes)
    mail, kills = load(mixed()), 0
    async with mail.run():
        while kills < (KILLS // 4 or 4):
            await site.start()
            await mail.more()
            await asyncio.sleep(chance.uniform(0, 0.5))
            kills += await site.stop(chance)
    await site.start()
    await site.settled()
    found = audit()
    figures(kills, found)
    assert sink.doubts
    assert not found.wrong
    assert found.by_kills <= kills * site.lanes
    taken = next(iter(mail.kept & sink.taken.keys()))
    del sink.taken[taken]  # the audit sees what the store believes to be delivered
    assert audit().lost == {taken}


async def test_two_workers_and_their_parent_may_be_killed(site, sink, load, audit, figures, mixed, flaky):
    chance = random.Random(KILLS)
    sink.mood = flaky(chance)
    site.configure(*sink.routes, workers=2)
    mail, kills = load(mixed()), KILLS // 8 or 3
    async with mail.run():
        for number in range(kills):
            if not site.running:
                await site.start()
            await mail.more()
            await asyncio.sleep(chance.uniform(0, 0.5))
            if number % 3 == 1:
                await site.kill()  # its workers end by themselves, while new ones take over
            else:
                await site.kill_worker(chance)
    if not site.running:
        await site.start()
    await site.settled()
    found = audit()
    figures(kills, found)
    assert not found.wrong
    assert found.by_kills <= kills * site.lanes
    await site.orphans_ended()
