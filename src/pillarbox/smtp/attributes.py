"""Read what XCLIENT and XFORWARD tell of another client: attributes and their values (Postfix XCLIENT_README).

Who may use these commands is known to the session's channel; what follows from them is decided by `inbound`.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

from pillarbox.mail.catalogue import peers
from pillarbox.mail.reply import Reply, printable
from pillarbox.smtp.events import XClient, XForward
from pillarbox.smtp.grammar import parse_hello, xtext_decode

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillarbox.smtp.profile import Channel, Profile

UNAVAILABLE = "[UNAVAILABLE]"  # it is not known, and will not be
TEMPUNAVAIL = "[TEMPUNAVAIL]"  # it is not known for now
_MAX_CHARACTERS = 255
_MAX_PROTOCOL = 64
_MAX_PORT = 65_535
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?", re.ASCII)
_WORD = re.compile(r"[A-Za-z0-9_.:/@+=*~!#$%&'^`{|}\[\]-]+", re.ASCII)  # nothing special in header fields


def _address(value: str) -> str:
    return str(ipaddress.ip_address(value[5:] if value[:5].upper() == "IPV6:" else value))


def _host(value: str) -> str:
    if not _HOST.fullmatch(value):
        raise ValueError
    return value


def _hello(value: str) -> str:
    name = parse_hello(value)
    if name is None:
        raise ValueError
    return name


def _port(value: str) -> str:
    if not (value.isdigit() and len(value) <= len(str(_MAX_PORT)) and int(value) <= _MAX_PORT):
        raise ValueError
    return value


def _protocol(value: str) -> str:
    if value.upper() not in ("SMTP", "ESMTP"):
        raise ValueError
    return value.upper()


def _any_protocol(value: str) -> str:
    if len(value) > _MAX_PROTOCOL:
        raise ValueError
    return _word(value)


def _word(value: str) -> str:
    if not _WORD.fullmatch(value):
        raise ValueError
    return value


def _login(value: str) -> str:
    if not value.strip():
        raise ValueError
    return value


def _source(value: str) -> str:
    if value.upper() not in ("LOCAL", "REMOTE"):
        raise ValueError
    return value.upper()


_Readers = dict[str, "Callable[[str], str]"]

OF_XCLIENT: _Readers = {
    "NAME": _host,
    "ADDR": _address,
    "PORT": _port,
    "PROTO": _protocol,
    "HELO": _hello,
    "LOGIN": _login,
    "DESTADDR": _address,
    "DESTPORT": _port,
    "REVERSE_NAME": _host,
}
OF_XFORWARD: _Readers = {
    "NAME": _word,
    "ADDR": _address,
    "PORT": _port,
    "PROTO": _any_protocol,
    "HELO": _word,
    "IDENT": _word,
    "SOURCE": _source,
}


def xclient(argument: str, _profile: Profile, channel: Channel) -> XClient | Reply:
    """Read XCLIENT."""
    if "XCLIENT" not in channel.trusted_with:
        return peers.PEER_NOT_TRUSTED.reply()
    found = _read(argument, OF_XCLIENT)
    return found if isinstance(found, Reply) else XClient(found)


def xforward(argument: str, _profile: Profile, channel: Channel) -> XForward | Reply:
    """Read XFORWARD."""
    if "XFORWARD" not in channel.trusted_with:
        return peers.PEER_NOT_TRUSTED.reply()
    found = _read(argument, OF_XFORWARD)
    return found if isinstance(found, Reply) else XForward(found)


def _read(argument: str, readers: _Readers) -> dict[str, str] | Reply:
    """The attributes by name, the last one of a name; those that are not known keep their mark."""
    words = argument.split(" ")
    if not argument:
        return peers.BAD_ATTRIBUTE.reply(detail="there is none")
    found = {}
    for word in words:
        name, sign, value = word.partition("=")
        name = name.upper()
        if not sign or name not in readers:
            return peers.BAD_ATTRIBUTE.reply(
                detail=f"{printable(name, 40) or 'nothing'} is none that is known"
            )
        try:
            found[name] = _value(value, readers[name])
        except ValueError:
            return peers.BAD_ATTRIBUTE.reply(detail=f"the value of {name} cannot be read")
    return found


def _value(value: str, read: Callable[[str], str]) -> str:
    """Raises ValueError."""
    if value.upper() in (UNAVAILABLE, TEMPUNAVAIL):
        return value.upper()
    decoded = xtext_decode(value)
    if not 0 < len(decoded) <= _MAX_CHARACTERS:
        raise ValueError
    return read(decoded)


def known(attributes: dict[str, str], name: str) -> str:
    """The value of an attribute; "" if it was not told, or is not known."""
    value = attributes.get(name, "")
    return "" if value in (UNAVAILABLE, TEMPUNAVAIL) else value
