"""The life of a server process: how it starts, takes a new configuration, and ends."""

from __future__ import annotations

RELAY = """
[[listen]]
address = "127.0.0.1:0"
role = "relay"
[[route]]
match = "*"
via = "hold"
"""


async def test_a_server_starts_and_ends_when_asked(serve, dial):
    server = await serve(RELAY)
    caller = await dial(server.port)
    assert (await caller.reply()).startswith(b"220 mx.example.org ")
    await caller.send(b"QUIT\r\n")
    await caller.rest()
    assert await server.stop() == 0
