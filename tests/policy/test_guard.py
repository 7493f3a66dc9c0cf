"""How failed logins slow down the next ones."""

import asyncio

import pytest

from pillarbox.policy.account import SourceDown
from pillarbox.policy.guard import Guard
from pillarbox.policy.memory import Memory
from pillarbox.policy.shared_file import FileFullError


@pytest.fixture
async def open_guard(tmp_path, monkeypatch):
    """Guards that share what they remember, as workers do; `waits` has how long each login had to wait."""
    opened = []

    def make(max_delay_s=1e9):
        memory = Memory(tmp_path, clock=lambda: make.now)
        opened.append(memory)
        guard = Guard(memory, max_delay_s)

        async def wait(seconds):
            make.waits.append(seconds)
            return make.room

        monkeypatch.setattr(guard._patience, "wait", wait)
        return guard

    make.now, make.waits, make.room = 1000.0, [], True
    yield make
    for memory in opened:
        await memory.close()


async def fail(guard, address, name):
    admitted = await guard.admit(address, name)
    if admitted:
        await guard.failed(address, name, admitted=True)
    return admitted


async def delay(guard, make, address, name):
    """How long a login has to wait; it comes to nothing."""
    make.waits.clear()
    assert await guard.admit(address, name)
    await guard.forgive(address, name)
    return sum(make.waits)


async def test_delays_grow_with_each_failure_of_an_account_and_are_forgiven(open_guard):
    guard, delays = open_guard(), []
    for number in range(10):
        delays.append(await delay(guard, open_guard, "192.0.2.1", "alice"))
        await fail(guard, f"198.51.{number}.1", "alice")
    assert delays == [0, 0, 0, 0, 0, 1, 2, 4, 8, 16]
    assert await delay(guard, open_guard, "192.0.2.1", "bob") == 0
    open_guard.now += 240
    assert await delay(guard, open_guard, "192.0.2.1", "alice") == 2
    open_guard.now += 3600
    assert await delay(guard, open_guard, "192.0.2.1", "alice") == 0


async def test_a_network_that_tries_many_names_waits_for_each(open_guard):
    guard = open_guard()
    for number in range(21):
        await fail(guard, "192.0.2.1", f"user{number}")
    assert await delay(guard, open_guard, "192.0.2.200", "somebody") == 2
    assert await delay(guard, open_guard, "192.0.3.1", "somebody") == 0


async def test_workers_count_together(open_guard):
    one, other = open_guard(), open_guard()
    for number in range(6):
        await fail((one, other)[number % 2], f"198.51.{number}.1", "alice")
    assert await delay(one, open_guard, "192.0.2.1", "alice") == 2
    assert await delay(other, open_guard, "192.0.2.1", "alice") == 2


async def test_who_logged_in_there_before_is_not_held_up_by_others(open_guard):
    guard = open_guard()
    await guard.admit("192.0.2.1", "alice")
    await guard.succeeded("192.0.2.1", "alice", admitted=True)
    for number in range(30):
        await fail(guard, "192.0.2.9", f"user{number}")
        await fail(guard, "198.51.100.1", "alice")
    assert await delay(guard, open_guard, "192.0.2.5", "alice") == 0
    assert await delay(guard, open_guard, "203.0.113.1", "alice") > 0
    await fail(guard, "192.0.2.5", "alice")
    assert await delay(guard, open_guard, "192.0.2.5", "alice") > 0


async def test_a_login_that_was_right_leaves_no_failure(open_guard):
    guard = open_guard()
    for _ in range(50):
        await guard.admit("192.0.2.1", "alice")
        await guard.succeeded("192.0.2.1", "alice", admitted=True)
    assert await delay(guard, open_guard, "203.0.113.1", "alice") == 0


async def test_guesses_at_the_same_time_wait_as_those_one_after_the_other(open_guard):
    guard = open_guard()
    await asyncio.gather(*(guard.admit(f"198.51.{number}.1", "alice") for number in range(10)))
    assert sorted(open_guard.waits) == [1, 2, 4, 8, 16]


async def test_what_would_wait_too_long_is_not_looked_at_and_makes_it_no_longer(open_guard):
    guard = open_guard(max_delay_s=2)
    admitted = [await fail(guard, f"198.51.{number}.1", "alice") for number in range(20)]
    assert admitted == [True] * 7 + [False] * 13
    open_guard.now += 120
    assert await guard.admit("192.0.2.1", "alice")


async def test_not_more_wait_than_there_is_room_for(open_guard):
    guard = open_guard()
    for number in range(6):
        await fail(guard, f"198.51.{number}.1", "alice")
    open_guard.room = False
    assert not await guard.admit("192.0.2.1", "alice")
    assert await guard.admit("192.0.2.1", "bob")


async def test_tokens_that_name_no_account_are_counted_by_their_network_alone(open_guard):
    guard = open_guard()
    for number in range(30):
        await fail(guard, f"198.51.{number}.1", "")
    assert await delay(guard, open_guard, "192.0.2.1", "") == 0


async def test_a_memory_that_does_not_answer_is_told_as_such(open_guard, monkeypatch):
    guard = open_guard()

    def refuse(_work):
        raise FileFullError

    monkeypatch.setattr(guard._memory, "ask", refuse)
    with pytest.raises(SourceDown):
        await guard.admit("192.0.2.1", "alice")
