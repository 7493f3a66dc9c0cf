"""What counts as an MTA-STS record and as a policy, and which hosts a policy names."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pillarbox.mailauth.mta_sts import (
    MAX_AGE_S,
    MAX_POLICY_OCTETS,
    Announced,
    Mode,
    PolicyError,
    StsPolicy,
    find_record,
    parse_policy,
    parse_records,
)

GOOD = b"version: STSv1\r\nmode: enforce\r\nmx: mail.example.com\r\nmx: *.example.net\r\nmax_age: 604800\r\n"


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (("v=STSv1; id=20160831085700Z;",), "20160831085700Z"),
        (("v=STSv1;id=1",), "1"),
        (("v=STSv1 \t; \tid=1 ; new=thing ;",), "1"),
        (("v=STSv1; new=thing; id=1",), "1"),
        (("v=STSv1; id=1; id=2",), "1"),
        (("v=spf1 -all", "v=STSv1; id=1"), "1"),
        ((), ""),
        (("v=STSv1; id=1", "v=STSv1; id=2"), ""),
        (("v=STSv1", "V=STSv1; id=1"), ""),
        (("v=STSv1;",), ""),
        (("v=STSv1; id=",), ""),
        (("v=STSv1; id=a-b",), ""),
        ((f"v=STSv1; id={'1' * 33}",), ""),
        (("v=STSv1; id=1; nonsense",), ""),
        (("v=STSv1;; id=1",), ""),
        ((" v=STSv1; id=1",), ""),
        (("v=STSv12; id=1",), ""),
    ],
)
def test_the_record(texts, found):
    assert parse_records(texts) == found


def test_no_answer_is_not_no_policy(run_plan):
    zone = {("_mta-sts.a.test", "TXT"): ("v=STSv1; id=1",), ("_mta-sts.b.test", "TXT"): "failed"}
    assert run_plan(find_record("a.test"), zone) == Announced("1")
    assert run_plan(find_record("b.test"), zone) == Announced(failed="no answer in time")
    assert run_plan(find_record("c.test"), zone) == Announced()


def test_a_policy():
    policy = parse_policy(GOOD)
    assert policy == StsPolicy(Mode.ENFORCE, 604800, ("mail.example.com", "*.example.net"))
    assert str(policy).encode() == GOOD


@pytest.mark.parametrize(
    ("octets", "policy"),
    [
        (GOOD.replace(b"\r\n", b"\n"), parse_policy(GOOD)),
        (b"mode:none\nversion:STSv1\nmax_age:1", StsPolicy(Mode.NONE, 1)),
        (GOOD + b"\n\nmode: none\nmax_age: 5\nversion: 9\nx-new: \xc3\xa4\n", parse_policy(GOOD)),
        (GOOD.replace(b"mail.", b"MAIL."), parse_policy(GOOD)),
        (GOOD.replace(b".com", b".com."), parse_policy(GOOD)),
        (GOOD + b"mx: mail.example.com", parse_policy(GOOD)),
        (GOOD.replace(b"604800", b"9999999999"), StsPolicy(Mode.ENFORCE, MAX_AGE_S, parse_policy(GOOD).mx)),
    ],
)
def test_what_is_read_all_the_same(octets, policy):
    assert parse_policy(octets) == policy


@pytest.mark.parametrize(
    ("octets", "words"),
    [
        (b"", "version"),
        (b"<html>moved</html>", "line 1"),
        (GOOD.replace(b"STSv1", b"STSv2"), "version"),
        (GOOD.replace(b"enforce", b"Enforce"), "mode"),
        (GOOD.replace(b"604800", b"a week"), "max_age"),
        (GOOD.replace(b"604800", b"-1"), "max_age"),
        (GOOD.replace(b"604800", b"99999999999"), "max_age"),
        (b"version: STSv1\nmode: testing\nmax_age: 1\n", "no mx"),
        (GOOD.replace(b"*.example", b"*.*.example"), "line 4"),
        (GOOD.replace(b"*.example", b"m*.example"), "line 4"),
        (GOOD.replace(b"*.example.net", b"*"), "line 4"),
        (GOOD.replace(b"*.example", b"-.example"), "line 4"),
        (GOOD + b"\xff", "UTF-8"),
        (GOOD + b"x" * MAX_POLICY_OCTETS, "octets"),
        (GOOD + b"mx: a.test\n" * 5000, None),
        (GOOD + b"".join(b"mx: h%d.test\n" % number for number in range(1001)), "characters"),
    ],
)
def test_what_is_no_policy(octets, words):
    if words is None:
        assert parse_policy(octets)
        return
    with pytest.raises(PolicyError, match=words):
        parse_policy(octets)


@pytest.mark.parametrize(
    ("host", "named"),
    [
        ("mail.example.com", True),
        ("MAIL.Example.com.", True),
        ("mail2.example.com", False),
        ("a.mail.example.com", False),
        ("mx1.example.net", True),
        ("a.mx1.example.net", False),
        ("example.net", False),
        (".example.net", True),  # no host is called so
        ("", False),
    ],
)
def test_which_hosts_it_names(host, named):
    assert parse_policy(GOOD).names(host) is named


label = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
hosts = st.lists(label, min_size=2, max_size=4).map(".".join)
patterns = st.one_of(hosts, hosts.map(lambda host: f"*.{host}"))
policies = st.builds(
    StsPolicy,
    st.sampled_from([Mode.ENFORCE, Mode.TESTING]),
    st.integers(0, MAX_AGE_S),
    st.lists(patterns, min_size=1, max_size=5, unique=True).map(tuple),
)


@given(policies)
def test_a_policy_written_is_read_again(policy):
    assert parse_policy(str(policy).encode()) == policy


@given(policies, hosts)
def test_a_star_is_one_label(policy, host):
    first, _, rest = host.partition(".")
    assert policy.names(host) == (host in policy.mx or f"*.{rest}" in policy.mx)
    assert StsPolicy(Mode.ENFORCE, 1, (f"*.{host}",)).names(f"{first}.{host}")
    assert not StsPolicy(Mode.ENFORCE, 1, (f"*.{host}",)).names(host)


@given(st.binary(max_size=200))
@example(b"version: STSv1\rmode: none\rmax_age: 1")
def test_any_octets_are_a_policy_or_an_objection(octets):
    for text in (octets, GOOD + octets, octets + GOOD):
        try:
            policy = parse_policy(text)
        except PolicyError:
            continue
        assert parse_policy(str(policy).encode()) == policy


@given(st.lists(st.text(max_size=60), max_size=3))
def test_any_texts_are_records_or_none(texts):
    found = parse_records((*texts, "v=STSv1; id=7"))
    assert found in ("", "7")


def test_reading_is_linear(grows_linearly):
    def refuse(octets):
        with pytest.raises(PolicyError):
            parse_policy(octets)

    grows_linearly(refuse, lambda size: b"a: b\n" * (size // 5))
    grows_linearly(lambda text: parse_records((text,)), lambda size: "v=STSv1; " + "a=b ; " * size)
