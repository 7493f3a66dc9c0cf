"""DMARC: whose record counts, what it asks for, and which identifiers are aligned."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.mailauth import dkim, dmarc, spf


def records(**texts):
    return {
        (f"_dmarc.{name.replace('_', '.')}", "TXT"): [f"v=DMARC1; {text}"] for name, text in texts.items()
    }


def spf_says(result, domain):
    return spf.Verdict(result, "mailfrom", domain, "no answer in time")


def dkim_says(result, domain):
    return dkim.Verdict(result, domain, detail="no answer in time")


@pytest.fixture
def judge(run_plan):
    def judge(domain, zone, spf_verdict=None, dkim_verdicts=(), organization=None):
        discovery = run_plan(dmarc.discover(domain, organization), zone)
        return run_plan(dmarc.judge(discovery, spf_verdict, dkim_verdicts, organization), zone)

    return judge


@pytest.mark.parametrize(
    ("zone", "domain", "policy"),
    [
        (records(example_org="p=reject"), "example.org", "reject"),
        (records(example_org="p=reject; sp=none"), "example.org", "reject"),
        (records(example_org="p=reject; sp=quarantine") | {("mail.example.org", "A"): ["192.0.2.1"]}, "mail.example.org", "quarantine"),
        (records(example_org="p=none; np=reject"), "gone.example.org", "reject"),
        (records(example_org="p=none; np=reject") | {("mail.example.org", "MX"): [(1, "x.org")]}, "mail.example.org", "none"),
        (records(example_org="p=reject; t=y"), "example.org", "quarantine"),
        (records(example_org="p=quarantine; t=y"), "example.org", "none"),
        (records(example_org="p=nonsense; rua=mailto:a@example.org"), "example.org", "none"),
        (records(example_org="p=reject; sp=nonsense; rua=mailto:a@example.org"), "example.org", "none"),
        (records(mail_example_org="p=none", example_org="p=reject"), "mail.example.org", "none"),
        (records(bank="p=none; sp=reject; psd=y"), "mail.example.bank", "reject"),
    ],
)  # fmt: skip
def test_the_policy_that_is_asked_for(judge, zone, domain, policy):
    verdict = judge(domain, zone)
    assert (verdict.result, verdict.policy) == ("fail", policy)


@pytest.mark.parametrize(
    "zone",
    [
        {},
        records(example_org="p=nonsense"),
        records(example_org="rua=http://example.org"),
        {("_dmarc.example.org", "TXT"): ["v=DMARC1; p=reject", "v=DMARC1; p=none"]},
        {("_dmarc.example.org", "TXT"): ["p=reject", "v=DMARC2; p=reject", "v=dmarc1; p=reject"]},
    ],
)
def test_no_record_that_counts_is_no_policy(judge, zone):
    assert judge("example.org", zone).result == "none"


@pytest.mark.parametrize(
    ("text", "author", "identifier", "result"),
    [
        ("p=reject", "example.org", "example.org", "pass"),
        ("p=reject", "example.org", "mail.example.org", "pass"),
        ("p=reject", "mail.example.org", "example.org", "pass"),
        ("p=reject", "a.example.org", "b.example.org", "pass"),
        ("p=reject; adkim=s; aspf=s", "example.org", "mail.example.org", "fail"),
        ("p=reject; adkim=s; aspf=s", "example.org", "EXAMPLE.org.", "pass"),
        ("p=reject", "example.org", "notexample.org", "fail"),
        ("p=reject", "example.org", "org", "fail"),
        ("p=reject", "example.org", "example.com", "fail"),
    ],
)
def test_alignment(judge, text, author, identifier, result):
    zone = records(example_org=text)
    assert judge(author, zone, spf_says("pass", identifier)).result == result
    assert judge(author, zone, None, [dkim_says("pass", identifier)]).result == result
    assert judge(author, zone, spf_says("fail", identifier), [dkim_says("fail", identifier)]).result == "fail"


def test_a_domain_that_says_psd_n_is_an_organization_of_its_own(judge):
    zone = records(example_org="p=reject", own_example_org="p=none; psd=n")
    assert judge("example.org", zone, spf_says("pass", "a.own.example.org")).result == "fail"
    assert judge("b.own.example.org", zone, spf_says("pass", "a.own.example.org")).result == "pass"


def test_below_a_public_suffix_the_organization_is_one_label_longer(judge):
    zone = records(bank="p=none; sp=reject; psd=y")
    assert judge("a.example.bank", zone, spf_says("pass", "b.example.bank")).result == "pass"
    assert judge("example.bank", zone, spf_says("pass", "other.bank")).result == "fail"


def test_a_walk_ends_at_a_public_suffix_even_where_it_began(run_plan):
    zone, asked = records(co_uk="p=reject; psd=y", uk="p=none"), []
    found = run_plan(dmarc.discover("co.uk"), zone, asked)
    assert (found.found_at, found.organization, len(asked)) == ("co.uk", "co.uk", 1)


def test_a_list_of_suffixes_can_take_the_place_of_the_walk(judge):
    def organization(domain):
        return ".".join(domain.split(".")[-3:])

    zone = records(example_co_uk="p=reject")
    assert (
        judge("a.example.co.uk", zone, spf_says("pass", "b.example.co.uk"), organization=organization).result
        == "pass"
    )
    assert (
        judge("a.example.co.uk", zone, spf_says("pass", "other.co.uk"), organization=organization).policy
        == "reject"
    )


def test_a_walk_asks_eight_times_at_most(run_plan):
    asked = []
    run_plan(dmarc.discover(".".join("abcdefghijklmnopqrst"), None), {}, asked)
    assert [query.name.count(".") for query in asked] == [20, 7, 6, 5, 4, 3, 2, 1]


def test_dns_trouble_is_temporary_only_where_it_could_matter(judge):
    zone = records(example_org="p=reject")
    assert judge("example.org", {("_dmarc.example.org", "TXT"): "failed"}).result == "temperror"
    assert judge("example.org", zone, spf_says("temperror", "example.org")).result == "temperror"
    assert (
        judge("example.org", zone, None, [dkim_says("temperror", "mail.example.org")]).result == "temperror"
    )
    assert judge("example.org", zone, spf_says("temperror", "example.com")).result == "fail"
    assert judge("example.org", zone, None, [dkim_says("temperror", "example.com")]).result == "fail"


@pytest.mark.parametrize(
    ("value", "domains"),
    [
        ("alice@example.org", ["example.org"]),
        ("Alice <alice@Example.ORG>", ["example.org"]),
        ('"eve@example.com" <alice@example.org>', ["example.org"]),
        ('"a \\" <x@example.com>" <alice@example.org>', ["example.org"]),
        ("(eve@example.com (nested \\) )) alice@example.org (x)", ["example.org"]),
        ("a@example.org, B <b@example.net>", ["example.org", "example.net"]),
        ("Group: a@example.org, b@example.net;", ["example.org", "example.net"]),
        ("<@relay.example.com:alice@example.org>", ["example.org"]),
        ("alice@bücher.example", ["xn--bcher-kva.example"]),
        ("alice@[192.0.2.1]", [""]),
        ("alice", [""]),
        ("a@b@example.org", ["example.org"]),
        ("", []),
        ("undisclosed:;", []),
    ],
)
def test_the_domains_of_authors(value, domains):
    assert dmarc.author_domains([value]) == domains


def test_many_different_authors_are_read_in_linear_time(grows_linearly):
    def make(count):
        return ",".join(f"a@{number}.example" for number in range(count))

    grows_linearly(lambda value: dmarc.author_domains([value]), make, size=1000)


def test_two_from_fields_are_both_looked_at():
    assert dmarc.author_domains(["a@example.org", "b@example.net"]) == ["example.org", "example.net"]


@pytest.mark.parametrize("piece", ["<", "(", '"', "a@b.c,", "\\", "()", '""<', ":", "a@"])
def test_authors_are_read_in_linear_time(grows_linearly, piece):
    grows_linearly(lambda value: dmarc.author_domains([value]), lambda count: "x" + piece * count, size=1000)


@given(st.text(max_size=60), st.text(max_size=60))
def test_nothing_makes_it_raise(value, record):
    dmarc.author_domains([value])
    dmarc.parse_record("v=DMARC1;" + record)
    dmarc.parse_record(record)


def test_addresses_for_reports_are_read():
    found = dmarc.parse_record(
        "v=DMARC1;p=none;rua=mailto:a@x.org!10m, https://x.org,mailto:b@y.org;ruf=mailto:c@z.org"
    )
    assert (found.reports_to, found.failures_to) == (("a@x.org", "b@y.org"), ("c@z.org",))
