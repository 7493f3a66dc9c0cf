"""Zones in memory, and the loop that answers a plan from them."""

from __future__ import annotations

import time

import pytest

from pillarbox.mailauth.dns import Answer


def answer_from(zone, query):
    """`zone`: (name, kind) -> records, or "failed"; a CNAME is followed."""
    name = query.name.lower().rstrip(".")
    for _ in range(8):
        found = zone.get((name, query.kind))
        if found == "failed":
            return Answer(failed=True, detail="no answer in time")
        if found is not None:
            return Answer(tuple(found))
        alias = zone.get((name, "CNAME"))
        if alias is None:
            break
        name = alias[0].lower().rstrip(".")
    return Answer(no_domain=not any(owner == name for owner, _ in zone))


def run(plan, zone, asked=None):
    """The plan's result; `zone` is a mapping or a function from query to answer."""
    look = zone if callable(zone) else lambda query: answer_from(zone, query)
    try:
        query = next(plan)
        while True:
            if asked is not None:
                asked.append(query)
            query = plan.send(look(query))
    except StopIteration as ended:
        return ended.value


@pytest.fixture(scope="session")
def run_plan():
    return run


@pytest.fixture(scope="session")
def grows_linearly():
    """Sixteen times the input may cost sixteen times the work, with room for noise; a square would be 256 times."""

    def check(work, make, size=4000):
        def cost(count):
            value = make(count)
            spent = []
            for _ in range(3):
                before = time.process_time()
                work(value)
                spent.append(time.process_time() - before)
            return max(min(spent), 0.0005)

        assert cost(16 * size) < 80 * cost(size)

    return check
