"""Sending to the SMTP and LMTP sink of Postfix, which refuses, stops and hangs up where it is told to."""

import asyncio
import os
import shutil
import socket
import subprocess

import pytest

from pillarbox import testing
from pillarbox.mail.route import parse_route
from pillarbox.relay.couriers import Couriers
from pillarbox.relay.session import Patience, SmtpSettings
from pillarbox.testing import FakeResolver

SINK = shutil.which("smtp-sink", path="/usr/sbin:/usr/bin")
pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(SINK is None, reason="Postfix's smtp-sink is not installed"),
]


@pytest.fixture
async def sink():
    """Start smtp-sink with options, return the route to it."""
    processes = []

    async def start(*options, transport="smtp"):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        user = ("-u", "nobody") if os.geteuid() == 0 else ()
        process = subprocess.Popen([SINK, *user, *options, f"127.0.0.1:{port}", "100"])
        processes.append(process)
        for _ in range(500):
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                assert process.poll() is None
                await asyncio.sleep(0.01)
            else:
                writer.close()
                break
        return f"{transport}://127.0.0.1:{port}"

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
async def send():
    """Deliver letters by one courier and return the outcomes."""
    couriers = []

    async def deliver(route, *letters, **settings):
        patience = Patience(end_s=2, command_s=2, greeting_s=2, quit_s=0.2)
        factory = Couriers(
            SmtpSettings(patience=patience, **settings), FakeResolver(), hostname="here.test", local=None
        )
        courier = factory(parse_route(route))
        couriers.append(courier)
        return [await courier.deliver(one) for one in letters]

    yield deliver
    for courier in couriers:
        await courier.close()


async def test_many_messages_on_kept_connections(sink, send):
    letters = [testing.letter("a@x.test", "b@x.test", number=number + 1) for number in range(250)]
    outcomes = await send(await sink(), *letters)
    assert all(result.reply.positive for results in outcomes for result in results.values())
    assert sum(map(len, outcomes)) == 500


@pytest.mark.parametrize("options", [("-p",), ("-e",), ("-8", "-N", "-E"), ("-P",)])
async def test_hosts_that_offer_less(sink, send, options):
    (results,) = await send(await sink(*options), testing.letter("a@x.test", "b@x.test"))
    assert all(result.reply.positive for result in results.values())


@pytest.mark.parametrize(
    ("command", "stage"),
    [("CONNECT", "greeting"), ("MAIL", "mail"), ("RCPT", "rcpt"), ("DATA", "data"), (".", "body")],
)
@pytest.mark.parametrize(("option", "temporary"), [("-f", False), ("-r", True)])
async def test_refusals(sink, send, command, stage, option, temporary):
    (results,) = await send(await sink(option, command), testing.letter("a@x.test", "b@x.test"))
    assert {result.stage.value for result in results.values()} == {stage}
    assert {result.reply.temporary for result in results.values()} == {temporary}


@pytest.mark.parametrize("command", ["EHLO", "EHLO,HELO"])
async def test_refused_greetings(sink, send, command):
    (results,) = await send(await sink("-f", command), testing.letter("a@x.test"))
    assert results[0].reply.positive is (command == "EHLO")


@pytest.mark.parametrize("command", ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "."])
@pytest.mark.parametrize("option", ["-q", "-Q"])
async def test_hosts_that_hang_up(sink, send, command, option):
    (results,) = await send(await sink(option, command), testing.letter("a@x.test", "b@x.test"))
    for result in results.values():
        assert result.reply.temporary
        assert result.in_doubt is (command == "." and option == "-q")


async def test_a_host_that_refuses_in_the_middle_of_the_data(sink, send, tmp_path):
    queued = testing.letter("a@x.test", body=b"x" * 70 + b"\r\n" * 5_000_000, file=tmp_path / "body")
    (results,) = await send(await sink("-A", "0"), queued)
    assert not results[0].reply.positive
    assert not results[0].in_doubt


async def test_a_host_that_reads_slowly(sink, send, tmp_path):
    queued = testing.letter("a@x.test", body=b"a line\r\n" * 500_000, file=tmp_path / "body")
    (results,) = await send(await sink("-H", "1", "-T", "4096"), queued)
    assert results[0].reply.positive


async def test_lmtp(sink, send):
    (results,) = await send(
        await sink("-L", transport="lmtp"), testing.letter("a@x.test", "b@x.test", "c@x.test")
    )
    assert [results[number].reply.positive for number in range(3)] == [True] * 3
