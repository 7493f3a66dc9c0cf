"""Every hook a plugin may have, in one place: deciding hooks return a reply or no opinion, notifying ones nothing.

A plugin is any object, a module for instance, with functions named as the methods of `Plugin`. Which decisions are
built in is `policy.rules`' business.
"""

from __future__ import annotations

import asyncio
import inspect
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from pillarbox import observe
from pillarbox.mail.catalogue import envelope
from pillarbox.mail.reply import Reply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from pillarbox.mail.address import Address
    from pillarbox.mail.envelope import Envelope
    from pillarbox.mail.message import Head


class Client(msgspec.Struct, frozen=True, gc=False):
    """The other end of a session, as far as it is known at the moment of a decision."""

    session: str
    address: str  # IP address, or "local" for mail made on this host
    port: int
    role: str
    helo: str = ""
    tls: bool = False
    login: str = ""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A complete message that waits for its decision. `head` gives its header fields, `body` all octets if small."""

    client: Client
    envelope: Envelope
    head: Head
    octets: int
    body: bytes | None


class Plugin:
    """What a plugin may define; each method may be `async`. The first opinion wins, None is no opinion."""

    def decide_connect(self, client: Client) -> Reply | None:
        """Refuse a client in the greeting."""

    def decide_mail(self, client: Client, sender: Address | None) -> Reply | None:
        """Refuse a reverse-path."""

    def decide_rcpt(self, client: Client, sender: Address | None, recipient: Address) -> Reply | None:
        """Refuse a recipient."""

    def decide_message(self, message: Incoming) -> Reply | None:
        """Refuse a complete message."""

    def notify_received(self, queue_id: str, message: Incoming) -> None:
        """Learn that a message was accepted and is durable."""


HOOKS = tuple(name for name in vars(Plugin) if name.startswith(("decide_", "notify_")))


class Hooks:
    """The plugins of one server. A plugin that fails or takes too long defers the mail, it never loses it."""

    def __init__(self, plugins: Sequence[object] = (), *, limit_s: float = 30.0) -> None:
        """Find the hooks that the plugins define."""
        self._limit_s = limit_s
        self._found: dict[str, list[Callable[..., Any]]] = {
            name: [getattr(plugin, name) for plugin in plugins if hasattr(plugin, name)] for name in HOOKS
        }

    def wants(self, name: str) -> bool:
        """Whether any plugin has this hook, so that the ordinary path need not wait for none."""
        return bool(self._found[name])

    async def decide(self, name: str, *arguments: object) -> Reply | None:
        """Ask the plugins in order; the first reply wins, a failure gives `envelope.hook_failed`."""
        for hook in self._found[name]:
            try:
                opinion = await asyncio.wait_for(_call(hook, arguments), self._limit_s)
            except Exception as error:  # noqa: BLE001 - a plugin may raise anything; the mail must stay with its sender
                incident = secrets.token_hex(4)
                observe.HOOK_FAILED.note(hook=name, incident=incident, error=repr(error))
                return envelope.HOOK_FAILED.reply(incident=incident)
            if isinstance(opinion, Reply):
                return opinion
        return None

    async def notify(self, name: str, *arguments: object) -> None:
        """Tell the plugins; what they do with it changes nothing here."""
        for hook in self._found[name]:
            try:
                await asyncio.wait_for(_call(hook, arguments), self._limit_s)
            except Exception as error:  # noqa: BLE001 - as above
                observe.HOOK_FAILED.note(hook=name, incident=secrets.token_hex(4), error=repr(error))


def _call(hook: Callable[..., Any], arguments: tuple[object, ...]) -> Awaitable[Any]:
    """Plain functions run in a thread: a slow one must not stop the other sessions."""
    if inspect.iscoroutinefunction(hook):
        return hook(*arguments)  # type: ignore[no-any-return]  # plugins are untyped
    return asyncio.to_thread(hook, *arguments)
