from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.mail.catalogue import CAUSES, delivery
from pillarbox.mail.envelope import (
    NO_TERMS,
    Body,
    ByMode,
    Deadline,
    Envelope,
    Notify,
    Recipient,
    Ret,
    Terms,
    ValidSince,
)
from pillarbox.mail.reply import Origin, Reply, Result, Stage, parse_reply
from pillarbox.queue import records
from pillarbox.queue.spool import Trace

octets = st.binary(max_size=40).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
moments = st.floats(0, 4e9)
recipients = st.builds(
    Recipient,
    octets,
    st.integers(0, 15).map(Notify),
    octets,
    octets,
    st.none() | st.builds(ValidSince, moments, st.booleans()),
)
terms = st.just(NO_TERMS) | st.builds(
    Terms,
    st.none() | st.builds(Deadline, moments, st.sampled_from(ByMode), st.booleans()),
    moments,
    st.integers(-9, 9),
    st.booleans(),
)
envelopes = st.builds(
    Envelope,
    octets,
    st.lists(recipients, max_size=4).map(tuple),
    st.sampled_from(Body),
    st.booleans(),
    st.none() | st.sampled_from(Ret),
    octets,
    terms,
)
replies = st.builds(
    lambda code, lines: parse_reply([b"%d " % code + line for line in lines]),
    st.integers(200, 599),
    st.lists(st.binary(max_size=30), min_size=1, max_size=3),
)


@given(envelopes)
def test_envelopes_come_back_as_they_were(envelope):
    assert records.unpack_envelope(records.pack_envelope(envelope)) == envelope


def test_records_of_older_releases_are_read():
    """They have octets for text, and nothing where a recipient or an envelope asks for nothing special."""
    envelope = b"\x96\xc4\x05a@b.c\x91\x94\xc4\x05d@e.f\x04\xc4\x00\xc4\x01\xff\xa47BIT\xc2\xc0\xc4\x02id"
    recipient = Recipient("d@e.f", Notify.FAILURE, original="\udcff")
    assert records.unpack_envelope(envelope) == Envelope("a@b.c", (recipient,), envid="id")
    assert records.unpack_envelope(envelope).terms is NO_TERMS
    assert records.unpack_trace(b"\x92\xc4\x01s\xc4\x01c") == Trace("s", "c")


@given(st.builds(Trace, octets, octets, octets, octets, octets))
def test_traces_come_back_as_they_were(trace):
    assert records.unpack_trace(records.pack_trace(trace)) == trace


@given(st.builds(Result, replies, st.sampled_from(Stage), st.sampled_from(Origin), octets))
def test_results_of_peers_come_back_as_they_were(result):
    assert records.unpack_result(records.pack_result(result)) == result


def test_our_own_results_keep_their_cause():
    result = Result(delivery.NULL_MX.reply(domain="example.net"), Stage.DNS, Origin.LOCAL)
    assert records.unpack_result(records.pack_result(result)).reply.cause is delivery.NULL_MX


def test_a_cause_of_another_release_is_left_out(monkeypatch):
    blob = records.pack_result(Result(delivery.NULL_MX.reply(domain="example.net"), Stage.DNS, Origin.LOCAL))
    monkeypatch.delitem(CAUSES, delivery.NULL_MX.id)
    found = records.unpack_result(blob)
    assert (found.reply.code, found.reply.cause) == (delivery.NULL_MX.code, None)
    assert isinstance(found.reply, Reply)


@given(st.binary(max_size=60))
@pytest.mark.parametrize(
    "unpack", [records.unpack_envelope, records.unpack_trace, records.unpack_result, records.unpack_detail]
)
def test_any_other_octets_are_damage_and_nothing_worse(unpack, blob):
    with contextlib.suppress(records.DamagedError):
        unpack(blob)
