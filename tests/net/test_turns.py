"""Turns: one goes on in each turn of the loop, in the order of coming."""

import asyncio

from pillarbox.net.turns import Turns


async def test_each_goes_on_in_a_turn_of_its_own_in_the_order_of_coming():
    turns, seen = Turns(), []
    beats = 0

    def beat():
        nonlocal beats
        beats += 1
        asyncio.get_running_loop().call_soon(beat)

    async def ask(name):
        for _ in range(2):
            await turns.wait()
            seen.append((name, beats))

    beat()
    await asyncio.gather(*map(ask, "abc"))
    assert [name for name, _ in seen] == ["a", "b", "c", "a", "b", "c"]
    assert len({when for _, when in seen}) == 6


async def test_who_has_left_costs_the_others_nothing():
    turns = Turns()
    gone, next_one = turns.wait(), turns.wait()
    gone.cancel()
    await asyncio.wait_for(next_one, 5)
    await asyncio.wait_for(turns.wait(), 5)
