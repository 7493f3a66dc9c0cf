"""How policies are found, fetched over real TLS, kept and fetched anew."""

import asyncio
import ssl
from contextlib import AsyncExitStack

import pytest
import trustme

from pillarbox.mailauth.mta_sts import MAX_POLICY_OCTETS, Mode
from pillarbox.relay.sts import StsPolicies
from pillarbox.relay.sts_store import StsStore
from pillarbox.testing import FakeResolver

DAY_S = 86400
POLICY = b"version: STSv1\nmode: enforce\nmx: mx.there.test\nmax_age: %d\n" % (7 * DAY_S)


def found(body=POLICY, *, status=b"200 OK", kind=b"text/plain; charset=utf-8", length=None):
    size = len(body) if length is None else length
    return b"HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s" % (status, kind, size, body)


class PolicyHost:
    """A real HTTPS server that says what the test wants it to say."""

    def __init__(self, context):
        self.context = context
        self.says = found()
        self.requests = []
        self.waits = None

    async def start(self, stack):
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0, ssl=self.context)
        stack.callback(server.close)
        self.port = server.sockets[0].getsockname()[1]

    async def serve(self, reader, writer):
        self.requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
        if self.waits is not None:
            await self.waits.wait()
        writer.write(self.says)
        writer.close()


class World:
    """One policy host, a DNS, a clock, and workers that share a folder."""

    def __init__(self, folder, stack):
        self.folder = folder
        self.stack = stack
        self.authority = trustme.CA()
        self.trusting = ssl.create_default_context()
        self.authority.configure_trust(self.trusting)
        self.now = 1_000_000_000.0
        self.dns()

    def dns(self, *texts, failing=(), address="127.0.0.1"):
        self.resolver = FakeResolver(
            texts={"_mta-sts.there.test": texts or ("v=STSv1; id=1",)},
            addresses={"mta-sts.there.test": [address] if address else []},
            failing=failing,
        )

    async def host(self, *names):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert(*(names or ("mta-sts.there.test",))).configure_cert(context)
        self.server = PolicyHost(context)
        await self.server.start(self.stack)
        return self.server

    async def trust(self):
        return self.trusting

    def worker(self):
        policies = StsPolicies(
            lambda: self.resolver,
            StsStore(self.folder, clock=lambda: self.now),
            self.trust,
            clock=lambda: self.now,
            port=self.server.port,
        )
        self.stack.push_async_callback(policies.close)
        return policies


@pytest.fixture
async def world(tmp_path):
    async with AsyncExitStack() as stack:
        yield World(tmp_path, stack)


async def test_a_policy_is_fetched_once(world):
    server = await world.host()
    policies = world.worker()
    one, other = await asyncio.gather(policies.find("there.test"), policies.find("there.test"))
    assert one == other == await policies.find("there.test")
    assert one.policy.mode is Mode.ENFORCE
    assert one.policy.names("mx.there.test")
    assert (one.id, one.failed) == ("1", "")
    (request,) = server.requests
    assert request.startswith("GET /.well-known/mta-sts.txt HTTP/1.1\r\nHost: mta-sts.there.test\r\n")


async def test_without_a_record_nothing_is_fetched(world):
    server = await world.host()
    world.dns("v=spf1 -all")
    assert (await world.worker().find("there.test")).policy is None
    assert not server.requests


async def test_a_policy_outlasts_a_restart_and_serves_other_workers(world):
    server = await world.host()
    await world.worker().find("there.test")
    assert (await world.worker().find("there.test")).policy
    assert len(server.requests) == 1


@pytest.mark.parametrize("trouble", ["no record", "no answer", "no address", "not found", "nonsense"])
async def test_an_old_policy_holds_on_when_there_is_no_newer_one(world, trouble):
    """Or who keeps us from the policy could have any certificate accepted."""
    server = await world.host()
    policies = world.worker()
    await policies.find("there.test")
    world.now += 2 * DAY_S
    match trouble:
        case "no record":
            world.dns("nothing")
        case "no answer":
            world.dns(failing=["_mta-sts.there.test"])
        case "no address":
            world.dns("v=STSv1; id=2", address="")
        case "not found":
            world.dns("v=STSv1; id=2")
            server.says = found(status=b"404 Not Found")
        case _:
            server.says = found(b"<html>")
    finding = await policies.find("there.test")
    assert finding.policy
    assert finding.id == "1"
    world.now += 6 * DAY_S
    assert (await policies.find("there.test")).policy is None, "not for ever"
    assert (await world.worker().find("there.test")).policy is None


async def test_a_new_id_brings_a_new_policy(world):
    server = await world.host()
    policies = world.worker()
    await policies.find("there.test")
    server.says = found(POLICY.replace(b"enforce", b"testing"))
    assert (await policies.find("there.test")).policy.mode is Mode.ENFORCE
    world.dns("v=STSv1; id=2")
    finding = await policies.find("there.test")
    assert (finding.policy.mode, finding.id) == (Mode.TESTING, "2")
    assert (await world.worker().find("there.test")).policy.mode is Mode.TESTING


async def test_a_policy_is_taken_back(world):
    server = await world.host()
    policies = world.worker()
    await policies.find("there.test")
    world.dns("v=STSv1; id=2")
    server.says = found(b"version: STSv1\nmode: none\nmax_age: 86400\n")
    assert (await policies.find("there.test")).policy is None


async def test_a_policy_is_fetched_anew_in_time(world):
    """Once a day, or twice in its time, so that it does not run out between two mails."""
    server = await world.host()
    policies = world.worker()
    await policies.find("there.test")
    world.now += DAY_S / 2
    await policies.find("there.test")
    assert len(server.requests) == 1
    world.now += DAY_S
    await policies.find("there.test")
    assert len(server.requests) == 2
    world.now += DAY_S + 60
    await policies.refresh()  # although there is no mail for the domain
    await world.worker().refresh()
    assert len(server.requests) == 3, "and by one worker alone"
    world.now += 40 * DAY_S
    await policies.refresh()
    assert len(server.requests) == 3, "but not for ever"


async def test_after_a_failure_it_is_not_tried_at_once(world):
    server = await world.host()
    server.says = found(status=b"500 Not today")
    policies = world.worker()
    for _ in range(3):
        finding = await policies.find("there.test")
        assert (finding.policy, finding.kind) == (None, "sts-policy-fetch-error")
    assert len(server.requests) == 1
    server.says = found()
    world.now += 301
    assert (await policies.find("there.test")).policy


CHUNKED = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n"
)


@pytest.mark.parametrize(
    ("says", "kind", "words"),
    [
        (CHUNKED % (len(POLICY), POLICY), "", ""),
        (b"HTTP/1.0 200 OK\r\ncontent-type: TEXT/PLAIN\r\n\r\n" + POLICY, "", ""),
        (found(status=b"301 Moved\r\nLocation: https://127.0.0.1/"), "sts-policy-fetch-error", "status 301"),
        (found(status=b"206 Part"), "sts-policy-fetch-error", "status 206"),
        (found(kind=b"text/html"), "sts-policy-fetch-error", "text/html, not text/plain"),
        (found(length=4000), "sts-policy-fetch-error", "broke off"),
        (found(POLICY + b"a: b\n" * 14000), "sts-policy-fetch-error", f"over {MAX_POLICY_OCTETS} octets"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70000, "sts-policy-fetch-error", "header"),
        (CHUNKED[:-2] % (1, b"v") + b"X: y\r\n" * 60000, "sts-policy-fetch-error", "on and on"),
        (b"220 mx.there.test ESMTP\r\n", "sts-policy-fetch-error", "HTTP"),
        (b"", "sts-policy-fetch-error", "broke off"),
        (found(b"version: STSv2\n"), "sts-policy-invalid", "version"),
    ],
)
async def test_what_the_host_says(world, says, kind, words):
    server = await world.host()
    server.says = says
    finding = await world.worker().find("there.test")
    assert (finding.kind, bool(finding.policy)) == (kind, not kind)
    assert words.lower() in finding.failed.lower()


async def test_the_host_must_prove_its_name(world):
    await world.host("there.test")
    finding = await world.worker().find("there.test")
    assert (finding.policy, finding.kind) == (None, "sts-webpki-invalid")
    assert "mta-sts.there.test" in finding.failed


async def test_it_must_be_vouched_for(world):
    await world.host()
    world.trusting = ssl.create_default_context()
    assert (await world.worker().find("there.test")).kind == "sts-webpki-invalid"


async def test_a_host_that_says_nothing_is_not_waited_for_long(world, monkeypatch):
    server = await world.host()
    server.waits = asyncio.Event()
    monkeypatch.setattr("pillarbox.relay.sts._LIMIT_S", 0.3)
    finding = await world.worker().find("there.test")
    assert finding.kind == "sts-policy-fetch-error"
    assert "in time" in finding.failed
    server.waits.set()


async def test_a_damaged_file_costs_the_memory_and_not_the_mail(world):
    await world.host()
    (world.folder / "mta-sts.db").write_bytes(b"no database" * 100)
    assert (await world.worker().find("there.test")).policy
