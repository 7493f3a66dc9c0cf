"""Find what is allowed in a configuration and yet seldom meant.

What keeps settings from working together is found in `config.checks`, what is the matter on this machine in `config.machine`.
"""

from __future__ import annotations

import ipaddress
import urllib.parse
from typing import TYPE_CHECKING

from pillarbox.config.checks import split_address
from pillarbox.config.strict import Finding, unwise_numbers
from pillarbox.mail.address import is_loopback
from pillarbox.policy.rules import Role

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pillarbox.config.settings import Config


def unwise(config: Config) -> Iterator[Finding]:
    """What whoever wrote this should look at again."""
    yield from unwise_numbers(config)
    yield from _unwise_identity(config)
    yield from _unwise_listeners(config)
    yield from _open_relay(config)
    yield from _idle_checks(config)
    yield from _idle_routes(config)
    retry = config.queue.retry
    if retry.give_up_s <= retry.delay_notice_s:
        yield Finding(
            ("queue", "retry", "delay_notice"),
            "senders are never told of a delay, for mail is returned before",
            "write less than give_up",
        )
    ldap = config.ldap
    if ldap.url.startswith("ldap://") and not ldap.start_tls and not is_loopback(_host(ldap.url)):
        yield Finding(
            ("ldap", "start_tls"), "without TLS everybody on the way can read passwords", "write true"
        )


def _unwise_identity(config: Config) -> Iterator[Finding]:
    path, advice = ("hostname",), 'write the full name, such as "mx1.example.org"'
    try:
        ipaddress.ip_address(config.hostname.strip("[]").removeprefix("IPv6:"))
    except ValueError:
        if "." not in config.hostname:
            yield Finding(
                path, f'others look up "{config.hostname}", and a name without a dot is not in DNS', advice
            )
    else:
        yield Finding(path, f"others look up our name, and {config.hostname} is an address", advice)


def _unwise_listeners(config: Config) -> Iterator[Finding]:
    if not config.listen:
        yield Finding((), "there is no [[listen]]: the server takes no mail", "add one")
    public = [
        (("listen", number), one)
        for number, one in enumerate(config.listen)
        if not is_loopback(split_address(one.address)[0])
    ]
    for path, one in public:
        if one.role is Role.SANDBOX:
            yield Finding(
                (*path, "address"),
                f"others than this machine can fill the sandbox at {one.address}",
                "use 127.0.0.1",
            )
        if one.login_in_clear:
            yield Finding((*path, "login_in_clear"), "everybody on the way can read passwords", "remove it")
    if config.tls.self_signed and any(one.role is not Role.SANDBOX for _path, one in public):
        yield Finding(("tls", "self_signed"), "nobody can verify such a certificate; it is for tests")
    roles = [one.role for one in config.listen]
    if Role.MX in roles and not config.domains:
        yield Finding(
            ("listen", roles.index(Role.MX)),
            'role = "mx", but there is no [domain."..."]: unless `pillarbox domain` keeps some, only relay_networks can send mail',
        )
    served = next((name for name, domain in config.domains.items() if domain.mta_sts.mode != "off"), None)
    if served is not None and Role.POLICY not in roles:
        yield Finding(("domain", served, "mta_sts"), 'no listener has role = "policy" to serve the policy')
    elif served is None and Role.POLICY in roles:
        yield Finding(
            ("listen", roles.index(Role.POLICY)),
            'role = "policy", but no domain has an mta_sts policy, unless `pillarbox domain sts` keeps one',
        )


def _open_relay(config: Config) -> Iterator[Finding]:
    for number, network in enumerate(config.policy.relay_networks):
        if ipaddress.ip_network(network).prefixlen == 0:
            yield Finding(
                ("policy", "relay_networks", number),
                f"{network} is everybody: an open relay, which spammers find within hours",
                "name the networks of your own hosts",
            )


def _idle_routes(config: Config) -> Iterator[Finding]:
    """Routes behind others that take everything from them."""
    matched: dict[str, int] = {}
    for number, route in enumerate(config.routes):
        first = matched.setdefault(route.match.lower(), number)
        if first != number:
            yield Finding(
                ("route", number),
                f'it never applies, for [[route]] number {first + 1} has match = "{route.match}" too',
            )


def _idle_checks(config: Config) -> Iterator[Finding]:
    """Checks of who sent a message that are told what to do, but not to look, and reports that nobody sends."""
    if config.reports != type(config.reports)() and not config.reports.sends:
        yield Finding(("reports",), "of no use without reports.dmarc = true or reports.tls = true")
    for name, settings in (
        ("spf", config.spf),
        ("dkim", config.dkim),
        ("dmarc", config.dmarc),
        ("arc", config.arc),
    ):
        plain = type(settings)()
        told = [key for key in settings.__struct_fields__ if getattr(settings, key) != getattr(plain, key)]
        if not settings.check and set(told) - {"sign"}:
            yield Finding((name, told[0]), f"of no use without {name}.check = true")


def _host(url: str) -> str:
    """The host of an address such as "ldap://host:port"."""
    return urllib.parse.urlsplit(url).hostname or ""
