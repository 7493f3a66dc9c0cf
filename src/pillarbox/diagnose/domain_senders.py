"""Judge by what a domain says who sends for it: its SPF, DKIM and DMARC records.

What such records mean for a message is the business of `mailauth`; here it is what is wrong with them, and what to publish.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from pillarbox.diagnose.domain import Level, Remark, unclear
from pillarbox.mailauth import dkim, dmarc, keys, spf
from pillarbox.mailauth.dns import Answer, Query
from pillarbox.mailauth.publish import Key, Record, dmarc_record, report_consent, spf_record
from pillarbox.mailauth.spf_record import Record as SpfRecord
from pillarbox.mailauth.spf_record import RecordError, Term, is_spf, parse_record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pillarbox.mailauth.dns import Plan
    from pillarbox.mailauth.spf_record import MacroString

# Where services and programs like to publish keys; DNS has no list of those that there are.
USUAL_SELECTORS = (
    "default", "dkim", "mail", "google", "selector1", "selector2", "s1", "s2", "k1", "k2", "k3", "fm1", "fm2", "fm3",
    "mxvault", "protonmail", "zoho", "smtp", "key1", "key2",
)  # fmt: skip
_MAX_RECORDS = 40  # SPF records that are fetched for one domain
_MAX_HOSTS = 10  # of one mx term (RFC 7208 4.6.4)
_GOOD_RSA_BITS = 2048
_END = re.compile(r"[+?~-]?all", re.IGNORECASE)
_ASKS = frozenset(("include", "a", "mx", "ptr", "exists"))


class _Tally(msgspec.Struct):
    """How much one domain's SPF record makes others ask."""

    terms: int = 0
    void: list[str] = msgspec.field(default_factory=list)  # names that were asked for in vain
    by_term: list[tuple[str, int]] = msgspec.field(
        default_factory=list
    )  # of the record itself: each term, and its share
    fetched: int = 0
    problem: str = ""
    failed: str = ""


def check_spf(domain: str, *, takes_mail: bool = True) -> Plan[list[Remark]]:
    """Look at the SPF record: whether there is one, what it says, and what it costs (RFC 7208)."""
    answer = yield Query(domain, "TXT")
    if answer.failed:
        return [unclear("SPF", f"TXT of {domain}", answer)]
    found = [text for text in answer.records if is_spf(text)]
    wanted = spf_record(domain)
    if not found:
        if not takes_mail:
            return []
        advice = "Without it nobody can tell your mail from forged mail, and big receivers refuse it."
        return [Remark("SPF", Level.WARNING, "the domain does not say who sends for it", advice, wanted)]
    if len(found) > 1:
        advice = "There may be but one (RFC 7208 3.2). Put what they say into one, and remove the others."
        merged = wanted._replace(data=_merge(found))
        return [Remark("SPF", Level.ERROR, f"the domain has {len(found)} SPF records", advice, merged)]
    text = found[0]
    try:
        record = parse_record(text)
    except RecordError as error:
        advice = "Receivers take it for no record, or refuse your mail."
        return [Remark("SPF", Level.ERROR, f"the SPF record can't be read: {error}", advice, wanted)]
    tally = _Tally()
    yield from _count(record, domain, (domain,), tally, top=True)
    cheaper = None
    if tally.terms > spf.MAX_LOOKUPS:
        cheaper = yield from _with_networks(domain, text, record, tally)
    remarks = _judge_tally(domain, text, tally, cheaper) + _judge_terms(domain, text, record)
    if not remarks:
        shown = f"{text} ({tally.terms} of {spf.MAX_LOOKUPS} look-ups)"
        remarks.append(Remark("SPF", Level.OK, shown))
    return remarks


def _merge(texts: Sequence[str]) -> str:
    """One record that says what several do, with the mildest of their ends."""
    words = [word for text in texts for word in text.split()[1:]]
    ends = [word for word in words if _END.fullmatch(word)]
    end = next((one for one in ("~all", "?all", "-all") if one in ends), "~all")
    return " ".join(("v=spf1", *dict.fromkeys(word for word in words if word not in ends), end))


def _count(
    record: SpfRecord, domain: str, above: tuple[str, ...], tally: _Tally, *, top: bool = False
) -> Generator[Query, Answer, None]:
    """Add what evaluating a record to its end asks for (RFC 7208 4.6.4)."""
    for term in record.terms:
        if term.kind not in _ASKS:
            continue
        before = tally.terms
        tally.terms += 1
        name = _literal(term.target) if term.target is not None else domain
        if term.kind == "include" and name:
            yield from _descend(name, above, tally, term.text)
        elif term.kind in ("a", "mx") and name:
            yield from _count_void(term, name, tally)
        if top:
            tally.by_term.append((term.text, tally.terms - before))
    if record.redirect is not None:
        before = tally.terms
        tally.terms += 1
        name = _literal(record.redirect)
        if name:
            yield from _descend(name, above, tally, f"redirect={name}")
        if top:
            tally.by_term.append((f"redirect={name}", tally.terms - before))


def _descend(name: str, above: tuple[str, ...], tally: _Tally, term: str) -> Generator[Query, Answer, None]:
    if tally.problem or tally.fetched >= _MAX_RECORDS:
        return
    if name in above:
        tally.problem = f"{term} of {above[-1]} leads in a circle"
        return
    tally.fetched += 1
    answer = yield Query(name, "TXT")
    if answer.failed:
        tally.failed = f"TXT of {name}: {answer.detail or 'no answer'}"
        return
    found = [text for text in answer.records if is_spf(text)]
    if len(found) != 1:
        tally.problem = (
            f"{term} of {above[-1]}: {name} has {len(found) or 'no'} SPF record{'s' * (len(found) > 1)}"
        )
        return
    try:
        record = parse_record(found[0])
    except RecordError as error:
        tally.problem = f"{name}: {error}"
        return
    yield from _count(record, name, (*above, name), tally)


def _count_void(term: Term, name: str, tally: _Tally) -> Generator[Query, Answer, None]:
    """Whether a term is for a name that is not there: two of them are allowed."""
    if term.kind == "mx":
        found = [(yield Query(name, "MX"))]
    else:
        found = [(yield Query(name, "A")), (yield Query(name, "AAAA"))]
    if not any(answer.records or answer.failed for answer in found):
        tally.void.append(term.text)


def _literal(parts: MacroString) -> str:
    """A name without macros; "" if it depends on the message."""
    return parts[0].lower().removesuffix(".") if len(parts) == 1 and isinstance(parts[0], str) else ""


def _with_networks(
    domain: str, text: str, record: SpfRecord, tally: _Tally
) -> Generator[Query, Answer, Record | None]:
    """The record with the addresses of the domain's own hosts in place of their names, if that makes it cheap enough."""
    words = text.split()
    saved = 0
    for term in record.terms:
        name = _literal(term.target) if term.target is not None else domain
        if term.kind not in ("a", "mx") or not name or "/" in term.text:
            continue
        hosts = [name]
        if term.kind == "mx":
            hosts = [host for _, host in (yield Query(name, "MX")).records[:_MAX_HOSTS]]
        found = []
        for host in hosts:
            found += [f"ip4:{address}" for address in (yield Query(host, "A")).records]
            found += [f"ip6:{address}" for address in (yield Query(host, "AAAA")).records]
        if not found:
            continue
        sign = term.text[0] if term.text[0] in "+-~?" else ""
        words[words.index(term.text)] = " ".join(dict.fromkeys(f"{sign}{one}" for one in found))
        saved += 1
    return Record(domain, "TXT", " ".join(words)) if 0 < tally.terms - saved <= spf.MAX_LOOKUPS else None


def _judge_tally(domain: str, text: str, tally: _Tally, cheaper: Record | None = None) -> list[Remark]:
    if tally.problem:
        advice = "Receivers find a permanent error, and many refuse the mail. Correct or remove that term."
        return [Remark("SPF", Level.ERROR, tally.problem, advice)]
    if tally.failed:
        return [Remark("SPF", Level.UNCLEAR, tally.failed, "Look at it again later.")]
    remarks = []
    shares = ", ".join(f"{text} {share}" for text, share in sorted(tally.by_term, key=lambda one: -one[1]))
    if tally.terms > spf.MAX_LOOKUPS:
        found = f"the SPF record takes {tally.terms} look-ups, and {spf.MAX_LOOKUPS} are allowed: {shares}"
        advice = (
            "Receivers stop with a permanent error. Remove services that you no longer use, and write networks of your own "
            "as ip4: and ip6:, which cost nothing."
        )
        remarks.append(Remark("SPF", Level.ERROR, found, advice, cheaper))
    elif tally.terms > spf.MAX_LOOKUPS - 2:
        found = f"the SPF record takes {tally.terms} of {spf.MAX_LOOKUPS} look-ups: {shares}"
        advice = "It breaks when one of the services that it includes adds another."
        remarks.append(Remark("SPF", Level.HINT, found, advice))
    if len(tally.void) > spf.MAX_VOID:
        found = f"the SPF record names what is not there: {', '.join(tally.void)}"
        advice = (
            f"More than {spf.MAX_VOID} look-ups without a result are a permanent error. Remove these terms."
        )
        remarks.append(Remark("SPF", Level.ERROR, found, advice, _without(domain, text, tally.void)))
    elif tally.void:
        found = f"the SPF record names what is not there: {', '.join(tally.void)}"
        remarks.append(Remark("SPF", Level.HINT, found, "Remove it.", _without(domain, text, tally.void)))
    return remarks


def _without(domain: str, text: str, terms: Sequence[str]) -> Record | None:
    """The record without some terms; None if they stand in records that it includes."""
    left = [word for word in text.split() if word not in terms]
    return Record(domain, "TXT", " ".join(left)) if len(left) < len(text.split()) else None


def _judge_terms(domain: str, text: str, record: SpfRecord) -> list[Remark]:
    """What a record says of everybody else, and terms that do harm."""
    remarks = []
    ends = [term for term in record.terms if term.kind == "all"]
    softer = Record(domain, "TXT", _with_end(text, "~all"))
    if ends and ends[0].result == "pass":
        advice = "Everybody may send in the domain's name. Say what is true."
        remarks.append(
            Remark("SPF", Level.ERROR, f"{ends[0].text} lets the whole world send", advice, softer)
        )
    elif (ends and ends[0].result == "neutral") or (not ends and record.redirect is None):
        found = f"{ends[0].text} says nothing about strangers" if ends else "the SPF record has no end"
        advice = "A stranger's mail is as good as yours. End with ~all, or -all if nobody forwards your mail."
        remarks.append(Remark("SPF", Level.WARNING, found, advice, softer))
    behind = record.terms[record.terms.index(ends[0]) + 1 :] if ends else ()
    if behind:
        found = f"{', '.join(term.text for term in behind)} behind {ends[0].text} is never looked at"
        remarks.append(Remark("SPF", Level.WARNING, found, "Put it in front of the end.", softer))
    if any(term.kind == "ptr" for term in record.terms):
        advice = "It is slow and not to be used (RFC 7208 5.5). Name the hosts or networks."
        named = [term.text for term in record.terms if term.kind == "ptr"]
        remarks.append(
            Remark("SPF", Level.HINT, "the SPF record uses ptr", advice, _without(domain, text, named))
        )
    return remarks


def _with_end(text: str, end: str) -> str:
    return " ".join((*(word for word in text.split() if not _END.fullmatch(word)), end))


def check_selector(domain: str, selector: str, own: Key | None = None) -> Plan[list[Remark]]:
    """Look at one DKIM key; `own` is the one that we sign with there. Nothing is said of a selector that is not there."""
    name = f"{selector}._domainkey.{domain}"
    answer = yield Query(name, "TXT")
    if answer.failed:
        return [unclear("DKIM", f"TXT of {name}", answer)]
    wanted = Record(name, "TXT", own.record) if own is not None else None
    if not answer.records:
        if own is None or own.state != "signs":
            return []
        advice = "Mail is signed with this key, and nobody can verify it."
        return [Remark("DKIM", Level.ERROR, f"the key {name} is not published", advice, wanted)]
    if len(answer.records) > 1:
        advice = "There may be but one (RFC 6376 3.6.2.2)."
        return [Remark("DKIM", Level.WARNING, f"{name} has {len(answer.records)} records", advice, wanted)]
    try:
        key = keys.parse_record(answer.records[0])
    except keys.BadKey as error:
        if "revoked" in str(error):
            return [Remark("DKIM", Level.OK, f"{name} is revoked")]
        return [
            Remark("DKIM", Level.ERROR, f"{name}: {error}", "No signature with it can be verified.", wanted)
        ]
    return _judge_key(name, key, wanted)


def _judge_key(name: str, key: keys.KeyRecord, wanted: Record | None) -> list[Remark]:
    if wanted is not None and keys.parse_record(wanted.data).key != key.key:
        advice = "Mail is signed with one key, and verified with another."
        return [Remark("DKIM", Level.ERROR, f"{name} is not the key that signs here", advice, wanted)]
    remarks = []
    problem = dkim.misfit(key.algorithm, key)
    advice = "Make a new key: `pillarbox dkim rotate`, or the like of the service that signs."
    if problem:
        remarks.append(Remark("DKIM", Level.ERROR, f"{name}: {problem}", advice))
    elif key.algorithm == "rsa-sha256" and key.bits < _GOOD_RSA_BITS:
        remarks.append(
            Remark("DKIM", Level.WARNING, f"{name}: an RSA key of {key.bits} bits can be broken", advice)
        )
    if key.testing:
        found = f"{name} says that it is only tested (t=y), so its signatures may be ignored"
        plain = Record(name, "TXT", keys.format_public(key.key))
        remarks.append(Remark("DKIM", Level.WARNING, found, "Take t=y out.", plain))
    return remarks or [Remark("DKIM", Level.OK, f"{name}: {key.algorithm}, {key.bits} bits")]


def judge_selectors(domain: str, asked: int, found: list[Remark]) -> list[Remark]:
    """What follows from all selectors together; that many of them got no answer is told once."""
    unclear_ones = [one for one in found if one.level is Level.UNCLEAR]
    if len(unclear_ones) > 1:
        first = replace(unclear_ones[0], found=f"{unclear_ones[0].found}; and {len(unclear_ones) - 1} more")
        return [first, *(one for one in found if one.level is not Level.UNCLEAR)]
    if found:
        return found
    advice = "Name the selectors that you sign with (--selector). If there is none: `pillarbox dkim new` makes keys."
    return [
        Remark("DKIM", Level.HINT, f"no key of {domain} is at any of the {asked} names looked at", advice)
    ]


def check_dmarc(domain: str) -> Plan[list[Remark]]:
    """Look at what the domain wants done with forged mail (RFC 9989)."""
    answer = yield Query(f"_dmarc.{domain}", "TXT")
    if answer.failed:
        return [unclear("DMARC", f"TXT of _dmarc.{domain}", answer)]
    wanted = dmarc_record(domain, "none", f"postmaster@{domain}")
    found = [record for record in map(dmarc.parse_record, answer.records) if record is not None]
    if len(found) > 1:
        advice = "Receivers then take it that there is none (RFC 9989 4.10). Keep one."
        kept = wanted._replace(data=found[0].text)
        return [Remark("DMARC", Level.ERROR, f"the domain has {len(found)} DMARC records", advice, kept)]
    if not found:
        return (yield from _inherited(domain, wanted, answer))
    record = found[0]
    if not record.policy:
        advice = "p= has to be none, quarantine or reject; so receivers ignore the record."
        return [
            Remark("DMARC", Level.ERROR, f"the DMARC record makes no sense: {record.text}", advice, wanted)
        ]
    remarks = _judge_policy(domain, record, wanted)
    for address in record.reports_to:
        remarks += yield from _check_consent(domain, address)
    return remarks or [Remark("DMARC", Level.OK, record.text)]


def _inherited(domain: str, wanted: Record, answer: Answer) -> Plan[list[Remark]]:
    """What a domain above says, if the domain itself says nothing."""
    discovery = yield from dmarc.discover(domain)
    if discovery.failed:
        return [Remark("DMARC", Level.UNCLEAR, discovery.problem)]
    if discovery.record is not None and discovery.record.policy:
        shown = f"the record of {discovery.found_at} counts: {discovery.record.text}"
        return [Remark("DMARC", Level.OK, shown)]
    odd = next((text for text in answer.records if "dmarc" in text.lower()), "")
    found = (
        f"the DMARC record can't be read: {odd}"
        if odd
        else "the domain does not say what to do with forged mail"
    )
    advice = "Big receivers demand a record from whoever sends much. Begin with p=none and read the reports."
    return [Remark("DMARC", Level.ERROR if odd else Level.WARNING, found, advice, wanted)]


def _judge_policy(domain: str, record: dmarc.Record, wanted: Record) -> list[Remark]:
    remarks = []
    if not record.reports_to:
        more = wanted._replace(data=f"{record.text.rstrip('; ')}; rua=mailto:postmaster@{domain}")
        advice = "Reports tell who sends in the domain's name, and whether your own mail passes."
        remarks.append(Remark("DMARC", Level.HINT, "nobody gets the DMARC reports", advice, more))
    if record.testing or record.policy == "none":
        stricter = wanted._replace(data=_stricter(record))
        found = "forged mail is delivered: " + ("t=y" if record.testing else "p=none")
        advice = "Once the reports show that your own mail passes, ask for more."
        remarks.append(Remark("DMARC", Level.HINT, found, advice, stricter))
    elif record.of_subdomains == "none":
        found = "mail forged in the name of any subdomain is delivered (sp=none)"
        advice = "Without sp= they have the policy of the domain."
        same = wanted._replace(data="; ".join(_fields(record, "sp")))
        remarks.append(Remark("DMARC", Level.HINT, found, advice, same))
    return remarks


def _stricter(record: dmarc.Record) -> str:
    policy = "quarantine" if record.policy == "none" else record.policy
    return "; ".join(("v=DMARC1", f"p={policy}", *_fields(record, "p", "t", "v")))


def _fields(record: dmarc.Record, *tags: str) -> list[str]:
    """What a record says, without some tags."""
    fields = [one.strip() for one in record.text.split(";")]
    return [one for one in fields if one and one.partition("=")[0].strip().lower() not in tags]


def _check_consent(domain: str, address: str) -> Plan[list[Remark]]:
    """Whether another domain agrees to get the reports (RFC 9990 4)."""
    wanted = report_consent(domain, address)
    if wanted is None:
        return []
    answer = yield Query(wanted.name, "TXT")
    if answer.failed or any(dmarc.parse_record(text) is not None for text in answer.records):
        return []
    found = f"{address} gets no reports: its domain does not agree to it"
    return [
        Remark("DMARC", Level.WARNING, found, "Whoever runs that domain has to publish the record.", wanted)
    ]


def check_sending(domain: str, address: str, now: float) -> Plan[list[Remark]]:
    """Whether SPF lets an address send for the domain."""
    client = spf.Client(address, domain, f"postmaster@{domain}", now=now)
    verdict = yield from spf.check(client)
    if verdict.result == "pass":
        return [Remark("SPF", Level.OK, f"{address} may send for the domain ({verdict.detail})")]
    if verdict.result == "temperror":
        return [Remark("SPF", Level.UNCLEAR, verdict.detail)]
    kind = "ip6" if ":" in address else "ip4"
    found = f"SPF says {verdict.result} for mail from {address}"
    advice = f"Put {kind}:{address} into the domain's SPF record."
    return [Remark("SPF", Level.ERROR if verdict.result == "fail" else Level.WARNING, found, advice)]
