"""Ask what the domain in From wants done with mail that does not prove to come from it: DMARC (RFC 9989), as plans.

SPF and DKIM come in as verdicts. What is really done, and reports about it, are the business of others.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import unquote

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from pillarbox.mailauth.dns import Answer, Plan, Query
from pillarbox.mailauth.names import a_labels

if TYPE_CHECKING:
    from pillarbox.mailauth import dkim, spf

MAX_AUTHORS = 4  # different domains in From that are looked at
_MAX_WALK = 8  # queries of one tree walk (RFC 9989 4.10)
_MAX_WALKS = 6  # for identifiers that may be aligned
_MAX_REMEMBERED = 1024  # characters of a record that is kept parsed
_MAX_DOMAIN = 1024  # characters of a name, with white space around it
_POLICIES = ("none", "quarantine", "reject")
_SPECIAL = frozenset('"(),:;\\')  # what an ordinary list of mailboxes does not have
Organization: TypeAlias = Callable[[str], str]
"""The organizational domain of a domain by a list of public suffixes, for those who don't want the tree walk."""


class Record(msgspec.Struct, frozen=True):
    """What a domain publishes at `_dmarc`; `policy` is "" if it is missing or makes no sense."""

    policy: str = ""  # p=
    of_subdomains: str = ""  # sp=
    of_missing: str = ""  # np=: for subdomains that do not exist
    strict_dkim: bool = False  # adkim=s
    strict_spf: bool = False  # aspf=s
    suffix: str = "u"  # psd=: y, n or u
    testing: bool = False  # t=y
    reports_to: tuple[str, ...] = ()  # rua=
    failures_to: tuple[str, ...] = ()  # ruf=
    text: str = ""
    failure_options: str = ""  # fo=


class Discovery(Struct, frozen=True):
    """What is known of an author's domain before any message is judged."""

    domain: str
    organization: str  # the organizational domain
    record: Record | None = None
    found_at: str = ""  # whose record that is
    missing: bool = False  # the domain does not exist
    problem: str = ""
    failed: bool = False  # DNS gave no answer


class Verdict(Struct, frozen=True):
    """Whether the author's domain stands behind a message, and what it wants done if not."""

    result: str  # pass, fail, none, temperror, permerror
    domain: str = ""  # in From
    policy: str = "none"  # none, quarantine or reject: what is asked for, t= already heeded
    aligned: tuple[str, ...] = ()  # "spf", "dkim"
    found_at: str = ""  # whose record decided
    detail: str = ""
    record: str = ""
    testing: bool = False
    published: str = "none"  # what is asked for without a look at t=


def parse_record(text: str) -> Record | None:
    """Read one TXT record; None if it is none of DMARC. Tags that make no sense count as absent (RFC 9989 4.7)."""
    return _remembered(text) if len(text) <= _MAX_REMEMBERED else _parse(text)


def _parse(text: str) -> Record | None:
    sections = [section.partition("=") for section in text.split(";")]
    name, equals, value = sections[0]
    if name.strip(" \t") != "v" or not equals or value.strip(" \t") != "DMARC1":
        return None
    tags: dict[str, str] = {}
    for name, equals, value in sections[1:]:
        if equals:
            tags.setdefault(name.strip(" \t").lower(), value.strip(" \t"))

    def choice(name: str, allowed: Sequence[str]) -> str:
        value = tags.get(name, "").lower()
        return value if value in allowed else ""

    reports = mail_addresses(tags.get("rua", ""))
    bad = [
        name for name in ("p", "sp", "np") if (name in tags or name == "p") and not choice(name, _POLICIES)
    ]
    policy, of_subdomains, of_missing = (choice(name, _POLICIES) for name in ("p", "sp", "np"))
    if bad:
        policy, of_subdomains, of_missing = "none" if reports else "", "", ""
    return Record(
        policy,
        of_subdomains,
        of_missing,
        tags.get("adkim", "").lower() == "s",
        tags.get("aspf", "").lower() == "s",
        choice("psd", "ynu") or "u",
        tags.get("t", "").lower() == "y",
        reports,
        mail_addresses(tags.get("ruf", "")),
        text,
        tags.get("fo", ""),
    )


_remembered = lru_cache(maxsize=2048)(_parse)


def mail_addresses(uris: str) -> tuple[str, ...]:
    """The addresses in a list of "mailto:" URIs; a size behind "!", as older records have it, says nothing (RFC 9989 4.7)."""
    found = (part.strip(" \t").partition("!")[0].partition("?")[0] for part in uris.split(","))
    return tuple(unquote(uri[7:]) for uri in found if uri.lower().startswith("mailto:") and "@" in uri)


def author_domains(fields: Sequence[str]) -> list[str]:
    """The different domains of all addresses in the From fields, in lower case and A-labels; "" for one that is none."""
    addresses = (address for value in fields for address in _mailboxes(value))
    domains = (_normal(one.rpartition("@")[2]) if "@" in one else "" for one in addresses)
    return list(dict.fromkeys(domains))


def _mailboxes(value: str) -> list[str]:
    """The addresses in a list of mailboxes (RFC 5322 3.4): what stands in angle brackets, or else the bare words."""
    _, opened, rest = value.partition("<")
    if (
        opened
        and rest.endswith(">")
        and _SPECIAL.isdisjoint(value)
        and rest.count(">") == 1
        and "<" not in rest
    ):
        return [rest[:-1]]  # what nearly everybody writes: a name, and one address in angle brackets
    found: list[str] = []
    bare: list[str] = []
    angle: list[str] | None = None
    depth, quoted, escaped = 0, False, False
    for character in value:
        if escaped:
            escaped = False
        elif character == "\\" and (quoted or depth):
            escaped = True
            continue
        elif quoted:
            quoted = character != '"'
        elif depth or character == "(":
            depth += (character == "(") - (character == ")")
            continue
        elif character == '"':
            quoted = True
        elif character == "<":
            angle = []
            continue
        elif character == ">" and angle is not None:
            found.append("".join(angle))
            angle, bare = None, ["<"]  # the words before it were a name
            continue
        elif character in ",;" and angle is None:
            _end_mailbox(bare, found)
            bare = []
            continue
        elif character == ":" and angle is None:
            bare = []  # the name of a group
            continue
        if not depth:
            (bare if angle is None else angle).append(character)
    if angle is not None:
        bare = angle
    _end_mailbox(bare, found)
    return found


def _end_mailbox(bare: list[str], found: list[str]) -> None:
    text = "".join(bare).strip()
    if text and not text.startswith("<"):
        found.append(text)


def _normal(domain: str) -> str:
    """The domain of an address as DNS knows it; "" for an address literal or nonsense."""
    return _remembered_domain(domain) if len(domain) <= _MAX_DOMAIN else ""


@lru_cache(maxsize=4096)
def _remembered_domain(domain: str) -> str:
    domain = a_labels(domain.strip())
    return domain if domain.replace("-", "").replace("_", "").replace(".", "").isalnum() else ""


def _fetch(domain: str) -> Generator[Query, Answer, Record | None]:
    """The one DMARC record of a domain. Raises _Failed."""
    answer = yield Query(f"_dmarc.{domain}", "TXT")
    if answer.failed:
        raise _Failed(f"TXT of _dmarc.{domain}: {answer.detail or 'no answer'}")
    found = [record for text in answer.records if (record := parse_record(text)) is not None]
    return found[0] if len(found) == 1 else None


class _Failed(Exception):
    """DNS gave no answer."""


def _walk(domain: str) -> Generator[Query, Answer, list[tuple[str, Record]]]:
    """The records on the way up from a domain, its own first (RFC 9989 4.10)."""
    found = []
    labels = domain.split(".")
    for _ in range(_MAX_WALK):
        name = ".".join(labels)
        record = yield from _fetch(name)
        if record is not None:
            found.append((name, record))
            if record.suffix != "u":
                break
        labels = labels[1:] if len(labels) < _MAX_WALK else labels[-(_MAX_WALK - 1) :]
        if not labels:
            break
    return found


def _organization(domain: str, walked: Sequence[tuple[str, Record]]) -> str:
    """The organizational domain by the records of a walk (RFC 9989 4.10.2)."""
    if not walked:
        return domain
    for name, record in walked:
        if record.suffix == "n":
            return name
        if record.suffix == "y" and name != domain:
            below = domain[: -len(name) - 1].rpartition(".")[2]
            return f"{below}.{name}"
    return walked[-1][0]


def discover(domain: str, organization: Organization | None = None) -> Plan[Discovery]:
    """Find the record that speaks for an author's domain (RFC 9989 4.10.1)."""
    if not domain:
        return Discovery("", "", problem="From has no domain that DNS could know")
    try:
        if organization is None:
            walked = yield from _walk(domain)
            whole = _organization(domain, walked)
        else:
            whole = organization(domain) or domain
            walked = []
            for name in dict.fromkeys((domain, whole)):
                record = yield from _fetch(name)
                if record is not None:
                    walked.append((name, record))
        chosen = _choose(domain, whole, walked)
        if chosen is None:
            return Discovery(domain, whole)
        name, record = chosen
        missing = name != domain and bool(record.of_missing) and (yield from _is_missing(domain))
    except _Failed as error:
        return Discovery(domain, domain, problem=str(error), failed=True)
    return Discovery(domain, whole, record, name, missing)


def _is_missing(domain: str) -> Generator[Query, Answer, bool]:
    """Whether DNS says that there is no such name (RFC 9989 3.2, RFC 8020). Raises _Failed."""
    answer = yield Query(domain, "A")
    if answer.failed:
        raise _Failed(f"A of {domain}: {answer.detail or 'no answer'}")
    return answer.no_domain


def _choose(domain: str, whole: str, walked: Sequence[tuple[str, Record]]) -> tuple[str, Record] | None:
    """The record of the domain itself, else of its organization, else of the suffix above."""
    by_name = dict(walked)
    for name in (domain, whole):
        if name in by_name:
            return name, by_name[name]
    return next(((name, record) for name, record in walked if record.suffix == "y"), None)


def judge(
    discovery: Discovery,
    spf_verdict: spf.Verdict | None,
    dkim_verdicts: Sequence[dkim.Verdict],
    organization: Organization | None = None,
) -> Plan[Verdict]:
    """Whether one of the identifiers that passed is aligned with the author's domain (RFC 9989 4.4, 5.3)."""
    domain, record = discovery.domain, discovery.record
    if discovery.problem:
        return Verdict("temperror" if discovery.failed else "permerror", domain, detail=discovery.problem)
    if record is None or not record.policy:
        return Verdict("none", domain, detail="the domain publishes no policy")
    published = _policy(discovery, record)
    verdict = Verdict(
        "fail",
        domain,
        _milder(published) if record.testing else published,
        found_at=discovery.found_at,
        record=record.text,
        testing=record.testing,
        published=published,
    )
    aligned, doubts = [], ""
    walks = iter(range(_MAX_WALKS))
    for method, strict, identifier in _identifiers(record, spf_verdict, dkim_verdicts):
        if method in aligned:
            continue
        try:
            if (yield from _aligned(discovery, identifier, walks, organization, strict=strict)):
                aligned.append(method)
        except _Failed as error:
            doubts = str(error)
    if aligned:
        return replace(verdict, result="pass", aligned=tuple(aligned))
    doubts = doubts or _doubts(discovery, spf_verdict, dkim_verdicts)
    if doubts:
        return replace(verdict, result="temperror", detail=doubts)
    return replace(verdict, detail="neither SPF nor DKIM passed for this domain")


def _policy(discovery: Discovery, record: Record) -> str:
    policy = record.policy
    if discovery.found_at != discovery.domain:
        policy = record.of_subdomains or policy
        if discovery.missing:
            policy = record.of_missing or policy
    return policy


def _milder(policy: str) -> str:
    """What is asked for while a policy is tried out: one step less (RFC 9989 4.7)."""
    return _POLICIES[max(_POLICIES.index(policy) - 1, 0)]


def _identifiers(
    record: Record, spf_verdict: spf.Verdict | None, dkim_verdicts: Sequence[dkim.Verdict]
) -> list[tuple[str, bool, str]]:
    """What passed: method, whether only the very same domain will do, and the domain."""
    found = [("dkim", record.strict_dkim, one.domain) for one in dkim_verdicts if one.result == "pass"]
    if spf_verdict is not None and spf_verdict.result == "pass":
        found.append(("spf", record.strict_spf, spf_verdict.domain))
    return found


def _doubts(
    discovery: Discovery, spf_verdict: spf.Verdict | None, dkim_verdicts: Sequence[dkim.Verdict]
) -> str:
    """Why what did not pass may pass later; only what could be aligned counts, for others can make theirs fail at will."""
    if (
        spf_verdict is not None
        and spf_verdict.result == "temperror"
        and _related(discovery, spf_verdict.domain)
    ):
        return f"SPF: {spf_verdict.detail}"
    for one in dkim_verdicts:
        if one.result == "temperror" and _related(discovery, one.domain):
            return f"DKIM: {one.detail}"
    return ""


def _related(discovery: Discovery, identifier: str) -> bool:
    """Whether a domain is the organizational domain of the author's or stands below it: no other can be aligned."""
    domain, whole = _normal(identifier), discovery.organization
    return domain == whole or domain.endswith(f".{whole}")


def _aligned(
    discovery: Discovery, identifier: str, walks: object, organization: Organization | None, *, strict: bool
) -> Generator[Query, Answer, bool]:
    domain, whole = _normal(identifier), discovery.organization
    if domain == discovery.domain:
        return True
    if strict or not _related(discovery, domain):
        return False
    if organization is not None:
        return organization(domain) == whole
    if next(walks, None) is None:  # type: ignore[call-overload]
        return False
    return _organization(domain, (yield from _walk(domain))) == whole
