"""A stranger who calls the post office."""

import pytest

from pillarbox import observe

MAIL, RCPT = b"MAIL FROM:<a@sender.test>", b"RCPT TO:<alice@example.org>"


@pytest.fixture
def noted(monkeypatch):
    """What is written to the log: (event, facts) pairs."""
    events = []
    monkeypatch.setattr(observe.CHECK_WARNED, "written", True)
    monkeypatch.setattr(observe._log, "write", lambda event, facts: events.append((event.name, dict(facts))))
    return events


@pytest.fixture
def converse(dial):
    """Call an office and say the lines; the reply to each: `replies = await converse(office, b"EHLO x.test", ...)`."""

    async def talk(office, *lines):
        caller = await dial(office.port)
        await caller.reply()
        return [await caller.ask(line) for line in lines]

    return talk
