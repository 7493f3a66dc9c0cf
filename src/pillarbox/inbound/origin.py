"""Find out who really sent a letter: run the plans of SPF, DKIM, DMARC and ARC together, and hash its body.

What follows from the verdicts is in `policy.origin`; the standards are in `mailauth`.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from pillarbox.inbound.asked import LATE, Asked, Lines, Work
from pillarbox.mail import message
from pillarbox.mail.reply import Reply
from pillarbox.mailauth import arc, dkim, dmarc, iprev, spf
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

    async def check(
        self, client: Client, sender: str, head: message.Head, draft: Draft, sealer: dkim.Signer | None = None
    ) -> Checked:
        """Look everything up that the settings want to know, and say what follows; with `sealer` seal that (RFC 8617)."""
        policy = self._policy
        asked = Asked(self._lookup, self._recall, self._conclusions)
        spf_client = spf.Client(client.address, client.helo, sender, self._hostname, time.time())
        body = _Body(dkim.Header(head.section), draft, head.body_at)
        if sealer is not None:
            body.to_seal = BodyHash()
        found = await self._gather(spf_client, head, body, asked)
        judgement = policy.judge(found, client.address)
        if self._count is not None:
            self._count(found, judgement, client.address, sender)
        findings = policy.findings(found, judgement)
        told = [format_finding(one) for one in findings]
        said = join_findings(self._hostname, told)
        prefix = f"Authentication-Results: {said}\r\n".encode("utf-8", "surrogateescape")
        if found.spf is not None and policy.spf.check:
            one, name = found.spf, self._hostname
            prefix += format_received_spf(
                one.result, one.identity, client.address, sender, client.helo, name, one.detail
            )
        if judgement.suspect == "junk":
            prefix += message.JUNK_FIELD
        if sealer is not None and body.to_seal is not None and found.arc is not None:
            digest, chain = body.to_seal.digest(), found.arc.result
            now, name = spf_client.now, self._hostname
            prefix = (
                arc.seal(body.header, digest, sealer, server=name, findings=findings, chain=chain, now=now)
                + prefix
            )
        told += self._lines.of(asked.evidence())
        return Checked(
            judgement.refusal,
            judgement.warnings,
            prefix,
            tuple(findings),
            "\n".join(told),
            judgement.suspect == "hold",
            found.iprev.name if found.iprev is not None and found.iprev.result == "pass" else "",
        )

    async def _gather(self, client: spf.Client, head: message.Head, body: _Body, asked: Asked) -> Verdicts:
        policy, now, header = self._policy, client.now, body.header
        signatures = dkim.signatures(header) if policy.wants_dkim else []
        chain = arc.parse_chain(header) if policy.arc.check else arc.Chain()
        bodies = await body.hash_for([*signatures, *chain.bodies])
        works: list[Work] = []
        if policy.iprev:
            works.append(_iprev_work(client.address))
        if policy.wants_spf:
            works.append(_spf_work(client))
        works += [Work(dkim.verify(one, header, bodies, now=now), _late_dkim(one)) for one in signatures]
        if policy.arc.check:
            works.append(Work(arc.verify(chain, header, bodies, now=now), arc.Verdict("temperror", LATE)))
        authors = _authors(head) if policy.dmarc.check else []
        works += [_dmarc_work(domain, self._organization) for domain in authors]
        done = iter(await asked.run(works))
        iprev_verdict = next(done) if policy.iprev else None
        spf_verdict = next(done) if policy.wants_spf else None
        dkim_verdicts = tuple([policy.weigh(next(done)) for _ in signatures])
        arc_verdict = next(done) if policy.arc.check else None
        judged = await asked.run(
            [
                Work(
                    dmarc.judge(discovery, spf_verdict, dkim_verdicts, self._organization),
                    dmarc.Verdict("temperror", discovery.domain, detail=LATE),
                )
                for discovery in done
            ]
        )
        if not authors:
            judged.append(dmarc.Verdict("permerror", detail="no author"))
        return Verdicts(
            spf_verdict,
            dkim_verdicts if policy.wants_dkim else None,
            tuple(judged) if policy.dmarc.check else None,
            arc_verdict,
            iprev_verdict,
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


class _Body:
    """The body of one letter, read once for all that need a hash of it."""

    def __init__(self, header: dkim.Header, draft: Draft, start: int) -> None:
        self.header = header
        self.to_seal: BodyHash | None = None  # for a seal of ours
        self._draft = draft
        self._start = start

    async def hash_for(self, signatures: Sequence[dkim.Signature]) -> dict[tuple[str, int | None], BodyHash]:
        """The hashes that these signatures need, and ours."""
        bodies = dkim.body_hashes(signatures)
        wanted = [*bodies.values(), *([self.to_seal] if self.to_seal is not None else [])]
        if wanted:
            await _feed(wanted, self._draft, self._start)
        return bodies


def _authors(head: message.Head) -> list[str]:
    """The domains in From; "" beside them if there is more than one From field, which no honest message has."""
    fields = head.get_all("from", 4)
    found = dmarc.author_domains(fields)[: dmarc.MAX_AUTHORS]
    return found if len(fields) < 2 else [*found, ""]


def _iprev_work(address: str) -> Work:
    return Work(iprev.check(address), iprev.Verdict("temperror", address, detail=LATE), ("iprev", address))


def _spf_work(client: spf.Client) -> Work:
    key = spf.key(client)
    _, identity, domain = key
    return Work(spf.check(client), spf.Verdict("temperror", identity, domain, LATE), ("spf", key))


def _dmarc_work(domain: str, organization: dmarc.Organization | None) -> Work:
    late = dmarc.Discovery(domain, domain, problem=LATE, failed=True)
    return Work(dmarc.discover(domain, organization), late, ("dmarc", domain))


def _late_dkim(one: dkim.Signature) -> dkim.Verdict:
    return dkim.Verdict("temperror", one.domain.lower(), one.selector, LATE, one.algorithm)


async def _feed(hashes: Iterable[BodyHash], draft: Draft, start: int) -> None:
    """Hash the body: at once if it is small, in a thread piece by piece if it lies in a file."""
    if draft.file is None:
        hash_body((draft.inline()[start:],), hashes)
    else:
        await asyncio.to_thread(_hash_file, draft.file, start, tuple(hashes))


def _hash_file(path: Path, start: int, hashes: Sequence[BodyHash]) -> None:
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while piece := file.read(_READ_OCTETS):
            for one in hashes:
                one.update(piece)


async def hash_to_sign(draft: Draft, start: int) -> bytes:
    """What a signature says of a large body, worked out in a thread."""
    one = BodyHash()
    await _feed((one,), draft, start)
    return one.digest()


def hash_octets(octets: bytes, start: int) -> bytes:
    """The same of a body in memory."""
    one = BodyHash()
    one.update(octets[start:])
    return one.digest()


_FIELD_END = re.compile(rb"\n(?![ \t])")
_MAX_LOOK = 1024  # octets of a field in which its server must be named
