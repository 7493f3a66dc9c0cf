import asyncio
import sys
import threading
import types

import pytest

import pillarbox
from pillarbox.config import parse
from pillarbox.mail.catalogue import delivery, envelope
from pillarbox.mail.envelope import Envelope, Recipient
from pillarbox.mail.reply import parse_reply
from pillarbox.mail.route import Route, Transport
from pillarbox.mail.units import Seconds
from pillarbox.queue.ledger import Ledger
from pillarbox.queue.spool import Content, Pending, Queued, format_id
from pillarbox.relay.local import LocalCouriers, LocalSettings


async def call(function, limit_s=30.0, target="handlers_under_test:handle"):
    module = types.ModuleType("handlers_under_test")
    module.handle = function
    sys.modules["handlers_under_test"] = module
    route = Route(Transport.PYTHON, target)
    recipient = Recipient("alice@example.org")
    content = Content(b"Received: x\r\n", b"Subject: hi\r\n\r\n", None, 15)
    queued = Queued(
        99,
        Envelope("bob@example.net", (recipient,)),
        1000.0,
        [Pending(99, 3, recipient, route, 0.0, 2)],
        content,
    )
    couriers = LocalCouriers(LocalSettings(handler_limit_s=Seconds(limit_s)), hostname="mx.example.org")
    try:
        return (await couriers(route).deliver(queued))[3].reply
    finally:
        del sys.modules["handlers_under_test"]
        await couriers.close()


async def test_a_coroutine_gets_the_message():
    got = []

    async def handle(message):
        got.append(message)

    reply = await call(handle)
    assert reply.cause_id == "delivery.delivered"
    (message,) = got
    assert (message.queue_id, message.sender, message.recipient) == (
        format_id(99),
        "bob@example.net",
        "alice@example.org",
    )
    assert (message.received_at, message.attempts, message.octets) == (1000.0, 2, 28)
    assert message.read() == b"".join(message.chunks()) == b"Received: x\r\nSubject: hi\r\n\r\n"


async def test_a_plain_function_runs_in_a_thread():
    threads = []
    assert (await call(lambda _: threads.append(threading.current_thread()))).positive
    assert threads[0] is not threading.main_thread()


async def test_its_reply_counts():
    async def handle(message):
        return envelope.RECIPIENT_UNKNOWN.reply()

    assert (await call(handle)).cause_id == "envelope.recipient_unknown"


async def fails(message):
    raise KeyError("secret")


async def exits(message):
    sys.exit(1)


async def cancels_itself(message):
    raise asyncio.CancelledError


async def answers_junk(message):
    return "550 no"


async def goes_on(message):
    return parse_reply([b"354 go on"])


async def sleeps(message):
    await asyncio.sleep(600)


async def ignores_cancelling(message):
    while True:
        try:
            await asyncio.sleep(0.2)
            return
        except asyncio.CancelledError:
            continue


def plain_exits(message):
    sys.exit(1)


@pytest.mark.parametrize(
    ("function", "limit_s"),
    [
        (fails, 30),
        (exits, 30),
        (plain_exits, 30),
        (cancels_itself, 30),
        (answers_junk, 30),
        (goes_on, 30),
        (sleeps, 0.05),
        (ignores_cancelling, 0.05),
        (None, 30),
    ],
)
async def test_whatever_goes_wrong_is_an_incident_and_temporary(function, limit_s, capfd):
    reply = await call(function, limit_s)
    assert reply.cause_id == "delivery.handler_failed"
    assert reply.temporary
    incident = reply.text.rpartition(" ")[2]
    assert incident in capfd.readouterr().err
    assert "secret" not in reply.text


@pytest.mark.parametrize("target", ["no_such_module_here:handle", "handlers_under_test:missing"])
async def test_a_function_that_cannot_be_found(target):
    assert (await call(fails, target=target)).cause_id == "delivery.handler_failed"


async def test_a_plain_function_that_takes_too_long():
    release = threading.Event()
    try:
        reply = await call(lambda _: release.wait(60), 0.05)
    finally:
        release.set()
    assert reply.cause_id == "delivery.handler_failed"


async def test_a_cancelled_delivery_cancels_the_handler():
    started = asyncio.Event()
    state = []

    async def handle(message):
        started.set()
        try:
            await asyncio.sleep(600)
        finally:
            state.append("ended")

    task = asyncio.ensure_future(call(handle))
    await asyncio.wait_for(started.wait(), 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert state == ["ended"]


async def test_the_operator_says_how_long_a_function_may_take(tmp_path, monkeypatch):
    (tmp_path / "slow_handler.py").write_text(
        "import asyncio\nasync def handle(message):\n    await asyncio.sleep(3600)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = parse(
        f'hostname = "mx.example.org"\ndata = "{tmp_path}/data"\nhandler_limit = "50ms"\n'
        '[[listen]]\naddress = "127.0.0.1:0"\n'
        '[domain."example.org"]\ndeliver = "python:slow_handler:handle"\n',
        "test",
    )
    async with pillarbox.Server(config) as server:
        await pillarbox.send(b"Subject: x\r\n\r\n", "a@example.net", ["b@example.org"], server.address)
        with Ledger(tmp_path / "data") as ledger:
            async with asyncio.timeout(20):
                while not (
                    found := [one.result for one in ledger.list_messages()[0].recipients if one.result]
                ):
                    await asyncio.sleep(0.01)
    assert found[0].reply.cause is delivery.HANDLER_FAILED
