"""Read the header by which a balancer tells who the client is: the PROXY protocol, versions 1 and 2.

It does no reading of its own and asks for no octet that may not belong to the header: what follows the header, TLS for
instance, is for others. Who may send one is decided by `policy.proxies`.
"""

from __future__ import annotations

import ipaddress

MAX_OCTETS = 4096  # with everything that a balancer may add in version 2
_MAX_LINE = 107  # version 1 in full
_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_SHORTEST = len(b"PROXY UNKNOWN\r\n")
_FIXED = 16  # octets of version 2 in front of the addresses
_LOCAL, _PROXY = 0x20, 0x21  # version and command
_STREAM_OR_UNKNOWN = (0, 1)
_IPV4, _IPV6, _UNIX = 1, 2, 3
_MAX_PORT = 65_535
# octets of one address and of the whole block of addresses, by family
_LENGTHS = {_IPV4: (4, 12), _IPV6: (16, 36), _UNIX: (0, 216)}

Peer = tuple[str, int]


class HeaderError(ValueError):
    """It is no such header; the message says why."""


def wanted(head: bytes, ahead: bytes = b"") -> int:
    """How many more octets belong to the header for certain; 0 if it is complete. Raises HeaderError.

    `ahead` is what is known to come: a line, which does not tell its length, need not be read octet by octet then.
    """
    if len(head) < _SHORTEST:
        if not (_SIGNATURE.startswith(head[: len(_SIGNATURE)]) or b"PROXY ".startswith(head[:6])):
            raise HeaderError("no PROXY header")
        return _SHORTEST - len(head)
    if head.startswith(_SIGNATURE):
        if len(head) < _FIXED:
            return _FIXED - len(head)
        octets = _FIXED + int.from_bytes(head[14:16])
        if octets > MAX_OCTETS:
            raise HeaderError("the header is too long")
        return octets - len(head)
    if not head.startswith(b"PROXY "):
        raise HeaderError("no PROXY header")
    if head.endswith(b"\r\n"):
        return 0
    if len(head) >= _MAX_LINE:
        raise HeaderError("the header is too long")
    end = ahead.find(b"\n", 0, _MAX_LINE - len(head))
    if end >= 0:
        return end + 1
    return 1 if head.endswith(b"\r") or len(head) == _MAX_LINE - 1 else 2


def parse(head: bytes) -> Peer | None:
    """Address and port of the client; None if the balancer speaks for itself or does not know. Raises HeaderError."""
    return _parse_binary(head) if head.startswith(_SIGNATURE) else _parse_line(head)


def _parse_line(head: bytes) -> Peer | None:
    try:
        words = head.decode("ascii").removesuffix("\r\n").split(" ")
    except UnicodeDecodeError:
        raise HeaderError("the header is not ASCII") from None
    if words[1] == "UNKNOWN":
        return None
    if len(words) != 6 or words[1] not in ("TCP4", "TCP6"):
        raise HeaderError("the header is not well formed")
    family = ipaddress.IPv4Address if words[1] == "TCP4" else ipaddress.IPv6Address
    try:
        source, _ours = family(words[2]), family(words[3])
    except ValueError:
        raise HeaderError("an address in the header is not well formed") from None
    if not all(_is_port(word) for word in words[4:]):
        raise HeaderError("a port in the header is not well formed")
    return _shown(source), int(words[4])


def _is_port(word: str) -> bool:
    return word.isdigit() and len(word) <= 5 and str(int(word)) == word and int(word) <= _MAX_PORT


def _parse_binary(head: bytes) -> Peer | None:
    if head[12] not in (_LOCAL, _PROXY):
        raise HeaderError("neither version nor command is known")
    if head[12] == _LOCAL:
        return None
    family, transport = head[13] >> 4, head[13] & 0xF
    if family == 0:
        return None
    if family not in _LENGTHS or transport not in _STREAM_OR_UNKNOWN:
        raise HeaderError("the kind of address is not known")
    size, octets = _LENGTHS[family]
    if len(head) < _FIXED + octets:
        raise HeaderError("the addresses are cut short")
    if family == _UNIX:
        return None
    ports = _FIXED + 2 * size
    source = ipaddress.ip_address(head[_FIXED : _FIXED + size])
    return _shown(source), int.from_bytes(head[ports : ports + 2])


def _shown(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """An address as lists and counters know it: ::ffff:192.0.2.1 is 192.0.2.1."""
    return str(getattr(ip, "ipv4_mapped", None) or ip)
