"""Refuse a configuration in which an alias could not work when mail comes: empty, leading nowhere, or in a circle.

What is wrong with one setting by itself is found by `policy.domains`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillarbox.mail.address import parse_address
from pillarbox.policy.asked_names import Need
from pillarbox.policy.domains import CATCH_ALL, POSTMASTER, Domain, entries, is_itself
from pillarbox.policy.names import Meaning, Names, Target
from pillarbox.policy.transports import is_spec, parse_spec

if TYPE_CHECKING:
    from collections.abc import Iterator


def check_aliases(names: Names) -> None:
    """Raise ValueError, naming the key, for the first alias that could not work."""
    chains: dict[tuple[str, str], list[tuple[str, str]]] = {}
    elsewhere = names.postmaster
    if names.home is None and elsewhere and not is_spec(elsewhere) and "@" not in elsewhere:
        raise ValueError("postmaster: with no domain of ours this must be a complete address or a way out")
    for domain in names.domains.values():
        if domain.no_mail:
            continue
        postmaster = names.look_up(domain, "postmaster", Need.GUESS)
        if postmaster == Meaning(POSTMASTER, "", (elsewhere,)):
            _check_entry(names, domain, POSTMASTER, (elsewhere,), _key(domain, POSTMASTER))
            chains[domain.name, POSTMASTER] = _next(names, domain, POSTMASTER, (elsewhere,))
        elif domain.deliver is None and postmaster == Meaning("postmaster", ""):
            raise ValueError(
                f'domain."{domain.shown}": postmaster has no mailbox here; set `deliver` or `postmaster`'
            )
        for name, values in entries(domain):
            _check_entry(names, domain, name, values, _key(domain, name))
            following = _next(names, domain, name, values)
            if following:
                chains[domain.name, name] = following
    if ring := _find_loop(chains):
        first, name = ring[0]
        shown = " -> ".join(f"{name.lstrip('@')}@{domain}" for domain, name in ring)
        raise ValueError(f"{_key(names.domains[first], name)}: aliases form a loop: {shown}")


def _check_entry(names: Names, domain: Domain, name: str, values: tuple[str, ...], key: str) -> None:
    """Refuse an alias that is empty, ill-formed, leads nowhere, or has two ways out of its own."""
    if not values:
        raise ValueError(f"{key}: names no recipient")
    if sum(is_spec(value) or is_itself(domain, name, value) for value in values) > 1:
        # so that an address has one way, also at the next attempt
        raise ValueError(
            f"{key}: only one of its values may be a way out; give each other one an alias of its own"
        )
    for value in values:
        try:
            _check_value(names, domain, name, value)
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from error


def _check_value(names: Names, domain: Domain, name: str, value: str) -> None:
    if is_spec(value):
        parse_spec(value).fill("postmaster", "", domain.name, "postmaster")
        return
    if is_itself(domain, name, value):
        if not _has_mailbox(domain, name):
            raise ValueError(f'it leads to itself, and there is no user "{value}"')
        return
    aim = names.aim(domain, value, "")
    if isinstance(aim, Target):
        return
    if aim[0].no_mail:
        raise ValueError(f'"{value}": {aim[0].shown} takes no mail')
    if "@" not in value:
        parse_address(f"{value}@{aim[0].shown}")
    meaning = names.look_up(*aim, Need.GUESS)
    if meaning is None and aim[0].may_know_more:
        return  # it may stand there
    if meaning is None or (meaning.key == name == CATCH_ALL and aim[0] is domain):
        raise ValueError(f'there is no user or alias "{value}"')


def _has_mailbox(domain: Domain, name: str) -> bool:
    return (
        name in domain.users
        or domain.everyone
        or domain.may_know_more
        or (name == "postmaster" and domain.deliver is not None)
    )


def _next(names: Names, domain: Domain, name: str, values: tuple[str, ...]) -> list[tuple[str, str]]:
    """The aliases that an alias leads to."""
    following = []
    for value in values:
        aim = None if is_spec(value) or is_itself(domain, name, value) else names.aim(domain, value, "")
        if isinstance(aim, tuple):
            meaning = names.look_up(*aim, Need.GUESS)
            if meaning is not None and meaning.values:
                following.append((aim[0].name, meaning.key))
    return following


def _key(domain: Domain, name: str) -> str:
    """How the configuration names an entry."""
    if name == POSTMASTER:
        return "postmaster"
    return f'domain."{domain.shown}".' + ("catch_all" if name == CATCH_ALL else f'aliases."{name}"')


def _find_loop(chains: dict[tuple[str, str], list[tuple[str, str]]]) -> list[tuple[str, str]]:
    """A way round that ends where it began, if aliases lead back to themselves. Linear in their number."""
    done: set[tuple[str, str]] = set()
    for start in chains:
        path: dict[tuple[str, str], Iterator[tuple[str, str]]] = {}  # the names on the way here, in order
        entered = start
        while True:
            if entered in path:
                return [*list(path)[list(path).index(entered) :], entered]
            if entered not in done:
                path[entered] = iter(chains.get(entered, ()))
            while path:
                last = next(reversed(path))
                following = next(path[last], None)
                if following is not None:
                    break
                done.add(last)
                del path[last]
            if not path:
                break
            assert following is not None  # the inner loop ended on it
            entered = following
    return []
