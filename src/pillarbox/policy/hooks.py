"""Every hook a plugin may have, in one place: deciding hooks return a reply or no opinion, notifying ones nothing.

A plugin is any object, a module for instance, with functions named as the methods of `Plugin`. The built-in checks that
have to wait for something are plugins too; which there are, and their order, is in `policy.checks`.
"""

from __future__ import annotations

import asyncio
import inspect
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, Self

import msgspec

from pillarbox import observe
from pillarbox.mail.catalogue import envelope, policy, session
from pillarbox.mail.reply import Reply
from pillarbox.mail.units import Seconds, Settings
from pillarbox.policy.evidence import MAX_SAID, Proven, Said

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from pillarbox.mail.address import Address
    from pillarbox.mail.envelope import Envelope
    from pillarbox.mail.message import Head
    from pillarbox.mailauth.results import Finding

_PIECE_OCTETS = 65_536
_MAX_WARNINGS = 20  # kept for one message
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
    announced_octets: int = 0  # the size of the message, in `decide_rcpt` and if MAIL told it
    senders: tuple[
        str, ...
    ] = ()  # the addresses that the login may use, "@domain" for all of a domain; none: any
    trusted: bool = False  # its address lies in `policy.relay_networks`
    name: str = (
        ""  # its verified host name, or the mark that it has none, if a trusted host told it by XCLIENT
    )

    @property
    def stranger(self) -> bool:
        """Whether it is a host that nobody vouches for, so that the checks of hosts and senders are meant for it."""
        return self.role == "mx" and not self.login and not self.trusted


class Action(StrEnum):
    """What follows when a check finds something; a plugin may have one too, as its attribute `action`."""

    OFF = "off"
    WARN = "warn"
    TAG = "tag"  # take the message, and say in its header section what was found
    DEFER = "defer"
    REJECT = "reject"


class HookSettings(Settings, frozen=True):
    """How hooks are run: `[hook]`."""

    limit_s: Seconds = Seconds(30)
    """How long one hook or check may take."""
    on_error: Literal["defer", "accept"] = "defer"
    """What to do when a hook fails or takes too long: put the mail off (451), or go on as if it had no opinion."""


class Tag(str):
    """A refusal that does not count, as it is told in the message's header section."""

    __slots__ = ("cause",)

    def __new__(cls, reply: Reply) -> Self:
        """What the reply would have been."""
        tag = super().__new__(cls, reply)
        tag.cause = reply.cause_id
        return tag

    cause: str


class Score(msgspec.Struct, frozen=True):
    """An opinion about a message that is no decision: how much it looks like spam, more than 0, or like good mail, less.

    The scores of all hooks are added up; what follows from the sum is a setting, `spam.reject_at`.
    """

    points: float
    reason: str = ""


class Incoming(msgspec.Struct, frozen=True):
    """A complete message that waits for its decision. `head` gives its header fields, `body` all octets if small.

    The octets of a large message are in `file`.
    """

    client: Client
    envelope: Envelope
    head: Head
    octets: int
    body: bytes | None
    file: Path | None = None
    scores: list[Score] = msgspec.field(default_factory=list)  # of the hooks that were asked so far
    findings: tuple[Finding, ...] = ()  # what SPF, DKIM, DMARC and ARC found, as far as they are checked

    def chunks(self) -> Iterator[bytes]:
        """All octets, a piece at a time. It reads from the disk, so call it in a thread, as plain functions are."""
        if self.file is None:
            yield self.body or b""
            return
        with self.file.open("rb") as octets:
            while piece := octets.read(_PIECE_OCTETS):
                yield piece


class Plugin:
    """What a plugin may define; each method may be `async`. The first opinion wins, None is no opinion."""

    def decide_connect(self, client: Client) -> Reply | None:
        """Refuse a client in the greeting."""

    def decide_hello(self, client: Client) -> Reply | None:
        """Refuse the name that a client gives in EHLO or HELO, `client.helo`."""

    def decide_mail(self, client: Client, sender: Address | None) -> Reply | None:
        """Refuse a reverse-path."""

    def decide_client(self, client: Client, sender: Address | None, recipient: Address) -> Reply | None:
        """Refuse a recipient because of the client, before anything about the recipient is looked at."""

    def decide_rcpt(self, client: Client, sender: Address | None, recipient: Address) -> Reply | None:
        """Refuse a recipient."""

    def decide_message(self, message: Incoming) -> Reply | Score | None:
        """Refuse a complete message, or say how much it looks like spam."""

    def notify_received(self, queue_id: str, message: Incoming) -> None:
        """Learn that a message was accepted and is durable."""


HOOKS = tuple(name for name in vars(Plugin) if name.startswith(("decide_", "notify_")))


class Hooks:
    """The plugins of one server. One that fails or takes too long defers the mail, it never loses it."""

    def __init__(
        self,
        plugins: Sequence[object] = (),
        *,
        hostname: str = "",
        limit_s: float = 30.0,
        on_error: Literal["defer", "accept"] = "defer",
    ) -> None:
        """Find the hooks that the plugins define. Raises ValueError for a plugin that would not do what is meant."""
        for plugin in plugins:
            _check(plugin)
        self._hostname = hostname
        self._limit_s = limit_s
        self._defers_errors = on_error == "defer"
        self._callers: set[asyncio.Task[Any]] = set()  # tasks in which a hook works
        self._threads = ThreadPoolExecutor(_THREADS, "hook")
        self._found: dict[str, list[tuple[Callable[..., Any], Action]]] = {
            name: [(getattr(plugin, name), _action(plugin)) for plugin in plugins if hasattr(plugin, name)]
            for name in HOOKS
        }
        # those that some plugin has: asked about for each command, so that the ordinary path need not wait for none
        self.wanted = frozenset(name for name, found in self._found.items() if found)

    async def decide(self, name: str, *about: Any, warned: list[str] | None = None) -> Reply | None:
        """Ask the plugins in order; the first reply wins, a failure gives `envelope.hook_failed`.

        A refusal by a plugin that may only warn is noted, added to `warned`, and does not count.
        """
        for hook, action in self._found[name]:
            try:
                opinion = _checked(await self._call(hook, about), name)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin may raise anything; the sender keeps the mail
                incident = observe.report_incident(error, observe.HOOK_FAILED, hook=name)
                if self._defers_errors:
                    return envelope.HOOK_FAILED.reply(incident=incident)
                continue
            if isinstance(opinion, Proven):
                opinion = _told(opinion, name, about, warned)
            if isinstance(opinion, Score):
                about[0].scores.append(opinion)
            elif opinion is not None and (reply := self.judge(opinion, action, name, about, warned)):
                return reply
        return None

    def judge(
        self, opinion: Reply, action: Action, name: str, about: Sequence[Any], warned: list[str] | None
    ) -> Reply | None:
        """What becomes of an opinion: the reply to send, or None if the one who has it may only warn."""
        if opinion.positive or action is Action.REJECT:
            return self._named(opinion)
        if action is Action.DEFER:
            return self._named(_deferred(opinion, name))
        _warn(opinion, name, about, warned, tags=action is Action.TAG)
        return None

    def _named(self, opinion: Reply) -> Reply:
        """With our name in front, where clients look for it (RFC 5321 4.2)."""
        first = opinion.lines[0]
        if opinion.code != session.SHUTDOWN.code or first.startswith(self._hostname) or opinion.cause is None:
            return opinion
        return opinion.cause.because(f"{self._hostname} {first}", *opinion.lines[1:])

    async def notify(self, name: str, *arguments: object) -> None:
        """Tell the plugins; what they do with it changes nothing here."""
        for hook, _ in self._found[name]:
            try:
                await self._call(hook, arguments)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - as above
                observe.report_incident(error, observe.HOOK_FAILED, hook=name)

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
            import difflib  # noqa: PLC0415 - only what is wrong needs it

            near = difflib.get_close_matches(attribute, HOOKS, n=1)
            advice = f"did you mean {near[0]}?" if near else f"the hooks are {', '.join(HOOKS)}"
            raise ValueError(f"hooks: {name} has {attribute}, and there is no such hook; {advice}")
        if isinstance(plugin, type) and inspect.isfunction(inspect.getattr_static(plugin, attribute)):
            raise ValueError(f"hooks: {name} is a class; give an object of it: {name}()")


def _checked(opinion: object, name: str) -> Reply | Score | Proven | None:
    """An opinion is a reply or None. Whatever else a hook returns is a mistake in it, and no permission."""
    if opinion is None or (isinstance(opinion, Reply) and not opinion.intermediate):
        return opinion
    if isinstance(opinion, Proven):
        return opinion
    if isinstance(opinion, Score) and name == "decide_message":
        return opinion
    msg = f"a hook returns a Reply or None, not {opinion!r}"
    raise TypeError(msg)


def _action(plugin: object) -> Action:
    found = getattr(plugin, "action", Action.REJECT)
    return found if isinstance(found, Action) else Action.REJECT


def _deferred(opinion: Reply, name: str) -> Reply:
    """The same refusal, for now."""
    if not opinion.permanent:
        return opinion
    cause = policy.CLIENT_NOT_NOW if name == "decide_connect" else policy.NOT_NOW
    return cause.because(*opinion.lines)


def _told(proven: Proven, name: str, about: Sequence[Any], warned: list[str] | None) -> Reply | None:
    """The bare opinion. What it rests on is kept for the trace, and logged if it may keep the message out."""
    if warned is not None:
        room = MAX_SAID - sum(isinstance(one, Said) for one in warned)
        warned += [one for one in proven.answers if one not in warned][: max(room, 0)]
    if proven.opinion is not None:
        client: Client = about[0]
        observe.CHECK_PROVEN.note(
            session=client.session,
            cause=proven.opinion.cause_id,
            stage=name.removeprefix("decide_"),
            client=client.address,
            answers="; ".join(proven.answers),
        )
    return proven.opinion


def _warn(opinion: Reply, name: str, about: Sequence[Any], warned: list[str] | None, *, tags: bool) -> None:
    """Say what would have happened; in the message, too, if it `tags`."""
    client: Client = about[0].client if isinstance(about[0], Incoming) else about[0]
    event = observe.CHECK_TAGGED if tags else observe.CHECK_WARNED
    event.note(
        session=client.session,
        cause=opinion.cause_id,
        stage=name.removeprefix("decide_"),
        client=client.address,
        reply=str(opinion),
        **{key: str(value) for key, value in zip(("sender", "recipient"), about[1:], strict=False)},
    )
    if warned is not None and str(opinion) not in warned and _count(warned) < _MAX_WARNINGS:
        warned.append(Tag(opinion) if tags else str(opinion))


def _count(warned: Sequence[str]) -> int:
    return sum(not isinstance(one, Said) for one in warned)
