"""What must hold of the protocol core whatever a client sends, in whatever pieces, in whatever state."""

import base64
import itertools
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pillarbox.mail.units import Octets
from pillarbox.policy.rules import Role
from pillarbox.smtp.profile import Limits

PATIENT = Limits(errors=10_000, login_failures=10_000, messages=10_000)
EHLO = b"EHLO client.example\r\n"
OPENED = b"MAIL FROM:<a@sender.example>\r\nRCPT TO:<alice@example.org>\r\n"
LOGIN = b"AUTH PLAIN " + base64.b64encode(b"\0alice@example.org\0wonderland") + b"\r\n"
STATES = {
    "connected": b"",
    "greeted": EHLO,
    "logged in": EHLO + LOGIN,
    "mail": EHLO + b"MAIL FROM:<>\r\n",
    "rcpt": EHLO + OPENED,
    "chunks": EHLO + OPENED + b"BDAT 4\r\nHi\r\n",
    "data": EHLO + OPENED + b"DATA\r\nHi\r\n",
    "in a chunk": EHLO + OPENED + b"BDAT 10\r\nHi\r\n",
    "challenge": EHLO + b"AUTH LOGIN\r\n",
    "handshake": EHLO + b"STARTTLS\r\n",
    "after quit": b"QUIT\r\n",
}
WORDS = [
    b"EHLO ", b"HELO ", b"LHLO ", b"MAIL ", b"RCPT ", b"FROM:", b"TO:", b"DATA", b"BDAT ", b"LAST", b"RSET", b"NOOP", b"QUIT",
    b"VRFY ", b"EXPN ", b"HELP ", b"AUTH ", b"PLAIN", b"LOGIN", b"STARTTLS", b"<a@b.example>", b"<alice@example.org>", b"<>",
    b" SIZE=", b" BODY=", b"BINARYMIME", b"8BITMIME", b" SMTPUTF8", b" NOTIFY=", b"NEVER", b" ORCPT=", b"rfc822;", b"0", b"3",
    b"17", b"99999999999", b" ", b"\t", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b".", b"\r\n.\r\n", b"\0", b"\xff", b"\xc3\xbc",
    b"=", b"*", b"\xe2\x80\xa8", b"A" * 70, b"GET / HTTP/1.1",
]  # fmt: skip
ALPHABET = st.lists(st.sampled_from(WORDS) | st.binary(max_size=3), max_size=40).map(b"".join)
REPLIES = re.compile(
    rb"(?:([2-5][0-5][0-9])-[^\r\n\0]*\r\n(?:\1-[^\r\n\0]*\r\n)*\1 [^\r\n\0]*\r\n|[2-5][0-5][0-9] [^\r\n\0]*\r\n)*"
)


def make(new_core, role=Role.MX, **options):
    return new_core(
        **(
            {"role": role, "login": True, "login_in_clear": True, "tls": "offered", "limits": PATIENT}
            | options
        )
    )


def in_state(new_core, state, role):
    core = make(new_core, role)
    core.feed(STATES[state].replace(b"EHLO", b"LHLO") if role is Role.LMTP else STATES[state])
    core.take()
    return core


def held(core):
    """How many octets the core keeps."""
    body = core.session._transfer._reader
    parts = [core.session._lines.buffer]
    if body is not None:
        parts += [body._held, body._stuffed._tail if body._stuffed is not None else b""]
    return sum(map(len, parts))


@given(
    octets=st.binary(max_size=600) | ALPHABET,
    state=st.sampled_from(sorted(STATES)),
    role=st.sampled_from([Role.MX, Role.LMTP, Role.SUBMISSION, Role.NO_MAIL]),
    size=st.integers(1, 40),
)
@example(b"BDAT 99999999999999999999 LAST\r\n" + b"x" * 300, "rcpt", Role.MX, 40)
@settings(max_examples=1500, deadline=None)
def test_any_octets_in_any_state_get_wellformed_replies_and_leave_little_behind(
    new_core, octets, state, role, size
):
    core = in_state(new_core, state, role)
    for at in range(0, len(octets), size):
        core.feed(octets[at : at + size])
        assert held(core) <= 12_288 + size
    out = core.take()
    assert REPLIES.fullmatch(out)
    assert all(len(line) <= 510 for line in out.split(b"\r\n"))
    core.session.expire(1e9)
    core.pump()
    assert core.closed


@given(
    octets=ALPHABET,
    state=st.sampled_from(sorted(set(STATES) - {"handshake"})),
    cuts=st.sets(st.integers(0, 400), max_size=8),
)
@settings(max_examples=1000, deadline=None)
def test_any_chunking_gives_the_same_dialogue(new_core, octets, state, cuts):
    whole, cut = in_state(new_core, state, Role.MX), in_state(new_core, state, Role.MX)
    whole.feed(octets)
    edges = [0, *sorted(edge for edge in cuts if edge < len(octets)), len(octets)]
    for start, end in itertools.pairwise(edges):
        cut.feed(octets[start:end])
    if not whole.wants_tls:  # what came with STARTTLS is dropped, what comes later is not ours to read
        assert cut.take() == whole.take()
        assert cut.bodies == whole.bodies
        assert cut.session.state == whole.session.state


# --- exactly one reply a command ----------------------------------------------------------------------------------

LINES = st.sampled_from([
    b"EHLO x", b"HELO x", b"LHLO x", b"MAIL FROM:<>", b"MAIL FROM:<a@b.example> BODY=BINARYMIME", b"MAIL FROM:<a", b"MAIL",
    b"RCPT TO:<alice@example.org>", b"RCPT TO:<bob@example.org>", b"RCPT TO:<nobody@example.org>", b"RCPT TO:<a@b.example>",
    b"RSET", b"NOOP", b"RSET x", b"VRFY alice", b"EXPN x", b"HELP", b"HELP MAIL", b"HELP x", b"ETRN x", b"FROB", b"", b"\xff",
    b"AUTH X", b"AUTH PLAIN =", LOGIN[:-2], b"BDAT x", b"BDAT", b"DATA x", b"QUIT x", b"x" * 3000, b"NOOP\0", b"STARTTLS x",
]).map(lambda line: ("line", line + b"\r\n"))  # fmt: skip
BODIES = st.lists(st.sampled_from([b"Hi\r\n", b"..\r\n", b"QUIT\r\n", b"a\nb\r\n", b"\r\n"]), max_size=4).map(
    b"".join
)
UNITS = (
    LINES
    | st.builds(
        lambda octets, last: ("line", b"BDAT %d%s\r\n%s" % (len(octets), last, octets)),
        st.sampled_from([b"", b"QUIT\r\n", b"x", b".\r\n", b"\r", b"\n", b"RSET\r\nNOOP\r\n"]),
        st.sampled_from([b"", b" LAST"]),
    )
    | BODIES.map(lambda body: ("data", body + b".\r\n"))
)


def count(out):
    return len(re.findall(rb"^\d{3} ", out, re.MULTILINE))


@given(st.lists(UNITS, max_size=25), st.sampled_from([Role.MX, Role.LMTP]), st.booleans())
@settings(max_examples=800, deadline=None)
def test_each_command_gets_exactly_one_reply(new_core, units, role, start):
    core = make(new_core, role)
    hello = EHLO.replace(b"EHLO", b"LHLO") if role is Role.LMTP else EHLO
    core.feed(hello + OPENED if start else hello)
    core.take()
    for kind, octets in units:
        accepted = core.session._accepted
        if kind == "data":
            core.feed(b"DATA\r\n")
            out = core.take()
            assert count(out) == 1
            if not out.startswith(b"354 "):
                continue
        core.feed(octets)
        ends = kind == "data" or (octets.startswith(b"BDAT") and b" LAST\r\n" in octets)
        expected = accepted if role is Role.LMTP and ends and core.session._accepted == 0 and accepted else 1
        out = core.take()
        assert count(out) == expected, out


@given(st.lists(UNITS, max_size=12), st.sampled_from([Role.MX, Role.LMTP]))
@settings(max_examples=300, deadline=None)
def test_a_pipelined_group_is_answered_as_if_sent_one_by_one(new_core, units, role):
    hello = EHLO.replace(b"EHLO", b"LHLO") if role is Role.LMTP else EHLO
    units = [octets if kind == "line" else b"NOOP\r\n" for kind, octets in units]
    single, grouped = make(new_core, role), make(new_core, role)
    for unit in [hello + OPENED, *units]:
        single.feed(unit)
    grouped.feed(hello + OPENED + b"".join(units))
    assert grouped.take() == single.take()


# --- smuggling ----------------------------------------------------------------------------------------------------

FALSE_ENDS = [
    b"\n.\n", b"\r.\r", b"\r\n.\n", b"\n.\r\n", b"\r\n.\r", b"\r.\r\n", b"\r\n.\0\r\n", b"\r\n\0.\r\n", b"\r\0\n.\r\n",
    b"\n\n.\n\n", b"\r\r\n.\r\r\n", b"\r\n.\r\r\n", b"\rx\n.\r\n", b"\r x\n.\rx\n", b"\r\n.\n\r\n", b"\x85.\x85\n",
]  # fmt: skip
INNER = b"MAIL FROM:<ceo@example.org>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\nSubject: inner\r\n\r\npwned"
cut = st.integers(1, 200)


@pytest.mark.parametrize("end", FALSE_ENDS)
@given(size=cut, before=st.sampled_from([b"", b"Subject: x\r\n\r\nbody", b"\r\n"]))
@settings(max_examples=30, deadline=None)
def test_only_crlf_dot_crlf_ends_the_data_and_the_variants_are_refused(new_core, end, size, before):
    core = make(new_core).feed(EHLO + OPENED + b"DATA\r\n")
    core.take()
    wire = before + end + INNER.replace(b"DATA", b"DATB") + b"\r\n.\r\n"
    for at in range(0, len(wire), size):
        core.feed(wire[at : at + size])
    assert count(core.take()) == 1
    assert core.bodies == []


@pytest.mark.parametrize("end", FALSE_ENDS)
@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=5), size=cut)
@settings(max_examples=30, deadline=None)
def test_in_chunks_the_variants_are_refused_too(new_core, end, sizes, size):
    core = make(new_core).feed(EHLO + OPENED)
    core.take()
    body, wire = b"Subject: x\r\n\r\nbody" + end + INNER + b"\r\n", b""
    chunks = 0
    while body:
        octets = sizes[chunks % len(sizes)]
        chunks += 1
        piece, body = body[:octets], body[octets:]
        wire += b"BDAT %d%s\r\n%s" % (len(piece), b"" if body else b" LAST", piece)
    for at in range(0, len(wire), size):
        core.feed(wire[at : at + size])
    assert count(core.take()) == chunks
    assert core.bodies == []


@given(
    octets=st.binary(max_size=80) | st.sampled_from([b"QUIT\r\n" * 9, b"RSET\r\n", b"\r\n.\r\n"]),
    state=st.sampled_from(["connected", "greeted", "mail"]),
    last=st.sampled_from([b"", b" LAST"]),
    size=cut,
)
@settings(deadline=None)
def test_a_refused_chunk_takes_exactly_its_octets_with_it(new_core, octets, state, last, size):
    core = in_state(new_core, state, Role.MX)
    wire = b"BDAT %d%s\r\n%sNOOP\r\n" % (len(octets), last, octets)
    for at in range(0, len(wire), size):
        core.feed(wire[at : at + size])
    assert [line[:3] for line in core.take().split(b"\r\n")[:-1]] == [b"503", b"250"]


# --- bodies -------------------------------------------------------------------------------------------------------

TEXT = st.lists(st.sampled_from([b".", b"..", b"a line", b"", b"\xc3\xbc", b"x" * 500]), max_size=12).map(
    lambda lines: b"".join(line + b"\r\n" for line in lines)
)


@given(body=TEXT, sizes=st.lists(st.integers(0, 600), min_size=1, max_size=6), size=st.integers(1, 700))
@settings(deadline=None)
def test_a_body_arrives_the_same_by_data_and_by_chunks_however_it_is_cut(new_core, body, sizes, size):
    stuffed = re.sub(rb"(^|\r\n)\.", rb"\1..", body)
    chunked, rest, number = b"", body, 0
    while rest and number < 40:
        octets = sizes[number % len(sizes)]
        chunked += b"BDAT %d\r\n%s" % (len(rest[:octets]), rest[:octets])
        rest = rest[octets:]
        number += 1
    chunked += b"BDAT %d LAST\r\n%s" % (len(rest), rest)
    for sent in (b"DATA\r\n" + stuffed + b".\r\n", chunked):
        core = make(new_core).feed(EHLO)
        wire = OPENED + sent + b"NOOP\r\n"
        for at in range(0, len(wire), size):
            core.feed(wire[at : at + size])
        assert core.bodies == [body]
        assert core.take().endswith(b"250 2.0.0 OK\r\n")


@given(octets=st.binary(max_size=300), size=st.integers(1, 300))
@settings(deadline=None)
def test_a_binary_body_arrives_as_it_is(new_core, octets, size):
    core = make(new_core).feed(EHLO + OPENED.replace(b">", b"> BODY=BINARYMIME", 1))
    wire = b"BDAT %d LAST\r\n%s" % (len(octets), octets)
    for at in range(0, len(wire), size):
        core.feed(wire[at : at + size])
    assert core.bodies == [octets]


def test_a_large_body_leaves_nothing_in_the_core(new_core):
    limits = Limits(message_octets=Octets(1 << 30))
    core = make(new_core, limits=limits).feed(EHLO + OPENED + b"DATA\r\n")
    core.decide = lambda event: (
        None if type(event).__name__ == "BodyChunk" else type(core).decide(core, event)
    )
    piece = (b"x" * 70 + b"\r\n") * 3000
    for _ in range(50):
        core.feed(piece)
        core.events.clear()
        assert held(core) < 200
    core.feed(b".\r\n")
    assert held(core) == 0


# --- STARTTLS -----------------------------------------------------------------------------------------------------


@given(with_it=ALPHABET, after_it=ALPHABET)
@settings(deadline=None)
def test_octets_in_clear_never_survive_starttls(new_core, with_it, after_it):
    clean = make(new_core).feed(EHLO + b"STARTTLS\r\n")
    dirty = make(new_core).feed(EHLO + b"STARTTLS\r\n" + with_it).feed(after_it)
    for core in (clean, dirty):
        core.take()
        core.start_tls()
        core.feed(b"NOOP\r\nMAIL FROM:<>\r\n" + EHLO + b"MAIL FROM:<>\r\n")
    assert dirty.take() == clean.take()
    assert dirty.session.hello == clean.session.hello
