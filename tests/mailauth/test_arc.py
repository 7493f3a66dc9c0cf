"""ARC against dkimpy in both directions, and chains that were tampered with."""

from __future__ import annotations

import time

import dkim as oracle
import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pillarbox.mailauth import arc, dkim, keys
from pillarbox.mailauth.results import Finding, Results

NOW = float(int(time.time()))
KEY = keys.new_key("rsa")
PEM = KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
)
NAMES = ("a.example", "b.example", "c.example")
ZONE = {(f"s._domainkey.{name}", "TXT"): [keys.format_record(KEY)] for name in NAMES}
MESSAGE = (
    b"From: Alice <alice@example.org>\r\nTo: list@example.net\r\nSubject: hello\r\nDate: x\r\nMessage-ID: <1@x>\r\n"
    b"Authentication-Results: a.example; dmarc=pass header.from=example.org\r\n\r\nHello  there \r\n"
)
FOUND = [Finding("dmarc", "pass", (("header.from", "example.org"),))]


def oracle_dns(name, timeout=5):
    found = ZONE.get((name.decode().rstrip("."), "TXT"))
    return found[0].encode() if found else None


@pytest.fixture
def verify(run_plan):
    def verify(message, zone=ZONE, asked=None):
        section, _, body = message.partition(b"\r\n\r\n")
        header = dkim.Header(section)
        chain = arc.parse_chain(header)
        if chain is None:
            return arc.UNSEALED
        bodies = dkim.body_hashes(chain.bodies)
        for one in bodies.values():
            one.update(body)
        return run_plan(arc.verify(chain, header, bodies, now=NOW), zone, asked)

    return verify


@pytest.fixture
def sealed(verify):
    def sealed(message, domain):
        header, body_hash = dkim.message_hash(message)
        chain = verify(message).result
        signer = dkim.Signer(domain, "s", KEY)
        return (
            arc.seal(header, body_hash, signer, server=domain, findings=FOUND, chain=chain, now=NOW) + message
        )

    return sealed


def sealed_by_oracle(message, domain):
    return b"".join(oracle.arc_sign(message, b"s", domain.encode(), PEM, domain.encode())) + message


def oracle_verdict(message):
    result, _, reason = oracle.arc_verify(message, dnsfunc=oracle_dns)
    return result.decode(), reason


def test_no_set_is_no_chain(verify):
    assert verify(MESSAGE) == arc.Verdict("none")


def test_what_one_host_seals_the_other_takes_in_turn(verify, sealed):
    """Three hosts; the middle one is dkimpy."""
    message = sealed(MESSAGE, "a.example")
    assert oracle_verdict(message)[0] == "pass"
    second = sealed_by_oracle(
        b"Authentication-Results: b.example; arc=pass; dkim=fail\r\n" + message, "b.example"
    )
    assert verify(second).result == "pass"
    third = sealed(second, "c.example")
    verdict = verify(third)
    assert (verdict.result, verdict.sealers) == ("pass", NAMES)
    assert verdict.results[0] == Results("a.example", tuple(FOUND))
    assert oracle_verdict(third)[0] == "pass"


def test_a_changed_body_breaks_the_chain_and_the_next_host_says_so(verify, sealed):
    message = sealed(MESSAGE, "a.example").replace(b"Hello", b"Hallo")
    assert verify(message).detail == "ARC-Message-Signature: the body was changed"
    message = sealed(message, "b.example")
    assert b"cv=fail" in message
    assert verify(message).result == "fail"
    header, body_hash = dkim.message_hash(message)
    signer = dkim.Signer("c.example", "s", KEY)
    assert arc.seal(header, body_hash, signer, server="c", findings=[], chain="fail", now=NOW) == b""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"dmarc=pass", b"dmarc=fail"),
        (b"cv=none", b"cv=pass"),
        (b"i=1; a=", b"i=2; a="),
        (b"ARC-Authentication-Results", b"X"),
        (b"ARC-Seal:", b"ARC-Seal: h=from;"),
        (b"Subject: hello", b"Subject: hallo"),
    ],
)
def test_whatever_is_changed_in_a_set_breaks_the_chain(verify, sealed, old, new):
    message = sealed(MESSAGE, "a.example")
    assert old in message
    assert verify(message.replace(old, new, 1)).result == "fail"


def test_dns_trouble_is_temporary(verify, sealed):
    message = sealed(sealed(MESSAGE, "a.example"), "b.example")
    zone = ZONE | {("s._domainkey.a.example", "TXT"): "failed"}
    assert verify(message, zone).result == "temperror"
    assert verify(message, {}).result == "fail"


def test_more_than_fifty_sets_are_not_looked_at(verify, sealed):
    one = sealed(MESSAGE, "a.example")[: -len(MESSAGE)]
    asked = []
    many = b"".join(one.replace(b"i=1;", b"i=%d;" % number) for number in range(1, 201))
    assert verify(many + MESSAGE, asked=asked).detail == "more than 50 sets"
    assert not asked


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=60),
    st.binary(max_size=60),
    st.binary(max_size=60),
    st.integers(0, 900),
    st.binary(max_size=2),
)
def test_nothing_makes_it_raise(verify, results, message, seal, at, put):
    fields = (b"ARC-Authentication-Results: i=1;", b"ARC-Message-Signature: i=1;", b"ARC-Seal: i=1;")
    parts = zip(fields, (results, message, seal), strict=True)
    head = b"".join(name + value.replace(b"\r\n", b"") + b"\r\n" for name, value in parts)
    assert verify(head + MESSAGE).result == "fail"
    assert verify(SEALED[:at] + put + SEALED[at:]).result in {"none", "pass", "fail", "temperror"}


SEALED = (
    arc.seal(
        *dkim.message_hash(MESSAGE),
        dkim.Signer("a.example", "s", KEY),
        server="a.example",
        findings=FOUND,
        chain="none",
        now=NOW,
    )
    + MESSAGE
)
