"""Challenges of an authority, as its own client and as others would ask for them."""

import asyncio
import contextlib
import socket

import pytest

from pillarbox.net.challenges import answer, token_file
from pillarbox.net.listener import ConnectionLimits, Connections


@pytest.fixture
async def port(tmp_path):
    token_file(tmp_path, "known").write_bytes(b"known.thumbprint")
    bound = socket.create_server(("127.0.0.1", 0))
    server = await answer(bound, "http-01", tmp_path, Connections(ConnectionLimits()))
    yield bound.getsockname()[1]
    server.close()


async def ask(port, request):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    said = await reader.read()
    writer.close()
    return said


async def test_a_token_is_answered_and_nothing_else_is_there(port):
    said = await ask(port, b"GET /.well-known/acme-challenge/known HTTP/1.1\r\nHost: x\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 200 OK\r\n")
    assert said.endswith(b"\r\n\r\nknown.thumbprint")
    for path in ("/", "/.well-known/acme-challenge/other", "/.well-known/acme-challenge/../known"):
        assert b"404 Not Found" in await ask(port, f"GET {path} HTTP/1.1\r\n\r\n".encode())


async def test_those_who_only_hold_a_connection_are_bounded_in_number(port):
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(200)]
    surplus, surplus_writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.suppress(ConnectionResetError):  # closed is as good as reset
        assert await surplus.read() == b""
    reader, writer = held[0]  # it still has its time: it was not its end that the other one waited for
    writer.write(b"GET /.well-known/acme-challenge/known HTTP/1.1\r\n\r\n")
    assert (await reader.read()).endswith(b"known.thumbprint")
    for _reader, writer in [*held, (surplus, surplus_writer)]:
        writer.close()
