"""Every rule about clients, senders and messages can reject, defer, tag, or only warn: each rule with each of these."""

from __future__ import annotations

import email

import pytest

from pillarbox import observe
from pillarbox.inbound.greeting import GreetSettings
from pillarbox.mail.units import Octets, Rate, Seconds
from pillarbox.policy.attachments import AttachmentSettings
from pillarbox.policy.checks import CheckSettings
from pillarbox.policy.dns_lists import DnsListSettings, ZoneSettings
from pillarbox.policy.emergency import EmergencySettings
from pillarbox.policy.exchangers import RecipientSettings
from pillarbox.policy.form import MessageSettings
from pillarbox.policy.greylist import GreylistSettings
from pillarbox.policy.harvest import HarvestSettings
from pillarbox.policy.hello import HelloSettings
from pillarbox.policy.hooks import Action, Score
from pillarbox.policy.rates import RateSettings
from pillarbox.policy.reverse import ReverseSettings
from pillarbox.policy.scanner import ScannerSettings
from pillarbox.policy.senders import SenderSettings
from pillarbox.policy.spam import SpamSettings
from pillarbox.policy.tarpit import TarpitSettings

NAMES = {
    "1.0.0.127.bl.test. A": [("1.0.0.127.bl.test.", 300, "IN", "A", "127.0.0.2")],
    "nowhere.example. MX": [("nowhere.example.", 300, "IN", "MX", "0 .")],
}
EHLO, RCPT, NOBODY = b"EHLO client", b"RCPT TO:<alice@example.org>", b"RCPT TO:<nobody@example.org>"
MAIL = b"MAIL FROM:<a@sender.test>"
MESSAGE = b'Content-Type: x/y; name="a.exe"\r\n\r\nx\r\n.'
MANY = Rate(1, 3600.0)


class Suspicious:
    """A hook that likes no message."""

    def decide_message(self, _message):
        return Score(9.0, "it smells")


async def find_virus(_chunks):
    return "EICAR"


def checks(**named):
    return {"checks": CheckSettings(**named)}


# How each rule is switched on with an action, and the beginning of the refusal in its words.
RULES = {
    "a list in DNS": (
        lambda action: checks(
            dns_lists=DnsListSettings(action=action, zones=(ZoneSettings(zone="bl.test"),))
        ),
        b"554 ",
    ),
    "a bare name": (lambda action: checks(helo=HelloSettings(require_fqdn=action)), b"504 "),
    "a name that is denied": (
        lambda action: checks(helo=HelloSettings(deny=("client",), deny_action=action)),
        b"550 ",
    ),
    "a sender that is denied": (
        lambda action: checks(sender=SenderSettings(deny=("sender.test",), deny_action=action)),
        b"550 ",
    ),
    "a sender's domain that is not there": (
        lambda action: checks(sender=SenderSettings(domain=action)),
        b"550 ",
    ),
    "an address without a name": (lambda action: checks(reverse_dns=ReverseSettings(action=action)), b"550 "),
    "a network over its rate": (lambda action: checks(rate=RateSettings(flood=MANY, action=action)), b"550 "),
    "an address over its rate": (
        lambda action: checks(rate=RateSettings(address=MANY, action=action)),
        b"450 ",
    ),
    "a domain over its rate": (
        lambda action: checks(rate=RateSettings(recipient_domain=MANY, action=action)),
        b"450 ",
    ),
    "a harvest": (
        lambda action: checks(harvest=HarvestSettings(action=action, limit=MANY, delay_s=Seconds(0))),
        b"550 5.7.1 ",
    ),
    "mail not seen before": (lambda action: checks(greylist=GreylistSettings(action=action.value)), b"450 "),
    "a message without From": (lambda action: checks(message=MessageSettings(strict=action)), b"554 "),
    "an attachment": (
        lambda action: checks(attachments=AttachmentSettings(deny=("exe",), action=action)),
        b"554 ",
    ),
    "a virus": (
        lambda action: (
            checks(scanner=ScannerSettings(clamd="x", virus_action=action)) | {"find_virus": find_virus}
        ),
        b"554 ",
    ),
    "a score": (
        lambda action: checks(spam=SpamSettings(reject_at=5.0, action=action)) | {"plugins": (Suspicious(),)},
        b"550 ",
    ),
    "a client that talks early": (
        lambda action: {"greet": GreetSettings(delay_s=Seconds(0.05), early_talker=action)},
        b"554 ",
    ),
    "a full disk": (
        lambda action: checks(emergency=EmergencySettings(min_disk_octets=Octets(1 << 60), action=action)),
        b"421 ",
    ),
    "a domain that takes no mail": (
        lambda action: (
            checks(recipient=RecipientSettings(check_domains=True, action=action))
            | {"relay": ("127.0.0.0/8",)}
        ),
        b"556 ",
    ),
}


@pytest.fixture
def visit(dial, serve_dns, open_office, monkeypatch, noted):
    """Do what each of the rules has something against; the refusal if there was one, and the message if not."""
    monkeypatch.setattr(observe.CHECK_TAGGED, "written", True)

    async def make(**options):
        names = await serve_dns(NAMES)
        office = await open_office(nameserver=names.address, **options)
        caller = await dial(office.port)
        to = b"RCPT TO:<b@nowhere.example>" if "relay" in options else RCPT
        lines = [EHLO, MAIL, RCPT, b"RSET", MAIL, NOBODY, NOBODY, to, b"DATA", MESSAGE]
        if "greet" in options:
            await caller.send(lines.pop(0) + b"\r\n")
            await caller.reply()
        reply = await caller.reply()
        while reply[:1] in b"23" or reply.startswith(b"550 5.1.1"):
            if not lines:
                octets, _ = await office.stored()
                return None, email.message_from_bytes(octets), office.ledger.show(office.queued[0].id).trace
            reply = await caller.ask(lines.pop(0))
        if reply.startswith(b"554 5.5.1"):  # after a refusal that came in the greeting
            raise AssertionError(reply)
        return reply, None, None

    return make


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "mail not seen before"])
async def test_each_rule_rejects(visit, rule):
    switch_on, refusal = RULES[rule]
    reply, _, _ = await visit(**switch_on(Action.REJECT))
    assert reply is not None
    assert reply.startswith(refusal), reply


@pytest.mark.parametrize("rule", RULES)
async def test_each_rule_defers(visit, rule):
    reply, _, _ = await visit(**RULES[rule][0](Action.DEFER))
    assert reply is not None
    assert reply.startswith(b"4"), reply


@pytest.mark.parametrize("rule", RULES)
async def test_each_rule_tags(visit, rule, noted):
    reply, message, _ = await visit(**RULES[rule][0](Action.TAG))
    assert reply is None
    assert message["X-Policy-Tag"].startswith("mx.example.org; ")
    assert [name for name, _ in noted if name.startswith("check.")].count("check.warned") == 0


@pytest.mark.parametrize("rule", RULES)
async def test_each_rule_only_warns_and_its_trial_is_recorded(visit, rule, noted):
    reply, message, trace = await visit(**RULES[rule][0](Action.WARN))
    assert reply is None
    assert message["X-Policy-Tag"] is None
    (warned, *_) = [facts for name, facts in noted if name == "check.warned"]
    assert warned["reply"] in trace.warned
    assert warned["reply"][:1] in "45"


async def test_the_tarpit_only_notes_whom_it_would_keep_waiting(visit, noted, monkeypatch):
    monkeypatch.setattr(observe.TARPIT_WARNED, "written", True)
    reply, message, trace = await visit(tarpit=TarpitSettings(delay_s=Seconds(5), free=0, action="warn"))
    assert reply is None
    assert message["X-Policy-Tag"] is None
    assert [facts["seconds"] for name, facts in noted if name == "tarpit.warned"] == [5, 10]
    assert "answers to many mistakes, which [tarpit] would have kept back" in trace.warned
