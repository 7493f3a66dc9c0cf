"""Ask more of single hosts than of all: a newer TLS, an authority of one's own, or a key that is known.

What is demanded of a host beside that is decided by `relay.demand`.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

from msgspec.structs import replace

from pillarbox.mail.units import Settings
from pillarbox.mailauth.dane import END_ENTITY, PUBLIC_KEY, SHA_256, Tlsa
from pillarbox.net.tls import TlsVersion
from pillarbox.relay.demand import Source
from pillarbox.relay.plan import Tls

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pillarbox.relay.demand import Demand

_PIN = "sha256/"
_DIGEST_OCTETS = 32


class PeerSettings(Settings, frozen=True):
    """What one host must do, whatever routes and domains demand: `[[relay.peer]]`. Nothing is sent to it in clear."""

    host: str
    """The host's name as it is connected to, such as "mx.example.net", or "*.example.net" for all below it."""
    min_tls: TlsVersion = "1.2"
    """The oldest TLS that is good enough."""
    ca_file: str = ""
    """File with the certificates that may vouch for it, instead of all authorities that are trusted otherwise."""
    pins: tuple[str, ...] = ()
    """The public keys that it may show: "sha256/" and the base64 of the hash of the key (SubjectPublicKeyInfo). Then no
    authority has to vouch for it, and neither DANE nor MTA-STS is asked."""

    def __post_init__(self) -> None:
        """Refuse pins that nothing could fit. Raises ValueError."""
        for pin in self.pins:
            parse_pin(pin)


def parse_pin(text: str) -> Tlsa:
    """The key that a pin means, as the record that would name it in DNS. Raises ValueError."""
    try:
        digest = base64.b64decode(text.removeprefix(_PIN), validate=True)
    except binascii.Error:
        digest = b""
    if not text.startswith(_PIN) or len(digest) != _DIGEST_OCTETS:
        raise ValueError(f'not the hash of a key: {text!r}; write "sha256/" and 44 characters of base64')
    return Tlsa(END_ENTITY, PUBLIC_KEY, SHA_256, digest)


class Peers:
    """All hosts of which more is asked; the first entry that fits counts."""

    def __init__(self, settings: Sequence[PeerSettings]) -> None:
        """Read their pins once."""
        self._entries = [(one, tuple(map(parse_pin, one.pins))) for one in settings]

    def demand(self, host: str, demand: Demand) -> Demand:
        """What to demand of a host of which others already demand something."""
        name = host.rstrip(".").lower()
        for one, pins in self._entries:
            wanted = one.host.lower()
            if name != wanted and not (wanted.startswith("*.") and name.endswith(wanted[1:])):
                continue
            tls = Tls.IMPLICIT if demand.tls is Tls.IMPLICIT else Tls.REQUIRED
            demand = replace(demand, tls=tls, min_version=one.min_tls, ca_file=one.ca_file, testing=False)
            if pins:
                return replace(demand, source=Source.ROUTE, checked=False, tlsa=pins, base="", vouched=True)
            return replace(demand, checked=True, tlsa=(), base="") if one.ca_file else demand
        return demand
