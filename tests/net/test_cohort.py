"""What many connections have to do in one turn of the loop is done sort by sort."""

import asyncio

from pillarbox import observe
from pillarbox.net.cohort import Cohort


class Member:
    """Notes in a common list when it proceeds."""

    def __init__(self, name, done, *, then=None):
        self.name, self.done, self.then = name, done, then

    def proceed(self):
        self.done.append(self.name)
        if self.then is not None:
            self.then()

    def abort(self):
        self.done.append(f"{self.name} aborted")


async def test_those_of_one_sort_proceed_side_by_side_in_the_order_in_which_they_came():
    cohort, done = Cohort(range(5)), []
    for sort, name in ((2, "a"), (1, "b"), (2, "c"), (1, "d")):
        cohort.add(sort, Member(name, done))
    assert done == []
    await asyncio.sleep(0)
    assert done == ["b", "d", "a", "c"]


async def test_who_has_more_to_do_proceeds_in_the_next_turn():
    cohort, done = Cohort(range(5)), []
    cohort.add(1, Member("a", done, then=lambda: cohort.add(0, Member("later", done))))
    cohort.add(2, Member("b", done))
    await asyncio.sleep(0)
    assert done == ["a", "b"]
    await asyncio.sleep(0)
    assert done == ["a", "b", "later"]


async def test_a_bug_in_one_ends_only_that_one(monkeypatch):
    incidents = []
    monkeypatch.setattr(observe, "report_incident", lambda error, **_facts: incidents.append(error))
    cohort, done = Cohort(range(5)), []
    cohort.add(1, Member("broken", done, then=lambda: 1 / 0))
    cohort.add(2, Member("good", done))
    await asyncio.sleep(0)
    assert done == ["broken", "broken aborted", "good"]
    assert isinstance(incidents[0], ZeroDivisionError)


async def test_a_few_connections_do_not_wait_for_each_other():
    connections, done = [1, 2, 3, 4], []
    cohort = Cohort(connections)
    cohort.add(2, Member("a", done))
    cohort.add(1, Member("b", done))
    assert done == ["a", "b"]
    connections.append(5)
    cohort.add(2, Member("c", done))
    cohort.add(1, Member("d", done))
    assert done == ["a", "b"]
    await asyncio.sleep(0)
    assert done == ["a", "b", "d", "c"]
