"""How failed logins slow down the next ones."""

import pytest

from pillarbox.policy.guard import Guard, block


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.77", "192.0.2.0/24"),
        ("::ffff:192.0.2.77", "192.0.2.0/24"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("local", "local"),
    ],
)
def test_addresses_count_for_their_network(address, network):
    assert block(address) == network


def test_delays_grow_with_each_failure_of_an_account_and_are_forgiven():
    guard, delays = Guard(), []
    for number in range(10):
        delays.append(guard.delay_s("192.0.2.1", "alice", now=0))
        guard.failed(f"198.51.{number}.1", "alice", now=0)
    assert delays == [0, 0, 0, 0, 0, 1, 2, 4, 8, 16]
    assert guard.delay_s("192.0.2.1", "alice", now=240) == 2
    assert guard.delay_s("192.0.2.1", "alice", now=3600) == 0
    assert guard.delay_s("192.0.2.1", "bob", now=0) == 0


def test_a_network_that_tries_many_names_waits_for_each():
    guard = Guard()
    for number in range(21):
        guard.failed("192.0.2.1", f"user{number}", now=0)
    assert guard.delay_s("192.0.2.200", "somebody", now=0) == 2
    assert guard.delay_s("192.0.3.1", "somebody", now=0) == 0


def test_who_logged_in_there_before_is_not_held_up_by_others():
    guard = Guard()
    guard.succeeded("192.0.2.1", "alice")
    for number in range(50):
        guard.failed("192.0.2.9", f"user{number}", now=0)
        guard.failed("198.51.100.1", "alice", now=0)
    assert guard.delay_s("192.0.2.5", "alice", now=0) == 0
    assert guard.delay_s("203.0.113.1", "alice", now=0) > 0
    guard.failed("192.0.2.5", "alice", now=0)
    assert guard.delay_s("192.0.2.5", "alice", now=0) > 0


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr("pillarbox.policy.guard._MAX_KEPT", 10)
    guard = Guard()
    for number in range(100):
        guard.failed(f"10.0.{number}.1", f"user{number}", now=0)
        guard.succeeded(f"10.1.{number}.1", f"user{number}")
    assert len(guard._failures) == len(guard._known) == 10
