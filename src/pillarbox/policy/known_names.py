"""Keep the names of accounts that are mailboxes too in memory, so that finding one waits for nothing.

Reading them is the business of whoever keeps the accounts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillarbox.policy.domains import dns_name, fold

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class KnownNames:
    """Names like user@domain, in groups that are replaced as a whole."""

    def __init__(self, groups: Mapping[str, Iterable[str]] | None = None) -> None:
        """Begin with these."""
        self._groups: dict[str, dict[str, set[str]]] = {}
        for group, names in (groups or {}).items():
            self.put(group, names)

    def put(self, group: str, names: Iterable[str]) -> None:
        """Take the names of a group in place of those that it had; names without a domain are nobody's mailboxes."""
        by_domain: dict[str, set[str]] = {}
        for name in names:
            local, at, domain = name.rpartition("@")
            if at:
                by_domain.setdefault(dns_name(domain.lower()), set()).add(fold(local))
        self._groups[group] = by_domain

    def has(self, domain: str, local: str) -> bool:
        """Whether there is an account of that name; `domain` in A-labels, `local` folded."""
        return any(local in group.get(domain, ()) for group in self._groups.values())

    def of(self, domain: str) -> set[str]:
        """All local parts in a domain."""
        return set().union(*(group.get(domain, ()) for group in self._groups.values()))
