"""What is demanded of a host, as a table: by the route, by TLSA records, by a policy."""

import pytest

from pillarbox.mail.reply import Reply
from pillarbox.mailauth.dane import Finding, Tlsa
from pillarbox.mailauth.mta_sts import Mode, StsPolicy
from pillarbox.relay.demand import Source, StsFinding, by_route, decide, problem_with, under_tls
from pillarbox.relay.plan import Tls

HOST = "mx.there.test"
FITTING = Finding(HOST, (Tlsa(3, 1, 1, bytes(32)),))
UNUSABLE = Finding(HOST, (Tlsa(1, 1, 1, bytes(32)),))
BOGUS = Finding(HOST, failed="bogus")
NO_DANE = Finding()


def sts(mode, *mx):
    return StsFinding(StsPolicy(mode, 1, mx or (HOST,)), "1")


NO_STS = StsFinding()
ENFORCED, TRIED = sts(Mode.ENFORCE), sts(Mode.TESTING)
ELSEWHERE, ELSEWHERE_TRIED = sts(Mode.ENFORCE, "x.test"), sts(Mode.TESTING, "x.test")
OPPORTUNISTIC, ENCRYPTED, REQUIRED, SECURE, DANE = (
    Tls.OPPORTUNISTIC,
    Tls.ENCRYPTED,
    Tls.REQUIRED,
    Tls.SECURE,
    Tls.DANE,
)


def outcome(level, dane, policy):
    """In one word."""
    demand = decide(HOST, level, by_route(level, verify=True, domain="there.test"), dane, policy)
    if isinstance(demand, Reply):
        return demand.cause_id.partition(".")[2]
    if demand.tlsa:
        return "tlsa"
    if demand.testing:
        return "trial"
    if demand.checked:
        return "policy" if demand.source is Source.STS else "certificate"
    return "tls" if demand.required else "any"


@pytest.mark.parametrize(
    ("level", "dane", "policy", "expected"),
    [
        (OPPORTUNISTIC, NO_DANE, NO_STS, "any"),
        (OPPORTUNISTIC, FITTING, NO_STS, "tlsa"),
        (OPPORTUNISTIC, UNUSABLE, NO_STS, "tls"),
        (OPPORTUNISTIC, BOGUS, NO_STS, "dane_unknown"),
        (OPPORTUNISTIC, NO_DANE, ENFORCED, "policy"),
        (OPPORTUNISTIC, NO_DANE, ELSEWHERE, "sts_not_named"),
        (OPPORTUNISTIC, NO_DANE, TRIED, "trial"),
        (OPPORTUNISTIC, NO_DANE, ELSEWHERE_TRIED, "any"),
        (OPPORTUNISTIC, FITTING, ELSEWHERE, "tlsa"),
        (OPPORTUNISTIC, BOGUS, ENFORCED, "dane_unknown"),
        (OPPORTUNISTIC, UNUSABLE, ENFORCED, "policy"),
        (ENCRYPTED, NO_DANE, NO_STS, "tls"),
        (ENCRYPTED, FITTING, NO_STS, "tlsa"),
        (REQUIRED, NO_DANE, NO_STS, "certificate"),
        (REQUIRED, FITTING, NO_STS, "tlsa"),
        (SECURE, NO_DANE, NO_STS, "no_proof"),
        (SECURE, NO_DANE, TRIED, "no_proof"),
        (SECURE, UNUSABLE, NO_STS, "no_proof"),
        (SECURE, NO_DANE, ENFORCED, "policy"),
        (SECURE, FITTING, NO_STS, "tlsa"),
        (DANE, NO_DANE, ENFORCED, "no_proof"),
        (DANE, FITTING, ENFORCED, "tlsa"),
        (DANE, BOGUS, ENFORCED, "dane_unknown"),
    ],
)
def test_what_is_demanded(level, dane, policy, expected):
    assert outcome(level, dane, policy) == expected


@pytest.mark.parametrize(
    ("dane", "policy", "problem"),
    [
        (NO_DANE, NO_STS, None),
        (FITTING, NO_STS, None),
        (FITTING, ELSEWHERE, None),
        (NO_DANE, ENFORCED, None),
        (BOGUS, NO_STS, "dnssec-invalid"),
        (UNUSABLE, NO_STS, "tlsa-invalid"),
        (NO_DANE, ELSEWHERE, "validation-failure"),
        (NO_DANE, ELSEWHERE_TRIED, "validation-failure"),
    ],
)
def test_what_reports_tell_of_a_host_before_it_is_connected_to(dane, policy, problem):
    usual = by_route(OPPORTUNISTIC, verify=True, domain="there.test")
    found = problem_with(HOST, decide(HOST, OPPORTUNISTIC, usual, dane, policy), usual, dane, policy)
    assert (found[1] if found else None) == problem


@pytest.mark.parametrize("level", Tls)
def test_under_tls_every_host_proves_who_it_is(level):
    strict = under_tls(by_route(level, verify=False))
    assert strict.required
    assert strict.proves
    assert not strict.counts
