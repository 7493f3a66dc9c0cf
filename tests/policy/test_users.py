"""What the operator says about single users and lists, and where their mail then goes."""

import datetime as dt

import msgspec
import pytest

from pillarbox.mail.address import parse_address
from pillarbox.mail.reply import Reply
from pillarbox.mail.units import decode_unit
from pillarbox.policy.directory import Directory
from pillarbox.policy.hooks import Client
from pillarbox.policy.names import DirectorySettings
from pillarbox.policy.rules import Rules, RuleSettings
from pillarbox.policy.verify import VerifyPolicy

STRANGER = Client("s", "192.0.2.1", 25, "mx")


def settings_of(**domain):
    domains = {"example.org": {"deliver": "maildir:/var/mail/{user}", **domain}}
    return msgspec.convert({"domains": domains}, DirectorySettings, dec_hook=decode_unit)


def directory(**domain):
    return Directory(settings_of(**domain))


def ways(found, text):
    targets = found.resolve(parse_address(text))
    assert not isinstance(targets, Reply), targets
    return [(target.address, str(target.route)) for target in targets]


def refused(**domain):
    with pytest.raises(ValueError, match=r'domain\."example\.org"|aliases form a loop') as raised:
        directory(**domain)
    return str(raised.value)


def test_a_user_with_particulars_need_not_be_listed():
    found = directory(users=["ann"], user={"Bob": {"max_message": "1M"}})
    assert ways(found, "bob@example.org") == [("bob@example.org", "maildir:/var/mail/./bob")]
    assert ways(found, "ann@example.org") == [("ann@example.org", "maildir:/var/mail/./ann")]
    assert isinstance(found.resolve(parse_address("eve@example.org")), Reply)


def test_where_every_name_is_a_mailbox_some_can_be_closed():
    found = directory(user={"bob": {"state": "disabled"}})
    assert ways(found, "eve@example.org") == [("eve@example.org", "maildir:/var/mail/./eve")]
    assert ways(found, "bob+tag@example.org") == [("bob+tag@example.org", "refuse:mailbox.disabled")]


@pytest.mark.parametrize("state", ["paused", "locked", "disabled", "left"])
def test_queued_mail_meets_the_state_of_the_account(state):
    found = directory(user={"bob": {"state": state}})
    assert str(found.route(parse_address("bob@example.org"))) == f"refuse:mailbox.{state}"


def test_where_mail_is_forwarded():
    found = directory(
        users=[],
        user={
            "bob": {"forward": ["bob@example.net"]},
            "eve": {"forward": ["eve@example.net", "bob"], "keep_copy": True},
        },
    )
    assert ways(found, "bob@example.org") == [("bob@example.net", "mx:example.net")]
    assert sorted(ways(found, "eve@example.org")) == [
        ("bob@example.net", "mx:example.net"),
        ("eve@example.net", "mx:example.net"),
        ("eve@example.org", "maildir:/var/mail/./eve"),
    ]


def test_a_domain_of_forwarded_and_moved_users_needs_no_mailboxes():
    domain = {"users": [], "aliases": {"postmaster": "ann"}, "deliver": ""}
    found = directory(
        **domain,
        user={
            "ann": {"forward": ["ann@example.net"]},
            "bob": {"state": "moved", "moved_to": "bob@example.net"},
        },
    )
    assert ways(found, "ann@example.org") == [("ann@example.net", "mx:example.net")]
    assert "there is no `deliver`" in refused(**domain, user={"ann": {}})
    assert "there is no `deliver`" in refused(
        **domain, user={"ann": {"forward": ["a@b.c"], "keep_copy": True}}
    )


def test_when_an_owner_got_a_mailbox():
    since = dt.datetime(2026, 1, 31, tzinfo=dt.UTC)
    found = directory(user={"bob": {"since": since}, "eve": {"since": since.replace(tzinfo=None)}})
    assert found.entry(parse_address("bob@example.org")).since == since.timestamp()
    assert found.entry(parse_address("eve+x@example.org")).since == since.timestamp()
    assert found.entry(parse_address("ann@example.org")) is None


def test_what_does_not_go_together_is_refused():
    assert "moved_to" in refused(user={"bob": {"state": "moved"}})
    assert "moved_to" in refused(user={"bob": {"moved_to": "b@example.net"}})
    assert "moved_to" in refused(user={"bob": {"state": "moved", "moved_to": "nowhere"}})
    assert "forward" in refused(user={"bob": {"state": "left", "forward": ["b@example.net"]}})
    assert "keep_copy" in refused(user={"bob": {"keep_copy": True}})
    assert "an alias of that name" in refused(
        user={"bob": {"forward": ["b@example.net"]}}, aliases={"bob": "bob"}
    )
    assert "differ only in case" in refused(user={"bob": {}, "Bob": {}})
    assert "loop" in refused(user={"a": {"forward": ["b"]}, "b": {"forward": ["a"]}})
    assert "a user or an alias" in refused(users=["bob"], list={"bob": {"members": ["bob"]}})
    assert "is no address" in refused(list={"all": {"members": ["bob"], "senders": ["bob"]}})
    assert "no user or alias" in refused(users=["bob"], list={"all": {"members": ["eve"]}})


def test_quotas_need_a_folder_for_each_user():
    assert directory(quota={"size": "1M"}, deliver="maildir:/var/mail/{user}/.{tag}")
    assert directory(quota={"size": "1M"}, deliver="maildir:/var/mail/{domain}/{user}")
    assert "only where deliver" in refused(quota={"size": "1M"}, deliver="hold")
    assert "only where deliver" in refused(user={"bob": {"quota": "1M"}}, deliver="hold")
    for folder in ("/var/mail/all", "/var/mail/{user}/{tag}", "/var/mail/{local}"):
        assert "a mailbox of his own" in refused(quota={"messages": 9}, deliver=f"maildir:{folder}")


def test_limits_of_the_domain_and_those_of_a_user():
    found = directory(
        max_message="1M",
        quota={"size": "10M"},
        deliver="maildir:/m/{user}/.{tag}",
        user={"bob": {"max_message": 0, "quota": "1G"}},
    )
    bob, ann = (found.entry(parse_address(f"{name}+tag@example.org")) for name in ("bob", "ann"))
    assert (bob.max_message_octets, bob.quota.size, bob.quota.home) == (0, 1 << 30, "/m/./bob")
    assert (ann.max_message_octets, ann.quota.size, ann.quota.home) == (1 << 20, 10 << 20, "/m/./ann")


class Counting(Directory):
    """A directory that counts what it is asked."""

    questions = 0

    def _count(self):
        self.questions += 1

    def homonyms(self, local):
        self._count()
        return super().homonyms(local)

    def members(self, address):
        self._count()
        return super().members(address)

    def entry(self, address):
        self._count()
        return super().entry(address)

    def resolve(self, address):
        self._count()
        return super().resolve(address)


@pytest.mark.parametrize("policy", [VerifyPolicy.OFF, VerifyPolicy.RESTRICTED, VerifyPolicy.AUTH])
def test_E252_1_vrfy_does_the_same_work_whether_the_name_exists_or_not(policy):
    found = Counting(settings_of(users=["ann"], aliases={"all": ["ann", "b@example.net"]}))
    rules = Rules(RuleSettings(vrfy=policy), found, lambda _domain: False)
    names = ("ann@example.org", "nobody@example.org", "ann", "nobody", "all@example.org")
    for expand in (False, True):
        assert len({rules.decide_verify(STRANGER, name, expand=expand) for name in names}) == 1
    assert found.questions == 0


def test_internationalised_answers_only_for_those_who_take_them():
    found = directory(users=["Ünal"])
    rules = Rules(RuleSettings(vrfy=VerifyPolicy.OPEN), found, lambda _domain: False)
    plain = rules.decide_verify(STRANGER, "ünal@example.org", expand=False)
    assert (plain.code, plain.status) == (252, "2.6.8")
    told = rules.decide_verify(STRANGER, "ünal@example.org SMTPUTF8", expand=False)
    assert told.wire == "250 2.1.5 <ünal@example.org>\r\n".encode()


def test_a_list_too_long_for_an_answer():
    members = [f"user{number}@example.net" for number in range(101)]
    found = directory(list={"all": {"members": members}})
    rules = Rules(RuleSettings(vrfy=VerifyPolicy.OPEN), found, lambda _domain: False)
    assert rules.decide_verify(STRANGER, "all@example.org", expand=True).code == 252
