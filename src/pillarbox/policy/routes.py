"""Find the way out for domains that are not ours: the `[[route]]` list.

Which domains are ours is `policy.names`' business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pillarbox.mail.address import parse_domain
from pillarbox.mail.route import Route, Transport
from pillarbox.mail.units import Settings
from pillarbox.policy.domains import dns_name
from pillarbox.policy.transports import parse_spec

if TYPE_CHECKING:
    from collections.abc import Iterator


_MAX_FOUND = 4096  # domains whose way is remembered


class RouteSettings(Settings, frozen=True):
    """One `[[route]]` for domains that are not ours; the first that matches counts."""

    match: str
    """A domain, "*.example.org" for all below it, or "*"."""
    via: str
    """"mx", "smtp://host:port", "hold" and so on."""
    tls: Literal["", "none", "opportunistic", "encrypted", "required", "secure", "dane"] = ""
    """What is demanded of mail exchangers, if not what `relay.tls` says; a fixed host has it in `via`, behind "?tls="."""


class RouteTable:
    """The `[[route]]` list; finding the first that matches takes one look-up a label."""

    def __init__(self, settings: list[RouteSettings]) -> None:
        """Raises ValueError."""
        self._table: dict[str, tuple[int, Route | None, str]] = {}
        self._found: dict[str, Route] = {}  # by domain; the same ones come again and again
        for number, setting in enumerate(settings):
            key = f"route {number + 1}"
            try:
                spec = parse_spec(setting.via)
            except ValueError as error:
                raise ValueError(f"{key}.via: {error}") from error
            try:
                pattern = _pattern(setting.match)
            except ValueError as error:
                raise ValueError(f"{key}.match: {error}") from error
            if spec.segments and "{" in spec.route.target:
                raise ValueError(f"{key}.via: placeholders belong to mailboxes of our own domains")
            if setting.tls and spec.route.transport is not Transport.MX:
                raise ValueError(f'{key}.tls: tls = "{setting.tls}" is for via = "mx" alone')
            via = spec.fill("", "", "", "") if spec.route != Route(Transport.MX) else None
            self._table.setdefault(pattern, (number, via, setting.tls))

    def find(self, domain: str) -> Route:
        """The way for a domain in A-labels: the first that matches, else its mail exchangers."""
        known = self._found.get(domain)
        if known is not None:
            return known
        if len(self._found) >= _MAX_FOUND:
            self._found.clear()
        _, route, _ = self._find(domain)
        known = self._found[domain] = route if route is not None else Route(Transport.MX, domain)
        return known

    def tls(self, domain: str) -> str:
        """What is demanded of the mail exchangers of a domain in A-labels; "" if nothing is said of them."""
        return self._find(domain)[2]

    def _find(self, domain: str) -> tuple[int, Route | None, str]:
        candidates = [found for name in _patterns(domain) if (found := self._table.get(name)) is not None]
        return min(candidates, key=lambda found: found[0], default=(0, None, ""))


def _pattern(match: str) -> str:
    """The key in the table for what a route says it is for. Raises ValueError."""
    wild, domain = match.startswith("*"), match.removeprefix("*").removeprefix(".")
    if not match or (wild and match != "*" and not match.startswith("*.")):
        raise ValueError(f'"{match}" must be a domain, "*.domain" or "*"')
    return f"{'*' if wild else ''}{'.' if wild and domain else ''}{dns_name(parse_domain(domain)) if domain else ''}"


def _patterns(domain: str) -> Iterator[str]:
    """All that may match a domain."""
    yield domain
    yield "*"
    if not domain.startswith("["):
        while "." in domain:
            domain = domain.partition(".")[2]
            yield f"*.{domain}"
