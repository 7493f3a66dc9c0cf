"""Find out where reports about a domain go, and whether who gets them wants them: plans (RFC 9990 4, RFC 8460 3).

Making and sending reports is the business of others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pillarbox.mailauth import dmarc
from pillarbox.mailauth.dns import Query
from pillarbox.mailauth.names import a_labels, is_askable
from pillarbox.mailauth.tags import TagError, parse_tags

if TYPE_CHECKING:
    from pillarbox.mailauth.dns import Plan

MAX_DESTINATIONS = 5  # of one domain
_TLS_VERSION = "TLSRPTv1"


class Destinations(NamedTuple):
    """Where reports go: addresses, or for TLS-RPT also "https:..."; `problems` tell why some or all do not."""

    to: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    failed: bool = False  # DNS gave no answer: ask again later


def of_dmarc(
    record: dmarc.Record, found_at: str, organization: dmarc.Organization | None = None
) -> Plan[Destinations]:
    """Where aggregate reports go that a record at `found_at` asks for; those of others have to agree (RFC 9990 4)."""
    to: list[str] = []
    problems: list[str] = []
    for address in record.reports_to[:MAX_DESTINATIONS]:
        host = a_labels(address.rpartition("@")[2])
        if not host:
            problems.append(f"{address}: its domain can't be looked up")
            continue
        related = yield from _related(found_at, host, organization)
        if related is None:
            return Destinations(failed=True, problems=(f"{host}: DNS gave no answer",))
        if related:
            to.append(address)
            continue
        name = f"{found_at}._report._dmarc.{host}"
        if not is_askable(name):
            problems.append(f"{address}: {name} is too long for DNS")
            continue
        answer = yield Query(name, "TXT")
        if answer.failed:
            return Destinations(failed=True, problems=(f"TXT of {name}: {answer.detail or 'no answer'}",))
        agreed = [one for text in answer.records if (one := dmarc.parse_record(text)) is not None]
        if not agreed:
            problems.append(f"{address}: {host} does not say that it wants reports about {found_at}")
            continue
        others = [other for one in agreed for other in one.reports_to]
        if any(a_labels(other.rpartition("@")[2]) != host for other in others):
            problems.append(f"{address}: {name} names another host")
            continue
        to += others[:MAX_DESTINATIONS] or [address]
    return Destinations(tuple(dict.fromkeys(to)), tuple(problems))


def _related(domain: str, host: str, organization: dmarc.Organization | None) -> Plan[bool | None]:
    """Whether both belong to one organization; None if DNS gives no answer."""
    if domain == host:
        return True
    if organization is not None:
        return organization(domain) == organization(host)
    found = []
    for name in (domain, host):
        discovery = yield from dmarc.discover(name)
        if discovery.failed:
            return None
        found.append(discovery.organization)
    return found[0] == found[1]


def of_tls(domain: str) -> Plan[Destinations]:
    """Where TLS reports about a domain go (RFC 8460 3)."""
    name = f"_smtp._tls.{domain}"
    answer = yield Query(name, "TXT")
    if answer.failed:
        return Destinations(failed=True, problems=(f"TXT of {name}: {answer.detail or 'no answer'}",))
    found = [
        text for text in map(str, answer.records) if text.partition(";")[0].strip() == f"v={_TLS_VERSION}"
    ]
    if len(found) != 1:
        return Destinations(problems=(f"{name}: more than one record",) if found else ())
    try:
        uris = parse_tags(found[0]).get("rua", "").split(",")
    except TagError as error:
        return Destinations(problems=(f"{name}: {error}",))
    to: list[str] = []
    problems = []
    for uri in (one.strip() for one in uris[:MAX_DESTINATIONS]):
        if uri.lower().startswith("https://"):
            to.append(uri)
        elif addresses := dmarc.mail_addresses(uri):
            to += addresses
        else:
            problems.append(f"{name}: {uri[:80]!r} is neither mailto: nor https:")
    return Destinations(tuple(dict.fromkeys(to)), tuple(problems))
