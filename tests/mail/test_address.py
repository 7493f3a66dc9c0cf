"""Addresses: what is read, what is refused, and that both directions agree."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.mail.address import Address, AddressError, parse_address, parse_domain, parse_path, quote_local


@pytest.mark.parametrize(
    ("text", "local", "domain"),
    [
        ("bob@example.org", "bob", "example.org"),
        ("Bob.B+tag@EXAMPLE.org", "Bob.B+tag", "example.org"),
        ("bob@localhost", "bob", "localhost"),
        ("bob@[192.0.2.1]", "bob", "[192.0.2.1]"),
        ("bob@[ipv6:2001:DB8:0::1]", "bob", "[IPv6:2001:db8::1]"),
        ('"bob"@example.org', "bob", "example.org"),
        ('"a b\\"c"@example.org', 'a b"c', "example.org"),
        ('"a@b"@example.org', "a@b", "example.org"),
        ('""@example.org', "", "example.org"),
        ("grüße@exämple.org", "grüße", "exämple.org"),
        ("postmaster", "postmaster", ""),
        ("PostMaster", "PostMaster", ""),
        ("!#$%&'*+/=?^_`{|}~-@example.org", "!#$%&'*+/=?^_`{|}~-", "example.org"),
        ("x" * 64 + "@example.org", "x" * 64, "example.org"),
        ("a_b@under_score.example", "a_b", "under_score.example"),
    ],
)
def test_addresses_that_read(text, local, domain):
    address = parse_address(text)
    assert (address.local, address.domain) == (local, domain)
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "", "bob", "@example.org", "bob@", "bob@@example.org", "bob@.org", "bob@example..org", "bob@-example.org",
        "bob@example-.org", ".bob@example.org", "bob.@example.org", "b..b@example.org", "bob@exa mple.org",
        "bo b@example.org", "bob@example.org ", " bob@example.org", '"bob@example.org', '"bob"x@example.org',
        "bob@[192.0.2.256]", "bob@[192.0.2.1", "bob@[2001:db8::1]", "bob@[IPv6:zz]", "bob@[]", "b\0b@example.org",
        "bob\r\n@example.org", "bob@example.org\n", "b\u2028b@example.org", "b\x85b@example.org",
        "x" * 65 + "@example.org", "ü" * 33 + "@example.org", "bob@" + "x" * 64 + ".org",
        "bob@" + "x.y" * 100, "bob@exa\u0300\u202emple.org", "<bob@example.org>", "b\udc80b@exa\udc80mple.org",
        "bob@[IPv6:fe80::1%eth0]", "b\udc80b@example.org", "bob@[IPv6:fe80::1%a b>c]",
    ],
)  # fmt: skip
def test_addresses_that_do_not(text):
    with pytest.raises(AddressError):
        parse_address(text)


@given(st.text(max_size=80) | st.from_regex(r'["<@a.\\ \[\]:1-]{1,30}@[a-z.\[\]:0-9-]{1,30}'))
def test_any_text_reads_back_or_is_refused(text):
    try:
        address = parse_address(text)
    except AddressError:
        return
    written = str(address)
    assert written.isprintable() or any(not letter.isprintable() and ord(letter) > 0x9F for letter in written)
    assert not set(written) & set("\r\n\0")
    assert parse_address(written) == address


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=30))
def test_every_printable_local_part_has_a_spelling(local):
    assert parse_address(f"{quote_local(local)}@example.org").local == local
    assert parse_address(str(Address(local, "example.org"))).local == local


@given(st.text(max_size=60))
def test_paths_never_fail_otherwise(text):
    for path in (text, f"<{text}>"):
        with suppress(AddressError):
            parse_path(path, strict=False)


def test_paths():
    assert parse_path("<>") is None
    assert parse_path("<bob@example.org>") == Address("bob", "example.org")
    assert parse_path("<@a.example,@b.example:bob@example.org>") == Address("bob", "example.org")
    assert parse_path("bob@example.org", strict=False) == Address("bob", "example.org")
    for text in ("bob@example.org", "<bob@example.org", "", "<@a.example>", "<@a,@b:>"):
        with pytest.raises(AddressError):
            parse_path(text)


def test_long_paths_are_refused_quickly():
    for text in (
        "<" + "a" * 100_000 + "@b.example>",
        "<@" + "a" * 100_000 + ":b@c.example>",
        '<"' + "\\a" * 50_000,
    ):
        with pytest.raises(AddressError):
            parse_path(text)


def test_domains_for_comparison_and_look_up():
    assert parse_domain("EXAMPLE.Org") == "example.org"
    assert parse_address("bob@Bücher.example").dns_domain == "xn--bcher-kva.example"
    assert parse_address("bob@example.org").dns_domain == "example.org"
    assert parse_address("bücher@example.org").needs_smtputf8
    assert parse_address("bob@bücher.example").needs_smtputf8
    assert not parse_address("bob@example.org").needs_smtputf8


@given(st.text(max_size=40))
def test_every_domain_that_reads_can_be_looked_up(text):
    try:
        domain = parse_domain(text)
    except AddressError:
        return
    assert Address("bob", domain).dns_domain.isascii()
    assert parse_domain(domain) == domain
