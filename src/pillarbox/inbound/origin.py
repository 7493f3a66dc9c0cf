"""Find out who really sent a letter: run the plans of SPF, DKIM, DMARC and ARC together, and hash its body.

What follows from the verdicts is in `policy.origin`; the standards are in `mailauth`.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from pillarbox.inbound.asked import Asked, Begun, Lines
from pillarbox.inbound.case import Case, is_shared
from pillarbox.inbound.consequence import Checked, Outcome, follow_up
from pillarbox.mail import message
from pillarbox.mailauth import arc, dkim, dmarc, spf
from pillarbox.mailauth.canonical import BodyHash, hash_body
from pillarbox.mailauth.dns import Conclusions, Lookup, Recall
from pillarbox.mailauth.results import server_of
from pillarbox.policy.hooks import Client
from pillarbox.policy.origin import OriginPolicy, Verdicts
from pillarbox.queue.spool import Draft

if TYPE_CHECKING:
    from pillarbox.inbound.counted import Counting

_READ_OCTETS = 262_144
_MAX_OUTCOMES = 1024  # kinds of letters of which is remembered what follows
_RESULTS_FIELD = re.compile(rb"(?:\A|\n)(authentication-results)[ \t]*:", re.IGNORECASE)
FORMER_RESULTS = b"X-Foreign-Auth-Results"  # as long as the name that it replaces, so that nothing moves


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
        count: Counting | None = None,
    ) -> None:
        """`organization` takes the place of DMARC's tree walk; `count` is told of each message for reports."""
        self._policy = policy
        self._lookup = lookup
        self._recall = recall
        self._conclusions = Conclusions(recall)
        self._outcomes = Conclusions(recall, _MAX_OUTCOMES)
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
    ) -> Checked | Coroutine[Any, Any, Checked]:
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
        return self._proceed(case, sealer)

    async def _check_large(self, case: Case, file: Path, body_at: int, sealer: dkim.Signer | None) -> Checked:
        await asyncio.to_thread(_hash_file, file, body_at, case.hashes)
        found = self._proceed(case, sealer)
        return found if isinstance(found, Checked) else await found

    def _proceed(self, case: Case, sealer: dkim.Signer | None) -> Checked | Coroutine[Any, Any, Checked]:
        """Look at the signatures first: if they are worth what they were in others of one kind, all else follows as for those."""
        asked = case.asked
        proofs = asked.begin(case.proofs())
        if proofs.waiting:
            return self._check(case, proofs, asked.begin(case.works()), sealer)
        case.prove(proofs.results)
        kind = case.kind() if sealer is None else None
        known = self._outcomes.find(kind) if kind is not None else None
        if known is not None:
            return self._say(known.result, case)
        begun = asked.begin(case.works())
        if begun.waiting:
            return self._check(case, proofs, begun, sealer)
        judged = asked.begin(case.judging(begun.results))
        if judged.waiting:
            return self._judge(case, judged, sealer)
        found = case.verdicts(judged.results)
        outcome = self._follow_up(case, found)
        proof = asked.proof() if kind is not None and is_shared(found) and outcome.is_short else None
        if proof is not None:
            self._outcomes.keep(kind, outcome, proof)
        return self._say(outcome, case) if sealer is None else self._seal(outcome, case, found, sealer)

    async def _check(self, case: Case, proofs: Begun, begun: Begun, sealer: dkim.Signer | None) -> Checked:
        proven, results = await asyncio.gather(Asked.finish(proofs), Asked.finish(begun))
        case.prove(proven)
        return await self._judge(case, case.asked.begin(case.judging(results)), sealer)

    async def _judge(self, case: Case, begun: Begun, sealer: dkim.Signer | None) -> Checked:
        found = case.verdicts(await Asked.finish(begun))
        outcome = self._follow_up(case, found)
        return self._say(outcome, case) if sealer is None else self._seal(outcome, case, found, sealer)

    def _follow_up(self, case: Case, found: Verdicts) -> Outcome:
        return follow_up(self._policy, found, case.client, self._lines.of(case.asked.evidence()), self._count)

    def _say(self, outcome: Outcome, case: Case) -> Checked:
        """What follows for one letter, which is counted."""
        if self._count is not None:
            self._count.count(outcome.rows)
        return outcome.of(case.client, case.starts)

    def _seal(self, outcome: Outcome, case: Case, found: Verdicts, sealer: dkim.Signer) -> Checked:
        checked = self._say(outcome, case)
        if case.to_seal is None or found.arc is None:
            return checked
        seal = arc.seal(
            case.header,
            case.to_seal.digest(),
            sealer,
            server=self._hostname,
            findings=list(checked.findings),
            chain=found.arc.result,
            now=case.client.now,
        )
        return replace(checked, prefix=seal + checked.prefix)

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


_FIELD_END = re.compile(rb"\n(?![ \t])")
_MAX_LOOK = 1024  # octets of a field in which its server must be named
