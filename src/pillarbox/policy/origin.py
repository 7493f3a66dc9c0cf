"""Decide what follows from what SPF, DKIM, DMARC and ARC found about a message, and say it in a field of its header.

The findings come in as verdicts; looking them up is the business of `inbound.origin`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
from msgspec.structs import replace

from pillarbox.mail.catalogue import origin
from pillarbox.mail.reply import Reply
from pillarbox.mailauth import arc, dkim, dmarc, iprev, spf
from pillarbox.mailauth.results import Finding
from pillarbox.mailauth.spf import Verdict as SpfVerdict
from pillarbox.policy.author import Action, AuthorPolicy, Disposition, DmarcSettings
from pillarbox.policy.origin_settings import ArcSettings, DkimSettings, SpfSettings


class Verdicts(msgspec.Struct, frozen=True):
    """All that was found; None or () for what was not looked at."""

    spf: SpfVerdict | None = None
    helo: SpfVerdict | None = None  # what SPF says of the name in HELO, if that was asked about for itself
    dkim: tuple[dkim.Verdict, ...] | None = None
    dmarc: tuple[dmarc.Verdict, ...] | None = None  # one for each domain in From
    arc: arc.Verdict | None = None
    iprev: iprev.Verdict | None = None


class Judgement(msgspec.Struct, frozen=True):
    """What follows: a refusal, or the replies that a setting of `warn` held back."""

    refusal: Reply | None
    warnings: tuple[Reply, ...] = ()
    dispositions: tuple[Disposition, ...] = ()  # one for each verdict of DMARC

    @property
    def suspect(self) -> str:
        """How a message that is taken is to be set apart: "junk", "hold" or ""."""
        found = {one.handling for one in self.dispositions}
        return next((handling for handling in ("hold", "junk") if handling in found), "")


class OriginPolicy:
    """The settings of all four checks, and what they make of verdicts."""

    def __init__(
        self,
        spf: SpfSettings,
        dkim: DkimSettings,
        dmarc: DmarcSettings,
        arc: ArcSettings,
        *,
        iprev: bool = False,
    ) -> None:
        """With `iprev` the client's name is looked up too. Raises ValueError if a network is not well formed."""
        self.spf, self.dkim, self.dmarc, self.arc, self.iprev = spf, dkim, dmarc, arc, iprev
        self._author = AuthorPolicy(dmarc, arc.trusted_sealers)

    @property
    def wants_spf(self) -> bool:
        return self.spf.check or self.dmarc.check

    @property
    def wants_dkim(self) -> bool:
        return self.dkim.check or self.dmarc.check

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
        dispositions = tuple(self._author.dispose(one, found.arc, client) for one in found.dmarc or ())
        warnings = []
        for action, reply in self._objections(found, dispositions, client):
            if action == "reject":
                return Judgement(reply, (), dispositions)
            if action == "defer":
                later = reply if reply.temporary else origin.UNKNOWN_FOR_NOW.reply(problem=reply.text)
                return Judgement(later, (), dispositions)
            if action == "warn":
                warnings.append(reply)
        return Judgement(None, tuple(warnings), dispositions)

    def _objections(
        self, found: Verdicts, dispositions: Sequence[Disposition], client: str
    ) -> Iterator[tuple[Action, Reply]]:
        if self.spf.check:
            for one in (found.spf, found.helo):
                if one is not None:
                    yield from self._on_spf(one, client)
        if self.dkim.check and found.dkim is not None:
            yield from self._on_dkim(found)
        if self.arc.check and found.arc is not None:
            if found.arc.result == "fail":
                yield self.arc.broken, origin.ARC_BROKEN.reply(problem=found.arc.detail)
            elif found.arc.result == "temperror":
                yield _for_now(self.arc.broken), origin.UNKNOWN_FOR_NOW.reply(problem=found.arc.detail)
        if found.dmarc is not None:
            yield from self._on_dmarc(found, dispositions)

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

    def _on_dmarc(
        self, found: Verdicts, dispositions: Sequence[Disposition]
    ) -> Iterator[tuple[Action, Reply]]:
        settings = self.dmarc
        if not settings.check:
            return
        for one, disposition in zip(found.dmarc or (), dispositions, strict=True):
            if one.result == "permerror":
                yield settings.no_author, origin.DMARC_NO_AUTHOR.reply()
            elif one.result == "temperror":
                yield settings.temperror, origin.UNKNOWN_FOR_NOW.reply(problem=one.detail)
            elif disposition.handling == "reject":
                yield "reject", self._dmarc_reply(one, found)

    def _dmarc_reply(self, one: dmarc.Verdict, found: Verdicts) -> Reply:
        passed = (found.spf is not None and found.spf.result == "pass") or any(
            verdict.result == "pass" for verdict in found.dkim or ()
        )
        cause = origin.DMARC_REJECT if passed else origin.DMARC_REJECT_BOTH
        return cause.reply(domain=one.domain, wish="refused" if one.policy == "reject" else "put aside")

    def findings(self, found: Verdicts, judgement: Judgement) -> list[Finding]:
        """What stands in Authentication-Results."""
        listed = []
        if found.iprev is not None:
            listed.append(_iprev_finding(found.iprev))
        if found.spf is not None:
            listed.append(_spf_finding(found.spf))
        if found.helo is not None:
            listed.append(_spf_finding(found.helo))
        if found.dkim is not None:
            listed += [_dkim_finding(one) for one in found.dkim] or [Finding("dkim", "none")]
        if self.dmarc.check:
            listed += map(_dmarc_finding, found.dmarc or (), judgement.dispositions)
        if found.arc is not None:
            sealer = found.arc.sealers[-1] if found.arc.sealers else ""
            listed.append(Finding("arc", found.arc.result, (("header.d", sealer),), found.arc.detail))
        return listed


def _for_now(action: Action) -> Action:
    """What is refused for good if it is certain is refused for now as long as it is not."""
    return "defer" if action == "reject" else action


def _dmarc_finding(one: dmarc.Verdict, disposition: Disposition) -> Finding:
    comment = f"p={one.policy}" if one.result in {"pass", "fail"} else ""
    if disposition.handling in {"junk", "hold"}:
        comment += ", taken with suspicion"
    elif disposition.reason not in {"", "policy_test_mode"} and disposition.handling == "tag":
        comment += f", not heeded: {disposition.comment or disposition.reason}"
    reason = "" if one.result in {"pass", "none"} else one.detail
    return Finding("dmarc", one.result, (("header.from", one.domain),), reason, comment)


def _iprev_finding(one: iprev.Verdict) -> Finding:
    reason = "" if one.result == "pass" else one.detail
    return Finding("iprev", one.result, (("policy.iprev", one.address),), reason, one.name)


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
