"""SPF beyond the suite: the same answers as pyspf, hostile records, and what a verdict tells."""

from __future__ import annotations

import contextlib
from ipaddress import ip_address

import pytest
import spf as oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.mailauth import spf, spf_record
from pillarbox.mailauth.dns import Answer

TXT, A, MX, AAAA, PTR = "TXT", "A", "MX", "AAAA", "PTR"
CLIENT = spf.Client("192.0.2.7", "mail.example.org", "bob@example.org")


def zone(**texts):
    return {(f"{name.replace('_', '.')}.org", TXT): [text] for name, text in texts.items()}


def check(run_plan, records, client=CLIENT):
    return run_plan(spf.check(client), records)


def test_a_verdict_names_the_term_that_decided(run_plan):
    verdict = check(run_plan, zone(example="v=spf1 ip4:198.51.100.0/24 ip4:192.0.2.0/28 -all"))
    assert (verdict.result, verdict.detail, verdict.identity) == ("pass", "ip4:192.0.2.0/28", "mailfrom")


def test_the_null_reverse_path_is_checked_by_the_hello_name(run_plan):
    client = spf.Client("192.0.2.7", "mail.example.org", "")
    verdict = check(run_plan, {("mail.example.org", TXT): ["v=spf1 -all"]}, client)
    assert (verdict.result, verdict.identity, verdict.domain) == ("fail", "helo", "mail.example.org")


def test_no_answer_is_temporary_and_nonsense_is_permanent(run_plan):
    assert check(run_plan, {("example.org", TXT): "failed"}).result == "temperror"
    verdict = check(run_plan, zone(example="v=spf1 ip4:300.1.1.1 -all"))
    assert verdict.result == "permerror"
    assert "ip4:300.1.1.1" in verdict.detail


def test_a_failure_inside_of_an_include_is_temporary_too(run_plan):
    records = zone(example="v=spf1 include:a.org -all") | {("a.org", TXT): "failed"}
    assert check(run_plan, records).result == "temperror"


def test_a_mapped_address_is_the_ipv4_address(run_plan):
    client = spf.Client("::ffff:192.0.2.7", "mail.example.org", "bob@example.org")
    assert check(run_plan, zone(example="v=spf1 ip4:192.0.2.7 -all"), client).result == "pass"


def test_a_local_part_beyond_ascii_matches_no_term_that_needs_it(run_plan):
    client = spf.Client("192.0.2.7", "mail.example.org", "böb@example.org")
    records = zone(example="v=spf1 exists:%{l}.example.org ?all")
    asked = []
    assert run_plan(spf.check(client), records, asked).result == "neutral"
    assert len(asked) == 1


def test_a_domain_beyond_ascii_is_asked_for_in_a_labels(run_plan):
    client = spf.Client("192.0.2.7", "mail.example.org", "bob@bücher.example")
    assert check(run_plan, {("xn--bcher-kva.example", TXT): ["v=spf1 +all"]}, client).result == "pass"


def test_an_explanation_that_could_split_a_reply_is_dropped(run_plan):
    records = zone(example="v=spf1 -all exp=why.org", why="go away\r\n250 ok")
    assert check(run_plan, records).explanation == ""
    records = zone(example="v=spf1 -all exp=why.org", why="%{i} is not of %{d}")
    assert check(run_plan, records).explanation == "192.0.2.7 is not of example.org"


@pytest.mark.parametrize("term", ["a:{}.org", "mx:{}.org", "exists:{}.org"])
def test_500_void_look_ups_end_at_the_third(run_plan, term):
    record = "v=spf1 " + " ".join(term.format(number) for number in range(500)) + " -all"
    asked = []
    verdict = run_plan(spf.check(CLIENT), zone(example=record), asked)
    assert verdict.result == "permerror"
    assert len(asked) == 1 + 3


def test_look_ups_are_bounded_whatever_records_say(run_plan):
    """Every name includes two others and has ten exchangers of which nobody is the client."""

    def answer(query):
        if query.kind == TXT:
            return Answer((f"v=spf1 mx:m.{query.name} include:a.{query.name} include:b.{query.name} -all",))
        if query.kind == MX:
            return Answer(tuple((1, f"{number}.{query.name}") for number in range(10)))
        return Answer(("198.51.100.1",))

    asked = []
    assert run_plan(spf.check(CLIENT), answer, asked).result == "permerror"
    assert len(asked) <= 10 + 10 * 11


@pytest.mark.parametrize(
    "filler",
    [" ", "%%", "%{d}", "ip4:192.0.2.1 ", "a=b ", "-", "a:x.y/", "%{d1r.-+,/_=}", "?", "x" * 9 + "="],
)
def test_records_are_read_in_linear_time(grows_linearly, filler):
    def read(text):
        with contextlib.suppress(spf_record.RecordError):
            spf_record.parse_record(text)

    grows_linearly(read, lambda count: "v=spf1 a:" + filler * count)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=80))
def test_whatever_a_record_says_the_verdict_is_a_verdict(run_plan, text):
    records = zone(example="v=spf1 " + text) | {("192.0.2.7", A): ["192.0.2.7"]}
    assert check(run_plan, records).result in {
        "pass", "fail", "softfail", "neutral", "none", "temperror", "permerror",
    }  # fmt: skip


# The oracle: terms over a small world of names, so that every look-up finds something or, at most twice, nothing.

WORLD = {
    ("a.example.com", A): ["192.0.2.1"],
    ("b.example.com", A): ["198.51.100.7", "192.0.2.7"],
    ("m.example.com", MX): [(10, "a.example.com"), (20, "b.example.com")],
    ("7.2.0.192.in-addr.arpa", PTR): ["b.example.com"],
    ("ok.example.com", TXT): ["v=spf1 ip4:192.0.2.0/29 -all"],
    ("no.example.com", TXT): ["v=spf1 ip4:198.51.100.0/24 ~all"],
    ("to.example.com", TXT): ["v=spf1 redirect=ok.example.com"],
    ("bad.example.com", TXT): ["v=spf1 ip4:1.2.3 -all"],
    ("late.example.com", TXT): "failed",
    ("bob.example.com", A): ["127.0.0.2"],
    ("b.example.com", AAAA): ["2001:db8::7"],
}
NAMES = st.sampled_from(["a", "b", "m", "ok", "no", "to", "bad", "late", "gone", "%{l}", "%{l1r-}"])
DOMAIN = NAMES.map(lambda name: f"{name}.example.com")
CIDR = st.sampled_from(["", "/24", "/32", "/0", "//64", "/24//64", "/33", "/ 1", "//129", "/08"])
TERM = st.one_of(
    st.builds("{}:{}{}".format, st.sampled_from(["a", "mx", "A"]), DOMAIN, CIDR),
    st.builds("{}:{}".format, st.sampled_from(["include", "exists", "ptr", "Include"]), DOMAIN),
    st.builds("ip4:{}{}".format, st.sampled_from(["192.0.2.7", "192.0.2.0", "10.0.0.1", "1.2.3"]), CIDR),
    st.builds("ip6:{}{}".format, st.sampled_from(["2001:db8::7", "::1", "fe80:::"]), st.sampled_from(["", "/64", "/129"])),
    st.sampled_from(["all", "foo=bar", "moo=%{d}", "moo=%{x}", "bogus", "all:x", "exists", "a:", "redirect=", "include:"]),
    DOMAIN.map("redirect={}".format),
)  # fmt: skip
QUALIFIED = st.builds("{}{}".format, st.sampled_from(["", "", "+", "-", "~", "?"]), TERM)
CLIENTS = st.sampled_from(["192.0.2.7", "192.0.2.200", "198.51.100.1", "2001:db8::7", "2001:db8:1::1"])


def oracle_look_up(name, kind, *_):
    found = RECORDS.get((name.lower().rstrip("."), kind))
    if found == "failed":
        raise oracle.TempError("no answer")
    for value in found or ():
        if kind == TXT:
            yield (name, kind), (value.encode(),)
        else:
            yield (name, kind), ip_address(value).packed if kind == AAAA else value


RECORDS = dict(WORLD)


@settings(max_examples=200, deadline=None)
@given(st.lists(QUALIFIED, max_size=5), CLIENTS)
def test_pyspf_says_the_same(run_plan, terms, address):
    # pyspf wants every modifier only once
    modifiers = [term.partition("=")[0].lower() for term in terms if "=" in term]
    if len(set(modifiers)) != len(modifiers):
        return
    if any(term[1:] == "exists" for term in terms):
        return  # with a qualifier before it, it overlooks that the domain is missing
    RECORDS[("example.com", TXT)] = ["v=spf1 " + " ".join(terms)]
    original, oracle.DNSLookup = oracle.DNSLookup, oracle_look_up
    try:
        query = oracle.query(i=address, s="bob@example.com", h="mail.example.com", strict=True)
        expected = query.check()[0]
    finally:
        oracle.DNSLookup = original
    if "Void" in str(query.perm_error):
        return  # it counts a repeated look-up again
    verdict = run_plan(spf.check(spf.Client(address, "mail.example.com", "bob@example.com")), RECORDS)
    assert verdict.result == expected, (terms, verdict.detail, query.perm_error)
