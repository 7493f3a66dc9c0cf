"""Connections that begin with a PROXY header, with TLS or with both: what is read, what is refused, what counts."""

import asyncio
import contextlib
import socket
import ssl
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox import observe
from pillarbox.inbound.session import SmtpProtocol
from pillarbox.mail.units import Seconds
from pillarbox.net import arrivals, proxy_header
from pillarbox.net.arrivals import Arrivals
from pillarbox.net.handshakes import ListenerTls
from pillarbox.net.listener import ConnectionLimits, bind
from pillarbox.net.proxy_header import MAX_OCTETS, HeaderError
from pillarbox.policy.proxies import Proxies, ProxySettings

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V4 = bytes([192, 0, 2, 1, 198, 51, 100, 9]) + struct.pack("!HH", 56324, 25)
V6 = bytes.fromhex("20010db8000000000000000000000001" * 2) + struct.pack("!HH", 4000, 25)
MAPPED = bytes.fromhex("00000000000000000000ffffc0000201" * 2) + struct.pack("!HH", 4000, 25)
TLVS = b"\x04\x00\x03abc" + b"\xea\x00\x01x"


def binary(command, family, block):
    return SIGNATURE + bytes([0x20 | command, family]) + struct.pack("!H", len(block)) + block


GOOD = [
    (b"PROXY TCP4 192.0.2.1 198.51.100.9 56324 25\r\n", ("192.0.2.1", 56324)),
    (b"PROXY TCP6 2001:db8::1 2001:db8::2 0 65535\r\n", ("2001:db8::1", 0)),
    (b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:192.0.2.2 1 2\r\n", ("192.0.2.1", 1)),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN " + b"f" * 91 + b"\r\n", None),
    (binary(1, 0x11, V4), ("192.0.2.1", 56324)),
    (binary(1, 0x11, V4 + TLVS), ("192.0.2.1", 56324)),
    (binary(1, 0x21, V6), ("2001:db8::1", 4000)),
    (binary(1, 0x21, MAPPED), ("192.0.2.1", 4000)),
    (binary(1, 0x31, b"/run/a".ljust(108, b"\0") * 2), None),
    (binary(1, 0x00, TLVS), None),
    (binary(0, 0x00, b""), None),
    (binary(0, 0x11, V4 + TLVS), None),
    (binary(0, 0x00, b"x" * (MAX_OCTETS - 16)), None),
]
BAD = [
    b"EHLO client.example\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.9 56324\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.9 56324 25 \r\n",
    b"PROXY TCP4  192.0.2.1 198.51.100.9 56324 25\r\n",
    b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.9 056324 25\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.9 65536 25\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.9 \xb2 25\r\n",
    b"PROXY UDP4 192.0.2.1 198.51.100.9 1 25\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.9 56324 25\n" + b"x" * 100,
    b"PROXY UNKNOWN " + b"f" * 200 + b"\r\n",
    b"\x16\x03\x01" + b"\0" * 50,
    SIGNATURE[:-1] + b"X" * 20,
    binary(2, 0x11, V4),
    SIGNATURE + b"\x11\x11\0\x0c" + V4,
    binary(1, 0x12, V4),
    binary(1, 0x41, V4),
    binary(1, 0x11, V4[:-1]),
    SIGNATURE + b"\x21\x11\xff\xff" + V4,
]


def read(octets):
    """The client, and what of the octets is left for others."""
    at = 0
    while missing := proxy_header.wanted(octets[:at]):
        assert at + missing <= len(octets)
        at += missing
    return proxy_header.parse(octets[:at]), octets[at:]


@pytest.mark.parametrize(("header", "client"), GOOD)
def test_a_header_tells_the_client_and_nothing_behind_it_is_touched(header, client):
    assert read(header + b"EHLO a.example\r\n") == (client, b"EHLO a.example\r\n")


@pytest.mark.parametrize("octets", BAD)
def test_what_is_no_header_is_refused(octets):
    with pytest.raises(HeaderError):
        read(octets)


@given(
    st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21"]), st.binary(max_size=300)
)
@settings(max_examples=500, deadline=None)
def test_any_octets_give_a_client_or_a_refusal_within_bounds(start, rest):
    octets, at = start + rest, 0
    with contextlib.suppress(HeaderError):
        while missing := proxy_header.wanted(octets[:at]):
            at += missing
            assert at <= MAX_OCTETS
            if at > len(octets):
                return
        proxy_header.parse(octets[:at])


# --- on sockets

PROXY = ProxySettings(networks=("127.0.0.0/8",), header_limit_s=Seconds(0.3))
LINE = b"PROXY TCP4 192.0.2.1 198.51.100.9 56324 25\r\n"


@pytest.fixture
def noted(monkeypatch):
    events = []
    for event in (observe.TLS_FAILED, observe.SESSION_REFUSED):
        monkeypatch.setattr(event, "written", True)  # a library keeps quiet
    monkeypatch.setattr(observe._log, "write", lambda event, facts: events.append((event.name, dict(facts))))
    return events


@pytest.fixture
async def behind(open_office):
    """Open an office behind a balancer: `port = await behind(PROXY, **options)`; the office is `behind.office`."""
    listeners = []

    async def start(proxy=PROXY, *, tls=None, **options):
        start.office = office = await open_office(**options)
        sock = bind("127.0.0.1:0")
        proxies = Proxies(proxy)
        listeners.append(
            Arrivals(
                sock,
                lambda peer: SmtpProtocol(office.desk, peer),
                office.connections,
                proxies=lambda: proxies,
                tls=(lambda: tls) if tls is not None else None,
            )
        )
        return sock.getsockname()[1]

    yield start
    for listener in listeners:
        listener.close()


async def test_the_client_is_the_one_that_the_header_names(behind, dial):
    port = await behind(deny=("192.0.2.0/24",))
    for header, code in (
        (LINE, b"554"),
        (binary(1, 0x11, V4 + TLVS), b"554"),
        (LINE.replace(b"192.0.2", b"203.0.113"), b"220"),
        (binary(0, 0, b""), b"220"),
    ):
        caller = await dial(port)
        await caller.send(header)
        assert (await caller.reply())[:3] == code


async def test_connections_count_for_the_client_behind_the_balancer(behind, dial):
    port = await behind(connections=ConnectionLimits(per_address=1))
    replies = []
    for header in (LINE, LINE, LINE.replace(b"192.0.2.1", b"192.0.2.2")):
        caller = await dial(port)
        await caller.send(header)
        replies.append((await caller.reply())[:3])
    assert replies == [b"220", b"421", b"220"]


async def test_a_header_in_pieces_with_commands_behind_it(behind, dial):
    port = await behind()
    for header in (LINE, binary(1, 0x11, V4)):
        caller = await dial(port)
        for octet in header[:-1]:
            await caller.send(bytes([octet]))
            await asyncio.sleep(0)
        await caller.send(header[-1:] + b"EHLO client.example\r\n")
        assert (await caller.reply())[:3] == b"220"
        assert (await caller.reply())[:3] == b"250"


async def test_tls_begins_behind_the_header(behind, dial, certificates):
    port = await behind(tls=certificates.server.context)
    caller = await dial(port)
    await caller.send(LINE)
    await caller.upgrade(certificates.client)
    assert (await caller.reply())[:3] == b"220"
    assert behind.office.desk.connections.crowded("192.0.2.1") is False


async def test_a_client_hello_in_one_packet_with_the_header(behind, certificates):
    port = await behind(tls=certificates.server.context)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = certificates.client.wrap_bio(incoming, outgoing, server_hostname="mx.example.org")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    ahead, greeting = binary(1, 0x21, V6), b""
    while not greeting:
        try:
            greeting = tls.read() if tls.version() else tls.do_handshake() or b""
        except ssl.SSLWantReadError:
            writer.write(ahead + outgoing.read())
            ahead = b""
            incoming.write(await asyncio.wait_for(reader.read(65_536), 20))
    assert greeting.startswith(b"220 ")
    writer.close()


@pytest.mark.parametrize(
    ("sent", "problem"),
    [
        (b"EHLO client.example\r\n", "no PROXY header"),
        (binary(3, 0x11, V4), "neither version nor command is known"),
        (LINE[:20], "the header took too long"),
    ],
)
async def test_a_bad_header_or_none_is_cut_off_and_noted(behind, dial, noted, sent, problem):
    caller = await dial(await behind())
    await caller.send(sent)
    assert await caller.rest() == b""
    assert ("session.proxy_refused", {"client": "127.0.0.1", "problem": problem}) in noted


async def test_others_than_balancers_are_cut_off(behind, dial, noted):
    caller = await dial(await behind(ProxySettings(networks=("192.0.2.0/24",))))
    await caller.send(LINE)
    assert await caller.rest() == b""
    told = {"client": "127.0.0.1", "problem": "it is no balancer of ours"}
    assert ("session.proxy_refused", told) in noted


async def test_a_look_at_the_port_is_not_worth_a_line(behind, dial, noted):
    caller = await dial(await behind())
    caller.writer.write_eof()
    assert await caller.rest() == b""
    assert not [name for name, _ in noted if name == "session.proxy_refused"]


# --- TLS from the first octet

HELLO = b"\x16\x03\x01\x02\x00\x01\x00"  # how a handshake begins


@pytest.fixture
async def silent():
    """A client that holds its connection and says nothing, or not enough: `reader, writer = await silent(port)`."""
    writers = []

    async def call(port, source="127.0.0.1", send=b""):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
        writers.append(writer)
        writer.write(send)
        return reader, writer

    yield call
    for writer in writers:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def facts_of(noted, name):
    return [facts for event, facts in noted if event == name]


@pytest.mark.parametrize("send", [b"", HELLO], ids=["nothing", "half a hello"])
async def test_who_does_not_shake_hands_counts_from_the_first_moment(
    open_office, dial, until, certificates, send, silent
):
    office = await open_office(tls="implicit", connections=ConnectionLimits(total=6, per_address=3))
    held = [await silent(office.port, send=send) for _ in range(3)]
    await until(lambda: len(office.connections) == 3)
    caller = await dial(office.port, tls=certificates.client)
    assert (await caller.rest()).startswith(b"421 mx.example.org too many connections from your address")
    held += [await silent(office.port, f"127.0.0.{7 + number}", send) for number in range(3)]
    await until(lambda: len(office.connections) == 6)
    reader, writer = await asyncio.open_connection(
        "127.0.0.1",
        office.port,
        local_addr=("127.0.0.20", 0),
        ssl=certificates.client,
        server_hostname="mx.example.org",
    )
    assert (await asyncio.wait_for(reader.read(), 20)).startswith(
        b"421 mx.example.org too many connections\r\n"
    )
    writer.close()
    for _, writer in held:
        writer.close()
    await until(lambda: len(office.connections) == 0)
    assert office.connections._counts == {}
    caller = await dial(office.port, tls=certificates.client)
    assert (await caller.reply()).startswith(b"220 ")


async def test_only_so_many_are_told_that_there_is_no_place(open_office, until, monkeypatch, noted, silent):
    monkeypatch.setattr(arrivals, "_MAX_EXCUSED", 2)
    office = await open_office(tls="implicit", connections=ConnectionLimits(total=1))
    held = [await silent(office.port) for _ in range(3)]
    reader, _ = await silent(office.port)
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), 20) == b""
    assert len(office.connections) == 3
    assert facts_of(noted, "session.refused") == [
        {"cause": "session.too_many_connections", "client": "127.0.0.1"}
    ]
    for _, writer in held:
        writer.close()
    await until(lambda: office.server.excused == 0)


@pytest.mark.parametrize(
    ("sent", "problem"),
    [
        (b"", "nothing came"),
        (b"EHLO client.example\r\n", "it does not begin with TLS"),
        (LINE, "it does not begin with TLS"),
        (b"GET / HTTP/1.1\r\n\r\n", "it does not begin with TLS"),
    ],
    ids=["nothing", "smtp", "proxy", "http"],
)
async def test_E421_41_who_does_not_begin_with_tls_is_told_so(
    open_office, dial, noted, monkeypatch, sent, problem
):
    monkeypatch.setattr(arrivals, "HANDSHAKE_S", 0.05)
    office = await open_office(tls="implicit")
    caller = await dial(office.port)
    await caller.send(sent)
    assert await caller.rest() == b"421 mx.example.org this port begins with TLS, not with SMTP in clear\r\n"
    assert facts_of(noted, "tls.failed") == [{"client": "127.0.0.1", "problem": problem}]
    assert not office.protocols, "what is said in clear is never heard"


@pytest.mark.parametrize(
    ("sent", "problem"),
    [(HELLO, "the handshake took too long"), (b"\x16\x03\x01\x00\x05hello", "unexpected message")],
    ids=["half", "garbage"],
)
async def test_a_handshake_that_comes_to_nothing_is_noted(
    open_office, dial, noted, until, monkeypatch, sent, problem
):
    monkeypatch.setattr(arrivals, "HANDSHAKE_S", 0.05)
    office = await open_office(tls="implicit")
    caller = await dial(office.port)
    await caller.send(sent)
    await caller.rest()
    await until(lambda: facts_of(noted, "tls.failed"))
    assert facts_of(noted, "tls.failed") == [{"client": "127.0.0.1", "problem": problem}]
    assert len(office.connections) == 0


async def test_what_a_client_finds_fault_with_is_noted(open_office, noted, until):
    office = await open_office(tls="implicit")

    def call():
        with (
            socket.create_connection(("127.0.0.1", office.port)) as sock,
            pytest.raises(ssl.SSLCertVerificationError),
        ):
            ssl.create_default_context().wrap_socket(sock, server_hostname="mx.example.org")

    await asyncio.to_thread(call)
    await until(lambda: facts_of(noted, "tls.failed"))
    assert facts_of(noted, "tls.failed") == [{"client": "127.0.0.1", "problem": "tlsv1 alert unknown ca"}]


@pytest.mark.parametrize("pieces", [1, 3, 50])
async def test_a_hello_in_pieces_is_awaited_before_anything_is_spent_on_it(
    open_office, until, certificates, monkeypatch, pieces
):
    made = []
    monkeypatch.setattr(
        ListenerTls, "context", property(lambda self: made.append(1) or self._context), raising=True
    )
    office = await open_office(tls="implicit")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = certificates.client.wrap_bio(incoming, outgoing, server_hostname="mx.example.org")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    hello = outgoing.read()
    step = -(-len(hello) // pieces)
    reader, writer = await asyncio.open_connection("127.0.0.1", office.port)
    for at in range(0, len(hello), step):
        await until(lambda: len(office.connections) == 1)
        assert not made
        writer.write(hello[at : at + step])
    incoming.write(await asyncio.wait_for(reader.read(65_536), 20))
    assert made
    writer.close()


async def test_who_only_looks_whether_somebody_listens_is_not_worth_a_line(open_office, dial, noted, until):
    office = await open_office(tls="implicit")
    for end in ("close", "reset"):
        caller = await dial(office.port)
        await until(lambda: len(office.connections) == 1)
        if end == "close":
            await caller.close()
        else:
            caller.cut()
        await until(lambda: len(office.connections) == 0)
    assert not noted


async def test_while_places_are_scarce_nobody_may_be_silent_before_a_handshake(
    open_office, until, noted, silent
):
    office = await open_office(tls="implicit", connections=ConnectionLimits(total=4, hurry_s=Seconds(0.1)))
    for _ in range(4):
        await silent(office.port)
    await until(lambda: len(office.connections) <= 3)
    assert facts_of(noted, "tls.failed")[0]["problem"] == "nothing came"


async def test_draining_drops_those_whose_session_has_not_begun(open_office, until, silent):
    office = await open_office(tls="implicit")
    for send in (b"", HELLO):
        await silent(office.port, send=send)
    await until(lambda: len(office.connections) == 2)
    await asyncio.wait_for(office.connections.drain(1000), 20)
    assert len(office.connections) == 0


async def test_connections_that_wait_behind_a_balancer_count_too(behind, dial, until, silent):
    patient = ProxySettings(networks=("127.0.0.0/8",))
    port = await behind(patient, connections=ConnectionLimits(total=2, per_address=1))
    office = behind.office
    for _ in range(2):
        await silent(port)
    await until(lambda: len(office.connections) == 2)
    caller = await dial(port)
    await caller.send(LINE)
    assert (await caller.reply()).startswith(b"421 mx.example.org too many connections\r\n")
