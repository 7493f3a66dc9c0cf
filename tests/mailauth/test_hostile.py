"""The whole check of a message at work on hostile input: it grows with the input, and questions to DNS do not grow at all."""

from __future__ import annotations

import asyncio
import base64
import hashlib

import pytest

from pillarbox.inbound.consequence import Checked
from pillarbox.inbound.origin import OriginChecks
from pillarbox.mail.message import scan_head
from pillarbox.mailauth.dns import Answer
from pillarbox.policy.author import DmarcSettings
from pillarbox.policy.hooks import Client
from pillarbox.policy.origin import OriginPolicy
from pillarbox.policy.origin_settings import ArcSettings, DkimSettings, SpfSettings

POLICY = OriginPolicy(
    SpfSettings(check=True),
    DkimSettings(check=True),
    DmarcSettings(check=True),
    ArcSettings(check=True),
    iprev=True,
)
MESSAGE = b"From: eve@sender.test\r\nSubject: x\r\n\r\nhello\r\n"
BODY_HASH = base64.b64encode(hashlib.sha256(b"hello\r\n").digest())
SIGNATURE = b"DKIM-Signature: v=1; a=rsa-sha256; d=d0.test; s=s; h=from; bh=" + BODY_HASH + b"; b=AAAA\r\n"


class Draft:
    file = None

    def __init__(self, octets):
        self._octets = octets

    def inline(self):
        return self._octets


def check(octets, zone=None, asked=None):
    """What the door finds out about a message; `zone` is a function from query to answer."""

    async def lookup(query):
        if asked is not None:
            asked.append(query)
        return zone(query) if zone is not None else Answer(no_domain=True)

    checks = OriginChecks(POLICY, lookup, hostname="mx.test")
    client = Client("s", "192.0.2.1", 25, "mx", helo="mail.sender.test")

    async def find():
        found = checks.begin(client, "eve@sender.test", scan_head(octets, 1 << 24), Draft(octets))
        return found if isinstance(found, Checked) else await found

    return asyncio.run(find())


@pytest.mark.parametrize(
    "make",
    [
        lambda n: b"Subject:" + b" " * n + b"x\r\n" + MESSAGE,
        lambda n: b"From:" + b" " * n + b"\r\n " + MESSAGE,
        lambda n: b"DKIM-Signature: v=1;" + b" " * n + b";\r\n" + MESSAGE,
        lambda n: b"DKIM-Signature: v=1; a=rsa-sha256; d=a.test; s=s; h=from" + b" :from" * (n // 6) + b"; bh=; b=\r\n" + MESSAGE,
        lambda n: b"ARC-Seal: i=1;" + b" " * n + b"\r\nARC-Message-Signature: i=1;" + b" " * n + b"\r\n" + MESSAGE,
        lambda n: b"ARC-Authentication-Results: i=1; a.test" + b"; spf=pass" * (n // 4) + b"\r\n" + MESSAGE,
        lambda n: b"Authentication-Results: mx.test" + b"; spf=pass" * (n // 4) + b"\r\n" + MESSAGE,
        lambda n: SIGNATURE * (n // 60) + MESSAGE,
        lambda n: MESSAGE + b" " * n + b"\r\n",
        lambda n: MESSAGE + b" \r\n" * (n // 3),
    ],
    ids=["line", "author", "tags", "signed-fields", "arc", "arc-results", "results", "signatures", "body", "body-lines"],
)  # fmt: skip
def test_work_grows_with_the_input(grows_linearly, make):
    """Up to sixteen times the size: a line of 64,000 spaces, 16,000 results in a field, 1,000 signatures."""
    grows_linearly(check, make, 4000)


def test_of_200_signatures_eight_are_looked_up():
    many = b"".join(SIGNATURE.replace(b"d0", b"d%d" % number) for number in range(200))
    asked = []
    found = check(many + MESSAGE, asked=asked)
    assert sum("_domainkey" in query.name for query in asked) == 8
    assert found.refusal is None


@pytest.mark.parametrize(
    "term", ["exists:%{i}.n{n}.test", "a:n{n}.test", "mx:n{n}.test", "include:n{n}.test"]
)
def test_of_500_void_lookups_a_few_are_asked(term):
    record = "v=spf1 " + " ".join(term.replace("{n}", str(number)) for number in range(500))
    asked = []

    def zone(query):
        return (
            Answer((record,))
            if query.name == "sender.test" and query.kind == "TXT"
            else Answer(no_domain=True)
        )

    found = check(MESSAGE, zone, asked)
    assert b"spf=permerror" in found.prefix
    assert sum(query.name.endswith(".test") and "n" in query.name.split(".")[-2] for query in asked) <= 15
    assert len([query for query in asked if ".n" in f".{query.name}" and "sender" not in query.name]) <= 3


@pytest.mark.parametrize(
    "octets",
    [b"", b"\r\n", b"\0" * 50, b"From:\r\n\r\n", b"From: \xff\xfe@\xff\r\n\r\n", b"DKIM-Signature: \xff\r\nARC-Seal:\r\n\r\n", SIGNATURE],
)  # fmt: skip
def test_nonsense_is_a_verdict_and_never_an_error(octets):
    for answer in (
        Answer(no_domain=True),
        Answer(failed=True, detail="x"),
        Answer(("\0\udcff" * 9,)),
    ):
        assert check(octets, lambda _query, answer=answer: answer).refusal is None
