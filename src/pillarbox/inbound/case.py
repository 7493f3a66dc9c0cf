"""One letter whose origin is asked for: what its header says of that, the plans that follow, and the verdicts they come to.

Running the plans is the business of `inbound.asked`, hashing the body and what follows that of `inbound.origin`.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from pillarbox.inbound.asked import LATE, Work
from pillarbox.mailauth import arc, dkim, dmarc, iprev, spf
from pillarbox.mailauth.canonical import BodyHash
from pillarbox.policy.origin import Verdicts

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from pillarbox.inbound.asked import Asked
    from pillarbox.mail import message
    from pillarbox.policy.origin import OriginPolicy

_MAX_REMEMBERED = 320  # octets of From whose domains are remembered


class Case:
    """Call `proofs`, `prove` with their results, `works`, `judging` with their results, `verdicts` with the results of that."""

    __slots__ = (
        "_arc",
        "_asks_helo",
        "_authors",
        "_bodies",
        "_chain",
        "_dkim",
        "_helo",
        "_iprev",
        "_organization",
        "_policy",
        "_signatures",
        "_spf",
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
        self._authors = _authors(head, header) if policy.dmarc.check else ()
        self._signatures = dkim.signatures(header) if policy.wants_dkim else []
        self._chain = arc.parse_chain(header) if policy.arc.check else None
        bodies = [*self._signatures, *self._chain.bodies] if self._chain is not None else self._signatures
        self._bodies = dkim.body_hashes(bodies)
        self.hashes = list(self._bodies.values())  # to be fed with the body before the plans are run
        self._iprev: iprev.Verdict | None = None
        self._spf: spf.Verdict | None = None
        self._dkim: tuple[dkim.Verdict, ...] = ()
        self._arc = arc.UNSEALED if policy.arc.check else None

    def seal(self) -> None:
        """Have the body hashed for a seal of ours too."""
        self.to_seal = BodyHash()
        self.hashes.append(self.to_seal)

    def proofs(self) -> list[Work]:
        """The plans of what differs with each letter: its signatures, and the seals of others."""
        header, bodies, now = self.header, self._bodies, self.client.now
        works = [
            Work(dkim.verify(one, header, bodies, now=now), partial(_late_dkim, one))
            for one in self._signatures
        ]
        if self._chain is not None:
            works.append(Work(arc.verify(self._chain, header, bodies, now=now), _late_arc))
        return works

    def prove(self, results: Sequence[Any]) -> None:
        """Take the results of `proofs`."""
        if self._chain is not None:
            *results, self._arc = results
        self._dkim = tuple([self._policy.weigh(one) for one in results])

    @property
    def starts(self) -> tuple[str, ...]:
        """The first characters of each signature that has some."""
        return tuple([one.signature_start for one in self._dkim if one.signature_start])

    def kind(self) -> Hashable:
        """What all that is found rests on, beside what DNS says, unless it is not a shared one; None if it holds for this alone."""
        if self._chain is not None:
            return None
        client = self.client
        helo = client.helo if self._asks_helo else ""
        return helo, spf.key(client), self._authors, tuple([one.kind for one in self._dkim])

    def works(self) -> list[Work]:
        """The plans of who brings the letter and for whom it is."""
        policy = self._policy
        works = []
        if policy.iprev:
            works.append(_iprev_work(self.client.address))
        if policy.wants_spf:
            works.append(_spf_work(self.client))
        if self._asks_helo:
            works.append(_spf_work(replace(self.client, sender="")))
        works += [_dmarc_work(domain, self._organization) for domain in self._authors]
        return works

    def judging(self, results: Sequence[Any]) -> list[Work]:
        """What is to be asked once the results of `works` are known: whether the authors stand behind it."""
        policy, done = self._policy, iter(results)
        self._iprev = next(done) if policy.iprev else None
        self._spf = next(done) if policy.wants_spf else None
        self._helo = next(done) if self._asks_helo else None
        return [
            Work(
                dmarc.judge(discovery, self._spf, self._dkim, self._organization),
                partial(dmarc.Verdict, "temperror", discovery.domain, detail=LATE),
            )
            for discovery in done
        ]

    def verdicts(self, judged: Sequence[dmarc.Verdict]) -> Verdicts:
        """All that was found."""
        policy = self._policy
        authors = tuple(judged) if self._authors else (dmarc.Verdict("permerror", detail="no author"),)
        return Verdicts(
            self._spf,
            self._helo,
            self._dkim if policy.wants_dkim else None,
            authors if policy.dmarc.check else None,
            self._arc,
            self._iprev,
        )


def is_shared(found: Verdicts) -> bool:
    """Whether it holds for all letters of one kind."""
    return all(one is None or one.shared for one in (found.spf, found.helo))


def _authors(head: message.Head, header: dkim.Header) -> tuple[str, ...]:
    """The domains in From; "" beside them if there is more than one From field, which no honest message has."""
    if header.bare:  # some would take these for line ends, and find a From that others don't
        return _domains_in(tuple([one.encode("utf-8", "surrogateescape") for one in head.get_all("from", 4)]))
    fields = tuple(header.values(b"from")[:4])
    usual = sum(map(len, fields)) <= _MAX_REMEMBERED
    return (_remembered_domains if usual else _domains_in)(fields)


def _domains_in(fields: tuple[bytes, ...]) -> tuple[str, ...]:
    """The domains in these From fields."""
    found = dmarc.author_domains([field.decode("utf-8", "surrogateescape") for field in fields])
    return (*found[: dmarc.MAX_AUTHORS], *([] if len(fields) < 2 else [""]))


_remembered_domains = lru_cache(maxsize=2048)(_domains_in)


def _iprev_work(address: str) -> Work:
    late = partial(iprev.Verdict, "temperror", address, detail=LATE)
    return Work(iprev.check(address), late, ("iprev", address))


def _spf_work(client: spf.Client) -> Work:
    key = spf.key(client)
    _, identity, domain = key
    return Work(spf.check(client), partial(spf.Verdict, "temperror", identity, domain, LATE), ("spf", key))


def _dmarc_work(domain: str, organization: dmarc.Organization | None) -> Work:
    late = partial(dmarc.Discovery, domain, domain, problem=LATE, failed=True)
    return Work(dmarc.discover(domain, organization), late, ("dmarc", domain))


def _late_dkim(one: dkim.Signature) -> dkim.Verdict:
    return dkim.Verdict("temperror", one.domain.lower(), one.selector, LATE, one.algorithm)


def _late_arc() -> arc.Verdict:
    return arc.Verdict("temperror", LATE)
