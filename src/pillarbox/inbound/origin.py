"""Find out who really sent a letter: run the plans of SPF, DKIM, DMARC and ARC together, and hash its body.

What follows from the verdicts is in `policy.origin`; the standards are in `mailauth`.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec

from pillarbox.inbound.asked import Asked, Begun, Lines
from pillarbox.inbound.case import Case
from pillarbox.mail import message
from pillarbox.mail.reply import Reply
from pillarbox.mailauth import arc, dkim, dmarc, spf
from pillarbox.mailauth.canonical import BodyHash, hash_body
from pillarbox.mailauth.dns import Conclusions, Lookup, Recall
from pillarbox.mailauth.results import (
    Finding,
    format_finding,
    format_received_spf,
    join_findings,
    server_of,
)
from pillarbox.policy.hooks import Client
from pillarbox.policy.origin import Judgement, OriginPolicy, Verdicts
from pillarbox.queue.spool import Draft

_READ_OCTETS = 262_144
_RESULTS_FIELD = re.compile(rb"(?:\A|\n)(authentication-results)[ \t]*:", re.IGNORECASE)
FORMER_RESULTS = b"X-Foreign-Auth-Results"  # as long as the name that it replaces, so that nothing moves


class Checked(msgspec.Struct, frozen=True):
    """What was found about one letter."""

    refusal: Reply | None
    warnings: tuple[Reply, ...]
    prefix: bytes  # Authentication-Results and Received-SPF
    findings: tuple[Finding, ...]
    told: str  # for the trace: the findings and what DNS answered, a line each
    held: bool = False  # whether it is to wait in the queue for the operator
    client_name: str = ""  # a name of the client that leads back to it


def find_organization(way: str) -> dmarc.Organization | None:
    """What tells which organization a domain belongs to, by the setting `dmarc.organization`; None if DNS is asked."""
    if way != "suffixes":
        return None
    from publicsuffixlist import PublicSuffixList  # noqa: PLC0415 - the list takes 30 ms to read

    suffixes = PublicSuffixList()
    return lambda domain: suffixes.privatesuffix(domain) or domain


class OriginChecks:
    """The checks of one configuration, for mail of strangers: our own clients are not asked where their mail is from."""

    def __init__(
        self,
        policy: OriginPolicy,
        lookup: Lookup,
        *,
        hostname: str,
        recall: Recall = lambda _query: None,
        organization: dmarc.Organization | None = None,
        count: Callable[[Verdicts, Judgement, str, str], None] | None = None,
    ) -> None:
        """`organization` takes the place of DMARC's tree walk.

        `count` is told of each message for reports: what was found, what follows, client and sender.
        """
        self._policy = policy
        self._lookup = lookup
        self._recall = recall
        self._conclusions = Conclusions(recall)
        self._lines = Lines()
        self._hostname = hostname
        self._organization = organization
        self._count = count

    @property
    def seals(self) -> bool:
        """Whether forwarded mail is sealed."""
        return self._policy.arc.check and self._policy.arc.seal

    def begin(
        self, client: Client, sender: str, head: message.Head, draft: Draft, sealer: dkim.Signer | None = None
    ) -> Checked | Awaitable[Checked]:
        """Find out what the settings want to know, and what follows; with `sealer` seal that (RFC 8617).

        If all answers are remembered and the body is small, nothing is waited for. Raises SpoolError.
        """
        origin = spf.Client(client.address, client.helo, sender, self._hostname, time.time())
        asked = Asked(self._lookup, self._recall, self._conclusions)
        case = Case(self._policy, origin, head, asked, self._organization)
        if sealer is not None:
            case.seal()
        if case.hashes:
            if draft.file is not None:
                return self._check_large(case, draft.file, head.body_at, sealer)
            hash_body((draft.inline()[head.body_at :],), case.hashes)
        begun = asked.begin(case.works())
        if begun.waiting:
            return self._check(case, begun, sealer)
        begun = asked.begin(case.judging(begun.results))
        if begun.waiting:
            return self._judge(case, begun, sealer)
        return self._conclude(case, case.verdicts(begun.results), sealer)

    async def _check_large(self, case: Case, file: Path, body_at: int, sealer: dkim.Signer | None) -> Checked:
        await asyncio.to_thread(_hash_file, file, body_at, case.hashes)
        return await self._check(case, case.asked.begin(case.works()), sealer)

    async def _check(self, case: Case, begun: Begun, sealer: dkim.Signer | None) -> Checked:
        results = await case.asked.finish(begun)
        return await self._judge(case, case.asked.begin(case.judging(results)), sealer)

    async def _judge(self, case: Case, begun: Begun, sealer: dkim.Signer | None) -> Checked:
        return self._conclude(case, case.verdicts(await case.asked.finish(begun)), sealer)

    def _conclude(self, case: Case, found: Verdicts, sealer: dkim.Signer | None) -> Checked:
        """What follows, and the fields that say so."""
        policy, client, name = self._policy, case.client, self._hostname
        judgement = policy.judge(found, client.address)
        if self._count is not None:
            self._count(found, judgement, client.address, client.sender)
        findings = policy.findings(found, judgement)
        told = [format_finding(one) for one in findings]
        prefix = f"Authentication-Results: {join_findings(name, told)}\r\n".encode("utf-8", "surrogateescape")
        for one in (found.spf, found.helo) if policy.spf.check else ():
            if one is not None:
                prefix += format_received_spf(
                    one.result, one.identity, client.address, client.sender, client.helo, name, one.detail
                )
        if judgement.suspect == "junk":
            prefix += message.JUNK_FIELD
        if sealer is not None and case.to_seal is not None and found.arc is not None:
            digest, chain, now = case.to_seal.digest(), found.arc.result, client.now
            prefix = (
                arc.seal(case.header, digest, sealer, server=name, findings=findings, chain=chain, now=now)
                + prefix
            )
        told = [one.replace("\r\n\t", " ") for one in told]
        told += self._lines.of(case.asked.evidence())
        return Checked(
            judgement.refusal,
            judgement.warnings,
            prefix,
            tuple(findings),
            "\n".join(told),
            judgement.suspect == "hold",
            found.iprev.name if found.iprev is not None and found.iprev.result == "pass" else "",
        )

    def disown_results(self, head: message.Head, draft: Draft) -> None:
        """Take our name from fields that a stranger wrote: an Authentication-Results with it is none any more (RFC 8601 5).

        The field gets another name of the same length, in place: nothing moves, and a large body is not written again.
        Raises SpoolError.
        """
        if "authentication-results" not in head:
            return
        for found in _RESULTS_FIELD.finditer(head.section):
            value = _FIELD_END.split(head.section[found.end() : found.end() + _MAX_LOOK], maxsplit=1)[0]
            if server_of(value.decode("utf-8", "replace")) == self._hostname.lower():
                draft.overwrite(found.start(1), FORMER_RESULTS)


def _hash_file(path: Path, start: int, hashes: Sequence[BodyHash]) -> None:
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while piece := file.read(_READ_OCTETS):
            for one in hashes:
                one.update(piece)


async def hash_to_sign(draft: Draft, start: int) -> bytes:
    """What a signature says of a large body, worked out in a thread."""
    one = BodyHash()
    assert draft.file is not None  # a small body is hashed at once
    await asyncio.to_thread(_hash_file, draft.file, start, (one,))
    return one.digest()


def hash_octets(octets: bytes, start: int) -> bytes:
    """The same of a body in memory."""
    one = BodyHash()
    one.update(octets[start:])
    return one.digest()


_FIELD_END = re.compile(rb"\n(?![ \t])")
_MAX_LOOK = 1024  # octets of a field in which its server must be named
