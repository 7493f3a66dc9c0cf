"""Print what to publish in DNS for a domain of ours, ready to paste into its zone.

What the records say is the business of `mailauth.publish`; whether the world sees them is told by `pillarbox check`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pillarbox.cli.outcome import Exit
from pillarbox.cli.show import fail, show_json
from pillarbox.cli.store import load_config, named_config, sandbox_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pillarbox.config import Config
    from pillarbox.mailauth.publish import Facts, Hint, Key, Pin, Record
    from pillarbox.net.chains import Shown
    from pillarbox.policy.domains import DomainSettings, StsSettings


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
@click.option(
    "--next",
    "coming",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A certificate or key that the server will use later: print its TLSA record too.",
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
    coming: tuple[Path, ...],
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
    folder = data or (Path(settings.data) if settings is not None else sandbox_folder())
    known = _domains(settings, folder)
    server = a_labels(host or (settings.hostname if settings is not None else ""))
    tlsa, covered = _of_tls(settings, a_labels(host), name, coming)
    facts = Facts(
        name,
        server,
        takes_mail=name not in known or not known[name].no_mail,
        keys=stored(folder, name),
        reports_to=reports_to,
        dmarc_policy=dmarc,
        sts_policy=_policy(known[name].mta_sts, server) if name in known else "",
        sts_certificate=covered,
        tlsa=tlsa,
        senders=senders,
    )
    found = list(records(facts))
    if settings is not None and name not in known:
        found.append(
            Hint("server", f"it takes no mail for {name} yet: `pillarbox domain add`, or the configuration")
        )
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


def _of_tls(
    settings: Config | None, host: str, domain: str, coming: Sequence[Path]
) -> tuple[tuple[Pin, ...], bool]:
    """The TLSA records, and whether a certificate is for the host of the domain's MTA-STS policy."""
    from pillarbox.mailauth.publish import Pin

    try:
        if settings is None:
            return tuple(Pin(_pin_of(file), f"the key in {file}") for file in coming), True
        return pins(settings, host or settings.hostname, coming), _covers(settings, f"mta-sts.{domain}")
    except PinError as error:
        fail(str(error), error.status)


def _covers(settings: Config, name: str) -> bool:
    """Whether a certificate is for a name; without any, another server shows them."""
    from pillarbox.net.certificates import is_for

    found = _certificates(settings)
    return not found or is_for(found, name)


def _domains(settings: Config | None, folder: Path) -> dict[str, DomainSettings]:
    """Our domains by their names in A-labels: those that are kept in the data folder, and those of the configuration."""
    from pillarbox.mailauth.names import a_labels
    from pillarbox.policy.account_store import FILE

    found: dict[str, DomainSettings] = {}
    if (folder / FILE).exists():  # a look makes none
        from pillarbox.cli.user import handled
        from pillarbox.policy.domain_store import DomainStore

        with handled(folder / FILE, DomainStore) as store:
            found = {one.ascii_name: one.settings for one in store.domains()}
    configured = settings.domains if settings is not None else {}
    return found | {a_labels(name): one for name, one in configured.items()}


def _policy(settings: StsSettings, hostname: str) -> str:
    """The MTA-STS policy that the server publishes for a domain; "" for none."""
    from pillarbox.inbound.sts_host import policy_of

    policy = policy_of(settings, hostname)
    return str(policy) if policy is not None else ""


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


class PinError(Exception):
    """A certificate or a key can't be read: the exit status, and why."""

    def __init__(self, status: Exit, text: str) -> None:
        """Keep both."""
        super().__init__(text)
        self.status = status


def pins(settings: Config, host: str, coming: Sequence[Path] = ()) -> tuple[Pin, ...]:
    """TLSA records for what a host of ours shows, and for what it is going to show. Raises PinError."""
    from pillarbox.diagnose.domain_hosts import tlsa_of
    from pillarbox.mailauth.publish import Pin
    from pillarbox.net.certificates import shown_for

    shown = shown_for(_certificates(settings), host, time.time())
    found = [Pin(tlsa_of(one.octets), f"the key that TLS shows now ({one.kind})") for one in shown]
    if any(one.source.setting == "acme" for one in shown):
        found += _coming_by_acme(settings)
    found += [Pin(_pin_of(file), f"the key in {file}, which is to come") for file in coming]
    return tuple({one.data: one for one in reversed(found)}.values())[::-1]


def _certificates(settings: Config) -> list[Shown]:
    """The certificates of the server that are there. Raises PinError."""
    from pillarbox.config.certificates import certificates_of
    from pillarbox.net.chains import ChainError, read_shown

    found = []
    for source in certificates_of(settings).sources:
        try:
            found.append(read_shown(source))
        except ChainError as error:
            made = source.setting in ("acme", "tls.self_signed")  # by the server, later
            if not made or Path(source.chain).exists():
                raise PinError(Exit.NO_INPUT, str(error)) from error
    return found


def _coming_by_acme(settings: Config) -> list[Pin]:
    """The keys of the next certificates, which are made beforehand."""
    from pillarbox.mailauth.publish import Pin
    from pillarbox.net.renewal import next_key_file

    files = [(kind, next_key_file(Path(settings.data), kind)) for kind in settings.acme.keys]
    return [
        Pin(_pin_of(file), f"the key of the next certificate ({kind.upper()}); publish it before the renewal")
        for kind, file in files
        if file.exists()
    ]


def _pin_of(file: Path) -> str:
    """The TLSA record for a certificate or a key in PEM."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
    from cryptography.x509 import load_pem_x509_certificate

    from pillarbox.diagnose.domain_hosts import tlsa_of_key

    try:
        octets = file.read_bytes()
        if b"CERTIFICATE-----" in octets:
            return tlsa_of_key(load_pem_x509_certificate(octets).public_key())
        if b"PUBLIC KEY-----" in octets:
            return tlsa_of_key(load_pem_public_key(octets))
        return tlsa_of_key(load_pem_private_key(octets, None).public_key())
    except OSError as error:
        raise PinError(Exit.NO_INPUT, f"cannot read {file}: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise PinError(Exit.DATA, f"{file}: neither a certificate nor a key in PEM: {error}") from error
