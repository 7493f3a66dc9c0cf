"""What a check came to is remembered as long as the answers that it rests on, and only for those for whom it is the same."""

from __future__ import annotations

import itertools
import time

import pytest

from pillarbox.inbound.asked import Asked, Work
from pillarbox.inbound.consequence import Checked
from pillarbox.inbound.counted import Counting
from pillarbox.inbound.origin import OriginChecks
from pillarbox.mail.message import scan_head
from pillarbox.mailauth import dkim, keys
from pillarbox.mailauth.dns import Answer, Conclusions, Query
from pillarbox.policy.author import DmarcSettings
from pillarbox.policy.hooks import Client
from pillarbox.policy.origin import OriginPolicy
from pillarbox.policy.origin_settings import ArcSettings, DkimSettings, SpfSettings

NOTHING = Answer(no_domain=True)
MESSAGE = b"From: a@sender.test\r\n\r\nx\r\n"
POLICY = OriginPolicy(
    SpfSettings(check=True), DkimSettings(), DmarcSettings(check=True), ArcSettings(), iprev=True
)


class Draft:
    file = None

    def __init__(self, message=MESSAGE):
        self.message = message

    def inline(self):
        return self.message


class Dns:
    """A memory of answers: what stands in `texts`, and "no such domain" for all else; counts how often it was asked."""

    def __init__(self, **texts):
        self.texts = {}
        self.say(**texts)

    def say(self, **texts):
        """Answer so from now on."""
        for name, text in texts.items():
            query = Query(name.replace("__", ".").replace("d_", "_") + ".test", "TXT")
            self.texts[query] = text if isinstance(text, Answer) else Answer((text,))

    def recall(self, query):
        return self.texts.get(query, NOTHING)

    async def lookup(self, query):
        raise AssertionError(f"{query} is remembered")


def checks_with(dns, counted=None, policy=POLICY):
    count = None if counted is None else Counting(counted.append, suffixes=False)
    return OriginChecks(policy, dns.lookup, recall=dns.recall, hostname="mx.test", count=count)


def check(checks, sender="a@sender.test", helo="mail.sender.test", address="192.0.2.1"):
    """What is found about a message: method -> result."""
    client = Client("s", address, 25, "mx", helo=helo)
    found = checks.begin(client, sender, scan_head(MESSAGE), Draft())
    assert isinstance(found, Checked), "memory knows all answers"
    return {one.method: one.result for one in found.findings}, found.told


def test_another_answer_gives_another_verdict():
    dns = Dns(sender="v=spf1 ip4:192.0.2.1 -all", d_dmarc__sender="v=DMARC1; p=none")
    checks = checks_with(dns)
    for _ in range(2):
        found, told = check(checks)
        assert (found["spf"], found["dmarc"]) == ("pass", "pass")
        assert "TXT sender.test: v=spf1 ip4:192.0.2.1 -all" in told, "the evidence is told each time"
    dns.say(sender="v=spf1 -all")
    found, told = check(checks)
    assert (found["spf"], found["dmarc"]) == ("fail", "fail")
    assert "TXT sender.test: v=spf1 -all" in told
    dns.say(d_dmarc__sender=Answer(failed=True, detail="silence"))
    assert check(checks)[0]["dmarc"] == "temperror"


@pytest.mark.parametrize(
    ("record", "first", "second"),
    [
        ("v=spf1 exists:%{l}.ok.test -all", {"sender": "good@sender.test"}, {"sender": "bad@sender.test"}),
        ("v=spf1 exists:%{h} -all", {"helo": "good.ok.test"}, {"helo": "bad.ok.test"}),
        ("v=spf1 exists:%{s} -all", {"sender": "good@sender.test"}, {"sender": "bad@sender.test"}),
        ("v=spf1 exists:%{l}.ok.test -all", {"sender": "good@sender.test"}, {"sender": "\u00e4@sender.test"}),
        ("v=spf1 exists:%{i}.ok.test -all", {"address": "192.0.2.1"}, {"address": "192.0.2.2"}),
        ("v=spf1 ip4:192.0.2.1 -all", {"address": "192.0.2.1"}, {"address": "192.0.2.2"}),
    ],
)
def test_a_verdict_is_not_lent_to_those_who_may_have_another(record, first, second):
    dns = Dns(sender=record)
    for name in ("good.ok.test", "good@sender.test", "192.0.2.1.ok.test"):
        dns.texts[Query(name, "A")] = Answer(("127.0.0.2",))
    checks = checks_with(dns)
    for who, result in ((first, "pass"), (second, "fail"), (first, "pass")):
        assert check(checks, **who)[0]["spf"] == result


def test_the_null_reverse_path_has_a_verdict_of_its_own():
    checks = checks_with(Dns(sender="v=spf1 +all", mail__sender="v=spf1 -all"))
    assert check(checks)[0]["spf"] == "pass"
    assert check(checks, sender="")[0]["spf"] == "fail"


def test_an_explanation_with_the_time_in_it_is_made_anew():
    dns = Dns(sender="v=spf1 -all exp=why.test", why="%{l} may not")
    checks = checks_with(dns)
    assert check(checks)[0]["spf"] == check(checks, sender="b@sender.test")[0]["spf"] == "fail"


def test_conclusions_are_bounded_and_those_in_use_stay():
    kept = Conclusions(lambda _query: NOTHING, size=3)
    for number in range(5):
        kept.keep(number, number, {Query("a.test", "A"): NOTHING})
        kept.keep("used", 0, {})
    assert [kept.find(number) is not None for number in range(5)] == [False, False, False, True, True]
    assert kept.find("used") is not None
    gone = Conclusions(lambda _query: None)
    gone.keep(1, 1, {Query("a.test", "A"): NOTHING})
    assert gone.find(1) is None, "an answer that is not remembered bears nothing"


KEYS = {name: keys.new_key("rsa") for name in ("one", "two")}


def signed(number, author="a@sender.test", domain="sender.test", selector="one", more=b""):
    """A message that no other is like, and its signature."""
    message = b"From: %b\r\nSubject: %d\r\n\r\nx\r\n" % (author.encode(), number)
    signer = dkim.Signer(domain, selector, KEYS[selector])
    field = dkim.sign(*dkim.message_hash(message), [signer], now=time.time())
    return field + message + more


def full_zone():
    """Answers under which the origin of a signed message is believed."""
    dns = Dns(
        sender="v=spf1 ip4:192.0.2.1 -all",
        mail__sender="v=spf1 -all",
        other="v=spf1 ip4:192.0.2.2 ~all",
        d_dmarc__sender="v=DMARC1; p=reject; rua=mailto:d@sender.test",
        d_dmarc__other="v=DMARC1; p=quarantine; rua=mailto:d@other.test",
    )
    for selector, key in KEYS.items():
        for domain in ("sender.test", "other.test"):
            query = Query(f"{selector}._domainkey.{domain}", "TXT")
            dns.texts[query] = Answer((keys.format_record(key),))
    dns.texts[Query("1.2.0.192.in-addr.arpa", "PTR")] = Answer(("mail.sender.test",))
    dns.texts[Query("mail.sender.test", "A")] = Answer(("192.0.2.1",))
    return dns


def found_by(checks, message, sender="a@sender.test", helo="mail.sender.test", address="192.0.2.1"):
    client = Client("s", address, 25, "mx", helo=helo)
    return checks.begin(client, sender, scan_head(message), Draft(message))


@pytest.mark.parametrize("helo", [False, True])
def test_what_follows_for_letters_of_one_kind_is_what_follows_for_each_alone(helo):
    """All that may differ in a letter's origin, mixed: whoever remembers says the same as who sees such a letter for the first time."""
    dns = full_zone()
    told, alone = [], []
    policy = OriginPolicy(
        SpfSettings(check=True, helo=helo),
        DkimSettings(),
        DmarcSettings(check=True),
        ArcSettings(),
        iprev=True,
    )
    checks = checks_with(dns, told, policy)
    messages = [
        {"author": "b@sender.test"},
        {"author": "a@other.test"},
        {"domain": "other.test"},
        {"selector": "two"},
        {"more": b"and more\r\n"},
        {},
    ]
    envelopes = [
        {"sender": "b@sender.test"},
        {"sender": "a@other.test"},
        {"sender": ""},
        {"helo": "other.test"},
        {"address": "192.0.2.2"},
        {},
    ]
    for number, (message, envelope) in enumerate([*itertools.product(messages, envelopes)] * 3):
        octets = signed(number, **message)
        found = found_by(checks, octets, **envelope)
        assert found == found_by(checks_with(dns, alone, policy), octets, **envelope)
        start = dkim.signatures(dkim.Header(octets))[0].signature[:3]
        said = {finding.method: dict(finding.properties) for finding in found.findings}
        assert dkim.a2b_base64(said["dkim"]["header.b"])[:3] == start
    assert told == alone
    assert len(set(told)) == 20


def test_what_follows_is_not_remembered_longer_than_any_answer_that_it_rests_on():
    dns = full_zone()
    checks = checks_with(dns)
    numbers = itertools.count()

    def look():
        """What is said of two letters after another, the same as of each alone."""
        for _ in range(2):
            octets = signed(next(numbers))
            found = found_by(checks, octets)
            assert found == found_by(checks_with(dns), octets)
        return {one.method: one.result for one in found.findings}

    good = {"iprev": "pass", "spf": "pass", "dkim": "pass", "dmarc": "pass"}
    assert look() == good
    changed = {
        Query("1.2.0.192.in-addr.arpa", "PTR"): ("iprev", "permerror"),
        Query("mail.sender.test", "A"): ("iprev", "fail"),
        Query("sender.test", "TXT"): ("spf", "none"),
        Query("one._domainkey.sender.test", "TXT"): ("dkim", "permerror"),
        Query("_dmarc.sender.test", "TXT"): ("dmarc", "none"),
    }
    for query, (method, result) in changed.items():
        before = dns.texts.pop(query)
        assert look()[method] == result
        dns.texts[query] = before
        assert look() == good


def test_a_chain_of_seals_is_looked_at_each_time():
    dns = full_zone()
    policy = OriginPolicy(SpfSettings(check=True), DkimSettings(), DmarcSettings(), ArcSettings(check=True))
    checks = checks_with(dns, policy=policy)
    for seals, result in ((b"", "none"), (b"ARC-Seal: i=1; cv=none\r\n", "fail"), (b"", "none")) * 2:
        findings = found_by(checks, seals + signed(1)).findings
        assert [one.result for one in findings if one.method == "arc"] == [result]


@pytest.mark.parametrize(
    ("names", "size", "kept"), [(5, 3000, True), (6, 3000, False), (40, 10, True), (41, 10, False)]
)
def test_answers_are_kept_together_only_if_they_are_few_and_short(names, size, kept):
    def plan():
        for number in range(names):
            yield Query(f"{number}.test", "TXT")

    def recall(_query):
        return Answer(("x" * size,))

    asked = Asked(None, recall, Conclusions(recall))
    asked.begin([Work(plan(), lambda: None)])
    assert (asked.proof() is not None) == kept
