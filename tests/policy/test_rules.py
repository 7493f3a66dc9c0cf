"""Who may send what where, by the built-in rules."""

import pytest

from pillarbox.mail.address import parse_address
from pillarbox.mail.catalogue import envelope, session
from pillarbox.mail.reply import Reply
from pillarbox.mail.route import Transport
from pillarbox.policy.directory import Directory
from pillarbox.policy.domains import DomainSettings
from pillarbox.policy.hooks import Client
from pillarbox.policy.names import DirectorySettings
from pillarbox.policy.rules import Role, Rules, RuleSettings
from pillarbox.policy.verify import VerifyPolicy

DOMAINS = {
    "example.org": DomainSettings(deliver="hold", users=["alice", "postmaster"]),
    "bücher.example": DomainSettings(deliver="hold", users=["alice", "postmaster"]),
}
OWN = {"mx.example.org", "[192.0.2.25]"}
SENDERS = {"alice": ("alice@example.org", "@wonder.example")}


@pytest.fixture
def rules():
    def make(**settings):
        return Rules(
            RuleSettings(**settings), Directory(DirectorySettings(domains=DOMAINS)), OWN.__contains__
        )

    return make


def client(role=Role.MX, address="192.0.2.9", login=""):
    return Client("s", address, 25, role, login=login, senders=SENDERS.get(login, ()))


def decide(rules, recipient, **who):
    found = rules.decide_rcpt(client(**who), parse_address(recipient), None, 0)
    return (
        found.cause
        if isinstance(found, Reply)
        else [(target.address, target.route.transport) for target in found]
    )


def test_mail_for_us_is_taken_from_everybody(rules):
    for role in (Role.MX, Role.LMTP, Role.RELAY, Role.SUBMISSION):
        assert decide(rules(), "alice@example.org", role=role) == [("alice@example.org", Transport.HOLD)]
        assert decide(rules(), "nobody@example.org", role=role) is envelope.RECIPIENT_UNKNOWN


def test_mail_for_others_is_taken_from_users_and_trusted_networks_alone(rules):
    relayed = [("x@elsewhere.example", Transport.MX)]
    trusting = rules(relay_networks=("192.0.2.0/24",))
    assert decide(rules(), "x@elsewhere.example") is envelope.RELAY_DENIED
    assert decide(rules(), "x@elsewhere.example", login="alice") == relayed
    assert decide(trusting, "x@elsewhere.example") == relayed
    assert decide(trusting, "x@elsewhere.example", address="192.0.3.1") is envelope.RELAY_DENIED
    assert decide(trusting, "x@elsewhere.example", address="local") is envelope.RELAY_DENIED
    assert decide(rules(), "x@elsewhere.example", role=Role.SUBMISSION) is envelope.RELAY_DENIED


@pytest.mark.parametrize(
    "recipient",
    [
        "x%elsewhere.example@example.org",
        "elsewhere.example!x@example.org",
        '"x@elsewhere.example"@example.org',
        '"elsewhere.example!x"@example.org',
        "@elsewhere.example:x%y@example.org".rpartition(":")[2],
    ],
)
def test_no_address_of_ours_leads_elsewhere(rules, recipient):
    assert decide(rules(), recipient) is envelope.ROUTED_ADDRESS


@pytest.mark.parametrize(
    "recipient",
    [
        "x@localhost",
        "x@org",
        "x@example.org.elsewhere.example",
        "x@xexample.org",
        "x@sub.example.org",
    ],
)
def test_what_only_looks_like_ours_is_not(rules, recipient):
    assert decide(rules(), recipient) is envelope.RELAY_DENIED


@pytest.mark.parametrize("recipient", ["postmaster", "Postmaster@mx.example.org", "postmaster@[192.0.2.25]"])
def test_the_postmaster_of_this_host_is_the_plain_one(rules, recipient):
    for who in (client(), client(login="alice")):
        found = rules().decide_rcpt(who, parse_address(recipient), None, 0)
        assert [target.address for target in found] == ["postmaster@example.org"]
    verify = rules().decide_verify
    assert verify(client(), recipient, expand=False).cause is envelope.CANNOT_VERIFY


@pytest.mark.parametrize("recipient", ["x@mx.example.org", "postmaster@[192.0.2.1]", "postmaster@x.example"])
def test_nobody_else_is_at_this_host(rules, recipient):
    assert decide(rules(), recipient) in {envelope.RELAY_DENIED, envelope.FOREIGN_LITERAL}


@pytest.mark.parametrize("recipient", ["x@[192.0.2.1]", "x@[IPv6:::1]"])
def test_foreign_literals_are_not(rules, recipient):
    assert decide(rules(), recipient) is envelope.FOREIGN_LITERAL


def test_the_bare_postmaster_always_exists(rules):
    assert decide(rules(), "postmaster") == [("postmaster@example.org", Transport.HOLD)]
    assert decide(rules(), "PostMaster") == [("postmaster@example.org", Transport.HOLD)]


def test_a_domain_of_ours_is_ours_in_either_form(rules):
    assert decide(rules(), "alice@xn--bcher-kva.example") == [("alice@xn--bcher-kva.example", Transport.HOLD)]
    assert decide(rules(), "alice@bücher.example") == [("alice@bücher.example", Transport.HOLD)]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "127.255.0.9"])
def test_by_default_this_host_is_trusted(rules, address):
    assert rules().trusts(address)


@pytest.mark.parametrize(
    "address", ["192.0.2.1", "::ffff:192.0.2.1", "local", "", "::2", "127.0.0.1%lo", "2130706433"]
)
def test_and_nobody_else(rules, address):
    assert not rules().trusts(address)


def test_denied_networks(rules):
    found = rules(deny_networks=("192.0.2.0/25", "2001:db8::/32"))
    assert found.denies("192.0.2.9")
    assert found.denies("::ffff:192.0.2.9")
    assert found.denies("2001:db8::1")
    assert not found.denies("192.0.2.200")
    assert not found.denies("local")
    assert not rules().denies("192.0.2.9")


def test_what_is_remembered_about_addresses_is_bounded_and_right(rules):
    found = rules(relay_networks=("10.0.0.0/8",))
    for number in range(25_000):
        assert found.trusts(f"10.0.{number >> 8}.{number & 255}")
        assert not found.trusts(f"11.0.{number >> 8}.{number & 255}")
    assert len(found._relay._known) <= 10_001


def test_a_network_that_is_none_is_an_error(rules):
    for bad in ("192.0.2.1/24", "everywhere", ""):
        with pytest.raises(ValueError):
            rules(relay_networks=(bad,))


@pytest.mark.parametrize(
    ("login", "sender", "cause"),
    [
        ("", "anybody@anywhere.example", envelope.SENDER_OK),
        ("alice", "alice@example.org", envelope.SENDER_OK),
        ("alice", "Alice@EXAMPLE.org", envelope.SENDER_OK),
        ("alice", "anything@wonder.example", envelope.SENDER_OK),
        ("alice", "bob@example.org", envelope.SENDER_NOT_OWNED),
        ("alice", "x@sub.wonder.example", envelope.SENDER_NOT_OWNED),
        ("alice", None, envelope.SENDER_OK),
        ("free", "anybody@anywhere.example", envelope.SENDER_OK),
    ],
)
def test_whose_sender_address_it_is(rules, login, sender, cause):
    address = parse_address(sender) if sender else None
    assert rules().decide_mail(client(login=login), address).cause is cause


def test_vrfy_tells_nothing_and_expn_is_not_offered(rules):
    verify = rules().decide_verify
    assert verify(client(), "ann", expand=False).cause is envelope.CANNOT_VERIFY
    assert verify(client(), "ann", expand=True).cause is session.NOT_IMPLEMENTED
    off = rules(vrfy=VerifyPolicy.OFF).decide_verify
    assert off(client(), "ann", expand=False).cause is session.NOT_IMPLEMENTED
