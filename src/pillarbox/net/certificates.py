"""Keep the certificates of the listeners: choose one for each client, and take files that have changed.

Reading the files is the business of `net.chains`, shaking hands that of the sessions.
"""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from pillarbox import observe
from pillarbox.net.chains import Chain, ChainError, Source, give, read_authorities, read_chain, trust
from pillarbox.net.tls import new_context, watch_certificates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pillarbox.net.tls import CertificateSettings, ListenerContext, TlsSettings

# How often files are looked at; one that changed is read when it has stayed the same for as long.
LOOK_S = 2.0
_WARN_S = 14 * 86_400.0  # before a certificate ends; those who renew do so much earlier
_WARN_EVERY_S = 86_400.0

T = TypeVar("T")


class Named(Protocol):
    """What is known of a certificate that is chosen."""

    @property
    def names(self) -> tuple[str, ...]:
        """Host names, in small letters."""

    @property
    def kind(self) -> str:
        """Of the key."""

    @property
    def expires(self) -> float:
        """Its last moment."""


C = TypeVar("C", bound=Named)

Stamp = tuple[tuple[int, int, int], ...] | None


def find_certificates(
    tls: TlsSettings,
    more: Sequence[CertificateSettings],
    data: Path,
    hostname: str,
    issued: Iterable[Path] = (),
) -> Certificates:
    """The certificates that a configuration names, the default one first. None is read yet.

    Those that are `issued` to us by an authority need not be there yet.
    """
    found = []
    if tls.certificate:
        found.append(Source("tls.certificate", tls.certificate, "tls.key", tls.key))
    for number, one in enumerate(more, 1):
        name = f"certificate[{number}]"
        found.append(Source(f"{name}.chain", one.chain, f"{name}.key" if one.key else "", one.key))
    found += [Source("acme", str(file), expected=False) for file in issued]
    if not tls.self_signed:
        return Certificates(found, tls.client_ca)
    from pillarbox.net.self_signed import FILE, make_self_signed  # noqa: PLC0415 - few servers make one

    found.append(Source("tls.self_signed", str(data / FILE)))
    return Certificates(found, tls.client_ca, lambda: make_self_signed(data, hostname))


class Certificates:
    """All chains that listeners can show. `look` and `load` work in a thread, everything else in the loop."""

    def __init__(
        self, found: Sequence[Source], client_ca: str = "", make: Callable[[], object] | None = None
    ) -> None:
        """Read nothing yet. `make` is called before the first look: it may write what is missing."""
        self.sources = found
        self._client_ca = Source("tls.client_ca", client_ca) if client_ca else None
        self._make = make
        self._chains: dict[Source, Chain] = {}
        self._seen: dict[Source, Stamp] = {}  # as the files were when they were read last
        self._changing: dict[Source, Stamp] = {}  # as they were at the last look
        self._table = _Table((), None)
        self._warned: dict[str, float] = {}
        self._loading = threading.Lock()
        self.loaded = False

    @property
    def lazy(self) -> bool:
        """Whether to read nothing before it is needed: there is nothing, or it is made then."""
        return not self.sources or self._make is not None

    @property
    def usable(self) -> bool:
        """Whether there is a certificate to show."""
        return self._table.find("", asks=False) is not None

    @property
    def authorities(self) -> bytes | None:
        """Whom to trust about clients."""
        return self._table.authorities

    @property
    def chains(self) -> list[Chain]:
        """What clients are shown, the default first."""
        return [self._chains[one] for one in self.sources if one in self._chains]

    def context_for(self, name: str | None, *, asks: bool) -> ListenerContext | None:
        """What to shake hands with when a client asks for a host; None if there is no certificate."""
        return self._table.find(name or "", asks=asks)

    async def prepare(self) -> bool:
        """Read the files unless that was done; whether there is a certificate."""
        if not self.loaded:
            await asyncio.to_thread(self.load_first)
        return self.usable

    def load_first(self) -> None:
        """Read the files, and tell of those that can't be used; once, whoever comes first."""
        with self._loading:
            if self.loaded:
                return
            for error in self.load():
                observe.CERTIFICATE_REFUSED.note(file=error.file, problem=error.reason, kept="nothing")

    def load_all(self) -> None:
        """Read everything. Raises ChainError for the first that can't be used."""
        for error in self.load():
            raise error

    def load(self) -> list[ChainError]:
        """Read everything; what could not be used."""
        errors: list[ChainError] = []
        try:
            if self._make is not None:
                self._make()
        except OSError as error:
            reason = f"cannot be written: {error.strerror}"
            errors.append(ChainError("tls.self_signed", str(error.filename), reason))
        authorities = None
        if self._client_ca is not None:
            self._seen[self._client_ca] = self._changing[self._client_ca] = _stamp(self._client_ca)
            try:
                authorities = read_authorities(self._client_ca.chain)
            except ChainError as error:
                errors.append(error)
        for one in self.sources:
            self._seen[one] = self._changing[one] = stamp = _stamp(one)
            if stamp is None and not one.expected:
                continue
            try:
                self._chains[one] = read_chain(one)
            except ChainError as error:
                errors.append(error)
        self._table = _Table(self.chains, authorities)
        self.loaded = True
        return errors

    def look(self) -> None:
        """Take the files that have changed; those that can't be used leave everything as it is."""
        changed = [chain for one in self.sources if self._is_new(one) for chain in self._read_again(one)]
        authorities = self.authorities
        if self._client_ca is not None and self._is_new(self._client_ca):
            authorities = self._trust_again(self._client_ca)
        if changed or authorities != self.authorities:
            self._table = _Table(self.chains, authorities)
        for chain in changed:
            observe.CERTIFICATE_LOADED.note(
                file=chain.source.chain,
                names=", ".join(chain.names),
                key=chain.kind,
                until=moment(chain.expires),
            )
        self._warn(time.time())

    def _is_new(self, source: Source) -> bool:
        """Whether files are others than those that were read last, and nobody is still writing them."""
        stamp = _stamp(source)
        before, self._changing[source] = self._changing[source], stamp
        if stamp == self._seen[source] or stamp != before:
            return False
        self._seen[source] = stamp
        return stamp is not None or source.expected

    def _trust_again(self, source: Source) -> bytes | None:
        try:
            read = read_authorities(source.chain)
        except ChainError as error:
            kept = "nothing" if self.authorities is None else "the old one"
            observe.CERTIFICATE_REFUSED.note(file=error.file, problem=error.reason, kept=kept)
            return self.authorities
        observe.AUTHORITIES_LOADED.note(file=source.chain)
        return read

    def _read_again(self, source: Source) -> list[Chain]:
        try:
            chain = read_chain(source)
        except ChainError as error:
            kept = "the old one" if source in self._chains else "nothing"
            observe.CERTIFICATE_REFUSED.note(file=error.file, problem=error.reason, kept=kept)
            return []
        self._chains[source] = chain
        return [chain]

    def _warn(self, now: float) -> None:
        """Once a day, of what is about to end or has ended."""
        for chain in self._chains.values():
            file = chain.source.chain
            observe.CERTIFICATE_LEFT.set(chain.expires - now, file)
            if chain.expires - now > _WARN_S or now - self._warned.get(file, 0.0) < _WARN_EVERY_S:
                continue
            self._warned[file] = now
            observe.CERTIFICATE_EXPIRES.note(
                file=file, until=moment(chain.expires), ended=chain.expires <= now
            )


class _Table:
    """Contexts by the name that is asked for, made once for each set of chains that go together."""

    def __init__(self, chains: Sequence[Chain], authorities: bytes | None) -> None:
        self.authorities = authorities
        self._made: dict[tuple[int, ...], tuple[ListenerContext, ListenerContext]] = {}
        by_name, default = sort_by_name(chains, time.time())
        self._by_name = {name: self._contexts(kinds) for name, kinds in by_name.items()}
        self._default = self._contexts(default) if default else None

    def _contexts(self, kinds: dict[str, Chain]) -> tuple[ListenerContext, ListenerContext]:
        """One that asks no client for a certificate, and one that does."""
        key = tuple(sorted(map(id, kinds.values())))
        if key not in self._made:
            self._made[key] = (self._context(kinds, asks=False), self._context(kinds, asks=True))
        return self._made[key]

    def _context(self, kinds: dict[str, Chain], *, asks: bool) -> ListenerContext:
        context = new_context(asks=asks)
        for chain in kinds.values():
            give(context, chain)
        context.end_points = {chain.leaf: chain.end_point for chain in kinds.values()}
        if len(kinds) > 1:  # OpenSSL chooses among them, and does not tell
            watch_certificates(context)
        if asks and self.authorities is not None:
            trust(context, self.authorities)
        return context

    def find(self, name: str, *, asks: bool) -> ListenerContext | None:
        found = _of_host(self._by_name, name) or self._default
        return found[asks] if found is not None else None


def sort_by_name(certificates: Sequence[C], now: float) -> tuple[dict[str, dict[str, C]], dict[str, C]]:
    """Which certificates, one for each kind of key, belong to which name, and which to all others."""
    by_name: dict[str, dict[str, C]] = {}
    for one in certificates:
        for name in one.names:
            kinds = by_name.setdefault(name, {})
            rival = kinds.get(one.kind)
            if rival is None or (rival.expires <= now < one.expires):
                kinds[one.kind] = one
    if not certificates:
        return by_name, {}
    first = certificates[0]
    beside = by_name.get(first.names[0], {}) if first.names else {}
    return by_name, beside | {first.kind: first}


def shown_for(certificates: Sequence[C], name: str, now: float) -> list[C]:
    """What clients that ask for a host are shown: a certificate for each kind of key."""
    by_name, default = sort_by_name(certificates, now)
    return list((_of_host(by_name, name) or default).values())


def is_for(certificates: Sequence[C], name: str) -> bool:
    """Whether one of them is for a host."""
    return any(_of_host(dict.fromkeys(one.names, one), name) is not None for one in certificates)


def _of_host(by_name: Mapping[str, T], name: str) -> T | None:
    name = name.rstrip(".").lower()
    return by_name.get(name) or by_name.get(f"*.{name.partition('.')[2]}")


def _stamp(source: Source) -> Stamp:
    """What changes when the files do; None if one is missing."""
    try:
        found = [Path(file).stat() for file in source.files]
    except OSError:
        return None
    return tuple((one.st_mtime_ns, one.st_size, one.st_ino) for one in found)


def moment(at: float) -> str:
    """A time as people read it in the log."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
