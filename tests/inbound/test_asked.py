"""What a check came to is remembered as long as the answers that it rests on, and only for those for whom it is the same."""

from __future__ import annotations

import pytest

from pillarbox.inbound.origin import Checked, OriginChecks
from pillarbox.mail.message import scan_head
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

    def inline(self):
        return MESSAGE


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


def checks_with(dns):
    return OriginChecks(POLICY, dns.lookup, recall=dns.recall, hostname="mx.test")


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
