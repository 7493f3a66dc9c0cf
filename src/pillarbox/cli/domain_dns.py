"""Print what to publish in DNS for a domain of ours, ready to paste into its zone.

What the records say is the business of `mailauth.publish`; whether the world sees them is told by `pillarbox check`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pillarbox.cli.outcome import Exit
from pillarbox.cli.show import fail, show_json
from pillarbox.cli.store import load_config, named_config, sandbox_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pillarbox.config import Config
    from pillarbox.mailauth.publish import Facts, Hint, Key, Record


@click.command("dns")
@click.argument("domain")
@click.option(
    "--host", default="", metavar="NAME", help="The server's name, if not that of the configuration."
)
@click.option(
    "--reports-to",
    default="",
    metavar="ADDRESS",
    help="Who gets the reports of other servers. Default: postmaster of the domain.",
)
@click.option(
    "--dmarc",
    type=click.Choice(["none", "quarantine", "reject"]),
    default="none",
    show_default=True,
    help="What others are to do with forgeries.",
)
@click.option(
    "--spf", "senders", multiple=True, metavar="TERM", help='Who else sends, such as "include:x.example".'
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--data", type=click.Path(path_type=Path), metavar="DIR", help="The server's data folder, for its keys."
)
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="The server's configuration.")
def dns(  # noqa: PLR0913 - one argument for each option
    domain: str,
    *,
    host: str,
    reports_to: str,
    dmarc: str,
    senders: tuple[str, ...],
    data: Path | None,
    config: Path | None,
    as_json: bool,
) -> None:
    """Print every record to publish for DOMAIN, in the form of a zone file: MX, SPF, DKIM, DMARC, TLS reports, TLSA.

    Lines that begin with ";" are remarks. Nothing is asked of DNS.
    """
    from pillarbox.mailauth.names import a_labels
    from pillarbox.mailauth.publish import Facts, Hint, Record, records

    name = a_labels(domain.strip())
    if "." not in name:
        fail(f"not a domain name: {domain}", Exit.USAGE)
    file = config or named_config()
    settings = load_config(file) if file is not None else None
    if settings is None and not host:
        fail("which server? Name its configuration with --config, or its name with --host", Exit.USAGE)
    known = {a_labels(one): found for one, found in settings.domains.items()} if settings is not None else {}
    folder = data or (Path(settings.data) if settings is not None else sandbox_folder())
    facts = Facts(
        name,
        a_labels(host or (settings.hostname if settings is not None else "")),
        takes_mail=name not in known or not known[name].no_mail,
        keys=stored(folder, name),
        reports_to=reports_to,
        dmarc_policy=dmarc,
        sts_policy=_policy(settings, name),
        tlsa=_tlsa(settings),
        senders=senders,
    )
    found = list(records(facts))
    if as_json:
        show_json(
            {
                "domain": name,
                "records": [_as_json(one) for one in found if isinstance(one, Record)],
                "hints": [one._asdict() for one in found if isinstance(one, Hint)],
            }
        )
        return
    _show(facts, found)


def _policy(settings: Config | None, domain: str) -> str:
    """The MTA-STS policy that the server publishes for a domain; "" for none."""
    from pillarbox.inbound.sts_host import published

    return (
        dict(published(settings.domains, settings.hostname)).get(domain, "") if settings is not None else ""
    )


def _show(facts: Facts, found: Sequence[Record | Hint]) -> None:
    from pillarbox.mailauth.publish import Record

    click.echo(f"; publish for {facts.domain}, whose mail {facts.hostname} takes")
    for one in found:
        if isinstance(one, Record):
            click.echo(f"; {one.about}\n{one}")
        else:
            click.echo(f"; {one.topic}: {one.text}")
    click.echo(f"; then look at what the world sees: pillarbox check {facts.domain}")


def _as_json(one: Record) -> dict[str, object]:
    from pillarbox.mailauth.publish import TTL_S

    return {
        "name": one.name,
        "type": one.kind,
        "ttl": TTL_S,
        "data": one.data,
        "about": one.about,
        "zone": str(one),
    }


def stored(folder: Path, domain: str) -> tuple[Key, ...]:
    """The DKIM keys of a domain."""
    from pillarbox.mailauth.publish import Key
    from pillarbox.policy.signing import SigningError, keys_folder, stored_keys

    try:
        stored = stored_keys(keys_folder(folder))
    except SigningError as error:
        fail(str(error), Exit.CONFIG)
    return tuple(Key(one.name, one.record, one.state) for one in stored if one.domain == domain)


def _tlsa(settings: Config | None) -> tuple[str, ...]:
    """A TLSA record for the key of the server's certificate."""
    if settings is None or not settings.tls.certificate:
        return ()
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509 import load_pem_x509_certificate

    from pillarbox.diagnose.domain_hosts import tlsa_of

    file = Path(settings.tls.certificate)
    try:
        certificate = load_pem_x509_certificate(file.read_bytes())
    except OSError as error:
        fail(f"cannot read {file}: {error.strerror}", Exit.NO_INPUT)
    except ValueError as error:
        fail(f"{file}: {error}", Exit.CONFIG)
    return (tlsa_of(certificate.public_bytes(Encoding.DER)),)
