"""Decide what follows from DMARC: whether the wish of the domain in From is heeded, and what is done instead if not.

How it is found out whether the domain stands behind a message is the business of `mailauth.dmarc`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from pillarbox.mail.units import Settings
from pillarbox.mailauth.names import a_labels
from pillarbox.policy.lists import Networks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pillarbox.mailauth import arc, dmarc

Action: TypeAlias = Literal["reject", "defer", "warn", "tag"]
"""What to do: refuse for good, refuse for now, take it and write it into the log, or only into the header."""
Handling: TypeAlias = Literal["reject", "junk", "hold", "tag"]
"""What to do with mail that fails: refuse it, take it as junk, keep it in the queue for the operator, or only say so."""
_DONE = {"reject": "reject", "junk": "quarantine", "hold": "quarantine", "tag": "none"}


class DmarcSettings(Settings, frozen=True):
    """Whether the domain in From stands behind a message, and what it wants done if not (RFC 9989)."""

    check: bool = False
    """Look it up; SPF and DKIM are then checked too."""
    enforce: bool = True
    """Heed what the domain in From wants: `reject` and `quarantine` tell how; otherwise only say so in the header."""
    reject: Handling = "reject"
    """What to do with mail that the domain in From wants refused: `reject` (550 5.7.26 or 5.7.1), `junk`, `hold` or `tag`,
    as for `quarantine`."""
    quarantine: Handling = "junk"
    """What to do with mail that the domain in From wants looked at with suspicion: `junk` (accept it, mark it with
    X-Spam-Flag, and put it into the folder `junk_folder` of a Maildir), `hold` (accept it, and keep it in the queue until
    `pillarbox queue release` or `remove`), `reject`, or `tag` (accept, and say so in the header only)."""
    temperror: Action = "tag"
    """What to do if DNS gives no answer; `defer` answers 451 4.4.3."""
    no_author: Action = "tag"
    """What to do if there is not exactly one From field that names a domain."""
    organization: Literal["tree", "suffixes"] = "tree"
    """How to find out which domains belong together: by the tree walk of RFC 9989, or by the list of public suffixes."""
    except_domains: tuple[str, ...] = ()
    """Domains in From whose wish is not heeded."""
    except_networks: tuple[str, ...] = ()
    """Networks of clients, such as known forwarders, whose mail is neither refused nor junk for DMARC."""


class Disposition(NamedTuple):
    """What is done with a message for one domain in From."""

    handling: Handling | Literal["pass"]
    reason: str = ""  # why it is not what was asked for, as reports name it (RFC 9990 3.1.6)
    comment: str = ""

    @property
    def done(self) -> str:
        """The same, as reports say it."""
        return _DONE.get(self.handling, "pass")


class AuthorPolicy:
    """The settings of DMARC, and whom we believe about forwarded mail."""

    def __init__(self, settings: DmarcSettings, trusted_sealers: Sequence[str]) -> None:
        """Raises ValueError if a network is not well formed."""
        self.settings = settings
        self._excepted = frozenset(map(a_labels, settings.except_domains))
        self._forwarders = Networks(settings.except_networks)
        self._sealers = frozenset(map(a_labels, trusted_sealers))

    def dispose(self, one: dmarc.Verdict, chain: arc.Verdict | None, client: str) -> Disposition:
        """What to do, by the wish of the domain, our settings, and what is known of the way (RFC 9989 5.4)."""
        if one.result != "fail" or one.policy == "none":
            if one.result == "pass":
                return Disposition("pass" if one.policy != "none" else "tag")
            softened = one.result == "fail" and one.testing and one.published != "none"
            return Disposition("tag", "policy_test_mode") if softened else Disposition("tag")
        settings = self.settings
        if one.domain in self._excepted:
            return Disposition("tag", "local_policy", "domain")
        if self._forwarders.holds(client):
            return Disposition("tag", "trusted_forwarder")
        if chain is not None and self._vouched(chain, one.domain):
            return Disposition("tag", "local_policy", "arc")
        if not settings.enforce:
            return Disposition("tag", "local_policy", "not enforced")
        handling = settings.reject if one.policy == "reject" else settings.quarantine
        if _DONE[handling] != one.policy:
            return Disposition(handling, "local_policy", "setting")
        return Disposition(handling, "policy_test_mode" if one.policy != one.published else "")

    def _vouched(self, chain: arc.Verdict, domain: str) -> bool:
        """Whether a sealer whom we trust found that DMARC had passed for the author's domain (RFC 8617 7.2).

        Whoever sealed after the first trusted one must be trusted too: it could have changed everything.
        """
        if chain.result != "pass":
            return False
        for sealer, results in zip(reversed(chain.sealers), reversed(chain.results), strict=True):
            if a_labels(sealer) not in self._sealers:
                return False
            for finding in results.findings if results is not None else ():
                if finding.method == "dmarc" and finding.result == "pass":
                    return a_labels(dict(finding.properties).get("header.from", domain)) == domain
        return False
