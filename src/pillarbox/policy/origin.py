"""Decide what follows from what SPF, DKIM, DMARC and ARC found about a message, and say it in a field of its header.

The findings come in as verdicts; looking them up is the business of `inbound.origin`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from pillarbox.mail.catalogue import origin
from pillarbox.mail.reply import Reply
from pillarbox.mail.units import Settings
from pillarbox.mailauth import arc, dkim, dmarc, spf
from pillarbox.mailauth.names import a_labels
from pillarbox.mailauth.results import Finding

Action: TypeAlias = Literal["reject", "defer", "warn", "tag"]
"""What to do: refuse for good, refuse for now, take it and write it into the log, or only into the header."""


class SpfSettings(Settings, frozen=True):
    """Whether the host that brings a message may send for the domain of the reverse-path (RFC 7208)."""

    check: bool = False
    """Look it up, and write Received-SPF and Authentication-Results in front of the message."""
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
    min_bits: int = 1024
    """RSA keys shorter than this are not believed; never less than 1024 (RFC 8301)."""
    partial: bool = False
    """Believe signatures that leave text at the end unsigned (`l=`), or to which a From or Subject field was added."""
    sign: bool = True
    """Sign outgoing mail of domains that have a key; `pillarbox dkim new` makes one."""


class DmarcSettings(Settings, frozen=True):
    """Whether the domain in From stands behind a message, and what it wants done if not (RFC 9989)."""

    check: bool = False
    """Look it up; SPF and DKIM are then checked too."""
    enforce: bool = True
    """Refuse what the domain in From wants refused (550 5.7.26 or 5.7.1); otherwise only say so in the header."""
    temperror: Action = "tag"
    """What to do if DNS gives no answer; `defer` answers 451 4.4.3."""
    no_author: Action = "tag"
    """What to do if there is not exactly one From field that names a domain."""
    organization: Literal["tree", "suffixes"] = "tree"
    """How to find out which domains belong together: by the tree walk of RFC 9989, or by the list of public suffixes."""
    except_domains: tuple[str, ...] = ()
    """Domains in From whose wish to refuse is not heeded."""
    except_networks: tuple[str, ...] = ()
    """Networks of clients, such as known forwarders, whose mail is not refused for DMARC."""


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
    not refused for DMARC."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """All that was found; None or () for what was not looked at."""

    spf: spf.Verdict | None = None
    dkim: tuple[dkim.Verdict, ...] | None = None
    dmarc: tuple[dmarc.Verdict, ...] | None = None  # one for each domain in From
    arc: arc.Verdict | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """What follows: a refusal, or the replies that a setting of `warn` held back."""

    refusal: Reply | None
    warnings: tuple[Reply, ...] = ()


class OriginPolicy:
    """The settings of all four checks, and what they make of verdicts."""

    def __init__(self, spf: SpfSettings, dkim: DkimSettings, dmarc: DmarcSettings, arc: ArcSettings) -> None:
        """Raises ValueError if a network is not well formed."""
        self.spf, self.dkim, self.dmarc, self.arc = spf, dkim, dmarc, arc
        self._excepted = frozenset(map(a_labels, dmarc.except_domains))
        self._forwarders = [ipaddress.ip_network(network) for network in dmarc.except_networks]
        self._sealers = frozenset(map(a_labels, arc.trusted_sealers))

    @property
    def wants_spf(self) -> bool:
        return self.spf.check or self.dmarc.check

    @property
    def wants_dkim(self) -> bool:
        return self.dkim.check or self.dmarc.check

    @property
    def wants_anything(self) -> bool:
        """Whether any check is on."""
        return self.wants_spf or self.wants_dkim or self.arc.check

    def weigh(self, verdict: dkim.Verdict) -> dkim.Verdict:
        """A signature that passes, but is not one that we believe, becomes a matter of policy (RFC 8601 2.7.1)."""
        if verdict.result != "pass":
            return verdict
        if verdict.loose and not self.dkim.partial:
            return replace(verdict, result="policy", detail=verdict.notes[0])
        if verdict.algorithm == "rsa-sha256" and verdict.bits < self.dkim.min_bits:
            return replace(verdict, result="policy", detail=f"an RSA key of {verdict.bits} bits is too short")
        return verdict

    def judge(self, found: Verdicts, client: str) -> Judgement:
        """The first objection whose action refuses; `client` is the address of who brought it."""
        warnings = []
        for action, reply in self._objections(found, client):
            if action == "reject":
                return Judgement(reply)
            if action == "defer":
                return Judgement(
                    reply if reply.temporary else origin.UNKNOWN_FOR_NOW.reply(problem=reply.text)
                )
            if action == "warn":
                warnings.append(reply)
        return Judgement(None, tuple(warnings))

    def _objections(self, found: Verdicts, client: str) -> Iterator[tuple[Action, Reply]]:
        if self.spf.check and found.spf is not None:
            yield from self._on_spf(found.spf, client)
        if self.dkim.check and found.dkim is not None:
            yield from self._on_dkim(found)
        if self.arc.check and found.arc is not None:
            if found.arc.result == "fail":
                yield self.arc.broken, origin.ARC_BROKEN.reply(problem=found.arc.detail)
            elif found.arc.result == "temperror":
                yield _for_now(self.arc.broken), origin.UNKNOWN_FOR_NOW.reply(problem=found.arc.detail)
        if found.dmarc is not None:
            yield from self._on_dmarc(found, client)

    def _on_spf(self, found: spf.Verdict, client: str) -> Iterator[tuple[Action, Reply]]:
        settings = self.spf
        if found.result in {"fail", "softfail"}:
            words = f": {found.explanation}" if found.explanation else ""
            action = settings.fail if found.result == "fail" else settings.softfail
            yield (
                action,
                origin.SPF_FAIL.reply(domain=found.domain, client=client, result=found.result, words=words),
            )
        elif found.result == "temperror":
            yield settings.temperror, origin.SPF_FOR_NOW.reply(domain=found.domain)
        elif found.result == "permerror":
            yield settings.permerror, origin.SPF_BROKEN.reply(domain=found.domain, problem=found.detail)

    def _on_dkim(self, found: Verdicts) -> Iterator[tuple[Action, Reply]]:
        settings, verdicts = self.dkim, found.dkim or ()
        good = [one for one in verdicts if one.result == "pass"]
        doubtful = next((one for one in verdicts if one.result == "temperror"), None)
        if not good and doubtful is not None:
            reply = origin.UNKNOWN_FOR_NOW.reply(problem=doubtful.detail)
            yield _for_now(settings.missing), reply
            yield _for_now(settings.not_author), reply
            return
        if not good:
            refused = next((one for one in verdicts if one.result == "policy" and one.bits), None)
            if refused is not None:
                yield settings.unacceptable, origin.DKIM_UNACCEPTABLE.reply(problem=refused.detail)
            detail = f": {verdicts[0].detail}" if verdicts else ""
            yield settings.missing, origin.DKIM_MISSING.reply(problem=detail)
        author = found.dmarc[0] if found.dmarc else None
        if author is not None and author.domain and not self._is_author(good, author):
            yield settings.not_author, origin.DKIM_NOT_AUTHOR.reply(domain=author.domain)

    def _is_author(self, good: Sequence[dkim.Verdict], author: dmarc.Verdict) -> bool:
        """Whether a signature is by the author's domain; by its organization only if that was looked up."""
        return "dkim" in author.aligned or any(one.domain == author.domain for one in good)

    def _on_dmarc(self, found: Verdicts, client: str) -> Iterator[tuple[Action, Reply]]:
        settings, verdicts = self.dmarc, found.dmarc or ()
        if not settings.check:
            return
        for one in verdicts:
            if one.result == "permerror":
                yield settings.no_author, origin.DMARC_NO_AUTHOR.reply()
            elif one.result == "temperror":
                yield settings.temperror, origin.UNKNOWN_FOR_NOW.reply(problem=one.detail)
            elif self.refuses(one, found, client):
                yield "reject", self._dmarc_reply(one, found)

    def refuses(self, one: dmarc.Verdict, found: Verdicts, client: str) -> bool:
        """Whether the wish of the author's domain to refuse is heeded."""
        return (
            one.result == "fail"
            and one.policy == "reject"
            and self.dmarc.enforce
            and not self.exception(one, found, client)
        )

    def exception(self, one: dmarc.Verdict, found: Verdicts, client: str) -> str:
        """Why a message that fails is not refused all the same; "" if there is no reason (RFC 9989 5.4)."""
        if one.domain in self._excepted:
            return "local_policy"
        if self._forwarders and _lies_in(client, self._forwarders):
            return "trusted_forwarder"
        return "arc" if found.arc is not None and self._vouched(found.arc, one.domain) else ""

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

    def _dmarc_reply(self, one: dmarc.Verdict, found: Verdicts) -> Reply:
        passed = (found.spf is not None and found.spf.result == "pass") or any(
            verdict.result == "pass" for verdict in found.dkim or ()
        )
        cause = origin.DMARC_REJECT if passed else origin.DMARC_REJECT_BOTH
        return cause.reply(domain=one.domain)

    def findings(self, found: Verdicts, client: str) -> list[Finding]:
        """What stands in Authentication-Results."""
        listed = []
        if found.spf is not None:
            listed.append(_spf_finding(found.spf))
        if found.dkim is not None:
            listed += [_dkim_finding(one) for one in found.dkim] or [Finding("dkim", "none")]
        if self.dmarc.check:
            listed += [self._dmarc_finding(one, found, client) for one in found.dmarc or ()]
        if found.arc is not None:
            sealer = found.arc.sealers[-1] if found.arc.sealers else ""
            listed.append(Finding("arc", found.arc.result, (("header.d", sealer),), found.arc.detail))
        return listed

    def _dmarc_finding(self, one: dmarc.Verdict, found: Verdicts, client: str) -> Finding:
        comment = f"p={one.policy}" if one.result in {"pass", "fail"} else ""
        exception = self.exception(one, found, client) if one.result == "fail" else ""
        if exception:
            comment += f", not heeded: {exception}"
        reason = "" if one.result in {"pass", "none"} else one.detail
        return Finding("dmarc", one.result, (("header.from", one.domain),), reason, comment)


def _for_now(action: Action) -> Action:
    """What is refused for good if it is certain is refused for now as long as it is not."""
    return "defer" if action == "reject" else action


def _lies_in(client: str, networks: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    try:
        ip = ipaddress.ip_address(client)
    except ValueError:
        return False
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return any(ip in network for network in networks)


def _spf_finding(one: spf.Verdict) -> Finding:
    reason = one.detail if one.result.endswith("error") else ""
    return Finding("spf", one.result, ((f"smtp.{one.identity}", one.domain),), reason)


def _dkim_finding(one: dkim.Verdict) -> Finding:
    properties = (
        ("header.d", one.domain),
        ("header.s", one.selector),
        ("header.a", one.algorithm),
        ("header.b", one.signature_start),
    )
    comment = "; ".join((*one.notes, "test mode")) if one.testing else "; ".join(one.notes)
    return Finding("dkim", one.result, properties, one.detail, comment)
