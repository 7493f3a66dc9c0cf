"""Whether the name of an address leads back to it (RFC 8601 3)."""

from __future__ import annotations

import pytest

from pillarbox.mailauth import iprev

NAME, SIX = "1.2.0.192.in-addr.arpa", "1." + "0." * 23 + "8.b.d.0.1.0.0.2.ip6.arpa"


@pytest.mark.parametrize(
    ("address", "zone", "result", "name"),
    [
        ("192.0.2.1", {(NAME, "PTR"): ["a.test"], ("a.test", "A"): ["192.0.2.1"]}, "pass", "a.test"),
        ("::ffff:192.0.2.1", {(NAME, "PTR"): ["a.test"], ("a.test", "A"): ["192.0.2.1"]}, "pass", "a.test"),
        ("2001:db8::1", {(SIX, "PTR"): ["a.test"], ("a.test", "AAAA"): ["2001:DB8:0::1"]}, "pass", "a.test"),
        (
            "192.0.2.1",
            {(NAME, "PTR"): ["a.test", "b.test"], ("b.test", "A"): ["192.0.2.1"]},
            "pass",
            "b.test",
        ),
        ("192.0.2.1", {(NAME, "PTR"): ["a.test"], ("a.test", "A"): ["192.0.2.2"]}, "fail", "a.test"),
        ("192.0.2.1", {(NAME, "PTR"): ["a.test"], ("a.test", "A"): "failed"}, "temperror", "a.test"),
        ("192.0.2.1", {(NAME, "PTR"): "failed"}, "temperror", ""),
        ("192.0.2.1", {}, "permerror", ""),
        ("local", {}, "permerror", ""),
    ],
)
def test_what_a_name_proves(run_plan, address, zone, result, name):
    found = run_plan(iprev.check(address), zone)
    assert (found.result, found.name, found.address) == (result, name, address)


def test_of_many_names_ten_are_looked_up(run_plan):
    asked = []
    run_plan(iprev.check("192.0.2.1"), {(NAME, "PTR"): [f"n{number}.test" for number in range(100)]}, asked)
    assert len(asked) == 11
