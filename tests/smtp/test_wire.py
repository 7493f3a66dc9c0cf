"""Lines and bodies cut from octets: only CRLF counts, buffers stay bounded, and the work grows linearly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.smtp import wire
from pillarbox.smtp.wire import BodyChecker, BodyFault, DataReader, LineFault, LineReader, stuff


def lines(reader, limit=100):
    found = []
    while (line := reader.next_line(limit)) is not None:
        found.append(line)
    return found


def read(*pieces, limit=100):
    reader = LineReader()
    found = []
    for piece in pieces:
        reader.feed(piece)
        found += lines(reader, limit)
    return found


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        (b"NOOP\r\nRSET\r\n", [b"NOOP", b"RSET"]),
        (b"\r\n", [b""]),
        (b"NOOP\n", [LineFault.NOT_CLEAN]),
        (b"\n", [LineFault.NOT_CLEAN]),
        (b"NOOP\r\r\n", [LineFault.NOT_CLEAN]),
        (b"NO\rOP\r\n", [LineFault.NOT_CLEAN]),
        (b"NO\0OP\r\n", [LineFault.NOT_CLEAN]),
        (b"NO\0OP\nRSET\r\n", [LineFault.NOT_CLEAN, b"RSET"]),
        (b"x" * 98 + b"\r\n", [b"x" * 98]),
        (b"x" * 99 + b"\r\nRSET\r\n", [LineFault.TOO_LONG, b"RSET"]),
        (b"x" * 1000 + b"\r\nRSET\r\n", [LineFault.TOO_LONG, b"RSET"]),
        (b"NOOP\x0bNOOP\x0cNOOP\x85NOOP\x1c\r\n", [b"NOOP\x0bNOOP\x0cNOOP\x85NOOP\x1c"]),
        (b"NOOP\r", []),
        (b"NOOP", []),
    ],
)
def test_lines(octets, expected):
    assert read(octets) == expected
    assert read(*[octets[n : n + 1] for n in range(len(octets))]) == expected


def test_an_endless_line_is_thrown_away_as_it_comes():
    reader = LineReader()
    for _ in range(1000):
        reader.feed(b"x" * 1000)
        assert reader.next_line(100) is None
        assert reader.waiting_octets == 0
    reader.feed(b"\r\nNOOP\r\n")
    assert lines(reader) == [LineFault.TOO_LONG, b"NOOP"]


@given(st.lists(st.binary(max_size=20)), st.integers(4, 30))
def test_lines_do_not_depend_on_how_they_are_cut(pieces, limit):
    assert read(*pieces, limit=limit) == read(b"".join(pieces), limit=limit)


def test_octets_are_handed_out_in_place():
    reader = LineReader()
    reader.feed(b"BDAT 3\r\nabcNOOP\r\nrest")
    assert reader.next_line(100) == b"BDAT 3"
    assert reader.take(3) == b"abc"
    assert reader.next_line(100) == b"NOOP"
    assert reader.waiting_octets == 4
    assert reader.take(10) == b"rest"
    assert reader.take(10) == b""
    reader.feed(b"more")
    reader.forget()
    assert reader.waiting_octets == 0


@pytest.mark.parametrize("body", [b".\r\n", b"Hi\r\n.\r\n", b"\r\n.\r\n", b"a\n.\n\r\n..\r\n.\r\n"])
def test_a_body_is_taken_up_to_its_end(body):
    reader = LineReader()
    reader.feed(b"DATA\r\n" + body + b"NOOP\r\n.\r\n")
    assert reader.next_line(100) == b"DATA"
    assert reader.take_body() == body
    assert reader.next_line(100) == b"NOOP"


def test_a_body_whose_end_has_not_come_is_taken_whole():
    reader = LineReader()
    reader.feed(b"Hi\r\n.\r")
    assert reader.take_body() == b"Hi\r\n.\r"
    assert reader.waiting_octets == 0


class Counted(bytes):
    """Octets that count how many of them are copied out of or into a buffer."""

    copied = 0

    def __getitem__(self, key):
        part = super().__getitem__(key)
        if isinstance(part, bytes):
            Counted.copied += len(part)
            return Counted(part)
        return part

    def __add__(self, other):
        Counted.copied += len(self) + len(other)
        return Counted(super().__add__(other))


@pytest.mark.parametrize("line", [b"NOOP\r\n", b"\n", b"\r\n", b"BDAT 1\r\nx"])
def test_a_full_buffer_is_copied_only_once_whatever_it_holds(line):
    def copied(octets):
        Counted.copied = 0
        reader = LineReader()
        reader.feed(Counted(line * (octets // len(line))))
        while (found := reader.next_line(100)) is not None:
            if found == b"BDAT 1":
                assert reader.take(1) == b"x"
        assert reader.buffer == b"", "an idle session holds on to what it read"
        return Counted.copied

    assert copied(262_144) <= 3 * 262_144


def data(*pieces):
    """The body that comes out of pieces, and what follows it."""
    reader, out = DataReader(), b""
    for number, piece in enumerate(pieces):
        out += reader.feed(piece)
        if reader.rest is not None:
            return out, reader.rest + b"".join(pieces[number + 1 :])
    return out, None


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        (b".\r\n", (b"", b"")),
        (b".\r\nNOOP\r\n", (b"", b"NOOP\r\n")),
        (b"Hi\r\n.\r\nNOOP\r\n", (b"Hi\r\n", b"NOOP\r\n")),
        (b"..\r\n.\r\n", (b".\r\n", b"")),
        (b".x\r\n.\r\n", (b"x\r\n", b"")),
        (b"a\r\n..b\r\n.\r\n", (b"a\r\n.b\r\n", b"")),
        (b"a\r\n...\r\n.\r\n", (b"a\r\n..\r\n", b"")),
        (b"a..b\r\n.\r\n", (b"a..b\r\n", b"")),
        (b"\r\n\r\n.\r\n", (b"\r\n\r\n", b"")),
        (b"a\r\n.\r\n.\r\n", (b"a\r\n", b".\r\n")),
    ],
)
def test_end_of_data_and_dots(octets, expected):
    assert data(octets) == expected
    assert data(*[octets[n : n + 1] for n in range(len(octets))]) == expected


NOT_THE_END = [
    b"\n.\n",
    b"\r.\r",
    b"\r\n.\n",
    b"\n.\r\n",
    b"\r\n.\r",
    b"\r\n.\0\r\n",
    b"\r\n\0.\r\n",
    b"\r\0\n.\r\n",
    b"\r.\r\n",
]


@pytest.mark.parametrize("end", NOT_THE_END)
def test_nothing_else_ends_the_data(end):
    octets = b"Hi" + end + b"MAIL FROM:<x@example.org>"
    assert data(octets)[1] is None
    assert data(*[octets[n : n + 1] for n in range(len(octets))])[1] is None


@given(st.lists(st.text("\r\n.\0a").map(str.encode)))
def test_a_body_does_not_depend_on_how_it_is_cut(pieces):
    whole, rest = data(b"".join(pieces))
    found, found_rest = data(*pieces)
    assert rest == found_rest
    assert found == whole[: len(found)]
    assert rest is not None or len(whole) == len(found)


@given(st.lists(st.sampled_from([b".", b"a", b"..", b"\r\n", b"long " * 9]), max_size=30), st.integers(1, 9))
def test_what_is_stuffed_comes_out_as_it_was(parts, size):
    body = b"".join(parts) + b"\r\n"
    wire = stuff(body, at_line_start=True) + b".\r\n"
    assert data(*[wire[n : n + size] for n in range(0, len(wire), size)]) == (body, b"")


def check(*pieces, limit=10):
    checker = BodyChecker(limit)
    for piece in pieces:
        if fault := checker.check(piece):
            return fault
    return None


@pytest.mark.parametrize(
    ("pieces", "fault"),
    [
        ([b"a\r\nb\r\n"], None),
        ([b""], None),
        ([b"a\nb\r\n"], BodyFault.BARE_LINE_ENDING),
        ([b"a\rb\r\n"], BodyFault.BARE_LINE_ENDING),
        ([b"a\n\rb"], BodyFault.BARE_LINE_ENDING),
        ([b"\r\r\n\n"], BodyFault.BARE_LINE_ENDING),
        ([b"\rx\n.\r\n"], BodyFault.BARE_LINE_ENDING),
        ([b"\r.\n"], BodyFault.BARE_LINE_ENDING),
        ([b"a\0b"], BodyFault.NUL),
        ([b"x" * 10 + b"\r\n"], None),
        ([b"x" * 11 + b"\r\n"], BodyFault.LINE_TOO_LONG),
        ([b"x" * 10, b"\r\n"], None),
        ([b"x" * 11, b"\r\n"], BodyFault.LINE_TOO_LONG),
        ([b"x" * 12, b"\r\n"], BodyFault.LINE_TOO_LONG),
        ([b"x" * 13], BodyFault.LINE_TOO_LONG),
        ([b"x"] * 10 + [b"\r\n"] + [b"x"] * 10 + [b"\r\n"], None),
        ([b"x"] * 11 + [b"\r\n"], BodyFault.LINE_TOO_LONG),
        ([b"x\r\n" * 100 + b"x" * 11 + b"\r\n"], BodyFault.LINE_TOO_LONG),
        ([b"x\r\n" * 100 + b"x" * 10, b"\r\n" + b"x" * 10 + b"\r\n"], None),
    ],
)
def test_what_a_text_body_must_not_have(pieces, fault):
    assert check(*pieces) == fault


@given(st.lists(st.integers(0, 14), max_size=12), st.data())
def test_line_lengths_do_not_depend_on_how_the_body_is_cut(lengths, choice):
    body = b"".join(b"x" * length + b"\r\n" for length in lengths)
    cuts = sorted(choice.draw(st.sets(st.integers(0, len(body)), max_size=6)))
    cuts = [cut for cut in cuts if body[cut - 1 : cut + 1] != b"\r\n"]
    pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    assert check(*pieces) == (BodyFault.LINE_TOO_LONG if any(length > 10 for length in lengths) else None)


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"a\0\nb\r\n", BodyFault.NUL),
        (b"a\n\0b\r\n", BodyFault.BARE_LINE_ENDING),
        (b"a\r\0b\r\n", BodyFault.BARE_LINE_ENDING),
        (b"123456789\0\r\n", BodyFault.LINE_TOO_LONG),
        (b"123456789\nb\r\n", BodyFault.LINE_TOO_LONG),
        (b"12345\n123456789\r\n", BodyFault.BARE_LINE_ENDING),
        (b"a\r\n\0" + b"b" * 20 + b"\n", BodyFault.NUL),
    ],
)
def test_the_first_fault_counts_however_the_body_is_cut(body, fault):
    for cut in range(len(body)):
        checker = BodyChecker(6)
        pieces = [piece for piece in (body[:cut], body[cut:]) if piece]
        if pieces[0].endswith(b"\r"):  # whoever cuts does not end a piece there
            continue
        found = [checker.check(piece) for piece in pieces]
        assert next(one for one in found if one is not None) is fault


@pytest.mark.parametrize(
    "line", [b"AUTH PLAIN c2VjcmV0\r\n", b"auth plain c2VjcmV0\r\n", b" AUTH PLAIN c2VjcmV0\r\n"]
)
def test_a_line_that_may_hold_a_password_is_not_remembered(line):
    reader = LineReader()
    reader.feed(line)
    reader.next_command(1000)
    assert not [known for known in wire._remembered if b"c2VjcmV0" in known]


def test_the_rest_of_a_line_is_not_taken_for_the_whole_line_that_is_remembered():
    reader = LineReader()
    for _ in range(2):
        reader.feed(b"RSET\r\n")
        assert reader.next_command(1000) == (b"RSET", "")
    reader.feed(b"RSET\r\n")
    assert reader.take(2) == b"RS"
    assert reader.next_command(1000) == (b"ET", "")


def test_a_line_that_is_remembered_is_refused_where_it_is_too_long():
    line = b"MAIL FROM:<a-rather-long-address@example.org>\r\n"
    for _ in range(2):
        reader = LineReader()
        reader.feed(line)
        assert reader.next_command(len(line)) == (b"MAIL", "FROM:<a-rather-long-address@example.org>")
    reader = LineReader()
    reader.feed(line)
    assert reader.next_command(len(line) - 1) is None
    assert reader.next_line(len(line) - 1) is wire.LineFault.TOO_LONG


def test_what_is_remembered_of_command_lines_is_bounded():
    reader = LineReader()
    for number in range(5000):
        reader.feed(b"RCPT TO:<%d@example.org>\r\n" % number)
        assert reader.next_command(1000) == (b"RCPT", f"TO:<{number}@example.org>")
    assert len(wire._remembered) <= 2048
