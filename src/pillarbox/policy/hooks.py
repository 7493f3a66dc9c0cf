"""Every hook a plugin may have, in one place: deciding hooks return a reply or no opinion, notifying ones nothing.

A plugin is any object, a module for instance, with functions named as the methods of `Plugin`. Which decisions are
built in is `policy.rules`' business.
"""

from __future__ import annotations

import asyncio
import difflib
import inspect
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from pillarbox import observe
from pillarbox.mail.catalogue import envelope
from pillarbox.mail.reply import Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pillarbox.mail.address import Address
    from pillarbox.mail.envelope import Envelope
    from pillarbox.mail.message import Head


_THREADS = 8  # for plain functions; ones that hang must not take the threads of others, such as name look-ups


class Client(msgspec.Struct, frozen=True, gc=False):
    """The other end of a session, as far as it is known at the moment of a decision."""

    session: str
    address: str  # IP address, or "local" for mail made on this host
    port: int
    role: str
    helo: str = ""
    tls: bool = False
    login: str = ""
    senders: tuple[
        str, ...
    ] = ()  # the addresses that the login may use, "@domain" for all of a domain; none: any


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
        """Find the hooks that the plugins define. Raises ValueError for a plugin that would not do what is meant."""
        for plugin in plugins:
            _check(plugin)
        self._limit_s = limit_s
        self._callers: set[asyncio.Task[Any]] = set()  # tasks in which a hook works
        self._threads = ThreadPoolExecutor(_THREADS, "hook")
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
                opinion = _checked(await self._call(hook, arguments))
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin may raise anything; the sender keeps the mail
                incident = secrets.token_hex(4)
                observe.HOOK_FAILED.note(hook=name, incident=incident, problem=repr(error))
                return envelope.HOOK_FAILED.reply(incident=incident)
            if opinion is not None:
                return opinion
        return None

    async def notify(self, name: str, *arguments: object) -> None:
        """Tell the plugins; what they do with it changes nothing here."""
        for hook in self._found[name]:
            try:
                await self._call(hook, arguments)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - as above
                observe.HOOK_FAILED.note(hook=name, incident=secrets.token_hex(4), problem=repr(error))

    async def _call(self, hook: Callable[..., Any], arguments: tuple[object, ...]) -> Any:
        """Plain functions run in a thread: a slow one must not stop the other sessions."""
        caller = asyncio.current_task()
        assert caller is not None  # a coroutine runs in a task
        self._callers.add(caller)
        try:
            async with asyncio.timeout(self._limit_s):
                if inspect.iscoroutinefunction(hook):
                    return await hook(*arguments)
                return await asyncio.get_running_loop().run_in_executor(self._threads, hook, *arguments)
        finally:
            self._callers.discard(caller)

    async def close(self, limit_s: float) -> None:
        """Wait for the hooks that work, at most `limit_s`, then let the threads go; one that hangs is left behind."""
        if self._callers:
            await asyncio.wait(self._callers, timeout=limit_s)
        self._threads.shutdown(wait=False, cancel_futures=True)


def _check(plugin: object) -> None:
    """Refuse a plugin that would let mail through, or put it off, by a slip of its author. Raises ValueError."""
    name = getattr(plugin, "__name__", type(plugin).__name__)
    for attribute in dir(plugin):
        if not attribute.startswith(("decide_", "notify_")):
            continue
        if attribute not in HOOKS:
            near = difflib.get_close_matches(attribute, HOOKS, n=1)
            advice = f"did you mean {near[0]}?" if near else f"the hooks are {', '.join(HOOKS)}"
            raise ValueError(f"hooks: {name} has {attribute}, and there is no such hook; {advice}")
        if isinstance(plugin, type) and inspect.isfunction(inspect.getattr_static(plugin, attribute)):
            raise ValueError(f"hooks: {name} is a class; give an object of it: {name}()")


def _checked(opinion: object) -> Reply | None:
    """An opinion is a reply or None. Whatever else a hook returns is a mistake in it, and no permission."""
    if opinion is None or (isinstance(opinion, Reply) and not opinion.intermediate):
        return opinion
    msg = f"a hook returns a Reply or None, not {opinion!r}"
    raise TypeError(msg)
