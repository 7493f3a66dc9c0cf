"""Couriers follow the settings, and what they share lives as long as one of them needs it."""

from pillarbox.mail.route import Route, Transport
from pillarbox.relay.couriers import PresentCouriers

ROUTE = Route(Transport.DISCARD)


class Makers:
    """Makes couriers that say which settings they were made by, and notes what is closed."""

    def __init__(self, name, events):
        self.name = name
        self.events = events

    def make(self, route):
        assert route == ROUTE
        self.events.append(f"{self.name} makes")
        return self

    async def deliver(self, queued):
        return {queued: self.name}

    async def close(self):
        self.events.append(f"{self.name} courier closed")

    async def let_go(self):
        self.events.append(f"{self.name} gone")


async def test_a_courier_is_made_when_there_is_a_message_and_by_the_settings_of_that_time(until):
    events = []
    old, new = Makers("old", events), Makers("new", events)
    couriers = PresentCouriers(old.make, old.let_go)
    early, late = couriers(ROUTE), couriers(ROUTE)
    assert events == []
    assert await early.deliver(1) == {1: "old"}
    assert await early.deliver(2) == {2: "old"}
    couriers.renew(new.make, new.let_go)
    assert await late.deliver(3) == {3: "new"}
    assert events == ["old makes", "new makes"]
    assert await early.deliver(4) == {4: "new"}
    await until(lambda: len(events) == 5)
    assert set(events[2:]) == {"old courier closed", "new makes", "old gone"}


async def test_what_old_couriers_share_is_kept_while_one_of_them_works(until):
    events = []
    old, new = Makers("old", events), Makers("new", events)
    couriers = PresentCouriers(old.make, old.let_go)
    first, second = couriers(ROUTE), couriers(ROUTE)
    await first.deliver(1)
    await second.deliver(2)
    couriers.renew(new.make, new.let_go)
    await first.close()
    await couriers.close()
    assert events[2:] == ["old courier closed", "new gone"]
    await second.close()
    await until(lambda: events[-1] == "old gone")
    await second.close()
    assert events.count("old gone") == 1


async def test_settings_that_no_courier_was_made_by_are_let_go_at_once(until):
    events = []
    old, new = Makers("old", events), Makers("new", events)
    couriers = PresentCouriers(old.make, old.let_go)
    couriers.renew(new.make, new.let_go)
    await until(lambda: events == ["old gone"])
    await couriers.close()
    assert events == ["old gone", "new gone"]
