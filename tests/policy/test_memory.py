"""The shared memory of policy: budgets, notes that are forgotten, several workers, and a file that is damaged."""

import asyncio
import threading

import pytest

from pillarbox.mail.units import Rate
from pillarbox.policy import memory as module
from pillarbox.policy import shared_file
from pillarbox.policy.memory import FILE, Memory

FIVE_A_MINUTE = Rate(5, 60.0)


class Clock:
    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def open_memory(tmp_path, clock):
    opened = []

    def make():
        opened.append(Memory(tmp_path, clock=clock))
        return opened[-1]

    yield make
    for memory in opened:
        await memory.close()


async def test_nothing_is_opened_before_the_first_question(open_memory, tmp_path):
    memory = open_memory()
    assert list(tmp_path.iterdir()) == []
    await memory.take("key", FIVE_A_MINUTE)
    assert (tmp_path / FILE).exists()


async def test_a_budget_is_used_up_and_refills_evenly(open_memory, clock):
    memory = open_memory()
    assert [await memory.take("a", FIVE_A_MINUTE) for _ in range(5)] == [0.0] * 5
    assert await memory.take("a", FIVE_A_MINUTE) == pytest.approx(12.0)
    assert await memory.take("b", FIVE_A_MINUTE) == 0.0, "each key has its own"
    clock.now += 11.0
    assert await memory.take("a", FIVE_A_MINUTE) == pytest.approx(1.0)
    clock.now += 1.0
    assert await memory.take("a", FIVE_A_MINUTE) == 0.0
    assert await memory.take("a", FIVE_A_MINUTE) == pytest.approx(12.0)


async def test_much_at_once_counts_for_much(open_memory):
    memory = open_memory()
    assert await memory.take("a", FIVE_A_MINUTE, 4) == 0.0
    assert await memory.take("a", FIVE_A_MINUTE, 2) == pytest.approx(12.0)
    assert await memory.take("a", FIVE_A_MINUTE, 1) == 0.0


async def test_workers_share_a_budget(open_memory):
    first, second = open_memory(), open_memory()
    taken = await asyncio.gather(
        *(worker.take("a", FIVE_A_MINUTE) for _ in range(10) for worker in (first, second))
    )
    assert sum(wait_s == 0.0 for wait_s in taken) == 5


async def test_notes_are_kept_over_a_restart_and_forgotten_in_the_end(open_memory, clock):
    memory = open_memory()
    await memory.ask(lambda notes: notes.put("k" * 1000, 7.0, 3, 60.0))
    memory = open_memory()
    assert await memory.ask(lambda notes: notes.get("k" * 1000)) == (7.0, 3)
    assert await memory.ask(lambda notes: notes.get("k" * 999 + "j")) is None
    clock.now += 60.0
    assert await memory.ask(lambda notes: notes.get("k" * 1000)) is None


async def test_what_is_old_or_too_much_leaves_the_file(open_memory, clock, monkeypatch):
    monkeypatch.setattr(module, "_MAX_ROWS", 10)
    memory = open_memory()

    def fill(notes):
        for number in range(50):
            notes.put(f"k{number}", 0.0, 0, 1000.0 + number)

    def count(notes):
        return [number for number in range(50) if notes.get(f"k{number}") is not None]

    await memory.ask(fill)
    clock.now += 60.0
    await memory.ask(lambda _: None)
    assert await memory.ask(count) == list(range(40, 50)), "those that would have been kept longest"
    clock.now += 10_000.0
    await memory.ask(lambda _: None)
    assert await memory.ask(lambda notes: notes._connection.execute("SELECT count(*) FROM note").get) == 0


async def test_a_damaged_file_is_made_anew(open_memory, tmp_path):
    (tmp_path / FILE).write_bytes(b"this is no database" * 1000)
    assert await open_memory().take("a", FIVE_A_MINUTE) == 0.0


async def test_a_mistake_costs_only_who_made_it(open_memory):
    memory = open_memory()
    answers = await asyncio.gather(
        memory.ask(lambda notes: 1 / 0), memory.take("a", FIVE_A_MINUTE), return_exceptions=True
    )
    assert isinstance(answers[0], ZeroDivisionError)
    assert answers[1] == 0.0


async def test_questions_without_end_are_refused(open_memory, monkeypatch):
    monkeypatch.setattr(shared_file, "_MAX_WAITING", 3)
    memory, release = open_memory(), threading.Event()
    first = memory.ask(lambda _: release.wait(20))
    while memory._waiting:
        await asyncio.sleep(0.001)
    asked = [memory.take("a", FIVE_A_MINUTE) for _ in range(3)]
    with pytest.raises(shared_file.FileFullError):
        memory.take("a", FIVE_A_MINUTE)
    release.set()
    assert await asyncio.gather(first, *asked) == [True, 0.0, 0.0, 0.0]


async def test_a_folder_that_is_gone_is_said_and_survived(tmp_path):
    memory = Memory(tmp_path / "later")
    with pytest.raises(Exception, match="unable to open"):
        await memory.take("a", FIVE_A_MINUTE)
    (tmp_path / "later").mkdir()
    assert await memory.take("a", FIVE_A_MINUTE) == 0.0
    await memory.close()
