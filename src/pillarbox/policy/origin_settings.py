"""What is set about who really sent a message, and about our own signatures.

What follows from these settings is decided in `policy.origin` and `policy.author`, which a server loads only if it checks.
"""

from __future__ import annotations

from pillarbox.mail.units import Settings
from pillarbox.policy.author import Action

MIN_RSA_BITS = 1024  # what a setting may ask for at least (RFC 8301 3.2)
KEYS_FOLDER = "dkim"  # in the data folder: the keys that sign


class SpfSettings(Settings, frozen=True):
    """Whether the host that brings a message may send for the domain of the reverse-path (RFC 7208)."""

    check: bool = False
    """Look it up, and write Received-SPF and Authentication-Results in front of the message."""
    helo: bool = False
    """Ask about the name in HELO too (RFC 7208 2.3), not only if the reverse-path is empty. What follows from its result is
    set by the settings below, as for the domain of the reverse-path."""
    fail: Action = "tag"
    """What to do with a message whose domain says no: `reject` (550 5.7.23), `defer`, `warn` (accept, and say so in the
    log), or `tag` (accept, and say so in the header only)."""
    softfail: Action = "tag"
    """What to do if the domain says "probably not"."""
    temperror: Action = "tag"
    """What to do if DNS gives no answer; `defer` answers 451 4.7.24."""
    permerror: Action = "tag"
    """What to do if the record is not well-formed."""


class DkimSettings(Settings, frozen=True):
    """Whether a domain vouches for a message by its signature (RFC 6376), and what we sign ourselves."""

    check: bool = False
    """Verify signatures, up to eight of a message, and write Authentication-Results in front of it."""
    missing: Action = "tag"
    """What to do if no signature passes: `reject` (550 5.7.20), `defer`, `warn` or `tag`."""
    unacceptable: Action = "tag"
    """What to do if one passes, but none that we believe (5.7.21): see `min_bits` and `partial`."""
    not_author: Action = "tag"
    """What to do if none that passes is by the domain in From or by its organization (5.7.22)."""
    min_bits: int = MIN_RSA_BITS
    """RSA keys shorter than this are not believed; never less than 1024 (RFC 8301)."""
    partial: bool = False
    """Believe signatures that leave text at the end unsigned (`l=`), or to which a From or Subject field was added."""
    sign: bool = True
    """Sign outgoing mail of domains that have a key; `pillarbox dkim new` makes one."""


class ArcSettings(Settings, frozen=True):
    """Whether forwarded mail tells truly what was found before it was forwarded (RFC 8617)."""

    check: bool = False
    """Verify the chain of seals, and write Authentication-Results in front of the message."""
    broken: Action = "tag"
    """What to do with a chain that does not hold; `reject` answers 550 5.7.29."""
    seal: bool = True
    """Seal mail that is forwarded to another host, if the domain that it came to has a key (`pillarbox dkim new`) and
    `check` is on: others then see what we had found."""
    trusted_sealers: tuple[str, ...] = ()
    """Domains whose seals are believed: if the chain holds and one of these found that DMARC had passed, the message is
    neither refused nor junk for DMARC."""
