"""Checks of complete messages, told over a socket; scanners are small peers that speak the real protocols."""

import asyncio
import contextlib
import itertools
import json
import struct
from email.message import EmailMessage
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.net.scanners import Clamd, Rspamd
from pillarbox.policy.attachments import AttachmentSettings, find_fields, names_in
from pillarbox.policy.checks import CheckSettings
from pillarbox.policy.form import MessageSettings
from pillarbox.policy.hooks import Action, Score
from pillarbox.policy.scanner import ScannerSettings
from pillarbox.policy.spam import SpamSettings

QUEUED = b"250 2.0.0 "
LARGE = b"x" * 70 + b"\r\n"
VIRUS = b"the octets of a virus, as this daemon knows it"


@pytest.fixture
def hand_in(converse):
    """Send a message; the reply to its end."""

    async def make(office, message):
        lines = (b"EHLO client.test", b"MAIL FROM:<a@sender.test>", b"RCPT TO:<alice@example.org>", b"DATA")
        *_, reply = await converse(office, *lines, message.replace(b"\r\n.", b"\r\n..") + b"\r\n.")
        return reply

    return make


# --- form ----------------------------------------------------------------------------------------------------------------

FROM = b"From: a@sender.test\r\n"


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        (b"Subject: x\r\n\r\nx", b"it has no From field"),
        (FROM + b"From: b@sender.test\r\n\r\nx", b"it has more than one From field"),
        (FROM + b"\r\n" + b"x" * 999, b"it has a line of more than 998 octets"),
        (FROM + b"\r\n" + LARGE * 2000 + b"x" * 999 + b"\r\n" + LARGE, b"it has a line of more than 998 octets"),
        (FROM + b"\r\n" + b"x" * 998, b""),
        (FROM + b"\r\n" + LARGE * 2000 + b"x" * 998 + b"\r\n" + LARGE, b""),
    ],
)  # fmt: skip
async def test_E554_4_messages_against_the_standard(open_office, hand_in, message, fault):
    office = await open_office(checks=CheckSettings(message=MessageSettings(strict=Action.REJECT)))
    reply = await hand_in(office, message)
    if fault:
        assert reply == b"554 5.6.0 The message is malformed: %s\r\n" % fault
    else:
        assert reply.startswith(QUEUED)


# --- attachments ---------------------------------------------------------------------------------------------------------


def with_attachment(name, *, filler=0):
    message = EmailMessage()
    message["From"] = "a@sender.test"
    message.set_content("See the file.\n" + "filler\n" * filler)
    message.add_attachment(b"MZ", maintype="application", subtype="octet-stream", filename=name)
    return message.as_bytes().replace(b"\n", b"\r\n")


PART = b"From: a@sender.test\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n%s\r\n\r\nMZ\r\n--b--"


@pytest.mark.parametrize(
    "message",
    [
        with_attachment("invoice.exe"),
        with_attachment("INVOICE.EXE"),
        with_attachment("invoice.pdf.exe"),
        with_attachment("invoice.exe."),
        with_attachment("r\u00e9sum\u00e9.exe"),
        with_attachment("long " * 40 + ".exe"),
        with_attachment("invoice.exe", filler=20_000),
        PART % b'Content-Type: application/x; name="invoice.exe"',
        PART % b"Content-Type: application/x; name=invoice.exe",
        PART % b"content-disposition :attachment;\r\n\tFILENAME = invoice.exe",
        PART % b"Content-Disposition: attachment; filename*=utf-8'en'invoice%2Eexe",
        PART % b'Content-Disposition: attachment; filename*0="invo"; filename*1="ice."; filename*2*=%65xe',
        PART % b'Content-Disposition: attachment; filename="=?utf-8?B?aW52b2ljZS5leGU=?="',
        PART % b'Content-Disposition: attachment; filename="a\\.ex\\e"',
        PART % b"Content-Disposition: attachment; filename=a.txt\r\nContent-Type: application/x; name=b.exe",
    ],
)  # fmt: skip
async def test_E554_5_attachments_with_names_that_are_not_accepted(open_office, hand_in, message):
    settings = AttachmentSettings(deny=("exe", ".scr"))
    office = await open_office(checks=CheckSettings(attachments=settings))
    reply = await hand_in(office, message)
    assert reply.startswith(b"554 5.7.1 Attachments such as ")
    assert office.queued == []


@pytest.mark.parametrize(
    "message",
    [
        with_attachment("invoice.pdf"),
        with_attachment("exe"),
        with_attachment("invoice.exe.txt"),
        with_attachment("invoice.txt", filler=20_000),
        b"From: a@sender.test\r\n\r\nThe file is called filename=invoice.exe",
        b"From: a@sender.test\r\nSubject: name=invoice.exe\r\n\r\nx",
        b"From: a@sender.test\r\n\r\nMy Content-Type: x; name=invoice.exe",
    ],
)
async def test_other_messages_are_accepted(open_office, hand_in, message):
    office = await open_office(checks=CheckSettings(attachments=AttachmentSettings(deny=("exe",))))
    assert (await hand_in(office, message)).startswith(QUEUED)


def find_names(pieces):
    return [name for field in find_fields(pieces) for name in names_in(field)]


@given(st.lists(st.integers(0, 2000), max_size=20), st.integers(0, 3))
def test_names_are_found_however_the_message_is_cut(cuts, folds):
    field = b"Content-Disposition: attachment;" + b"\r\n " * folds + b'filename="invoice.exe"; x=y\r\n'
    text = field + b"\r\nMy " + field + (b"y" * 800 + b"\r\n") * 2 + field + b"\r\nMZ\r\n" + field.strip()
    places = sorted({0, *(cut % len(text) for cut in cuts), len(text)})
    pieces = [text[start:end] for start, end in itertools.pairwise(places)]
    assert find_names(pieces) == ["invoice.exe"] * 3


def test_a_line_without_end_costs_no_more_than_its_length():
    pieces = [b"z" * 65_536] * 400
    assert find_names(pieces) == []
    assert list(
        find_names([b"Content-Type: " + b"z" * 65_536, *pieces, b"\r\nContent-Type: x; name=a.exe"])
    ) == ["a.exe"]


async def test_E554_5_so_many_attachments_that_one_could_hide(open_office, hand_in):
    office = await open_office(checks=CheckSettings(attachments=AttachmentSettings(deny=("exe",))))
    many = b"Content-Type: a/b; name=c\r\n" * 6000
    reply = await hand_in(office, FROM + b"\r\n" + many + b"Content-Type: a/b; name=c.exe\r\n")
    assert reply == b"554 5.7.1 Attachments such as these, too many to look at, are not accepted\r\n"


# --- scanners ------------------------------------------------------------------------------------------------------------


class Daemon:
    """Speaks clamd's INSTREAM: finds `VIRUS`, and obeys `mood`."""

    def __init__(self):
        self.scanned = []
        self.mood = ""
        self.max_octets = 1 << 30

    async def serve(self, reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            assert await reader.readuntil(b"\0") == b"zINSTREAM\0"
            octets = b""
            while size := struct.unpack("!I", await reader.readexactly(4))[0]:
                octets += await reader.readexactly(size)
                if len(octets) > self.max_octets:
                    writer.write(b"INSTREAM size limit exceeded. ERROR\0")
                    await writer.drain()
                    break
            else:
                self.scanned.append(octets)
                if self.mood == "silent":
                    await reader.read()
                elif self.mood != "hangs up":
                    writer.write(b"stream: Test-Signature FOUND\0" if VIRUS in octets else b"stream: OK\0")
        writer.close()


@pytest.fixture
async def clamd(tmp_path):
    daemon = Daemon()
    server = await asyncio.start_server(daemon.serve, "127.0.0.1", 0)
    local = await asyncio.start_unix_server(daemon.serve, tmp_path / "clamd")
    daemon.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    daemon.path = f"unix:{tmp_path / 'clamd'}"
    yield daemon
    server.close()
    local.close()


@pytest.fixture
def scanning(open_office):
    def make(address, **settings):
        return open_office(
            find_virus=Clamd(address, 0.5).find_virus,
            checks=CheckSettings(scanner=ScannerSettings(clamd=address, **settings)),
        )

    return make


@pytest.mark.parametrize("body", [VIRUS, LARGE * 3000 + VIRUS])
@pytest.mark.parametrize("way", ["address", "path"])
async def test_E554_5_a_virus(scanning, clamd, hand_in, body, way):
    office = await scanning(getattr(clamd, way))
    assert (
        await hand_in(office, FROM + b"\r\n" + body) == b"554 5.7.1 The message contains Test-Signature\r\n"
    )
    assert (office.queued, office.drafts) == ([], [])


async def test_a_scanner_sees_all_octets_and_a_clean_message_passes(scanning, clamd, hand_in):
    office = await scanning(clamd.address)
    message = FROM + b"\r\n" + LARGE * 3000 + b".dot\r\n"
    for text in (FROM + b"\r\nx", message):
        assert (await hand_in(office, text)).startswith(QUEUED)
    assert [len(octets) for octets in clamd.scanned] == [len(FROM) + 5, len(message) + 2]
    assert clamd.scanned[1] == message + b"\r\n"


@pytest.mark.parametrize("mood", ["silent", "hangs up", "not there", "too large"])
@pytest.mark.parametrize("fail", ["closed", "open"])
async def test_E451_6_a_scanner_that_gives_no_verdict(scanning, clamd, hand_in, mood, fail, noted):
    clamd.mood = mood
    clamd.max_octets = 10 if mood == "too large" else 1 << 30
    office = await scanning("unix:/nowhere" if mood == "not there" else clamd.address, fail=fail)
    reply = await hand_in(office, FROM + b"\r\nx")
    if fail == "closed":
        assert reply == b"451 4.3.0 The message cannot be scanned now, try again later\r\n"
    else:
        assert reply.startswith(QUEUED)
    assert [name for name, _ in noted] == ["scanner.failed"]


async def test_a_virus_on_trial_is_let_through_and_noted(scanning, clamd, hand_in, noted):
    office = await scanning(clamd.address, virus_action=Action.WARN)
    assert (await hand_in(office, FROM + b"\r\n" + VIRUS)).startswith(QUEUED)
    assert [facts["cause"] for name, facts in noted if name == "check.warned"] == ["policy.virus_found"]


@pytest.fixture
async def rspamd():
    """A web service that scores every message with 9, or answers as `answer` says."""
    service = SimpleNamespace(
        answer=b'{"score": 9.0, "action": "reject", "symbols": {}}', status=200, asked=[]
    )

    async def serve(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        body = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        service.asked.append((head.decode(), body))
        head = f"HTTP/1.1 {service.status} X\r\nContent-Length: {len(service.answer)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + service.answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    service.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield service
    server.close()


class Scores:
    """A hook that gives points."""

    def __init__(self, points, reason):
        self.points, self.reason = points, reason

    async def decide_message(self, message):
        return Score(self.points, self.reason)


@pytest.mark.parametrize(("limit", "good"), [(14.5, False), (15.1, True), (None, True)])
async def test_E550_16_spam_by_the_sum_of_all_scores(open_office, rspamd, hand_in, limit, good):
    office = await open_office(
        give_score=Rspamd(rspamd.address, 5.0).score,
        plugins=(Scores(7.0, "all capitals"), Scores(-1.5, "a friend")),
        checks=CheckSettings(spam=SpamSettings(reject_at=limit)),
    )
    reply = await hand_in(office, FROM + b"\r\n" + LARGE * 2000)
    if good:
        assert reply.startswith(QUEUED)
    else:
        words = b"The message looks like spam: 14.5 points, 14.5 are too many (rspamd: reject)"
        assert reply == b"550 5.7.1 %s\r\n" % words
    ((head, body),) = rspamd.asked
    assert body == FROM + b"\r\n" + LARGE * 2000 + b"\r\n"
    said = dict(line.lower().split(": ", 1) for line in head.strip().split("\r\n")[1:])
    assert (said["ip"], said["helo"], said["from"]) == ("127.0.0.1", "client.test", "a@sender.test")
    assert said["rcpt"] == "alice@example.org"


@pytest.mark.parametrize(
    ("status", "answer"), [(500, b"{}"), (200, b"no json"), (200, json.dumps({"score": "high"}).encode())]
)
async def test_E451_6_a_spam_scanner_that_gives_no_verdict(
    open_office, rspamd, hand_in, status, answer, noted
):
    rspamd.status, rspamd.answer = status, answer
    office = await open_office(give_score=Rspamd(rspamd.address, 5.0).score)
    reply = await hand_in(office, FROM + b"\r\nx")
    assert reply == b"451 4.3.0 The message cannot be scanned now, try again later\r\n"


async def test_messages_of_those_who_log_in_are_not_scored(open_office, rspamd, hand_in):
    office = await open_office(give_score=Rspamd(rspamd.address, 5.0).score, relay=("127.0.0.0/8",))
    assert (await hand_in(office, FROM + b"\r\nx")).startswith(QUEUED)
    assert rspamd.asked == []
