"""Senders of forwarded mail: they are found again, also through other hosts, and nobody can make one up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.mail.address import Address, parse_address
from pillarbox.mail.srs import VALID_DAYS, Flaw, Kept, Rewriter, looks_rewritten

NOW = 1_800_000_000.0
DAY = 86_400
OURS = Rewriter([b"k" * 32])
WRITER = Address("eve", "sender.test")

labels = st.from_regex(r"[a-z][a-z0-9-]{0,6}[a-z0-9]", fullmatch=True)
senders = st.builds(
    lambda local, name: Address(local, f"{name}.test"),
    st.from_regex(r"[A-Za-z0-9=+_-]{1,12}(\.[A-Za-z0-9=+_-]{1,8})?", fullmatch=True).filter(
        lambda local: not looks_rewritten(local)
    ),
    labels,
)


@given(senders, st.integers(0, VALID_DAYS * DAY), st.sampled_from([str, str.lower, str.upper]))
def test_a_bounce_finds_the_sender_whatever_a_host_did_to_the_case(sender, late_s, mangle):
    made = OURS.rewrite(sender, "alias.test", now=NOW)
    assert str(parse_address(str(made))) == str(made)
    found = OURS.read(mangle(made.local), now=NOW + late_s)
    assert (found.local.lower(), found.domain) == (sender.local.lower(), sender.domain)


@given(senders, st.data())
def test_a_change_of_any_letter_is_noticed(sender, data):
    local = OURS.rewrite(sender, "alias.test", now=NOW).local
    at = data.draw(st.integers(5, len(local) - 1))
    letter = data.draw(st.sampled_from("abz27=-.x"))
    changed = local[:at] + letter + local[at + 1 :]
    if changed.lower() != local.lower():
        assert OURS.read(changed, now=NOW) is Flaw.FORGED


@pytest.mark.parametrize(
    ("days", "result"), [(-1, WRITER), (VALID_DAYS, WRITER), (VALID_DAYS + 1, Flaw.EXPIRED)]
)
def test_it_holds_for_three_weeks(days, result):
    local = OURS.rewrite(WRITER, "alias.test", now=NOW).local
    assert OURS.read(local, now=NOW + days * DAY) == result


def test_any_key_that_is_kept_is_believed_and_the_first_signs():
    new, both = Rewriter([b"n" * 32]), Rewriter([b"n" * 32, b"k" * 32])
    old = OURS.rewrite(WRITER, "alias.test", now=NOW).local
    assert both.read(old, now=NOW) == WRITER
    assert new.read(old, now=NOW) is Flaw.FORGED
    assert new.read(both.rewrite(WRITER, "alias.test", now=NOW).local, now=NOW) == WRITER


@pytest.mark.parametrize("separator", "=+-")
def test_a_chain_of_hosts_leads_back_to_the_first_one(separator):
    """The address stays short: each host behind the first one names the first, which alone knows the sender."""
    first, third = Rewriter([b"1" * 32]), Rewriter([b"3" * 32])
    there = first.rewrite(WRITER, "first.test", now=NOW)
    there = Address(there.local[:4] + separator + there.local[5:], there.domain)
    here = OURS.rewrite(there, "second.test", now=NOW)
    beyond = third.rewrite(here, "third.test", now=NOW)
    assert here.local.startswith("SRS1=")
    assert len(beyond.local) == len(here.local)
    assert third.read(beyond.local, now=NOW) == there
    assert OURS.read(here.local, now=NOW) == there
    assert first.read(there.local, now=NOW) == WRITER
    assert OURS.read(here.local.replace("first.test", "other.test"), now=NOW) is Flaw.FORGED


def test_what_other_servers_write_is_carried_on_as_it_is():
    theirs = Address("SRS0=q0aB=Z7=sender.test=eve", "postfix.test")
    assert OURS.read(OURS.rewrite(theirs, "alias.test", now=NOW).local, now=NOW) == theirs
    later = Address("SRS1=xYz/=postfix.test==q0aB=Z7=sender.test=eve", "exim.test")
    assert OURS.read(OURS.rewrite(later, "alias.test", now=NOW).local, now=NOW) == theirs


@pytest.mark.parametrize(
    "sender", ["x" * 50 + "@sender.test", "a%b@sender.test", "a!b@sender.test", '"a@b"@sender.test']
)
def test_what_does_not_fit_is_named_by_its_message(sender):
    writer = parse_address(sender)
    assert OURS.rewrite(writer, "alias.test", now=NOW) is None
    made = OURS.rewrite(writer, "alias.test", now=NOW, queue_id="06DX6V4Q0RS2T")
    assert len(made.local) <= 64
    for local in (made.local, made.local.lower()):
        assert OURS.read(local, now=NOW) == Kept("06DX6V4Q0RS2T")
    assert OURS.read(made.local, now=NOW + (VALID_DAYS + 1) * DAY) is Flaw.EXPIRED
    assert OURS.read(made.local.replace("06DX6V4", "06DX6V5"), now=NOW) is Flaw.FORGED
    beyond = Rewriter([b"3" * 32]).rewrite(made, "third.test", now=NOW)
    assert Rewriter([b"3" * 32]).read(beyond.local, now=NOW) == made


@pytest.mark.parametrize(
    "local", ["srs0=", "SRS0=abcdef=ab=x", "SRS1=abcdef=x==", "SRS0=======", "srs0+" + "=" * 60]
)
def test_nonsense_is_forged(local):
    assert OURS.read(local, now=NOW) is Flaw.FORGED


def test_an_international_sender_survives():
    writer = Address("jörg", "bücher.test")
    made = OURS.rewrite(writer, "alias.test", now=NOW)
    assert OURS.read(made.local, now=NOW) == Address("jörg", "xn--bcher-kva.test")
