"""DKIM against dkimpy in both directions, against tampering, odd keys and hostile messages."""

from __future__ import annotations

import time
from base64 import b64encode

import dkim as oracle
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pillarbox.mailauth import dkim, keys

NOW = float(int(time.time()))  # dkimpy writes the time of day and looks at it
RSA, ED = keys.new_key("rsa"), keys.new_key("ed25519")
ZONE = {
    ("rsa._domainkey.example.org", "TXT"): [keys.format_record(RSA)],
    ("ed._domainkey.example.org", "TXT"): [keys.format_record(ED)],
}
SIGNERS = [dkim.Signer("example.org", "rsa", RSA), dkim.Signer("example.org", "ed", ED)]
ORACLE_KEYS = {
    b"rsa": RSA.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    ),
    b"ed": b64encode(ED.private_bytes_raw()),
}
MESSAGE = (
    b"From: Alice <alice@example.org>\r\nTo: bob@example.net\r\nSubject:  two   words\r\n\tand more \r\n"
    b"Date: Mon, 1 Jan 2024 00:00:00 +0000\r\nMessage-ID: <1@example.org>\r\n\r\n"
    b"Hello  Bob,\t\r\n\r\nsee you \r\n\r\n\r\n"
)


def oracle_dns(name, timeout=5):
    found = ZONE.get((name.decode().rstrip("."), "TXT"))
    return found[0].encode() if found else None


def signed(message=MESSAGE, signers=SIGNERS, now=NOW):
    return dkim.sign(*dkim.message_hash(message), signers, now=now) + message


SIGNED = signed()


@pytest.fixture
def verify(run_plan):
    def verify(message, zone=ZONE, now=NOW, asked=None):
        section, _, body = message.partition(b"\r\n\r\n")
        header = dkim.Header(section)
        found = dkim.signatures(header)
        bodies = dkim.body_hashes(found)
        for one in bodies.values():
            one.update(body)
        return [run_plan(dkim.verify(one, header, bodies, now=now), zone, asked) for one in found]

    return verify


def resigned(message, selector=b"rsa", **options):
    options.setdefault("canonicalize", (b"relaxed", b"relaxed"))
    kind = b"ed25519-sha256" if selector == b"ed" else b"rsa-sha256"
    return (
        oracle.sign(
            message, selector, b"example.org", ORACLE_KEYS[selector], signature_algorithm=kind, **options
        )
        + message
    )


@pytest.mark.parametrize("header_form", [b"simple", b"relaxed"])
@pytest.mark.parametrize("body_form", [b"simple", b"relaxed"])
@pytest.mark.parametrize("selector", [b"rsa", b"ed"])
def test_what_dkimpy_signs_passes_and_no_longer_if_touched(verify, selector, header_form, body_form):
    message = resigned(MESSAGE, selector, canonicalize=(header_form, body_form))
    assert [one.result for one in verify(message)] == ["pass"]
    (changed,) = verify(message.replace(b"Hello", b"Hallo"))
    assert (changed.result, changed.detail) == ("fail", "the body was changed")
    (changed,) = verify(message.replace(b"Alice", b"Aliza"))
    assert (changed.result, changed.detail) == ("fail", "the header was changed")


def test_dkimpy_takes_what_we_sign():
    found = oracle.DKIM(signed())
    assert found.verify(0, dnsfunc=oracle_dns)
    assert found.verify(1, dnsfunc=oracle_dns)


TEXT = st.text(st.characters(codec="ascii", exclude_categories=["C"]), max_size=60)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(subject=TEXT, lines=st.lists(TEXT.map(lambda text: text + "\t "), max_size=8), ends=st.integers(0, 3))
def test_each_takes_what_the_other_signs(verify, subject, lines, ends):
    body = "\r\n".join(lines) + "\r\n" * ends
    message = f"From: a@example.org\r\nSubject: {subject}\r\n\r\n{body}".encode()
    if not message.endswith(b"\r\n"):
        message += b"\r\n"
    assert [one.result for one in verify(signed(message, SIGNERS[1:]))] == ["pass"]
    assert oracle.verify(signed(message, SIGNERS[1:]), dnsfunc=oracle_dns)
    assert [one.result for one in verify(resigned(message, b"ed"))] == ["pass"]


def test_fields_that_are_signed_can_not_be_added_again(verify):
    message = signed()
    for added in (b"From: eve@example.com\r\n", b"Subject: other\r\n", b"Reply-To: eve@example.com\r\n"):
        assert [one.result for one in verify(added + message)] == ["fail", "fail"]


def test_a_second_from_above_a_signature_that_covers_one_is_reported(verify):
    message = resigned(MESSAGE, include_headers=[b"from", b"to"])  # each once
    (verdict,) = verify(b"From: eve@example.com\r\n" + message)
    assert verdict.result == "pass"
    assert verdict.notes == ("an unsigned From field was added",)


def test_text_behind_a_limit_is_reported(verify):
    message = resigned(MESSAGE, length=True)
    assert verify(message)[0].notes == ("l= lets anybody add to the body",)
    (verdict,) = verify(message + b"Buy now\r\n")
    assert verdict.result == "pass"
    assert verdict.notes[0].startswith("l= leaves ")


def test_a_bare_line_feed_is_no_line_end(verify):
    """dkimpy takes one for the other; a host that does so reads another message than the one that was signed."""
    message = resigned(MESSAGE)
    assert verify(message.replace(b"\r\n\r\nsee", b"\n\nsee"))[0].result == "fail"


@pytest.mark.parametrize(
    "odd",
    [MESSAGE + b"one\ntwo\r\n", MESSAGE + b"one\rtwo\r\n", MESSAGE + b"one\r", b"X: a\nb\r\n" + MESSAGE],
)
def test_bare_line_ends_below_a_signature_are_reported(verify, odd):
    for verdict in verify(signed(odd)):
        assert (verdict.result, verdict.notes[0][:15]) == ("pass", "a bare CR or LF")
    assert verify(signed())[0].notes == ()


@pytest.mark.parametrize(
    ("tag", "result", "detail"),
    [
        (b"v=1", "permerror", "not of version 1"),
        (b"a=rsa-sha256", "permerror", "no a="),
        (b"d=example.org", "permerror", "no d="),
        (b"s=rsa", "permerror", "no s="),
    ],
)
def test_a_signature_without_a_tag_is_in_error(verify, tag, result, detail):
    (verdict,) = verify(
        signed(signers=SIGNERS[:1]).replace(b" " + tag + b";", b"", 1).replace(b"\t" + tag + b";", b"", 1)
    )
    assert (verdict.result, verdict.detail) == (result, detail)


def test_old_and_expired_signatures_are_refused(verify):
    message = signed(signers=SIGNERS[:1])
    assert verify(message.replace(b"a=rsa-sha256", b"a=rsa-sha1", 1))[0].result == "policy"
    expired = message.replace(b" t=", b" x=%d; t=" % (NOW + 60), 1)
    assert verify(expired, now=NOW + 61)[0].detail == "the signature has expired"
    assert verify(expired.replace(b"x=%d" % (NOW + 60), b"x=5"))[0].detail == "x= is not after t="
    assert verify(message, now=NOW - 100_000)[0].detail == "the signature is from the future"


def record_of(bits, kind="rsa"):
    key = rsa.generate_private_key(65537, bits)
    der = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return f"v=DKIM1; k={kind}; p={b64encode(der).decode()}"


@pytest.mark.parametrize(
    ("record", "result", "detail"),
    [
        (lambda good: "v=DKIM1; p=", "permerror", "the key was revoked"),
        (lambda good: "v=DKIM2; " + good, "permerror", "twice"),
        (lambda good: good.replace("DKIM1", "DKIM2"), "permerror", "version"),
        (lambda good: good + "; h=sha1", "permerror", "sha256"),
        (lambda good: good + "; s=tlsrpt", "permerror", "mail"),
        (lambda good: good.replace("k=rsa", "k=x"), "permerror", "unknown k="),
        (lambda good: good.replace("k=rsa", "k=ed25519"), "permerror", "no key"),
        (lambda good: "v=DKIM1; k=rsa; p=AAAA", "permerror", "no key"),
        (lambda good: "v=DKIM1; k=rsa; p=!!", "permerror", "no key"),
        (lambda good: keys.format_record(ED), "permerror", "another algorithm"),
        (lambda good: record_of(2048), "fail", "header was changed"),
        (lambda good: record_of(1024), "fail", "header was changed"),
        (lambda good: "x" * 5000, "permerror", "too long"),
        (lambda good: good.replace("v=DKIM1; ", ""), "pass", ""),
    ],
)
def test_keys_that_can_not_be_used_say_why(verify, record, result, detail):
    zone = {("rsa._domainkey.example.org", "TXT"): [record(keys.format_record(RSA))]}
    (verdict,) = verify(signed(signers=SIGNERS[:1]), zone)
    assert verdict.result == result
    assert detail in verdict.detail


WEAK = (
    "v=DKIM1; k=rsa; p=MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBALYlc+G1S9Zy5GzUqtlbgW/G5SgBn9o1YGAg1Ssr0AEJ2iZJqxzzNiDVv9GqO1Yp"
    "pCvVIxkaKFHHqk4h6bWXr2cCAwEAAQ=="
)


def test_a_weak_key_is_no_proof(verify):
    (verdict,) = verify(signed(signers=SIGNERS[:1]), {("rsa._domainkey.example.org", "TXT"): [WEAK]})
    assert (verdict.result, verdict.detail) == ("policy", "an RSA key of 512 bits is weak")


def test_dns_trouble_is_temporary_and_a_missing_key_is_not(verify):
    message = signed(signers=SIGNERS[:1])
    assert verify(message, {("rsa._domainkey.example.org", "TXT"): "failed"})[0].result == "temperror"
    (verdict,) = verify(message, {})
    assert (verdict.result, verdict.detail) == ("permerror", "no key at rsa._domainkey.example.org")


def test_a_key_for_the_very_domain_allows_no_subdomain(verify):
    zone = {("rsa._domainkey.example.org", "TXT"): [keys.format_record(RSA) + "; t=s:y"]}
    message = resigned(MESSAGE, identity=b"@mail.example.org")
    assert verify(message, zone)[0].result == "permerror"
    assert verify(message)[0].result == "pass"
    assert verify(resigned(MESSAGE), zone)[0].testing


def test_a_domain_beyond_ascii_is_asked_for_in_a_labels(verify):
    asked = []
    field = dkim.parse_signature(
        "DKIM-Signature: v=1; a=rsa-sha256; d=bücher.example; s=früh; h=from; bh=AA==; b=AA==".encode()
    )
    plan = dkim.fetch_keys(field.domain, field.selector)
    asked.append(next(plan))
    assert asked[0].name == "xn--frh-ioa._domainkey.xn--bcher-kva.example"


def test_two_hundred_signatures_cost_as_much_as_eight(verify):
    one = signed(signers=SIGNERS[:1])[: -len(MESSAGE)]
    asked = []
    assert len(verify(one * 200 + MESSAGE, asked=asked)) == len(asked) == dkim.MAX_SIGNATURES


@pytest.mark.parametrize(
    "piece", [b" ", b"\r\n ", b";", b"b=;", b"; b ", b"h=from:", b"from:", b"a=a;", b"\t \r\n "]
)
def test_signatures_are_read_in_linear_time(grows_linearly, piece):
    start = b"DKIM-Signature: v=1; a=rsa-sha256; d=example.org; s=rsa; h=from; bh=AA==; b="

    def work(field):
        dkim.parse_signature(field)
        dkim.unsigned_field(field, "relaxed")

    grows_linearly(work, lambda count: start + piece * count, size=1000)


def test_a_field_over_the_limit_is_not_read():
    assert dkim.parse_signature(b"DKIM-Signature: " + b" " * 50_000).problem == "the signature is too long"


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.text(max_size=80), st.integers(0, 600), st.binary(max_size=3))
def test_nothing_makes_a_verifier_raise(verify, value, record, at, put):
    verify(b"DKIM-Signature:" + value.replace(b"\r\n", b"") + b"\r\n" + MESSAGE)
    broken = SIGNED[:at] + put + SIGNED[at:]
    zone = {
        ("rsa._domainkey.example.org", "TXT"): ["v=DKIM1; " + record],
        ("ed._domainkey.example.org", "TXT"): [record],
    }
    for verdict in verify(broken, zone):
        assert verdict.result in {"fail", "policy", "neutral", "temperror", "permerror"}


def test_keys_are_written_and_read_back():
    for key in (RSA, ED):
        assert keys.format_record(keys.load_key(keys.format_key(key))) == keys.format_record(key)
    for bad in (b"", b"-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n"):
        with pytest.raises(keys.BadKey):
            keys.load_key(bad)


def test_signatures_of_a_message_are_found_once_for_each_body_form(verify):
    message = resigned(resigned(MESSAGE), canonicalize=(b"relaxed", b"simple"))
    found = dkim.signatures(dkim.Header(message.partition(b"\r\n\r\n")[0]))
    assert set(dkim.body_hashes([*found, *found, replace(found[0], problem="x")])) == {
        ("relaxed", None),
        ("simple", None),
    }
