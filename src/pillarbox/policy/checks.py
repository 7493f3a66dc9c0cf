"""Which built-in checks are on, and in which order they and the operator's hooks are asked: all of it in `line_up`.

Quick decisions about relaying, mailboxes and their owners are made before them, in `policy.rules`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pillarbox.mail.units import Settings
from pillarbox.policy.hello import DeniedHello, HelloSettings, QualifiedHello
from pillarbox.policy.hooks import Action
from pillarbox.policy.reverse import ReverseName, ReverseSettings
from pillarbox.policy.senders import DeniedSender, SenderDomain, SenderSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pillarbox.mailauth.dns import Lookup
    from pillarbox.policy.memory import Memory


class CheckSettings(Settings, frozen=True):
    """The settings of all checks; each is off unless its own settings switch it on."""

    helo: HelloSettings = HelloSettings()
    sender: SenderSettings = SenderSettings()
    reverse_dns: ReverseSettings = ReverseSettings()


@dataclass(frozen=True, slots=True)
class Tools:
    """What checks need from outside."""

    hostname: str
    lookup: Lookup
    memory: Memory


def line_up(settings: CheckSettings, tools: Tools, plugins: Sequence[object] = ()) -> Iterator[object]:
    """The checks that are on and the operator's plugins in the order in which they are asked.

    At one stage of a session the first refusal counts, so the order is: the client, the sender, what the operator's
    hooks say of the recipient, how much is sent, and last what only a second try can tell. The core refuses what is out
    of order or badly written before any of them; mailboxes and quotas come between `decide_client` and `decide_rcpt`.
    """
    if settings.helo.require_fqdn is not Action.OFF:
        yield QualifiedHello(settings.helo)
    if settings.helo.deny and settings.helo.deny_action is not Action.OFF:
        yield DeniedHello(settings.helo)
    if settings.reverse_dns.action is not Action.OFF:
        yield ReverseName(settings.reverse_dns, tools.lookup)
    if settings.sender.deny and settings.sender.deny_action is not Action.OFF:
        yield DeniedSender(settings.sender)
    if settings.sender.domain is not Action.OFF:
        yield SenderDomain(settings.sender, tools.lookup)
    yield from plugins
