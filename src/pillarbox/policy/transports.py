"""Read the ways out that a configuration spells, such as "maildir:/var/mail/{user}", and fill in their placeholders.

Which way an address takes is `policy.directory`'s business, walking it that of `relay`.
"""

from __future__ import annotations

import re

import msgspec

from pillarbox.mail.address import AddressError, parse_domain
from pillarbox.mail.route import MAILDIR_ROOT_END, Route, Transport
from pillarbox.mail.spelling import nearest

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_PLACEHOLDERS = ("user", "tag", "domain", "local")
_TRANSPORTS = {transport.value for transport in Transport} - {Transport.REFUSE}
_ALONE = {Transport.MX, Transport.DISCARD, Transport.HOLD}  # may stand without a target
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_FUNCTION = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_HOST = re.compile(r"//[^/\s]+", re.ASCII)
_SOCKET = re.compile(r"unix:/[^\s\x00]+")
_NOT_IN_NAME = re.compile(r"[\x00-\x1f\x7f-\x9f/]")
_MAX_NAME_OCTETS = 255  # NAME_MAX of the usual file systems
_MAILDIR_FOLDERS = frozenset({"cur", "new", "tmp"})


class UnsafeNameError(ValueError):
    """Part of an address cannot be the name of a folder; the message says why in words for the peer."""


class Spec(msgspec.Struct, frozen=True):
    """A way out as configured. `segments` are the folders below `root` that placeholders may change, else empty."""

    route: Route
    root: str = ""
    segments: tuple[str, ...] = ()

    def fill(self, user: str, tag: str, domain: str, local: str) -> Route:
        """The route for one address. Raises UnsafeNameError.

        A segment that an empty tag leaves empty, or a mere dot, is dropped: "{user}/.{tag}" is "alice" without a tag.
        """
        if not self.segments:
            return self.route
        values = {"user": user, "tag": tag, "domain": domain, "local": local}
        folders = [
            _PLACEHOLDER.sub(lambda found: _safe(found[1], values), segment) for segment in self.segments
        ]
        kept = [folder for folder in folders if folder not in {"", "."}]
        if not kept:
            raise UnsafeNameError("it names no folder")
        for folder in kept:
            if folder == ".." or len(folder) * 4 > _MAX_NAME_OCTETS < len(folder.encode()):
                raise UnsafeNameError("the folder's name would be too long or lead elsewhere")
        return Route(Transport.MAILDIR, f"{self.root}{MAILDIR_ROOT_END}{'/'.join(kept)}")


def _safe(placeholder: str, values: dict[str, str]) -> str:
    """The value of a placeholder, if it can be part of a file name without harm."""
    value = values[placeholder]
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UnsafeNameError("it is not UTF-8") from None
    if value.startswith("."):
        raise UnsafeNameError("it begins with a dot")
    if _NOT_IN_NAME.search(value):
        raise UnsafeNameError("it has a slash or a control character")
    if placeholder == "tag" and value in _MAILDIR_FOLDERS:
        raise UnsafeNameError(f'"{value}" is a name that every mailbox has inside')
    if not value and placeholder != "tag":
        raise UnsafeNameError("it is empty")
    return value


def is_spec(text: str) -> bool:
    """Whether an alias's value spells a way out, rather than a local part or an address."""
    transport, colon, _ = text.partition(":")
    return transport in _TRANSPORTS and (bool(colon) or transport in _ALONE)


def parse_spec(text: str) -> Spec:
    """Read a way out. Raises ValueError with words for the operator."""
    name, colon, target = text.partition(":")
    if name in {"http", "https"}:
        raise ValueError(
            f'give the web service a section [webhook.NAME] with url = "{text}" and write "webhook:NAME"'
        )
    if name not in _TRANSPORTS:
        close = nearest(name, sorted(_TRANSPORTS))
        advice = (
            f'did you mean "{close}{colon}{target}"?'
            if close
            else f"it begins with one of {', '.join(sorted(_TRANSPORTS))}"
        )
        raise ValueError(f'"{text}" is no way out; {advice}')
    transport = Transport(name)
    if transport == Transport.MAILDIR:
        return _parse_maildir(target)
    if _PLACEHOLDER.search(target):
        raise ValueError(f'"{text}": placeholders belong to maildir; a program gets them in its command')
    problem = _problem(transport, target, has_colon=bool(colon))
    if problem:
        raise ValueError(f'"{text}": {problem}')
    return Spec(Route(transport, target))


def _problem(transport: Transport, target: str, *, has_colon: bool) -> str:
    """What is wrong with a target, or ""."""
    if transport in _ALONE and not target:
        return "nothing follows the colon" if has_colon and transport == Transport.MX else ""
    match transport:
        case Transport.MX:
            try:
                parse_domain(target)
            except AddressError as error:
                return str(error)
            return ""
        case Transport.SMTP:
            return "" if _HOST.fullmatch(target) else "no host; write smtp://host or smtp://host:port"
        case Transport.LMTP:
            good = _HOST.fullmatch(target) or _SOCKET.fullmatch(target)
            return "" if good else "write lmtp://host:port or lmtp:unix:/path"
        case Transport.PIPE:
            return "" if _NAME.fullmatch(target) else "write pipe:NAME for the section [program.NAME]"
        case Transport.WEBHOOK:
            return "" if _NAME.fullmatch(target) else "write webhook:NAME for the section [webhook.NAME]"
        case Transport.REPORTS if not target:
            return ""
        case Transport.PYTHON:
            return "" if _FUNCTION.fullmatch(target) else "write python:module:function"
    return "nothing may follow it"


def _parse_maildir(path: str) -> Spec:
    """Split the folder into the operator's own part and the part that belongs to one mailbox."""
    if not path.startswith("/"):
        raise ValueError(f'"maildir:{path}": the folder must be absolute')
    unknown = [name for name in _PLACEHOLDER.findall(path) if name not in _PLACEHOLDERS]
    if unknown or "{" in _PLACEHOLDER.sub("", path) or "}" in _PLACEHOLDER.sub("", path):
        names = ", ".join(f"{{{name}}}" for name in _PLACEHOLDERS)
        raise ValueError(f'"maildir:{path}": the placeholders are {names}')
    segments = [segment for segment in path.split("/") if segment not in {"", "."}]
    if not segments or ".." in segments or "\0" in path:
        raise ValueError(f'"maildir:{path}": not a usable folder')
    first = next((at for at, segment in enumerate(segments) if "{" in segment), len(segments) - 1)
    return Spec(Route(Transport.MAILDIR, path), "/" + "/".join(segments[:first]), tuple(segments[first:]))
