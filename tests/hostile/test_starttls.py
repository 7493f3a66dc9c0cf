"""What is said in clear around STARTTLS is not acted on, whoever puts it there: on the way in and on the way out."""

from __future__ import annotations

import base64

import pytest

from pillarbox import observe

LETTER = (
    b"MAIL FROM:<a@sender.example>\r\nRCPT TO:<alice@example.org>\r\nDATA\r\nSubject: x\r\n\r\nx\r\n.\r\n"
)
INJECTED = {
    "a whole message": b"EHLO injected.example\r\n" + LETTER,
    "a body without an end": b"EHLO injected.example\r\n" + LETTER.removesuffix(b".\r\n"),
    "a login": b"EHLO injected.example\r\nAUTH PLAIN "
    + base64.b64encode(b"\0bob@example.org\0builder")
    + b"\r\n",
    "half a login": b"AUTH LOGIN\r\n",
    "half a command": b"EHLO injected.example\r\nMAIL FROM:<a",
    "an end": b"QUIT\r\n",
}
SETTINGS = {"tls": "offered", "login": True, "login_in_clear": True}


@pytest.mark.parametrize("injected", INJECTED.values(), ids=list(INJECTED))
async def test_nothing_behind_starttls_is_acted_on(open_office, dial, certificates, injected):
    """In one packet with it: thrown away. Each command of the client gets its own reply and no other."""
    office = await open_office(**SETTINGS)
    caller = await dial(office.port)
    await caller.reply()
    await caller.ask(b"EHLO client.example")
    await caller.send(b"STARTTLS\r\n" + injected)
    assert await caller.reply() == b"220 2.0.0 Ready to start TLS\r\n"
    await caller.upgrade(certificates.client)
    assert await caller.ask(b"NOOP") == b"250 2.0.0 OK\r\n"
    assert (await caller.ask(b"MAIL FROM:<alice@example.org>")).startswith(b"503 5.5.1")
    assert (await caller.ask(b"EHLO client.example")).startswith(b"250-mx.example.org\r\n")
    assert (await caller.ask(b"RCPT TO:<alice@example.org>")).startswith(b"503 5.5.1")
    login = base64.b64encode(b"\0alice@example.org\0wonderland")
    assert (await caller.ask(b"AUTH PLAIN " + login)).startswith(b"235 ")
    assert (await caller.ask(b"QUIT")).startswith(b"221 ")
    assert await caller.rest() == b""
    assert office.queued == []
    assert office.drafts == []


@pytest.mark.parametrize("injected", INJECTED.values(), ids=list(INJECTED))
async def test_what_comes_in_clear_where_a_handshake_should_begin_ends_the_session(
    open_office, dial, until, monkeypatch, injected
):
    noted = []
    monkeypatch.setattr(observe.TLS_FAILED, "written", True)
    monkeypatch.setattr(observe._log, "write", lambda event, facts: noted.append((event.name, facts)))
    office = await open_office(**SETTINGS)
    caller = await dial(office.port)
    await caller.reply()
    await caller.ask(b"EHLO client.example")
    assert (await caller.ask(b"STARTTLS")).startswith(b"220 ")
    await caller.send(injected)
    said = await caller.rest()
    assert b"250" not in said
    assert b"235" not in said
    await until(lambda: len(office.connections) == 0)
    ((_, facts),) = [one for one in noted if one[0] == "tls.failed"]
    assert (facts["client"], facts["problem"]) in {
        ("127.0.0.1", "wrong version number"),
        ("127.0.0.1", "http request"),
    }
    assert office.queued == []
    assert office.drafts == []
