"""Check at the end of a message whose recipients still own their addresses, if its header section asks for that (RFC 7293).

What RCPT asks for is checked when it comes, by `inbound.session`; both by the rules of `policy.terms`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pillarbox.mail.route import Route, Transport
from pillarbox.mail.since import known_since
from pillarbox.policy.names import Target

if TYPE_CHECKING:
    from pillarbox.inbound.accept import Letter
    from pillarbox.mail.message import Head
    from pillarbox.mail.reply import Reply
    from pillarbox.policy.terms import TermRules


def check_owners(terms: TermRules, head: Head, letter: Letter) -> Reply | None:
    """Note since when the recipients are known, where RCPT did not say so.

    Who has had an address for too short a time gets nothing: the copy is returned, or the whole message refused if it is
    for nobody else.
    """
    named = known_since(head)
    refusals: list[Reply] = []
    for index, accepted in enumerate(letter.recipients):
        valid = named.get(accepted.address.lower())
        if valid is None or accepted.asked.valid_since is not None:
            continue
        asked, targets = msgspec.structs.replace(accepted.asked, valid_since=valid), accepted.targets
        refusal = terms.decide_since(asked.recipient, valid)
        if refusal is not None:
            refusals.append(refusal)
            targets = (Target(accepted.address, Route(Transport.REFUSE, refusal.cause_id)),)
        letter.recipients[index] = accepted._replace(asked=asked, targets=targets)
    return refusals[0] if refusals and len(refusals) == len(letter.recipients) else None
