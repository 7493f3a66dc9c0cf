"""Pillarbox inside another program: `pillarbox.Server`, `pillarbox.send` and `pillarbox.refuse`."""

from __future__ import annotations

import asyncio
import gc
import re
import smtplib
import socket
import tempfile
import threading
from email import message_from_bytes, policy
from email.message import EmailMessage
from importlib.metadata import version
from pathlib import Path

import pytest
import trustme
from argon2 import PasswordHasher

import pillarbox
from pillarbox.config import parse
from pillarbox.testing import Drop, Hang, ScriptedPeer

LETTER = b"Subject: hello\r\n\r\nHow are you?\r\n"
ANN, BOB, CAROL = "ann@one.example", "bob@two.example", "carol@three.example"


async def send(server, *recipients: str, message=LETTER, sender: str = "me@here.example"):
    return await pillarbox.send(message, sender, recipients or (ANN,), server.address)


# --- the server


async def test_a_server_takes_everything_and_shows_it():
    async with pillarbox.Server() as server:
        host, port = server.address
        assert (host, port > 0) == ("127.0.0.1", True)
        assert server.addresses == ((host, port),)
        replies = await send(server, ANN, BOB)
        await send(server, CAROL, sender="")
        first, second = await server.messages()
    assert (first.sender, first.recipients) == ("me@here.example", (ANN, BOB))
    assert first.content.startswith(b"Received: ")
    assert first.content.endswith(LETTER)
    assert replies == dict.fromkeys((ANN, BOB), replies[ANN])
    assert str(replies[ANN]) == f"250 2.0.0 Queued as {first.queue_id}"
    assert (second.sender, second.recipients) == ("", (CAROL,))


async def test_a_program_that_knows_only_smtplib_can_use_it():
    def deliver(host: str, port: int) -> None:
        with smtplib.SMTP(host, port) as client:
            client.sendmail("me@here.example", [ANN], LETTER)

    async with pillarbox.Server() as server:
        await asyncio.to_thread(deliver, *server.address)
        (message,) = await server.messages()
    assert message.recipients == (ANN,)


async def test_two_servers_in_one_loop_do_not_know_each_other():
    class OnlyAnn:
        def decide_rcpt(self, client, sender, recipient):
            return None if str(recipient) == ANN else pillarbox.refuse()

    async with pillarbox.Server(hooks=[OnlyAnn()]) as strict, pillarbox.Server() as other:
        assert strict.address != other.address
        assert (await send(strict, BOB))[BOB].code == 550
        assert (await send(other, BOB))[BOB].code == 250
        assert [message.recipients for message in await other.messages()] == [(BOB,)]
        assert await strict.messages() == []
    async with pillarbox.Server() as one:
        async with pillarbox.Server() as two:
            await send(two)
        assert (await send(one))[ANN].positive


async def test_a_server_can_be_used_again_and_forgets_its_mail():
    server = pillarbox.Server()
    for _ in range(2):
        async with server:
            await send(server)
            assert len(await server.messages()) == 1


async def test_outside_its_block_a_server_says_what_is_missing():
    server = pillarbox.Server()
    for use in (lambda: server.address, lambda: server.addresses):
        with pytest.raises(RuntimeError, match="async with"):
            use()
    with pytest.raises(RuntimeError, match="async with"):
        await server.messages()


async def test_the_program_around_it_is_left_as_it_was(monkeypatch, tmp_path, until):
    """Its garbage collector, its threads, its temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = gc.get_threshold(), gc.get_freeze_count(), {thread.name for thread in threading.enumerate()}

    class Slow:
        def decide_mail(self, client, sender):
            return None

    pillarbox.Server()
    async with pillarbox.Server(hooks=[Slow()]) as server:
        await send(server)
        assert gc.get_threshold() == before[0]
        assert gc.get_freeze_count() == before[1]
        assert len(list(tmp_path.iterdir())) == 1
    await until(lambda: {thread.name for thread in threading.enumerate()} <= before[2])
    assert list(tmp_path.iterdir()) == []


async def test_a_server_that_cannot_start_leaves_nothing_open(tmp_path, until):
    """The first address is bound already when the second turns out to be taken; then all starts at the second try."""
    before = {thread.name for thread in threading.enumerate()}
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as free:
        ports = [sock.getsockname()[1] for sock in (free, taken)]
        free.close()
        listeners = "".join(f'[[listen]]\naddress = "127.0.0.1:{port}"\nrole = "sandbox"\n' for port in ports)
        config = parse(
            f'hostname = "mx.example.org"\ndata = "{tmp_path}/data"\n{listeners}[[route]]\nmatch = "*"\nvia = "hold"\n',
            "test.toml",
        )
        with pytest.raises(OSError, match=f"127.0.0.1:{ports[1]}"):
            async with pillarbox.Server(config):
                pass
    await until(lambda: {thread.name for thread in threading.enumerate()} <= before)
    async with pillarbox.Server(config) as server:
        assert [port for _, port in server.addresses] == ports
        assert (await send(server))[ANN].positive


async def test_a_block_that_fails_or_is_cancelled_still_closes_the_server():
    async def use(server: pillarbox.Server, ready: asyncio.Event) -> None:
        async with server:
            addresses.append(server.address)
            ready.set()
            await asyncio.Event().wait()

    addresses: list[tuple[str, int]] = []
    ready = asyncio.Event()
    task = asyncio.create_task(use(pillarbox.Server(), ready))
    await ready.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    async def fail() -> None:
        async with pillarbox.Server() as server:
            addresses.append(server.address)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    for address in addresses:
        assert (await pillarbox.send(LETTER, "", [ANN], address))[ANN].cause_id == "delivery.connect_failed"


# --- hooks


class Refuses:
    """Refuses at one stage."""

    def __init__(self, stage: str, reply) -> None:
        setattr(self, stage, lambda *_about: reply)


@pytest.mark.parametrize(
    ("stage", "cause", "said"),
    [
        ("decide_connect", "session.client_denied", "554 sandbox.localhost no service for your address"),
        ("decide_mail", "envelope.refused_by_hook", "550 5.7.1 not today"),
        ("decide_rcpt", "envelope.too_many_recipients", "452 4.5.3 not today"),
        ("decide_message", "envelope.refused_by_hook", "550 5.7.1 not today"),
    ],
)
async def test_a_hook_refuses_by_cause_at_each_stage(stage, cause, said):
    words = said.split(" ", 1 if stage == "decide_connect" else 2)[-1]
    async with pillarbox.Server(hooks=[Refuses(stage, pillarbox.refuse(cause, words))]) as server:
        reply = (await send(server))[ANN]
        assert await server.messages() == []
    assert str(reply) == said
    assert reply.cause is None  # the server's words


@pytest.mark.parametrize("stage", ["decide_connect", "decide_mail", "decide_rcpt", "decide_message"])
async def test_a_hook_that_raises_puts_the_mail_off_with_an_incident(stage, capfd):
    class Broken:
        pass

    def fail(*_about):
        raise RuntimeError("no database")

    hook = Broken()
    setattr(hook, stage, fail)
    async with pillarbox.Server(hooks=[hook]) as server:
        reply = (await send(server))[ANN]
        assert await server.messages() == []
    assert reply.code == 451
    incident = re.search(r"incident (\w{8})", reply.text)
    log = capfd.readouterr().err
    assert incident[1] in log
    assert "no database" in log


async def test_a_hook_is_told_before_the_block_ends():
    told = []

    class Listens:
        async def notify_received(self, queue_id, message):
            await asyncio.sleep(0.05)
            told.append((queue_id, message.head.get("subject")))

    async with pillarbox.Server(hooks=[Listens()]) as server:
        reply = (await send(server))[ANN]
    assert told == [(reply.text.split()[-1], "hello")]


class Misspelt:
    def decide_mesage(self, message):
        """Never called."""


class Good:
    def decide_message(self, message):
        """No opinion."""


@pytest.mark.parametrize(
    ("hook", "problem"),
    [(Misspelt(), "did you mean decide_message?"), (Good, r"give an object of it: Good\(\)")],
)
async def test_a_hook_that_would_do_nothing_or_always_fail_is_refused_at_the_start(hook, problem):
    with pytest.raises(ValueError, match=problem):
        async with pillarbox.Server(hooks=[hook]):
            pass


@pytest.mark.parametrize(
    ("cause", "error", "said"),
    [
        ("envelope.refused_by_hok", KeyError, "did you mean 'envelope.refused_by_hook'"),
        ("session.ok", ValueError, "no refusal"),
        ("content.start_data", ValueError, "no refusal"),
        ("envelope.size_too_big", ValueError, "needs words of your own"),
    ],
)
def test_what_cannot_refuse_is_no_refusal(cause, error, said):
    with pytest.raises(error, match=said):
        pillarbox.refuse(cause)


def test_a_refusal_has_the_words_of_its_cause_or_others():
    assert str(pillarbox.refuse()).startswith("550 5.7.1 ")
    assert pillarbox.refuse("envelope.size_too_big", "Send a link").lines == ("Send a link",)
    assert pillarbox.refuse("envelope.refused_by_hook", "One\r\nQUIT").lines == (r"One\r\nQUIT",)


# --- sending


async def test_each_recipient_has_its_own_reply():
    script = {"RCPT": ["550 5.1.1 no such user", "452 4.2.2 full", "250 2.1.5 ok"]}
    async with ScriptedPeer(script) as peer:
        replies = await pillarbox.send(LETTER, "me@here.example", [ANN, BOB, CAROL], (peer.host, peer.port))
        assert peer.messages == [LETTER]
    assert {address: str(reply) for address, reply in replies.items()} == {
        ANN: "550 5.1.1 no such user",
        BOB: "452 4.2.2 full",
        CAROL: "250 2.0.0 OK",
    }
    assert (replies[ANN].permanent, replies[BOB].temporary, replies[CAROL].positive) == (True, True, True)
    assert {reply.cause for reply in replies.values()} == {None}


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        ({"MAIL": Drop()}, "delivery.connection_lost"),
        ({".": Drop()}, "delivery.in_doubt"),
        ({"connect": Drop(reset=True)}, "delivery.connection_lost"),
    ],
)
async def test_what_a_server_does_is_a_reply_and_never_an_exception(script, cause):
    async with ScriptedPeer(script) as peer:
        async with asyncio.timeout(20):
            replies = await pillarbox.send(LETTER, "me@here.example", [ANN], (peer.host, peer.port))
    assert replies[ANN].cause_id == cause
    assert replies[ANN].temporary


async def test_nobody_listens_there():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        address = sock.getsockname()
    reply = (await pillarbox.send(LETTER, "", [ANN], address))[ANN]
    assert reply.cause_id == "delivery.connect_failed"
    assert f"127.0.0.1]:{address[1]}" in reply.text


async def test_sending_can_be_cancelled_and_hangs_up():
    async with ScriptedPeer({"RCPT": Hang()}) as peer:
        sending = asyncio.create_task(pillarbox.send(LETTER, "", [ANN], (peer.host, peer.port)))
        async with asyncio.timeout(20):
            await peer.until(lambda: "RCPT TO:<ann@one.example>" in peer.commands)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            await peer.until(lambda: peer.visits[0].lost)
        assert peer.messages == []


async def test_localhost_is_this_machine():
    async with pillarbox.Server() as server:
        replies = await pillarbox.send(LETTER, "", [ANN], ("localhost", server.address[1]))
    assert replies[ANN].positive


async def test_attachments_go_as_they_are_and_blind_copies_stay_blind():
    message = EmailMessage()
    message["From"] = "me@here.example"
    message["To"] = ANN
    message["Bcc"] = BOB
    message["Subject"] = "Bücher"
    message.set_content("Grüße\n.\nvom Punkt\n")
    octets = bytes(range(256)) * 400
    message.add_attachment(octets, maintype="application", subtype="octet-stream", filename="all.bin")
    async with pillarbox.Server() as server:
        replies = await send(server, ANN, BOB, message=message)
        (kept,) = await server.messages()
    assert all(reply.positive for reply in replies.values())
    assert b"\nBcc:" not in kept.content
    assert message["Bcc"] == BOB  # the caller's own is not touched
    received = message_from_bytes(kept.content, policy=policy.default)
    assert received["Subject"] == "Bücher"
    assert received.get_body().get_content().splitlines() == ["Grüße", ".", "vom Punkt"]
    (attachment,) = received.iter_attachments()
    assert (attachment.get_filename(), attachment.get_content()) == ("all.bin", octets)


@pytest.mark.parametrize(
    ("message", "recipients", "error"),
    [
        ("Subject: text\r\n\r\n", [ANN], TypeError),
        (LETTER, ANN, TypeError),
        (LETTER, [], ValueError),
        (LETTER, ["ann@one.example>\r\nRCPT TO:<bob@two.example"], ValueError),
    ],
)
async def test_arguments_that_cannot_be_meant_are_refused_before_anything_is_sent(message, recipients, error):
    async with pillarbox.Server() as server:
        with pytest.raises(error):
            await pillarbox.send(message, "", recipients, server.address)
        assert await server.messages() == []


@pytest.mark.parametrize("to", ["127.0.0.1:2525", ("127.0.0.1",)])
async def test_where_to_send_is_a_host_and_a_port(to):
    with pytest.raises(TypeError, match=r"such as \(.127\.0\.0\.1., 2525\), not "):
        await pillarbox.send(LETTER, "", [ANN], to)


def test_the_public_names_can_be_listed_and_the_version_asked_for():
    assert set(dir(pillarbox)) == {*pillarbox.__all__, "__version__"}
    assert all(hasattr(pillarbox, name) for name in dir(pillarbox))
    assert pillarbox.__version__ == version("pillarbox")


# --- TLS and logins


@pytest.fixture(scope="module")
def identity(tmp_path_factory) -> Path:
    """A folder with a certificate for localhost, its key, and the authority's certificate."""
    folder = tmp_path_factory.mktemp("identity")
    authority = trustme.CA()
    leaf = authority.issue_cert("localhost")
    (folder / "cert.pem").write_bytes(leaf.cert_chain_pems[0].bytes())
    (folder / "key.pem").write_bytes(leaf.private_key_pem.bytes())
    (folder / "ca.pem").write_bytes(authority.cert_pem.bytes())
    return folder


@pytest.fixture
async def submission(identity, tmp_path):
    """A server for users who log in: STARTTLS on its first address, TLS from the start on its second one."""
    secret = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("wonder land@:/")
    text = f"""
hostname = "mx.example.org"
data = "{tmp_path}/data"
drain = "1s"
[tls]
certificate = "{identity}/cert.pem"
key = "{identity}/key.pem"
[[listen]]
address = "127.0.0.1:0"
role = "submission"
[[listen]]
address = "127.0.0.1:0"
role = "submission"
tls = "implicit"
[[route]]
match = "*"
via = "hold"
[account."alice@example.org"]
password = "{secret}"
"""
    async with pillarbox.Server(parse(text, "test.toml")) as server:
        yield server


LOGIN = ("alice@example.org", "wonder land@:/")


@pytest.mark.parametrize(("number", "tls"), [(0, None), (0, "required"), (1, "implicit")])
async def test_logging_in_over_tls(submission, identity, number, tls):
    to = ("localhost", submission.addresses[number][1])
    replies = await pillarbox.send(
        LETTER, "alice@example.org", [ANN], to, tls=tls, login=LOGIN, ca_file=str(identity / "ca.pem")
    )
    assert str(replies[ANN]).startswith("250 2.0.0 Queued")
    (message,) = await submission.messages()
    assert b"with ESMTPSA" in message.content


@pytest.mark.parametrize(
    ("login", "tls", "trusted", "said"),
    [
        (("alice@example.org", "wrong"), None, True, "535 5.7.8 "),
        (None, "required", True, "530 5.7.0 "),
        (LOGIN, None, False, "451 4.7.5 "),
        (LOGIN, "none", True, "451 4.7.0 "),
    ],
    ids=["wrong password", "no login", "untrusted certificate", "in clear"],
)
async def test_a_login_that_fails_is_a_reply(submission, identity, login, tls, trusted, said):
    to = ("localhost", submission.addresses[0][1])
    ca_file = str(identity / "ca.pem") if trusted else ""
    replies = await pillarbox.send(
        LETTER, "alice@example.org", [ANN], to, tls=tls, login=login, ca_file=ca_file
    )
    assert str(replies[ANN]).startswith(said), str(replies[ANN])
    assert await submission.messages() == []
