"""What the tests of sessions have in common: a client that gets as far as needed, and an eye on incidents."""

import pytest

from pillarbox import observe

EHLO = b"EHLO client.example\r\n"


@pytest.fixture(autouse=True)
def noted(monkeypatch):
    """All events that are loud enough to be written; a bug among them fails the test unless it was expected."""
    events = []
    monkeypatch.setattr(observe._log, "write", lambda event, facts: events.append((event.name, dict(facts))))
    yield events
    assert not [facts for name, facts in events if name == "incident"]


@pytest.fixture
def expected_incidents(noted):
    """Take the incidents out of what was noted: a test that asks for this expects them."""

    def take():
        found = [facts for name, facts in noted if name == "incident"]
        noted[:] = [event for event in noted if event[0] != "incident"]
        return found

    return take


@pytest.fixture
def begin(dial):
    """Call an office and say EHLO and then these lines; the caller and the last reply."""

    async def start(office, *lines, tls=None):
        caller = await dial(office.port, tls=tls)
        assert (await caller.reply())[:3] == b"220"
        reply = await caller.ask(
            EHLO.strip() if office.desk.profile.lmtp is False else b"LHLO client.example"
        )
        for line in lines:
            reply = await caller.ask(line)
        return caller, reply

    return start
