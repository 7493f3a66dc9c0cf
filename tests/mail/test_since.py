"""The header field that says since when the sender knows a recipient (RFC 7293 3.2)."""

from datetime import UTC, datetime

import pytest

from pillarbox.mail.envelope import ValidSince
from pillarbox.mail.message import scan_head
from pillarbox.mail.since import field_for, known_since, without_fields

JUNE = datetime(2013, 6, 1, 16, 23, 1, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("value", "address"),
    [
        (b"user@example.com; Sat, 1 Jun 2013 09:23:01 -0700", "user@example.com"),
        (b"User@EXAMPLE.com ;\r\n\tSat, 1 Jun 2013 09:23:01 -0700 (PDT)", "user@example.com"),
        (b'"a;b"@example.com; 1 Jun 2013 16:23:01 +0000', '"a;b"@example.com'),
    ],
)
def test_address_and_moment_are_read(value, address):
    head = scan_head(b"require-recipient-valid-since: " + value + b"\r\n\r\n")
    assert known_since(head) == {address: ValidSince(JUNE, refuse=False)}


@pytest.mark.parametrize(
    "value", [b"", b";", b"a@b.test", b"a@b.test;", b"a@b.test; 2013-06-01", b"@; 1 Jun 2013 0:0"]
)
def test_what_cannot_be_read_counts_for_nothing(value):
    assert known_since(scan_head(b"Require-Recipient-Valid-Since: " + value + b"\r\n\r\n")) == {}


@pytest.mark.parametrize("address", ["user@example.com", '"a b"@example.com', "jörg@exämple.com"])
def test_what_is_written_is_read_again(address):
    head = scan_head(field_for(address, JUNE) + b"\r\n")
    assert known_since(head) == {address: ValidSince(JUNE, refuse=False)}


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_only_these_fields_are_taken_out_with_what_they_are_folded_into(end):
    field = [b"REQUIRE-Recipient-Valid-Since : a@b.test;", b" Sat, 1 Jun 2013", b"\t09:23:01 -0700"]
    others = [
        b"X-Require-Recipient-Valid-Since: x",
        b"Subject: Require",
        b" Require-Recipient-Valid-Since: folded",
        b"Require-Recipient-Valid-Since-When: x",
    ]

    def section(*lines):
        return b"".join(line + end for line in lines)

    kept = section(*others)
    assert without_fields(section(*field, *others)) == kept
    assert without_fields(section(*others, *field)) == kept
    assert without_fields(section(others[0], *field, *field, *others[1:])) == kept
    assert without_fields(kept) == kept
