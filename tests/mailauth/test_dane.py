"""Which TLSA records are asked for, when none may be, and which of them can be checked."""

import hashlib

import pytest

from pillarbox.mailauth.dane import Finding, Tlsa, find_tlsa, usable
from pillarbox.mailauth.dns import Answer

RECORD = (3, 1, 1, hashlib.sha256(b"x").digest())
FOUND = (Tlsa(*RECORD),)
SIGNED, PLAIN, BOGUS = True, False, None


def zone(*entries):
    """Answers by name and kind; `(name, kind, secure, records, end of the alias)`, where secure None fails."""
    answers = {
        (name, kind): Answer(failed=True, detail="bogus")
        if secure is BOGUS
        else Answer(tuple(records), secure=secure, name=end)
        for name, kind, secure, records, end in ((*entry, "")[:5] for entry in entries)
    }
    return lambda query: answers.get(tuple(query), Answer(secure=True))


def find(run_plan, *entries, host="mx.test"):
    asked = []
    found = run_plan(find_tlsa(host, 25), zone(*entries), asked)
    return found, [f"{query.name} {query.kind}" for query in asked if query.kind not in ("A", "AAAA")]


def test_records_of_a_signed_host(run_plan):
    found, _ = find(run_plan, ("mx.test", "A", SIGNED, ["1"]), ("_25._tcp.mx.test", "TLSA", SIGNED, [RECORD]))
    assert found == Finding("mx.test", FOUND)


def test_a_signed_host_without_records_has_nothing_to_do_with_dane(run_plan):
    found, asked = find(run_plan, ("mx.test", "AAAA", SIGNED, ["1"]))
    assert found == Finding()
    assert asked == ["_25._tcp.mx.test TLSA"]


def test_a_host_that_is_not_signed_is_not_asked_about(run_plan):
    record = ("_25._tcp.mx.test", "TLSA", BOGUS, [])
    assert find(run_plan, ("mx.test", "A", PLAIN, ["1"]), record) == (Finding(), [])
    mixed = ("mx.test", "AAAA", PLAIN, ["2"])
    assert find(run_plan, ("mx.test", "A", SIGNED, ["1"]), mixed, record) == (Finding(), [])
    assert find(run_plan, record) == (Finding(), []), "nor one without addresses"


def test_records_that_nobody_signed_do_not_count(run_plan):
    found, _ = find(run_plan, ("mx.test", "A", SIGNED, ["1"]), ("_25._tcp.mx.test", "TLSA", PLAIN, [RECORD]))
    assert found == Finding()


def test_no_answer_about_records_is_not_no_records(run_plan):
    found, _ = find(run_plan, ("mx.test", "A", SIGNED, ["1"]), ("_25._tcp.mx.test", "TLSA", BOGUS, []))
    assert found == Finding("mx.test", failed="TLSA of mx.test: bogus")


ALIAS = ("mx.test", "A", SIGNED, ["1"], "real.test")


def test_a_secure_alias_is_asked_about_by_its_last_name_first(run_plan):
    both = ("_25._tcp.real.test", "TLSA", SIGNED, [RECORD]), ("_25._tcp.mx.test", "TLSA", BOGUS, [])
    assert find(run_plan, ALIAS, *both) == (Finding("real.test", FOUND), ["_25._tcp.real.test TLSA"])


def test_and_then_by_its_first(run_plan):
    found, asked = find(run_plan, ALIAS, ("_25._tcp.mx.test", "TLSA", SIGNED, [RECORD]))
    assert found == Finding("mx.test", FOUND)
    assert asked == ["_25._tcp.real.test TLSA", "_25._tcp.mx.test TLSA"]
    failed, _ = find(run_plan, ALIAS, ("_25._tcp.real.test", "TLSA", BOGUS, []))
    assert failed.failed


def test_an_alias_into_a_zone_that_is_not_signed(run_plan):
    alias = ("mx.test", "A", PLAIN, ["1"], "real.test")
    record = ("_25._tcp.mx.test", "TLSA", SIGNED, [RECORD])
    found, asked = find(run_plan, alias, ("mx.test", "CNAME", SIGNED, ["real.test"]), record)
    assert found == Finding("mx.test", FOUND)
    assert asked == ["mx.test CNAME", "_25._tcp.mx.test TLSA"]
    found, asked = find(run_plan, alias, ("mx.test", "CNAME", PLAIN, ["real.test"]), record)
    assert (found, asked) == (Finding(), ["mx.test CNAME"])


def tlsa(usage, selector, matching, octets=32):
    return Tlsa(usage, selector, matching, bytes(octets))


@pytest.mark.parametrize(
    "record",
    [
        tlsa(0, 1, 1),
        tlsa(1, 1, 1),
        tlsa(4, 1, 1),
        tlsa(255, 1, 1),
        tlsa(3, 2, 1),
        tlsa(3, 1, 3),
        tlsa(3, 1, 1, 31),
        tlsa(3, 1, 2, 32),
        tlsa(2, 0, 0, 0),
    ],
)
def test_what_cannot_be_checked(record):
    assert usable([record]) == ()
    assert usable([record, tlsa(3, 1, 1)]) == (tlsa(3, 1, 1),)
    assert Finding("mx.test", (record,)).usable == ()


def test_of_digests_of_one_kind_the_strongest_counts():
    weak, strong, other, whole = tlsa(3, 1, 1), tlsa(3, 1, 2, 64), tlsa(2, 1, 1), tlsa(3, 1, 0, 99)
    assert usable([weak, strong, other, whole, weak]) == (strong, other, whole)


def test_a_record_is_shown_as_in_a_zone():
    assert str(tlsa(3, 1, 1)) == f"3 1 1 {'00' * 32}"
    assert str(tlsa(3, 0, 0, 900)).endswith("00...")
