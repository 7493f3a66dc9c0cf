"""Find the way out for domains that are not ours: the `[[route]]` list.

Which domains are ours is `policy.names`' business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillarbox.mail.address import parse_domain
from pillarbox.mail.route import Route, Transport
from pillarbox.mail.units import Settings
from pillarbox.policy.domains import dns_name
from pillarbox.policy.transports import parse_spec

if TYPE_CHECKING:
    from collections.abc import Iterator


class RouteSettings(Settings, frozen=True):
    """One `[[route]]` for domains that are not ours; the first that matches counts."""

    match: str
    """A domain, "*.example.org" for all below it, or "*"."""
    via: str
    """"mx", "smtp://host:port", "hold" and so on."""


class RouteTable:
    """The `[[route]]` list; finding the first that matches takes one look-up a label."""

    def __init__(self, settings: list[RouteSettings]) -> None:
        """Raises ValueError."""
        self._table: dict[str, tuple[int, Route | None]] = {}
        for number, setting in enumerate(settings):
            key = f"route {number + 1}"
            try:
                spec = parse_spec(setting.via)
                wild, domain = (
                    setting.match.startswith("*"),
                    setting.match.removeprefix("*").removeprefix("."),
                )
                pattern = f"{'*' if wild else ''}{'.' if wild and domain else ''}{dns_name(parse_domain(domain)) if domain else ''}"
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from error
            if not setting.match or (wild and setting.match != "*" and not setting.match.startswith("*.")):
                raise ValueError(f'{key}: match = "{setting.match}" must be a domain, "*.domain" or "*"')
            if spec.segments and "{" in spec.route.target:
                raise ValueError(f"{key}: placeholders belong to mailboxes of our own domains")
            via = spec.fill("", "", "", "") if spec.route != Route(Transport.MX) else None
            self._table.setdefault(pattern, (number, via))

    def find(self, domain: str) -> Route:
        """The way for a domain in A-labels: the first that matches, else its mail exchangers."""
        candidates = [found for name in _patterns(domain) if (found := self._table.get(name)) is not None]
        _, route = min(candidates, key=lambda found: found[0], default=(0, None))
        return route if route is not None else Route(Transport.MX, domain)


def _patterns(domain: str) -> Iterator[str]:
    """All that may match a domain."""
    yield domain
    yield "*"
    if not domain.startswith("["):
        while "." in domain:
            domain = domain.partition(".")[2]
            yield f"*.{domain}"
