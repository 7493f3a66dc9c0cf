"""One letter whose origin is asked for: what its header says of that, the plans that follow, and the verdicts they come to.

Running the plans is the business of `inbound.asked`, hashing the body and what follows that of `inbound.origin`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from pillarbox.inbound.asked import LATE, Work
from pillarbox.mailauth import arc, dkim, dmarc, iprev, spf
from pillarbox.mailauth.canonical import BodyHash
from pillarbox.policy.origin import Verdicts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pillarbox.inbound.asked import Asked
    from pillarbox.mail import message
    from pillarbox.policy.origin import OriginPolicy


class Case:
    """Call `works`, then `judging` with their results, then `verdicts` with the results of that."""

    __slots__ = (
        "_asks_helo",
        "_authors",
        "_bodies",
        "_chain",
        "_found",
        "_helo",
        "_organization",
        "_policy",
        "_signatures",
        "asked",
        "client",
        "hashes",
        "header",
        "to_seal",
    )

    def __init__(
        self,
        policy: OriginPolicy,
        client: spf.Client,
        head: message.Head,
        asked: Asked,
        organization: dmarc.Organization | None,
    ) -> None:
        """`asked` takes down what is answered; `organization` takes the place of DMARC's tree walk."""
        self.client = client
        self.asked = asked
        self.header = header = dkim.Header(head.section)
        self.to_seal: BodyHash | None = None  # for a seal of ours
        self._policy = policy
        self._asks_helo = policy.spf.check and policy.spf.helo and bool(client.sender)
        self._helo: spf.Verdict | None = None
        self._organization = organization
        self._authors = _authors(head) if policy.dmarc.check else []
        self._signatures = dkim.signatures(header) if policy.wants_dkim else []
        self._chain = arc.parse_chain(header) if policy.arc.check else arc.Chain()
        self._bodies = dkim.body_hashes([*self._signatures, *self._chain.bodies])
        self.hashes = list(self._bodies.values())  # to be fed with the body before the plans are run
        self._found: tuple[
            iprev.Verdict | None, spf.Verdict | None, tuple[dkim.Verdict, ...], arc.Verdict | None
        ]

    def seal(self) -> None:
        """Have the body hashed for a seal of ours too."""
        self.to_seal = BodyHash()
        self.hashes.append(self.to_seal)

    def works(self) -> list[Work]:
        """The plans that can run at once."""
        policy, header, bodies, now = self._policy, self.header, self._bodies, self.client.now
        works = []
        if policy.iprev:
            works.append(_iprev_work(self.client.address))
        if policy.wants_spf:
            works.append(_spf_work(self.client))
        if self._asks_helo:
            works.append(_spf_work(replace(self.client, sender="")))
        works += [
            Work(dkim.verify(one, header, bodies, now=now), _late_dkim(one)) for one in self._signatures
        ]
        if policy.arc.check:
            late = arc.Verdict("temperror", LATE)
            works.append(Work(arc.verify(self._chain, header, bodies, now=now), late))
        works += [_dmarc_work(domain, self._organization) for domain in self._authors]
        return works

    def judging(self, results: Sequence[Any]) -> list[Work]:
        """What is to be asked once the results of `works` are known: whether the authors stand behind it."""
        policy, done = self._policy, iter(results)
        found_iprev = next(done) if policy.iprev else None
        found_spf = next(done) if policy.wants_spf else None
        self._helo = next(done) if self._asks_helo else None
        found_dkim = tuple([policy.weigh(next(done)) for _ in self._signatures])
        self._found = found_iprev, found_spf, found_dkim, next(done) if policy.arc.check else None
        return [
            Work(
                dmarc.judge(discovery, found_spf, found_dkim, self._organization),
                dmarc.Verdict("temperror", discovery.domain, detail=LATE),
            )
            for discovery in done
        ]

    def verdicts(self, judged: Sequence[dmarc.Verdict]) -> Verdicts:
        """All that was found."""
        policy = self._policy
        found_iprev, found_spf, found_dkim, found_arc = self._found
        authors = tuple(judged) if self._authors else (dmarc.Verdict("permerror", detail="no author"),)
        return Verdicts(
            found_spf,
            self._helo,
            found_dkim if policy.wants_dkim else None,
            authors if policy.dmarc.check else None,
            found_arc,
            found_iprev,
        )


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
