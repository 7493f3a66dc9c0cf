"""Canonical forms: as dkimpy makes them, in pieces of any size, in linear time."""

from __future__ import annotations

from hashlib import sha256

import pytest
from dkim.canonicalization import CanonicalizationPolicy
from hypothesis import example, given
from hypothesis import strategies as st

from pillarbox.mailauth.canonical import (
    BodyHash,
    has_bare_line_end,
    relaxed_field,
    relaxed_fields,
    relaxed_sum,
    split_fields,
)

BODIES = st.lists(st.sampled_from([b" ", b"\t", b"\r\n", b"x", b"  ", b"yz", b"\r\n\r\n"]), max_size=30).map(
    b"".join
)


@pytest.mark.parametrize("form", ["simple", "relaxed"])
@given(data=st.data(), body=BODIES)
def test_a_body_is_hashed_as_dkimpy_does_whatever_its_pieces(form, data, body):
    ours = BodyHash(form)
    at = 0
    while at < len(body):
        size = data.draw(st.integers(1, 7))
        ours.update(body[at : at + size])
        at += size
    if body and not body.endswith(b"\r\n"):
        body += b"\r\n"  # dkimpy leaves that to its caller
    policy = CanonicalizationPolicy.from_c_value(f"{form}/{form}".encode())
    assert ours.digest() == sha256(policy.canonicalize_body(body)).digest()
    assert ours.digest() == ours.digest()


@given(
    body=st.lists(st.sampled_from([b"\r", b"\n", b" ", b"x", b"\r\n"]), max_size=20).map(b"".join),
    cut=st.integers(0, 40),
)
@example(body=b"x\r\r\n\n", cut=3)
def test_bare_line_ends_are_content_wherever_pieces_are_cut(body, cut):
    for form in ("simple", "relaxed"):
        whole, parts = BodyHash(form), BodyHash(form)
        whole.update(body)
        parts.update(body[:cut])
        parts.update(body[cut:])
        assert whole.digest() == parts.digest()
        assert (whole.octets, whole.hashed) == (parts.octets, parts.hashed)
        assert form == "simple" or whole.digest() == relaxed_sum(body)
        bare = b"\r" in body.replace(b"\r\n", b"") or b"\n" in body.replace(b"\r\n", b"")
        assert has_bare_line_end(body) == whole.bare == parts.bare == bare


def test_a_limit_hashes_the_first_octets_and_counts_the_rest():
    one = BodyHash("relaxed", 5)
    one.update(b"ab  c\r\nmore\r\n")
    assert one.digest() == sha256(b"ab c\r").digest()
    assert (one.hashed, one.octets) == (5, 12)


def test_fields_are_split_at_line_ends_that_no_space_follows():
    assert split_fields(b"A: 1\r\n 2\r\nSubject : x\r\nno field\r\nB:\r\n") == [
        b"A: 1\r\n 2",
        b"Subject : x",
        b"B:",
    ]
    assert relaxed_field(b"SubJect : a \t b\r\n\tc  ") == b"subject:a b c"


VALUES = st.lists(
    st.sampled_from(
        [b"x", b":", b" ", b"\t", b"\r\n ", b"\r\n\t", b"\rX", b"\nX", b"\x0b", b"\x0c", b"\xc3", b"\0"]
    ),
    max_size=8,
).map(b"".join)
NAMES = st.sampled_from([b"A:", b"Sub-Ject \t:", b"\x0b:", b"\0:", b":"])


@given(
    st.sampled_from([b"", b" ", b"\t"]),
    st.lists(st.tuples(NAMES, VALUES), max_size=6),
    st.sampled_from([b"", b"\r\n"]),
)
def test_all_fields_at_once_become_what_each_becomes_alone(start, fields, end):
    section = start + b"\r\n".join([name + value for name, value in fields] + [b"no field"]) + end
    names, values = relaxed_fields(section)
    together = [name.strip(b" ").lower() + b":" + value for name, value in zip(names, values, strict=True)]
    assert together == [relaxed_field(field) for field in split_fields(section)]


@pytest.mark.parametrize("piece", [b" ", b"\t", b"\r\n", b" \r\n", b"x ", b"\r", b"\t \r\n\r"])
@pytest.mark.parametrize("form", ["simple", "relaxed"])
def test_bodies_are_hashed_in_linear_time(grows_linearly, form, piece):
    def work(body):
        one = BodyHash(form)
        for at in range(0, len(body), 1000):
            one.update(body[at : at + 1000])
        one.digest()

    grows_linearly(work, lambda count: piece * count + b"x", size=20_000)


@pytest.mark.parametrize("piece", [b" ", b"\r\n ", b"\x0b ", b"\t", b"a:\r\n"])
def test_fields_are_read_in_linear_time(grows_linearly, piece):
    def work(section):
        for field in split_fields(section):
            relaxed_field(field)
        relaxed_fields(section)

    grows_linearly(work, lambda count: b"A:" + piece * count, size=10_000)
