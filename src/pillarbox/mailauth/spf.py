"""Ask whether a host may send mail for a domain: the check_host() of SPF (RFC 7208), as a plan of DNS look-ups.

The record's grammar is in `mailauth.spf_record`; what is done about a verdict is the policy's business.
"""

from __future__ import annotations

from collections.abc import Generator
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeAlias

from msgspec import Struct

from pillarbox.mailauth.dns import Answer, Plan, Query
from pillarbox.mailauth.names import a_labels, is_askable
from pillarbox.mailauth.spf_record import (
    MacroString,
    Record,
    RecordError,
    Term,
    expand,
    is_spf,
    needs,
    parse_explanation,
    parse_record,
    shorten,
)

MAX_LOOKUPS = 10  # terms that ask DNS (RFC 7208 4.6.4)
MAX_VOID = 2  # look-ups that find nothing
MAX_HOSTS = 10  # names of one MX or PTR look-up whose addresses are asked for

_Evaluation: TypeAlias = Generator[Query, Answer, str]


class Client(Struct, frozen=True):
    """Who brings the mail, and what it says of itself. `sender` is "" for the null reverse-path."""

    address: str
    helo: str
    sender: str
    receiver: str = "unknown"  # our name, for explanations
    now: float = 0.0  # Unix time, for explanations


class Verdict(Struct, frozen=True):
    """What SPF says: `result` is one of RFC 7208 2.6, `detail` the term that decided or what went wrong."""

    result: str  # pass, fail, softfail, neutral, none, temperror, permerror
    identity: str  # "mailfrom" or "helo"
    domain: str
    detail: str = ""
    explanation: str = ""  # the domain's own words about a fail, ASCII
    shared: bool = (
        True  # whether it holds for all mail of the same `key`, whatever local part or HELO name it has
    )


class _Ended(Exception):
    """The check ends with an error."""

    def __init__(self, result: str, detail: str) -> None:
        super().__init__(detail)
        self.result = result
        self.detail = detail


def key(client: Client) -> tuple[str, str, str]:
    """What a verdict rests on, beside what DNS says, if it is a shared one."""
    if client.sender:
        return client.address, "mailfrom", client.sender.rpartition("@")[2]
    return client.address, "helo", client.helo


def check(client: Client) -> Plan[Verdict]:
    """Check the reverse-path, or the HELO name if that is null (RFC 7208 2.4)."""
    local, at, domain = client.sender.rpartition("@")
    identity = "mailfrom" if client.sender else "helo"
    if not client.sender:
        domain = client.helo
    asked = a_labels(domain)
    ip = _ip(client.address)
    if "." not in asked or asked[0] == "[" or ip is None:
        return Verdict("none", identity, domain, "not a name that can have a record")
    run = _Run(client, ip, (local if at else "") or "postmaster", asked)
    try:
        result = yield from run.evaluate(asked, 0)
    except _Ended as ended:
        return Verdict(ended.result, identity, domain, ended.detail, shared=run.shared)
    explanation = ""
    if result == "fail" and run.explain is not None:
        explanation = yield from run.explanation()
    return Verdict(result, identity, domain, run.matched, explanation, run.shared)


@lru_cache(maxsize=4096)
def _ip(text: str) -> IPv4Address | IPv6Address | None:
    try:
        ip = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip


class _Run:
    """One check_host(): the client's values, and how many look-ups are left."""

    __slots__ = (
        "_client",
        "_domain",
        "_ip",
        "_kind",
        "_local",
        "_lookups",
        "_names",
        "_number",
        "_void",
        "explain",
        "matched",
        "shared",
    )

    def __init__(self, client: Client, ip: IPv4Address | IPv6Address, local: str, domain: str) -> None:
        self._client = client
        self._ip = ip
        self._number = int(ip)
        self._kind = "A" if ip.version == 4 else "AAAA"
        self._local = local
        self._domain = domain  # of the sender: %{o}
        self._lookups = 0
        self._void = 0
        self._names: list[str] | None = None  # validated host names of the client, once they were looked up
        self.matched = ""  # the term that decided
        self.shared = True  # until a macro asks for more than address and domain
        self.explain: tuple[MacroString, str] | None = (
            None  # where the explanation lies, and for which domain
        )

    def evaluate(self, domain: str, depth: int) -> _Evaluation:
        """The result of a domain's record, "none" if it has none (RFC 7208 4.4 to 4.7)."""
        record = yield from self._fetch(domain)
        if record is None:
            self.matched = ""
            return "none"
        for term in record.terms:
            if (yield from self._matches(term, domain, depth)):
                if depth == 0:
                    self.matched = term.text
                    if term.result == "fail" and record.explanation is not None:
                        self.explain = (record.explanation, domain)
                return term.result
        if record.redirect is None:
            if depth == 0:
                self.matched = ""
            return "neutral"
        self._count_lookup()
        target = yield from self._name(record.redirect, domain)
        if not is_askable(target):
            raise _Ended("permerror", "redirect= gives no domain name")
        result = yield from self.evaluate(target, depth)
        if result == "none":
            raise _Ended("permerror", f"redirect={target} has no SPF record")
        return result

    def _fetch(self, domain: str) -> Generator[Query, Answer, Record | None]:
        answer = yield Query(domain, "TXT")
        if answer.failed:
            raise _Ended("temperror", f"TXT of {domain}: {answer.detail or 'no answer'}")
        found = [text for text in answer.records if is_spf(text)]
        if not found:
            return None
        if len(found) > 1:
            raise _Ended("permerror", f"{domain} has {len(found)} SPF records")
        try:
            return parse_record(found[0])
        except RecordError as error:
            raise _Ended("permerror", f"{domain}: {error}") from None

    def _count_lookup(self) -> None:
        self._lookups += 1
        if self._lookups > MAX_LOOKUPS:
            raise _Ended("permerror", f"more than {MAX_LOOKUPS} terms that ask DNS")

    def _ask(self, name: str, kind: str) -> Generator[Query, Answer, Answer]:
        """Ask, and count answers that are void."""
        answer = yield Query(name, kind)
        if answer.failed:
            raise _Ended("temperror", f"{kind} of {name}: {answer.detail or 'no answer'}")
        if not answer.records:
            self._void += 1
            if self._void > MAX_VOID:
                raise _Ended("permerror", f"more than {MAX_VOID} look-ups found nothing")
        return answer

    def _matches(self, term: Term, domain: str, depth: int) -> Generator[Query, Answer, bool]:
        kind = term.kind
        if kind == "ip4":
            return self._kind == "A" and self._number >> term.shift4 == term.network
        if kind == "ip6":
            return self._kind == "AAAA" and self._number >> term.shift6 == term.network
        if kind == "all":
            return True
        self._count_lookup()
        if kind == "ptr":
            return (yield from self._matches_ptr(term, domain))
        target = domain
        if term.target is not None:
            if not self._local.isascii() and needs(term.target, "sl"):
                self.shared = False
                return False  # such a name can't be in DNS (RFC 8616 4)
            target = yield from self._name(term.target, domain)
        if kind == "include":
            return (yield from self._matches_include(target, depth))
        if not is_askable(target):
            return False
        if kind == "exists":
            return bool((yield from self._ask(target, "A")).records)
        if kind == "a":
            return (yield from self._has_address(target, term))
        exchangers = (yield from self._ask(target, "MX")).records
        if len(exchangers) > MAX_HOSTS:
            raise _Ended("permerror", f"{target} has more than {MAX_HOSTS} exchangers")
        for _, host in exchangers:
            if is_askable(host) and (yield from self._has_address(host, term)):
                return True
        return False

    def _has_address(self, host: str, term: Term) -> Generator[Query, Answer, bool]:
        answer = yield from self._ask(host, self._kind)
        shift = term.shift4 if self._kind == "A" else term.shift6
        mine = self._number >> shift
        return any(_number(address) >> shift == mine for address in answer.records)

    def _matches_include(self, target: str, depth: int) -> Generator[Query, Answer, bool]:
        if not is_askable(target):
            raise _Ended("permerror", "include: gives no domain name")
        result = yield from self.evaluate(target, depth + 1)
        if result == "none":
            raise _Ended("permerror", f"include:{target} has no SPF record")
        return result == "pass"

    def _matches_ptr(self, term: Term, domain: str) -> Generator[Query, Answer, bool]:
        target = domain if term.target is None else (yield from self._name(term.target, domain))
        names = yield from self._validated_names()
        target = target.lower()
        return any(name == target or name.endswith(f".{target}") for name in names)

    def _validated_names(self) -> Generator[Query, Answer, list[str]]:
        """Names of the client whose addresses include its own; a failing look-up gives none (RFC 7208 5.5)."""
        if self._names is not None:
            return self._names
        self._names = []
        answer = yield Query(self._ip.reverse_pointer, "PTR")
        if not answer.records and not answer.failed:
            self._void += 1
            if self._void > MAX_VOID:
                raise _Ended("permerror", f"more than {MAX_VOID} look-ups found nothing")
        for name in answer.records[:MAX_HOSTS]:
            if not is_askable(name):
                continue
            addresses = yield Query(name, self._kind)
            if any(_number(address) == self._number for address in addresses.records):
                self._names.append(name.lower())
        return self._names

    def _name(self, parts: MacroString, domain: str) -> _Evaluation:
        """A domain-spec with its macros expanded."""
        if len(parts) == 1 and type(parts[0]) is str:
            return shorten(parts[0])
        values = yield from self._values(parts, domain)
        return shorten(expand(parts, values))

    def _values(self, parts: MacroString, domain: str) -> Generator[Query, Answer, dict[str, str]]:
        client = self._client
        if needs(parts, "slht"):
            self.shared = False
        dotted = str(self._ip) if self._kind == "A" else ".".join(f"{self._number:032X}")
        return {
            "s": f"{self._local}@{self._domain}",
            "l": self._local,
            "o": self._domain,
            "d": domain,
            "i": dotted,
            "p": (yield from self._best_name(domain)) if needs(parts, "p") else "",
            "v": "in-addr" if self._kind == "A" else "ip6",
            "h": client.helo,
            "c": str(self._ip),
            "r": client.receiver,
            "t": str(int(client.now)),
        }

    def _best_name(self, domain: str) -> _Evaluation:
        """%{p}: a validated name, best one of the domain itself (RFC 7208 7.3)."""
        names = yield from self._validated_names()
        domain = domain.lower()
        if domain in names:
            return domain
        below = [name for name in names if name.endswith(f".{domain}")]
        return (below or names or ["unknown"])[0]

    def explanation(self) -> _Evaluation:
        """The domain's own words about a fail; "" if anything is wrong with them (RFC 7208 6.2)."""
        assert self.explain is not None  # asked for only then
        parts, domain = self.explain
        try:
            name = yield from self._name(parts, domain)
            if not is_askable(name):
                return ""
            answer = yield Query(name, "TXT")
            if len(answer.records) != 1 or not answer.records[0].isascii():
                return ""
            said = parse_explanation(answer.records[0])
            text = expand(said, (yield from self._values(said, domain)))
        except (RecordError, _Ended):
            return ""
        return text if text.isascii() and text.isprintable() else ""


@lru_cache(maxsize=8192)
def _number(address: str) -> int:
    return int(ip_address(address))
