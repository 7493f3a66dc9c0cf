"""Look at a mail domain as the world sees it, and say what to mend, the most urgent first, with the records to publish.

What is found is judged in `diagnose.domain`, `domain_senders` and `domain_hosts`; here DNS and the hosts are asked.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click
import msgspec

from pillarbox.cli.outcome import Exit
from pillarbox.cli.show import count, fail, is_colourful, show_json, wrapped
from pillarbox.cli.store import load_config, named_config

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from pillarbox.config import Config
    from pillarbox.diagnose.domain import Exchanger, Exchangers, Remark
    from pillarbox.diagnose.domain_hosts import Visit
    from pillarbox.mailauth.dns import Plan
    from pillarbox.mailauth.publish import Key, Pin
    from pillarbox.net.resolver import Resolver

T = TypeVar("T")

_MAX_VISITS = 8  # at the same time
_MARKS = {"ERROR": "red", "WARNING": "yellow", "UNCLEAR": "magenta", "HINT": "cyan", "OK": "green"}


class _Look(msgspec.Struct):
    """One look at one domain."""

    domain: str
    resolver: Resolver
    private: bool  # a name server of an inner network is asked, so inner addresses are as good as others
    selectors: tuple[str, ...]
    sending: tuple[str, ...]
    keys: tuple[Key, ...]
    own: str  # the name of our server, if its configuration is known
    pins: tuple[Pin, ...]  # the TLSA records of that
    helo: str
    limit_s: float
    smtp: bool
    smtp_port: int
    https_port: int
    ca_file: str
    shows: bool  # tell what is being looked at
    slots: asyncio.Semaphore = msgspec.field(default_factory=lambda: asyncio.Semaphore(_MAX_VISITS))

    async def follow(self, plan: Plan[T]) -> T:
        from pillarbox.mailauth.dns import follow

        return await follow(plan, self.resolver.lookup)

    def step(self, text: str) -> None:
        """Say what is being looked at, on one line of a terminal."""
        if self.shows:
            click.echo(f"\r\x1b[K{text}" if text else "\r\x1b[K", nl=False, err=True)


@click.command()
@click.argument("domain")
@click.option("--selector", "selectors", multiple=True, metavar="NAME", help="A DKIM selector; repeatable.")
@click.option(
    "--sending", multiple=True, metavar="ADDRESS", help="An IP address that sends for the domain; repeatable."
)
@click.option(
    "--resolver", metavar="HOST[:PORT]", help="The name server to ask. Default: those of the system."
)
@click.option(
    "--timeout", "limit_s", default=10.0, show_default=True, metavar="SECONDS", help="For each answer."
)
@click.option("--smtp/--no-smtp", default=True, show_default=True, help="Visit the mail exchangers.")
@click.option("--smtp-port", default=25, show_default=True, metavar="PORT", help="Where exchangers listen.")
@click.option(
    "--https-port", default=443, show_default=True, metavar="PORT", help="Where policies are served."
)
@click.option(
    "--ca-file", default="", metavar="FILE", help="The certificates to trust. Default: the system's."
)
@click.option("--helo", default="", metavar="NAME", help="The name to introduce ourselves by.")
@click.option(
    "--fail-on",
    type=click.Choice(["error", "warning", "hint"]),
    default="warning",
    show_default=True,
    help="What makes the exit status 1.",
)
@click.option("--all", "with_good", is_flag=True, help="Show what is good, too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--config", type=click.Path(path_type=Path), metavar="FILE", help="Look for our DKIM keys there."
)
def check(domain: str, *, as_json: bool, with_good: bool, fail_on: str, **options: object) -> None:
    """Look at DOMAIN as other mail servers see it: MX, hosts, SPF, DKIM, DMARC, reverse DNS, TLS, DANE, MTA-STS, TLS-RPT.

    What to mend comes first, with the record to publish. No mail is sent. Exit status: 0 nothing to mend, 1 something is,
    75 DNS gave no answer, so nobody knows.
    """
    from pillarbox.diagnose.domain import Level, ranked

    look = _prepare(domain, options, shows=not as_json and sys.stderr.isatty())
    remarks = ranked(asyncio.run(_look_at(look)))
    look.step("")
    if as_json:
        show_json({"domain": look.domain, "remarks": [_as_json(one) for one in remarks]})
    else:
        _show(look.domain, remarks, with_good=with_good)
    if any(one.level >= Level[fail_on.upper()] and one.level is not Level.UNCLEAR for one in remarks):
        sys.exit(Exit.NOTHING)
    sys.exit(Exit.TEMPORARY if any(one.level is Level.UNCLEAR for one in remarks) else Exit.OK)


def _prepare(domain: str, options: dict[str, object], *, shows: bool) -> _Look:
    from ipaddress import ip_address

    from pillarbox.cli.dialogue import own_name
    from pillarbox.cli.domain_dns import stored
    from pillarbox.mail.units import Seconds
    from pillarbox.mailauth.names import a_labels
    from pillarbox.net.resolver import Resolver, ResolverSettings

    name = a_labels(domain.strip())
    if "." not in name:
        fail(f"not a domain name: {domain}", Exit.USAGE)
    server, config = options.pop("resolver"), options.pop("config")
    limit_s, helo = float(str(options["limit_s"])), str(options["helo"])
    sending, selectors = (tuple(map(str, options[one])) for one in ("sending", "selectors"))  # type: ignore[call-overload]
    try:
        for one in sending:
            ip_address(one)
        nameservers = (str(server),) if server else ()
        resolver = Resolver(
            ResolverSettings(
                nameservers=nameservers,
                timeout_s=Seconds(limit_s),
                dnssec="trusted" if server else "loopback",
            )
        )
        private = bool(server) and ip_address(resolver.first_server).is_private
    except ValueError as error:
        fail(str(error), Exit.USAGE)
    file = config if isinstance(config, Path) else named_config()
    settings = load_config(file) if file is not None else None
    return _Look(
        name, resolver, private, selectors, sending,
        () if settings is None else stored(Path(settings.data), name),
        "" if settings is None else a_labels(settings.hostname),
        () if settings is None else _pins(settings),
        helo or own_name(), limit_s,
        bool(options["smtp"]), int(str(options["smtp_port"])), int(str(options["https_port"])), str(options["ca_file"]), shows,
    )  # fmt: skip


def _pins(settings: Config) -> tuple[Pin, ...]:
    """The TLSA records of our server; none if its certificates are not for everybody to read."""
    from pillarbox.cli.domain_dns import PinError, pins

    try:
        return pins(settings, settings.hostname)
    except PinError:
        return ()


async def _look_at(look: _Look) -> list[Remark]:
    from pillarbox.diagnose.domain import find_exchangers

    look.step(f"{look.domain}: where its mail goes")
    found = await look.follow(find_exchangers(look.domain, private=look.private))
    remarks = list(found.remarks)
    if not found.exists:
        return remarks
    parts: list[Awaitable[list[Remark]]] = [_senders(look, found), _addresses(look, found)]
    if found.takes_mail:
        parts.append(_hosts(look, found))
    for part in await asyncio.gather(*parts):
        remarks += part
    return remarks


async def _senders(look: _Look, found: Exchangers) -> list[Remark]:
    from pillarbox.diagnose.domain_senders import (
        USUAL_SELECTORS,
        check_dmarc,
        check_selector,
        check_spf,
        judge_selectors,
    )

    domain = look.domain
    remarks: list[Remark] = []
    if found.takes_mail:  # for others, what is to be said was said with the null MX
        look.step(f"{domain}: SPF and DMARC")
        for part in await asyncio.gather(look.follow(check_spf(domain)), look.follow(check_dmarc(domain))):
            remarks += part
    own = {one.name.partition("._domainkey.")[0]: one for one in look.keys}
    selectors = list(dict.fromkeys((*own, *look.selectors, *(() if look.selectors else USUAL_SELECTORS))))
    look.step(f"{domain}: DKIM")
    asked = [look.follow(check_selector(domain, one, own.get(one))) for one in selectors]
    keys = [remark for part in await asyncio.gather(*asked) for remark in part]
    if found.takes_mail or keys:
        remarks += judge_selectors(domain, len(selectors), keys)
    return remarks


async def _addresses(look: _Look, found: Exchangers) -> list[Remark]:
    """Names of the hosts' addresses, and what SPF says of those that send."""
    from pillarbox.diagnose.domain import check_reverse
    from pillarbox.diagnose.domain_senders import check_sending

    look.step(f"{look.domain}: reverse DNS")
    wanted = {address: host.name for host in found.hosts for address in host.addresses}
    wanted |= {address: wanted.get(address, "") for address in look.sending}
    plans = [look.follow(check_reverse(address, host)) for address, host in wanted.items()]
    remarks = list(await asyncio.gather(*plans))
    for address in look.sending:
        remarks += await look.follow(check_sending(look.domain, address, time.time()))
    return remarks


async def _hosts(look: _Look, found: Exchangers) -> list[Remark]:
    from pillarbox.diagnose.domain_hosts import check_dane, check_tls_reports, judge_visits

    visits: list[Visit] = []
    if look.smtp:
        where = [(host.name, address) for host in found.hosts for address in host.addresses]
        visits = list(await asyncio.gather(*(_visit(look, *one) for one in where)))
    now = time.time()
    remarks = judge_visits(visits, now=now)
    look.step(f"{look.domain}: DANE, MTA-STS, TLS-RPT")
    plans = [
        look.follow(
            check_dane(look.domain, host, visits, now=now, pins=look.pins if host.name == look.own else ())
        )
        for host in found.hosts
    ]
    more = (*plans, _sts(look, found.hosts, visits), look.follow(check_tls_reports(look.domain)))
    for part in await asyncio.gather(*more):
        remarks += part
    return remarks


async def _visit(look: _Look, host: str, address: str) -> Visit:
    from pillarbox.cli.visit import visit

    async with look.slots:
        look.step(f"{look.domain}: {host} [{address}]")
        return await asyncio.to_thread(
            visit, host, address, look.smtp_port, helo=look.helo, limit_s=look.limit_s, ca_file=look.ca_file
        )


async def _sts(look: _Look, hosts: Sequence[Exchanger], visits: Sequence[Visit]) -> list[Remark]:
    from pillarbox.cli.visit import fetch_policy
    from pillarbox.diagnose.domain import Level, Remark
    from pillarbox.diagnose.domain_hosts import judge_sts, unusable_sts, without_sts
    from pillarbox.mailauth.mta_sts import PolicyError, find_record

    domain = look.domain
    announced = await look.follow(find_record(domain))
    if announced.failed:
        return [Remark("MTA-STS", Level.UNCLEAR, f"TXT of _mta-sts.{domain}: {announced.failed}")]
    if not announced.id:
        return [without_sts(domain, hosts)] if hosts else []
    addresses = await look.resolver.addresses(f"mta-sts.{domain}")
    if not addresses.records:
        return [unusable_sts(domain, f"mta-sts.{domain} has no address")]
    try:
        policy = await asyncio.to_thread(
            fetch_policy,
            domain,
            addresses.records[0],
            look.https_port,
            limit_s=look.limit_s,
            ca_file=look.ca_file,
        )
    except PolicyError as error:
        return [unusable_sts(domain, str(error))]
    return judge_sts(domain, policy, hosts, visits)


def _as_json(one: Remark) -> dict[str, object]:
    record = one.record
    return {
        "topic": one.topic,
        "level": one.level.name.lower(),
        "found": one.found,
        "advice": one.advice,
        "record": None if record is None else {
            "name": record.name, "type": record.kind, "data": record.data, "zone": str(record),
        },
    }  # fmt: skip


def _show(domain: str, remarks: Sequence[Remark], *, with_good: bool) -> None:
    from pillarbox.diagnose.domain import Level

    shown = [one for one in remarks if with_good or one.level is not Level.OK]
    for one in shown:
        mark = click.style(f"{one.level.name.lower():8}", fg=_MARKS[one.level.name])
        click.echo(f"{mark}{one.topic}", color=is_colourful())
        click.echo(wrapped(one.found, "    "))
        if one.advice:
            click.echo(wrapped(one.advice, "    "))
        if one.record is not None:
            click.echo(f"    {one.record}")
    good = sum(one.level is Level.OK for one in remarks)
    wrong = len(remarks) - good
    click.echo(f"{domain}: {count(wrong, 'remark')}, {count(good, 'thing')} as it should be")
