"""Find what cannot work in settings that are each well formed: names that nothing defines, demands that nothing can meet.

The form of each setting is checked in `config.strict`; whether files, ports and folders can be used when the server
starts is looked at by `pillarbox check-config`.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

from pillarbox.config.source import Path, parse_key
from pillarbox.config.strict import Finding, objection
from pillarbox.mail.address import AddressError, parse_address, parse_domain
from pillarbox.mail.spelling import nearest
from pillarbox.mail.units import format_duration
from pillarbox.mail.verp import DELIMITER
from pillarbox.mailauth.names import a_labels
from pillarbox.policy.accounts import LDAP_PLACEHOLDERS
from pillarbox.policy.directory import Directory
from pillarbox.policy.dns_lists import parse_answers
from pillarbox.policy.origin_settings import MIN_RSA_BITS
from pillarbox.policy.rules import Role
from pillarbox.relay.plan import parse_fixed_host
from pillarbox.smtp.sasl import TRAITS, Strength
from pillarbox.smtp.scram import parse_keys

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pillarbox.config.settings import Config, ListenSettings
    from pillarbox.policy.accounts import AccountSettings, LdapSettings

_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]\s]*):([0-9]{1,5})")
_ROUTE_KEY = re.compile(r"route ([0-9]+)\.([a-z]+)")
_MAX_WORKERS = 64  # as many slots as the store has


def check(config: Config) -> list[Finding]:
    """Everything that keeps these settings from working together."""
    return [
        *_check_identity(config),
        *_check_listeners(config),
        *_check_sandbox(config),
        *_check_acme(config),
        *_check_accounts(config),
        *_check_names(config),
        *_check_policy(config),
        *_check_origin(config),
        *_check_policies(config),
        *_check_reports(config),
        *_check_verp(config),
        *_check_checks(config),
    ]


def split_address(address: str) -> tuple[str, int]:
    """Read "host:port", "[v6]:port" or ":port". Raises ValueError."""
    found = _ADDRESS.fullmatch(address)
    if found is None or int(found[2]) > 65535:
        raise ValueError('not an address; write host and port, such as "0.0.0.0:25" or "[::]:25"')
    return found[1].strip("[]"), int(found[2])


def _check_identity(config: Config) -> Iterator[Finding]:
    try:
        parse_domain(config.hostname)
    except AddressError as error:
        yield Finding(
            ("hostname",), f"not a host name: {error}", 'write the full name, such as "mx1.example.org"'
        )
    if not config.data.startswith("/"):
        where = f"/.../{config.data}" if config.data else "/var/lib/pillarbox"
        yield Finding(("data",), "must be an absolute path", f'write "{where}"')
    if (
        "/" in config.junk_folder
        or "\0" in config.junk_folder
        or config.junk_folder in {"cur", "new", "tmp", ".", ".."}
    ):
        yield Finding(("junk_folder",), "must be the name of one folder inside a Maildir", 'write ".Junk"')
    if "@" in config.recipient_delimiter:
        yield Finding(("recipient_delimiter",), "@ separates the user from the domain", 'write "+"')
    if config.queue.retry.max_s < config.queue.retry.first_s:
        yield Finding(
            ("queue", "retry", "max"),
            f"less than the first wait, {format_duration(config.queue.retry.first_s)}",
            "write as much or more, or less for first",
        )
    if not 1 <= config.workers <= _MAX_WORKERS:
        yield Finding(("workers",), f"must be between 1 and {_MAX_WORKERS}")
    if bool(config.tls.certificate) != bool(config.tls.key):
        given, missing = ("certificate", "key") if config.tls.certificate else ("key", "certificate")
        yield Finding(("tls", given), f"of no use without {missing}", f"add {missing} = ... to [tls]")
    if config.tls.client_ca and not config.has_certificate:
        yield Finding(("tls", "client_ca"), "of no use without certificate", "add certificate = ... to [tls]")


def _check_acme(config: Config) -> Iterator[Finding]:
    acme = config.acme
    if acme == type(acme)():
        return
    if not acme.directory.startswith("https://"):
        yield Finding(("acme", "directory"), "not the address of an authority", 'write "https://..."')
    elif not acme.terms_agreed:
        yield Finding(
            ("acme", "directory"),
            "of no use before you agree to the authority's terms",
            "add terms_agreed = true to [acme]",
        )
    if bool(acme.eab_key_id) != bool(acme.eab_key_file):
        given, missing = ("eab_key_id", "eab_key_file") if acme.eab_key_id else ("eab_key_file", "eab_key_id")
        yield Finding(("acme", given), f"of no use without {missing}", f"add {missing} = ... to [acme]")
    if not acme.keys:
        yield Finding(("acme", "keys"), "name at least one kind", 'write keys = ["ecdsa"]')
    for number, name in enumerate(acme.names):
        try:
            parse_domain(name)
        except AddressError as error:
            yield Finding(("acme", "names", number), f"not a host name: {error}")


def _check_listeners(config: Config) -> Iterator[Finding]:
    seen: dict[tuple[str, int], int] = {}
    addresses: list[tuple[Path, str]] = [
        (("listen", number, "address"), one.address) for number, one in enumerate(config.listen)
    ]
    if config.console.address:
        addresses.append((("console", "address"), config.console.address))
    if config.acme.directory:
        addresses.append((("acme", "address"), config.acme.listens_on))
    for number, (path, text) in enumerate(addresses):
        try:
            address = split_address(text)
        except ValueError as error:
            yield objection(path, str(error))
            continue
        if address[1] and address in seen:
            yield Finding(path, f"the same address as that of [[listen]] number {seen[address] + 1}")
        seen[address] = number
    for number, listener in enumerate(config.listen):
        for key, problem, suggestion in _check_demands(listener, config):
            yield Finding(("listen", number, key), problem, suggestion)


def _check_demands(listener: ListenSettings, config: Config) -> Iterator[tuple[str, str, str]]:
    """What one listener demands, and nothing can give."""
    certificate = config.has_certificate
    advice = "set certificate and key in [tls]"
    if listener.tls == "implicit" and not certificate:
        yield "tls", "there is no certificate for TLS", advice
    if listener.role is Role.POLICY and listener.tls == "starttls":
        yield "role", "HTTP has no STARTTLS", 'write tls = "implicit", or tls = "none" behind a proxy'
    if listener.require_tls and listener.tls == "none":
        yield "require_tls", "TLS is demanded but not offered", 'remove tls = "none"'
    elif listener.require_tls and not certificate:
        yield "require_tls", "there is no certificate for TLS", advice
    if listener.client_certificate in ("ask", "require") and not config.tls.client_ca:
        yield "client_certificate", "nothing says whose certificates to trust", "set client_ca in [tls]"
    if listener.tls == "none" and (listener.min_tls or listener.client_certificate not in ("", "no")):
        key = "min_tls" if listener.min_tls else "client_certificate"
        yield key, "of no use without TLS", 'remove tls = "none"'
    if listener.proxy_protocol and not config.proxy.networks:
        yield (
            "proxy_protocol",
            "no balancer is trusted, so everybody would be cut off",
            "set networks in [proxy]",
        )
    if listener.role is Role.SUBMISSION and not certificate and not listener.login_in_clear:
        yield "role", "nobody could log in: there is no certificate for TLS", advice


def _check_sandbox(config: Config) -> Iterator[Finding]:
    """A sandbox holds all mail of its server, so nothing may stand beside it that is meant for anything else."""
    if not config.is_sandbox:
        return
    for number, listener in enumerate(config.listen):
        if listener.role not in (Role.SANDBOX, Role.NO_MAIL):
            yield Finding(
                ("listen", number, "role"),
                "cannot stand beside a sandbox, which holds all mail of this server",
                'write role = "sandbox" here too, or in no [[listen]]',
            )
    advice = 'remove it, or write role = "sandbox" in no [[listen]]'
    for number, route in enumerate(config.routes):
        if (route.match, route.via) != ("*", "hold"):
            yield Finding(("route", number), "of no use in a sandbox, which holds all mail", advice)
    others: list[Path] = [("domain", name) for name in config.domains]
    for path in [*others, ("postmaster",)] if config.postmaster else others:
        yield Finding(path, "of no use in a sandbox, which takes every recipient and holds all mail", advice)


def check_accounts(accounts: Mapping[str, AccountSettings]) -> Iterator[Finding]:
    """Accounts that nobody could log in to."""
    for name, account in accounts.items():
        if not account.password.startswith("$argon2"):
            yield Finding(
                ("account", name, "password"), "must be an argon2 hash", "`pillarbox user hash` makes one"
            )
        for number, keys in enumerate(account.scram):
            try:
                parse_keys(keys)
            except ValueError as error:
                yield objection(("account", name, "scram", number), str(error))


def _check_accounts(config: Config) -> Iterator[Finding]:
    yield from check_accounts(config.accounts)
    if config.accounts_file and not config.accounts_file.startswith("/"):
        yield Finding(("accounts_file",), "must be an absolute path", f'write "/.../{config.accounts_file}"')
    yield from _check_asked(config)
    yield from _check_ldap(config.ldap)
    if config.oidc.issuer and not config.oidc.audience:
        yield Finding(("oidc", "issuer"), "of no use without audience", "add audience = ... to [oidc]")
    settings = config.auth
    for number, mechanism in enumerate(settings.mechanisms):
        if mechanism not in TRAITS:
            close = nearest(mechanism.upper(), TRAITS)
            yield Finding(
                ("auth", "mechanisms", number),
                "no such mechanism",
                f'did you mean "{close}"?' if close else f"there are {', '.join(TRAITS)}",
            )
    weakest = Strength[settings.min_strength.upper()]
    known = [name for name in settings.mechanisms if name in TRAITS]
    if known and all(TRAITS[name].strength < weakest for name in known):
        yield Finding(
            ("auth", "mechanisms"), f'none of them is as strong as min_strength = "{weakest.name.lower()}"'
        )


def _check_ldap(settings: LdapSettings) -> Iterator[Finding]:
    """What an LDAP server is told to find. The code that speaks with one is loaded only if there is one."""
    if not settings.url:
        return
    from pillarbox.net.ldap_message import parse_filter  # noqa: PLC0415 - it costs start-up time

    scheme, _, place = settings.url.partition("://")
    if scheme not in {"ldap", "ldaps"} or not place.strip("/") or "/" in place.rstrip("/"):
        yield Finding(("ldap", "url"), "not an address of LDAP", 'write "ldaps://host" or "ldap://host:port"')
    if not settings.base:
        yield Finding(("ldap", "url"), "of no use without base", 'add base = "dc=example,dc=org" to [ldap]')
    if settings.bind_dn and not settings.password_file:
        yield Finding(
            ("ldap", "bind_dn"), "of no use without password_file", "add password_file = ... to [ldap]"
        )
    for key in ("account_filter", "mailbox_filter"):
        try:
            if text := getattr(settings, key):
                parse_filter(text, LDAP_PLACEHOLDERS)
        except ValueError as error:
            yield objection(("ldap", key), str(error))


def _check_asked(config: Config) -> Iterator[Finding]:
    """Directories on other hosts that are to know of mailboxes must be able to say so."""
    able = {
        "accounts": True,
        "sql": bool(config.sql_accounts.url and config.sql_accounts.mailbox_query),
        "ldap": bool(config.ldap.url and config.ldap.mailbox_filter),
    }
    advice = {
        "sql": "url = ... and mailbox_query = ... to [sql_accounts]",
        "ldap": "url = ... and mailbox_filter = ... to [ldap]",
    }
    for name, domain in config.domains.items():
        for number, directory in enumerate(domain.users_from):
            if not able[directory]:
                yield Finding(
                    ("domain", name, "users_from", number),
                    "there is nothing to ask",
                    f"add {advice[directory]}",
                )


def _check_names(config: Config) -> Iterator[Finding]:
    """Programs and web services that are named somewhere must be defined, and hosts be ones to connect to."""
    for path, value in ways(config):
        if value.startswith(("smtp://", "lmtp://")):
            try:
                parse_fixed_host(value.partition(":")[2])
            except ValueError as error:
                yield Finding(
                    path,
                    f'"{value}": {error}',
                    'write one such as "smtp://mx.example.net:587" or "smtp://mx.example.net?tls=required"',
                )
        for prefix, table, defined in (
            ("pipe:", "program", config.programs),
            ("webhook:", "webhook", config.webhooks),
        ):
            name = value.removeprefix(prefix)
            if value.startswith(prefix) and name not in defined:
                close = nearest(name, defined)
                advice = f'did you mean "{prefix}{close}"?' if close else f"add a table [{table}.{name}]"
                yield Finding(path, f'nothing defines "{value}"', advice)


def ways(config: Config) -> Iterator[tuple[Path, str]]:
    """Every value that may name a way out."""
    for name, domain in config.domains.items():
        yield ("domain", name, "deliver"), domain.deliver
        yield ("domain", name, "catch_all"), domain.catch_all or ""
        for alias, values in domain.aliases.items():
            for value in [values] if isinstance(values, str) else values:
                yield ("domain", name, "aliases", alias), value
    for number, route in enumerate(config.routes):
        yield ("route", number, "via"), route.via


def _check_reports(config: Config) -> Iterator[Finding]:
    reports = config.reports
    if reports.dmarc and not config.dmarc.check:
        yield Finding(
            ("reports", "dmarc"), "nothing to report: DMARC is not looked up", "set check = true in [dmarc]"
        )
    if reports.sender:
        try:
            parse_address(reports.sender)
        except AddressError as error:
            yield Finding(("reports", "sender"), f"not an address: {error}")


def _check_verp(config: Config) -> Iterator[Finding]:
    """Bounces to tagged addresses must come here, and reach the mailbox without the tag."""
    for number, domain in enumerate(config.relay.verp):
        path: Path = ("relay", "verp", number)
        if domain not in config.domains:
            close = nearest(domain, config.domains)
            advice = f'did you mean "{close}"?' if close else f'add a table [domain."{domain}"]'
            yield Finding(
                path, f'"{domain}" is no domain of this server, so its bounces do not come here', advice
            )
    if config.relay.verp and DELIMITER not in config.recipient_delimiter:
        yield Finding(
            ("relay", "verp"),
            f'addresses with a tag behind "{DELIMITER}" reach no mailbox here',
            f'add "{DELIMITER}" to recipient_delimiter',
        )


def _check_policy(config: Config) -> Iterator[Finding]:
    """Networks must be some, and the directory must be able to work with its settings; it stops at its first objection."""
    policy = config.policy
    for table, key, networks in (
        ("policy", "relay_networks", policy.relay_networks),
        ("policy", "deny_networks", policy.deny_networks),
        ("auth", "trusted_networks", config.auth.trusted_networks),
        ("proxy", "networks", config.proxy.networks),
        ("proxy", "xclient_networks", config.proxy.xclient_networks),
        ("proxy", "xforward_networks", config.proxy.xforward_networks),
        ("help", "status_acl", config.help.status_acl),
        ("greylist", "allow_networks", config.greylist.allow_networks),
        ("dmarc", "except_networks", config.dmarc.except_networks),
    ):
        for number, network in enumerate(networks):
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                yield Finding((table, key, number), str(error), 'write one such as "192.0.2.0/24"')
    try:
        Directory(config.directory)
    except ValueError as error:
        yield _objection(str(error))


def _check_checks(config: Config) -> Iterator[Finding]:
    """What the built-in checks are told to ask and to look for."""
    for number, zone in enumerate(config.dns_lists.zones):
        path: Path = ("dns_lists", "zone", number)
        try:
            parse_domain(zone.zone)
        except AddressError as error:
            yield Finding(
                (*path, "zone"), str(error), 'write the domain of a list, such as "zen.spamhaus.org"'
            )
        for at, answer in enumerate(zone.answers):
            try:
                parse_answers([answer])
            except ValueError as error:
                yield Finding(
                    (*path, "answers", at), str(error), 'write "127.0.0.2" or "127.0.0.4-127.0.0.7"'
                )
    scanner = config.scanner
    if scanner.clamd and not scanner.clamd.startswith("unix:/"):
        try:
            split_address(scanner.clamd)
        except ValueError:
            yield Finding(
                ("scanner", "clamd"), "not an address", 'write "127.0.0.1:3310" or "unix:/run/clamd.ctl"'
            )
    if scanner.rspamd and not scanner.rspamd.startswith(("http://", "https://")):
        yield Finding(
            ("scanner", "rspamd"), "not a web address", 'write one such as "http://127.0.0.1:11333"'
        )
    for number, name in enumerate(config.help.admins):
        if name.lower() not in map(str.lower, config.accounts):
            yield Finding(
                ("help", "admins", number), f'there is no account "{name}"', f'add a table [account."{name}"]'
            )


def _check_policies(config: Config) -> Iterator[Finding]:
    """The MTA-STS policies of our domains must be such that others can read them."""
    published = {
        name: domain.mta_sts for name, domain in config.domains.items() if domain.mta_sts.mode != "off"
    }
    if not published:
        return
    from pillarbox.inbound.sts_host import policy_of  # noqa: PLC0415 - it costs start-up time
    from pillarbox.mailauth.mta_sts import PolicyError, parse_policy  # noqa: PLC0415 - the same

    for name, settings in published.items():
        policy = policy_of(settings, config.hostname)
        try:
            parse_policy(str(policy).encode())
        except (PolicyError, UnicodeEncodeError) as error:
            yield Finding(
                ("domain", name, "mta_sts", "mx"), str(error), 'write "mx1.example.org" or "*.example.org"'
            )


def _check_origin(config: Config) -> Iterator[Finding]:
    """What the checks of who sent a message are told must be of use to them."""
    if config.dkim.min_bits < MIN_RSA_BITS:
        yield Finding(("dkim", "min_bits"), f"shorter keys than {MIN_RSA_BITS} bits prove nothing (RFC 8301)")
    for table, key, names in (
        ("dmarc", "except_domains", config.dmarc.except_domains),
        ("arc", "trusted_sealers", config.arc.trusted_sealers),
        ("reports", "except_domains", config.reports.except_domains),
    ):
        for number, name in enumerate(names):
            if not a_labels(name):
                yield Finding((table, key, number), "not a domain name")


def _objection(text: str) -> Finding:
    """Take the key from the front of an objection: `domain."example.org".deliver: ...` or `route 2.via: ...`."""
    key, colon, problem = text.partition(": ")
    numbered = _ROUTE_KEY.fullmatch(key)
    if colon and numbered is not None:
        return objection(("route", int(numbered[1]) - 1, numbered[2]), problem)
    try:
        return objection(parse_key(key), problem)
    except ValueError:
        return objection((), text)
