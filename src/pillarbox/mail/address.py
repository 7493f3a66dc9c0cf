"""Read and write mail addresses as the envelope carries them (RFC 5321 4.1.2, RFC 6531 3.3).

Header addresses with display names and comments are not its business; nor is whether a mailbox exists.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

import msgspec

MAX_LOCAL_OCTETS = 64  # RFC 5321 4.5.3.1.1
MAX_DOMAIN_OCTETS = 255  # RFC 5321 4.5.3.1.2
MAX_PATH_OCTETS = 256  # RFC 5321 4.5.3.1.3, angle brackets included

_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
_UATEXT = (
    r'[^\x00-\x20"(),.:;<>@\[\\\]\x7f]'  # atext and all beyond ASCII; written so, it compiles 40 times faster
)
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DOT_STRING = re.compile(rf"{_UATEXT}+(?:\.{_UATEXT}+)*")
_QUOTED = re.compile(r'"((?:[^\x00-\x1f"\\\x7f]|\\[\x20-\x7e])*)"')
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.ASCII)
_SIMPLE = re.compile(rf"({_ATEXT}+(?:\.{_ATEXT}+)*)@({_LABEL}(?:\.{_LABEL})+)", re.ASCII)
_ROUTE = re.compile(r"@[^@:,\s]{1,255}(?:,@[^@:,\s]{1,255})*:")
_QUOTED_PAIR = re.compile(r"\\(.)")
_INVISIBLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"
)  # surrogates: octets that are not UTF-8


_REMEMBERED = 2048  # the same addresses come again and again; with this many the memory stays below 2 MB


class AddressError(ValueError):
    """An address that cannot be read; the message says why in words for the peer."""


class Address(msgspec.Struct, frozen=True):
    """A mailbox. `local` is unquoted, `domain` lower-case; the domain is "" only for the bare postmaster."""

    local: str
    domain: str

    def __str__(self) -> str:
        """The address as the envelope carries it, quoted where needed."""
        return _spell(self)

    @property
    def needs_smtputf8(self) -> bool:
        """Whether a hop must offer SMTPUTF8 to carry this address unchanged (RFC 6531 3.3)."""
        return not (self.local.isascii() and self.domain.isascii())

    @property
    def dns_domain(self) -> str:
        """The domain in A-labels, for look-ups and comparison (RFC 5890)."""
        if self.domain.isascii():
            return self.domain
        import idna  # noqa: PLC0415 - few domains need it, and a start would have to wait

        return idna.encode(self.domain, uts46=True).decode("ascii")


@lru_cache(maxsize=_REMEMBERED)
def _spell(address: Address) -> str:
    local = address.local if _DOT_STRING.fullmatch(address.local) else quote_local(address.local)
    return f"{local}@{address.domain}" if address.domain else local


def spell_in_ascii(address: str) -> str:
    """An address beyond ASCII in the ASCII form of reports and of ORCPT (RFC 6533 3, utf-8-addr-xtext)."""
    return "".join(
        letter if "!" <= letter <= "~" and letter not in "\\+=" else f"\\x{{{ord(letter):02X}}}"
        for letter in address
    )


def quote_local(local: str) -> str:
    """Write a local part as a quoted string (RFC 5321 4.1.2)."""
    escaped = local.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def parse_address(text: str) -> Address:
    """Read `local@domain` or `local@[literal]`; a bare "postmaster" is allowed (RFC 5321 4.5.1).

    Raises AddressError.
    """
    simple = _SIMPLE.fullmatch(text)
    if simple is not None and len(simple[1]) <= MAX_LOCAL_OCTETS and len(simple[2]) <= MAX_DOMAIN_OCTETS:
        return Address(simple[1], simple[2].lower())
    return _parse_unusual(text)


def _parse_unusual(text: str) -> Address:
    if _INVISIBLE.search(text):
        msg = "control characters and broken UTF-8 are not allowed in an address"
        raise AddressError(msg)
    if text.lower() == "postmaster":
        return Address(text, "")
    local, rest = _split_local(text)
    if len(local.encode("utf-8", "surrogateescape")) > MAX_LOCAL_OCTETS:
        msg = f"local part longer than {MAX_LOCAL_OCTETS} octets"
        raise AddressError(msg)
    if not rest.startswith("@"):
        msg = "local part not well formed" if rest else "domain missing"
        raise AddressError(msg)
    if len(rest) == 1:
        msg = "domain missing"
        raise AddressError(msg)
    return Address(local, parse_domain(rest[1:]))


def _split_local(text: str) -> tuple[str, str]:
    """The unquoted local part and what follows it."""
    if text.startswith('"'):
        quoted = _QUOTED.match(text)
        if quoted is None:
            msg = "quoted local part not closed"
            raise AddressError(msg)
        return _QUOTED_PAIR.sub(r"\1", quoted[1]), text[quoted.end() :]
    dotted = _DOT_STRING.match(text)
    if dotted is None:
        msg = "local part missing or not well formed"
        raise AddressError(msg)
    return dotted[0], text[dotted.end() :]


def parse_domain(text: str) -> str:
    """Check a domain name, U-label name or address literal and return it in lower case. Raises AddressError."""
    if len(text.encode("utf-8", "surrogateescape")) > MAX_DOMAIN_OCTETS:
        msg = f"domain longer than {MAX_DOMAIN_OCTETS} octets"
        raise AddressError(msg)
    if text.startswith("["):
        return _parse_literal(text)
    if text.isascii():
        if _HOST.fullmatch(text) is None:
            msg = "domain not well formed"
            raise AddressError(msg)
        return text.lower()
    import idna  # noqa: PLC0415 - as above

    try:
        idna.encode(text, uts46=True)
    except (idna.IDNAError, UnicodeError) as error:
        msg = "internationalised domain not valid"
        raise AddressError(msg) from error
    return text.lower()


def _parse_literal(text: str) -> str:
    """An address literal, normalised (RFC 5321 4.1.3)."""
    inner = text[1:-1] if text.endswith("]") and "%" not in text else ""  # a zone means nothing to others
    try:
        if inner[:5].lower() == "ipv6:":
            return f"[IPv6:{ipaddress.IPv6Address(inner[5:])}]"
        return f"[{ipaddress.IPv4Address(inner)}]"
    except ValueError as error:
        msg = "address literal not valid"
        raise AddressError(msg) from error


def parse_path(text: str, *, strict: bool = True) -> Address | None:
    """Read a reverse-path or forward-path in angle brackets; `<>` gives None, a source route is dropped.

    RFC 5321 4.1.2 and 4.1.1.3. With `strict` off the brackets may be missing. Raises AddressError.
    """
    if not strict and not (text.startswith("<") and text.endswith(">")):
        text = f"<{text}>"
    return _parse_path(text)


@lru_cache(maxsize=_REMEMBERED)
def _parse_path(text: str) -> Address | None:
    if not (text.startswith("<") and text.endswith(">")):
        msg = "address must stand in angle brackets"
        raise AddressError(msg)
    inner = text[1:-1]
    if not inner:
        return None
    if len(text.encode("utf-8", "surrogateescape")) > MAX_PATH_OCTETS + MAX_LOCAL_OCTETS:
        msg = "path too long"
        raise AddressError(msg)
    if inner[0] == "@":
        route = _ROUTE.match(inner)
        if route is None:
            msg = "source route not well formed"
            raise AddressError(msg)
        inner = inner[route.end() :]
    return parse_address(inner)


def is_loopback(host: str) -> bool:
    """Whether a name, or an address without brackets, is this machine as only it can reach itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
