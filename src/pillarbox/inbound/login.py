"""Carry a login from the session to those who decide on it, and note what became of it.

Who is let in is decided by `policy.accounts`; what is said on the way, by `smtp.exchange`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pillarbox import observe
from pillarbox.mail.catalogue import auth
from pillarbox.mail.reply import Reply
from pillarbox.policy.accounts import Accounts, Peer

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillarbox.policy.hooks import Client
    from pillarbox.smtp.events import Login, SecretWanted
    from pillarbox.smtp.server import ServerSession


async def give_secret(
    accounts: Accounts, session: ServerSession, event: SecretWanted, client: Client
) -> None:
    """Answer with what is kept of the account, or with the reason why not."""
    secret = await accounts.secret(event, Peer(client.address))
    if isinstance(secret, Reply):
        _note_failure(client, event.mechanism, event.user, secret)
        session.answer(secret)
    else:
        session.give_secret(secret)


async def log_in(
    accounts: Accounts,
    session: ServerSession,
    event: Login,
    client: Client,
    certified: tuple[str, ...],
    take_account: Callable[[str], bool],
) -> Client:
    """Answer a login; the client as it is known from now on."""
    found = await accounts.login(event, Peer(client.address, certified))
    if not isinstance(found, Reply) and not take_account(found.name):
        found = auth.TOO_MANY_SESSIONS.reply()
    if isinstance(found, Reply):
        _note_failure(client, event.mechanism, event.user or event.authorize_as, found)
        session.answer(found)
        return client
    observe.LOGIN_OK.note(
        session=client.session, client=client.address, mechanism=event.mechanism, login=found.name
    )
    session.answer(auth.AUTHENTICATED.reply(), login=found.name)
    return msgspec.structs.replace(client, login=found.name, senders=found.senders)


def _note_failure(client: Client, mechanism: str, user: str, reply: Reply) -> None:
    observe.LOGIN_FAILED.note(
        session=client.session,
        client=client.address,
        mechanism=mechanism,
        login=user,
        cause=reply.cause_id,
    )
