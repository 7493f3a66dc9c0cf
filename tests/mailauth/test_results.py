"""Authentication-Results and Received-SPF: written so that others read the same, read in linear time."""

from __future__ import annotations

import authres
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.mailauth.results import (
    MAX_VALUE,
    Finding,
    Results,
    format_received_spf,
    format_results,
    parse_received_spf,
    parse_results,
    server_of,
)


def unfolded(field):
    return field.decode("utf-8", "surrogateescape").replace("\r\n", "").partition(":")[2]


def test_findings_stand_each_on_a_line():
    field = format_results(
        "mx.example.org",
        [
            Finding("spf", "pass", (("smtp.mailfrom", "bob@example.net"),)),
            Finding(
                "dkim", "fail", (("header.d", "example.net"), ("header.b", "a+/=")), "the body was changed"
            ),
        ],
    )
    assert field == (
        b"Authentication-Results: mx.example.org;\r\n"
        b"\tspf=pass smtp.mailfrom=bob@example.net;\r\n"
        b'\tdkim=fail reason="the body was changed" header.d=example.net header.b="a+/="\r\n'
    )
    assert format_results("mx.example.org", []) == b"Authentication-Results: mx.example.org; none\r\n"


WORD = st.from_regex(r"[a-z]{1,8}", fullmatch=True)
TEXT = st.text(
    st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\u2028\u2029\x85"), max_size=30
)
ASCII = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30)
FINDINGS = st.builds(
    Finding,
    st.sampled_from(["spf", "dkim", "dmarc", "arc", "x-other"]),
    WORD,
    st.lists(st.tuples(WORD.map("smtp.{}".format), TEXT.filter(bool)), max_size=3).map(tuple),
    TEXT,
    st.just(""),
)


@given(st.lists(FINDINGS, max_size=4))
def test_what_is_written_is_read_back(findings):
    field = format_results("mx.example.org", findings)
    assert parse_results(unfolded(field)) == Results("mx.example.org", tuple(findings))
    assert all(len(line) < 1000 for line in field.split(b"\r\n"))


@given(
    st.lists(
        st.builds(
            Finding,
            st.sampled_from(["spf", "dkim", "dmarc"]),
            WORD,
            properties=st.just(()),
            reason=st.just(""),
            comment=ASCII,
        ),
        min_size=1,
        max_size=4,
    )
)
def test_authres_reads_the_same(findings):
    read = authres.parse("Authentication-Results:" + unfolded(format_results("mx.example.org", findings)))
    assert [(one.method, one.result) for one in read.results] == [
        (one.method, one.result) for one in findings
    ]


@given(
    st.lists(
        st.sampled_from(["(", ")", '"', "\\", ";", "=", " ", "mx", "dkim", "pass", "none", "a.b", "/1"])
    ).map("".join)
)
def test_reading_never_raises(value):
    parse_results(value)
    server_of(value)
    parse_received_spf(value)
    parse_received_spf("pass " + value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("mx.org 1; none", Results("mx.org", ())),
        ('(c) mx.org; dkim/1 = pass (x (y) \\) ) header.b=ab/c== header.i="@x y"', Results("mx.org", (Finding("dkim", "pass", (("header.b", "ab/c=="), ("header.i", "@x y"))),))),
        ("mx.org 2; none", None),
        ("mx.org; dkim", None),
        ("mx.org; dkim=pass (", None),
        ("", None),
    ],
)  # fmt: skip
def test_odd_forms(value, expected):
    assert parse_results(value) == expected


@pytest.mark.parametrize(
    ("value", "server"),
    [("MX.example.org; spf=pass", "mx.example.org"), (' (x) "mx.example.org" 1;', "mx.example.org"), ("", ""), ("mx.example.org; a=(", "mx.example.org")],
)  # fmt: skip
def test_who_it_claims_to_be_from(value, server):
    assert server_of(value) == server


def test_a_field_over_the_limit_is_not_believed():
    assert parse_results("mx.org" + "; spf=pass" * 10_000) is None
    assert server_of("mx.org" + "; spf=pass" * 10_000) == "mx.org"


@pytest.mark.parametrize("piece", ["(", "()", '"', '\\"', ";spf=pass", " ", "a.b=c ", "=", "(a\\"])
def test_fields_are_read_in_linear_time(grows_linearly, piece):
    def work(value):
        parse_results(value)
        server_of(value)

    grows_linearly(
        work, lambda count: "mx.org; spf=pass " + piece * count, size=(MAX_VALUE - 20) // 16 // len(piece)
    )


def test_nothing_a_client_said_ends_a_line():
    field = format_results(
        "mx.org", [Finding("spf", "pass", (("smtp.mailfrom", "a\r\nFrom: x@y"),), "r\n", "c)\r\n")]
    )
    assert field.count(b"\r\n") == 2
    field = format_received_spf(
        result="fail",
        identity="mailfrom",
        client="192.0.2.1",
        sender="a\r\nb@c",
        helo="x\ny",
        receiver="mx.org",
    )
    assert b"\r\nb" not in field
    assert b"\ny" not in field.replace(b"\r\n\t", b"")


def test_received_spf_is_written_and_read():
    field = format_received_spf(
        result="pass", identity="mailfrom", client="192.0.2.1", sender="bob@example.org", helo="mail.example.org",
        receiver="mx.example.net", detail="ip4:192.0.2.0/24",
    )  # fmt: skip
    assert field.startswith(
        b"Received-SPF: pass (mx.example.net: domain of bob@example.org designates 192.0.2.1 as permitted"
    )
    result, said = parse_received_spf(unfolded(field))
    assert result == "pass"
    assert said == {
        "client-ip": "192.0.2.1", "envelope-from": "bob@example.org", "helo": "mail.example.org",
        "receiver": "mx.example.net", "identity": "mailfrom", "mechanism": "ip4:192.0.2.0/24",
    }  # fmt: skip
