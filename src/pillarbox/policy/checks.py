"""Which built-in checks are on, and in which order they and the operator's hooks are asked: all of it in `line_up`.

Quick decisions about relaying, mailboxes and their owners are made before them, in `policy.rules`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pillarbox.mail.units import Settings
from pillarbox.policy.asked_names import AskFirst
from pillarbox.policy.attachments import Attachments, AttachmentSettings
from pillarbox.policy.dns_lists import DnsLists, DnsListSettings
from pillarbox.policy.emergency import Emergency, EmergencySettings
from pillarbox.policy.exchangers import NullMx, RecipientSettings
from pillarbox.policy.form import Form, MessageSettings
from pillarbox.policy.greylist import Greylist, GreylistSettings
from pillarbox.policy.harvest import Harvest, HarvestSettings
from pillarbox.policy.hello import DeniedHello, HelloSettings, QualifiedHello
from pillarbox.policy.hooks import Action
from pillarbox.policy.mailbox_rate import MailboxRate
from pillarbox.policy.map_files import FreshFiles
from pillarbox.policy.next_hop import NextHop
from pillarbox.policy.quota import MailboxRoom
from pillarbox.policy.rates import ClientRate, ConnectionRate, RateSettings, SenderRate
from pillarbox.policy.reverse import ReverseName, ReverseSettings
from pillarbox.policy.scanner import ScannerSettings, SpamScanner, VirusScanner
from pillarbox.policy.senders import DeniedSender, SenderDomain, SenderSettings
from pillarbox.policy.spam import SpamLimit, SpamSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pillarbox.mailauth.dns import Lookup, Recall
    from pillarbox.policy.directory import Directory
    from pillarbox.policy.forwarding import FindSender
    from pillarbox.policy.memory import Memory
    from pillarbox.policy.next_hop import Probe
    from pillarbox.policy.scanner import FindVirus, GiveScore


class CheckSettings(Settings, frozen=True):
    """The settings of all checks; each is off unless its own settings switch it on."""

    emergency: EmergencySettings = EmergencySettings()
    dns_lists: DnsListSettings = DnsListSettings()
    helo: HelloSettings = HelloSettings()
    sender: SenderSettings = SenderSettings()
    reverse_dns: ReverseSettings = ReverseSettings()
    rate: RateSettings = RateSettings()
    harvest: HarvestSettings = HarvestSettings()
    greylist: GreylistSettings = GreylistSettings()
    message: MessageSettings = MessageSettings()
    attachments: AttachmentSettings = AttachmentSettings()
    scanner: ScannerSettings = ScannerSettings()
    spam: SpamSettings = SpamSettings()
    recipient: RecipientSettings = RecipientSettings()


class Tools(msgspec.Struct, frozen=True):
    """What checks need from outside."""

    hostname: str
    folder: Path  # where the queue lies
    lookup: Lookup
    memory: Memory
    find_virus: FindVirus | None = None
    give_score: GiveScore | None = None
    probe: Probe | None = None
    recall: Recall = lambda _query: None
    find_sender: FindSender | None = None  # of a message of ours


def line_up(
    settings: CheckSettings, directory: Directory, tools: Tools, plugins: Sequence[object] = ()
) -> Iterator[object]:
    """The checks that are on and the operator's plugins in the order in which they are asked.

    At one stage of a session the first refusal counts, so the order is: the client, the sender, what the operator's
    hooks say of the recipient, how much is sent, and last what only a second try can tell. The core refuses what is out
    of order or badly written before any of them; mailboxes come between `decide_client` and `decide_rcpt`.
    """
    off = Action.OFF
    if settings.emergency.watches:
        yield Emergency(settings.emergency, tools.hostname, tools.folder)
    if settings.rate.connections is not None and settings.rate.action is not off:
        yield ConnectionRate(settings.rate, tools.memory, tools.hostname)
    if settings.dns_lists.zones and settings.dns_lists.action is not off:
        yield DnsLists(settings.dns_lists, tools.lookup, tools.hostname)
    if settings.helo.require_fqdn is not off:
        yield QualifiedHello(settings.helo)
    if settings.helo.deny and settings.helo.deny_action is not off:
        yield DeniedHello(settings.helo)
    if settings.harvest.action is not off:
        yield Harvest(settings.harvest, tools.memory)
    if settings.reverse_dns.action is not off:
        yield ReverseName(settings.reverse_dns, tools.lookup)
    if settings.rate.limits_clients and settings.rate.action is not off:
        yield ClientRate(settings.rate, tools.memory)
    if settings.sender.deny and settings.sender.deny_action is not off:
        yield DeniedSender(settings.sender)
    if settings.sender.domain is not off:
        yield SenderDomain(settings.sender, tools.lookup)
    yield from _of_recipients(settings, directory, tools)
    yield from _of_messages(settings, tools)
    yield from plugins
    if settings.rate.limits_senders and settings.rate.action is not off:
        yield SenderRate(settings.rate, tools.memory)
    if settings.greylist.action != off:
        yield Greylist(settings.greylist, tools.memory)
    if settings.spam.reject_at is not None and settings.spam.action is not off:
        yield SpamLimit(settings.spam.reject_at, settings.spam.action)


def _of_messages(settings: CheckSettings, tools: Tools) -> Iterator[object]:
    """The checks of complete messages, the cheap ones first."""
    if settings.message.strict is not Action.OFF:
        yield Form(settings.message)
    if settings.attachments.deny and settings.attachments.action is not Action.OFF:
        yield Attachments(settings.attachments)
    if tools.find_virus is not None and settings.scanner.virus_action is not Action.OFF:
        yield VirusScanner(settings.scanner, tools.find_virus)
    if tools.give_score is not None:
        yield SpamScanner(settings.scanner, tools.give_score)


def _of_recipients(settings: CheckSettings, directory: Directory, tools: Tools) -> Iterator[object]:
    """Those that look recipients up: whether they exist, have room, and do not get too much."""
    if directory.has_files:
        yield FreshFiles(directory)
    if directory.asks:
        yield AskFirst(directory)
    if settings.recipient.check_domains and settings.recipient.action is not Action.OFF:
        yield NullMx(settings.recipient, directory, tools.lookup)
    if directory.has_verified and tools.probe is not None:
        yield NextHop(directory, tools.probe)
    if directory.has_limits:
        yield MailboxRoom(directory)
    if directory.has_rates:
        yield MailboxRate(directory, tools.memory)
