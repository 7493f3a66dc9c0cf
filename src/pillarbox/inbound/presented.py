"""Take the client that a trusted host tells of by XCLIENT in place of the one that connected.

Who may tell is decided by `policy.proxies`; the session with the new client is `inbound.session`'s business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pillarbox import observe
from pillarbox.mail.reply import Reply
from pillarbox.smtp.attributes import known

if TYPE_CHECKING:
    from pillarbox.policy.accounts import Accounts
    from pillarbox.policy.hooks import Client
    from pillarbox.policy.rules import Rules

NOBODY = "unknown"  # the address of a client that has none that is known


def add_up(told: dict[str, str], more: dict[str, str]) -> dict[str, str]:
    """What several commands told together; a second address begins with another client."""
    return dict(more) if "ADDR" in told and "ADDR" in more else told | more


async def take_client(
    client: Client, told: dict[str, str], accounts: Accounts, rules: Rules
) -> Client | Reply:
    """The client as it was told, or why it is not taken."""
    login = ""
    senders: tuple[str, ...] = ()
    if name := known(told, "LOGIN"):
        found = await accounts.vouched(name)
        if isinstance(found, Reply):
            return found
        login, senders = found.name, found.senders
    address = client.address
    if "ADDR" in told:
        address = known(told, "ADDR") or NOBODY
    port = known(told, "PORT")
    observe.CLIENT_PRESENTED.note(
        session=client.session,
        proxy=client.address,
        client=address,
        **{k.lower(): v for k, v in told.items()},
    )
    return msgspec.structs.replace(
        client,
        address=address,
        port=int(port) if port else (0 if "ADDR" in told else client.port),
        helo=known(told, "HELO"),
        name=told.get("NAME", ""),
        login=login,
        senders=senders,
        announced_octets=0,
        trusted=rules.trusts(address),
    )


def describe_origin(told: dict[str, str]) -> str:
    """What XFORWARD told, in one line."""
    return " ".join(f"{name.lower()}={told[name]}" for name in told if known(told, name))
