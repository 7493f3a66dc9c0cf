"""One body, by DATA or by BDAT: sizes, faults, and that all of it is consumed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.mail.catalogue import content
from pillarbox.smtp.body import BodyReader


def by_data(*pieces, limit=100, line=998):
    body = BodyReader(max_octets=limit, max_line_octets=line, binary=False, stuffed=True)
    return b"".join(map(body.feed_data, pieces)), body


def by_chunks(*pieces, limit=100, line=998, binary=False):
    body = BodyReader(max_octets=limit, max_line_octets=line, binary=binary, stuffed=False)
    return b"".join(map(body.feed_chunk, pieces)) + body.finish_chunks(), body


def test_a_body_of_the_largest_size_is_taken():
    wire = b"." + b"." * 98 + b"\r\n.\r\n"  # the first dot is stuffing
    out, body = by_data(wire)
    assert (len(out), body.fault, body.rest) == (100, None, b"")
    out, body = by_chunks(b"x" * 100)
    assert (len(out), body.octets, body.fault) == (100, 100, None)


@pytest.mark.parametrize("size", [101, 1000])
def test_a_larger_one_is_not_but_is_consumed(size):
    wire = b"x" * (size - 2) + b"\r\n.\r\nNOOP\r\n"
    out, body = by_data(*[wire[n : n + 7] for n in range(0, len(wire), 7)])
    assert len(out) <= 100
    assert body.fault.cause is content.TOO_BIG
    assert body.rest is not None
    out, body = by_chunks(*[b"x" * 7] * (size // 7 + 1))
    assert len(out) <= 100
    assert body.fault.cause is content.TOO_BIG


def test_the_first_fault_counts_and_nothing_comes_out_after_it():
    out, body = by_data(b"a\nb\r\n", b"fine\r\n", b"x" * 200, b"\r\n.\r\n")
    assert out == b""
    assert body.fault.cause is content.BARE_LINE_ENDING
    assert body.rest == b""


def test_a_crlf_may_be_cut_between_chunks_and_a_lone_cr_may_not_end_them():
    out, body = by_chunks(b"a\r", b"\nb\r", b"", b"\n")
    assert (out, body.fault) == (b"a\r\nb\r\n", None)
    _, body = by_chunks(b"a\r")
    assert body.fault.cause is content.BARE_LINE_ENDING
    _, body = by_chunks(b"a\r", b"b")
    assert body.fault.cause is content.BARE_LINE_ENDING


def test_a_binary_body_may_hold_anything():
    out, body = by_chunks(bytes(range(256)), b"\r", b"\n.\r\n", limit=1000, binary=True, line=5)
    assert (out, body.fault) == (bytes(range(256)) + b"\r\n.\r\n", None)


@given(
    st.binary(max_size=60).map(lambda body: body.translate(bytes(b"\r\n.\0ab"[n % 6] for n in range(256)))),
    st.data(),
)
def test_a_cut_anywhere_gives_the_same_body_and_the_same_fault(octets, choice):
    cuts = sorted(choice.draw(st.sets(st.integers(0, len(octets)), max_size=6)))
    pieces = [octets[a:b] for a, b in zip([0, *cuts], [*cuts, len(octets)], strict=True)]
    whole, body = by_chunks(octets, line=5)
    found, cut = by_chunks(*pieces, line=5)
    assert (cut.fault is None) == (body.fault is None)
    assert body.fault is not None or (found, cut.octets) == (whole, body.octets)
