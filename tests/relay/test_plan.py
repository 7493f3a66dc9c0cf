"""Which hosts are tried, and in which order."""

import pytest

from pillarbox.mail.catalogue import delivery
from pillarbox.mailauth.dns import Answer
from pillarbox.relay.plan import (
    MAX_EXCHANGERS,
    FixedHost,
    Hop,
    Tls,
    exchangers,
    literal_address,
    order_addresses,
    parse_fixed_host,
    parse_unix_socket,
)

US = frozenset({"us.test"})


def order(*records: tuple[int, str], random=lambda: 0.0):
    found = exchangers("d.test", Answer(tuple(records)), names_of_ours=US, random=random)
    return tuple(host for hosts in found for host in hosts) if isinstance(found, tuple) else found


def test_lower_preference_comes_first():
    assert order((20, "b."), (5, "a."), (10, "C.")) == ("a", "c", "b")


@pytest.mark.parametrize(
    ("numbers", "found"), [([0.1, 0.2, 0.3], "abc"), ([0.3, 0.2, 0.1], "cba"), ([0.2, 0.3, 0.1], "cab")]
)
def test_hosts_of_equal_preference_come_in_random_order(numbers, found):
    source = iter(numbers)
    records = ((10, "a"), (10, "b"), (10, "c"), (20, "d"))
    assert "".join(order(*records, random=lambda: next(source, 0.0))) == found + "d"


def test_hosts_of_equal_preference_come_together():
    answer = Answer(((20, "d"), (10, "a"), (10, "b"), (5, "c")))
    found = exchangers("d.test", answer, names_of_ours=US, random=lambda: 0.0)
    assert found == (("c",), ("a", "b"), ("d",))


def test_without_mx_the_domain_itself_is_the_host():
    assert order() == ("d.test",)


def test_a_null_mx_means_no_mail():
    assert order((0, "")).cause is delivery.NULL_MX
    assert order((0, ".")).cause is delivery.NULL_MX
    assert order((0, "."), (10, "a")) == ("a",)  # RFC 7505 3: must stand alone to count


def test_no_such_domain_is_final_and_no_answer_is_not():
    gone = exchangers("d.test", Answer(no_domain=True), names_of_ours=US, random=lambda: 0.0)
    assert gone.cause is delivery.NO_DOMAIN
    assert gone.permanent
    silent = exchangers("d.test", Answer(failed=True, detail="late"), names_of_ours=US, random=lambda: 0.0)
    assert silent.cause is delivery.DNS_FAILED
    assert silent.temporary


def test_hosts_that_are_not_better_than_this_one_are_left_out():
    assert order((5, "a"), (10, "US.test."), (10, "b"), (20, "c")) == ("a",)
    assert order((5, "a"), (7, "us.test"), (7, "b"), (1, "z")) == ("z", "a")
    assert order((10, "us.test"), (20, "c")).cause is delivery.MX_IS_US


def test_a_domain_with_hundreds_of_hosts_gets_the_best_few():
    found = order(*((number, f"mx{number}") for number in range(300, 0, -1)))
    assert found == tuple(f"mx{number}" for number in range(1, MAX_EXCHANGERS + 1))


def test_addresses_take_turns_between_the_families():
    found = order_addresses(
        ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"],
        families=("ipv6", "ipv4"),
        random=lambda: 0.0,
    )
    assert found == ("2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2")


def test_a_family_can_be_preferred_or_left_out():
    both = ["192.0.2.1", "2001:db8::1"]
    assert order_addresses(both, families=("ipv4", "ipv6"), random=lambda: 0.0)[0] == "192.0.2.1"
    assert order_addresses(both, families=("ipv4",), random=lambda: 0.0) == ("192.0.2.1",)
    assert order_addresses(both, families=(), random=lambda: 0.0) == ()


def test_a_host_with_many_addresses_shares_its_load():
    numbers = iter([0.5, 0.1, 0.3])
    addresses = ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
    found = order_addresses(addresses, families=("ipv4",), random=lambda: next(numbers))
    assert found == ("192.0.2.2", "192.0.2.3", "192.0.2.1")


def test_so_many_addresses_of_one_host_are_tried():
    many = [f"192.0.2.{number}" for number in range(200)]
    assert len(order_addresses(many, families=("ipv4",), random=lambda: 0.0)) == 5


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("//mx.test", FixedHost("mx.test", 25)),
        ("//mx.test:587", FixedHost("mx.test", 587)),
        ("//MX.test:587?tls=required", FixedHost("mx.test", 587, tls=Tls.REQUIRED)),
        ("//user@mx.test:587", FixedHost("mx.test", 587, "user", Tls.REQUIRED)),
        ("//user@org.test@mx.test", FixedHost("mx.test", 25, "user@org.test", Tls.REQUIRED)),
        ("//u%40org.test@mx.test?tls=none", FixedHost("mx.test", 25, "u@org.test", Tls.NONE)),
        ("//mx.test:465", FixedHost("mx.test", 465, tls=Tls.IMPLICIT)),
        ("//[::1]:2525", FixedHost("::1", 2525)),
        ("//127.0.0.1:2525/", FixedHost("127.0.0.1", 2525)),
    ],
)
def test_fixed_hosts_are_read(target, found):
    assert parse_fixed_host(target) == found


@pytest.mark.parametrize(
    "target",
    [
        "",
        "mx.test",
        "//",
        "//:25",
        "//mx.test:x",
        "//mx.test:99999",
        "//u:secret@mx.test",
        "//mx.test/path",
        "//mx.test?tls=maybe",
        "//mx.test?TLS",
        "//mx.test?a=b",
        "//[::1",
        "//mx.test#x",
    ],
)
def test_what_is_no_host_is_refused(target):
    with pytest.raises(ValueError):
        parse_fixed_host(target)


def test_unix_sockets():
    assert parse_unix_socket("unix:/run/lmtp") == Hop("/run/lmtp", "/run/lmtp", 0)
    assert parse_unix_socket("//host:24") is None
    assert Hop("/run/lmtp", "/run/lmtp", 0).name == "[/run/lmtp]"


def test_literals():
    assert literal_address("[192.0.2.1]") == "192.0.2.1"
    assert literal_address("[IPv6:2001:DB8::1]") == "2001:db8::1"
    assert literal_address("::1") == "::1"
    assert literal_address("mx.test") is None
    assert literal_address("[mx.test]") is None


def test_hops_have_names_for_people():
    assert Hop("mx.test", "192.0.2.1").name == "mx.test[192.0.2.1]"
    assert Hop("mx.test", "192.0.2.1", 587).name == "mx.test[192.0.2.1]:587"
