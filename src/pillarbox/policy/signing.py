"""Keep the keys that outgoing mail is signed with: one folder a domain, one file a key, readable by the service alone.

The name of a file tells the selector and the state of its key: `SELECTOR.key` signs, `SELECTOR.next` waits until its
record is published, `SELECTOR.old` signs no more, but mail that it signed may still be on its way. How a signature is made
is in `mailauth.dkim`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from time import gmtime, strftime

import msgspec

from pillarbox.mailauth import dkim, keys
from pillarbox.mailauth.dmarc import author_domains
from pillarbox.mailauth.names import a_labels
from pillarbox.policy.key_files import flaw, flaw_of_folder, unreadable
from pillarbox.policy.origin_settings import KEYS_FOLDER

_STATES = {".key": "signs", ".next": "waits", ".old": "retired"}
_SUFFIXES = {state: suffix for suffix, state in _STATES.items()}
_KINDS = ("rsa", "ed25519")


class SigningError(ValueError):
    """A key that can't be used; the text names the file and what to do."""


class StoredKey(msgspec.Struct, frozen=True):
    """One key as it lies in the folder."""

    domain: str
    selector: str
    state: str  # signs, waits, retired
    kind: str  # rsa, ed25519
    made_at: float  # Unix time
    since: float  # when its state changed last, or anything else about the file
    file: Path
    key: keys.PrivateKey

    @property
    def name(self) -> str:
        """Where its record is to be published."""
        return f"{self.selector}._domainkey.{self.domain}"

    @property
    def record(self) -> str:
        """What is to be published there."""
        return keys.format_record(self.key)


class SigningKeys:
    """The keys that sign, by domain; read once, so that no message waits for the disk."""

    def __init__(self, folder: Path) -> None:
        """Raises SigningError for a key that others may read, or that is none."""
        found: dict[str, list[dkim.Signer]] = {}
        for one in stored_keys(folder):
            if one.state == "signs":
                found.setdefault(one.domain, []).append(dkim.Signer(one.domain, one.selector, one.key))
        self._signers = {domain: tuple(signers) for domain, signers in found.items()}

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._signers)

    def for_authors(self, fields: Sequence[str]) -> tuple[dkim.Signer, ...]:
        """The keys of the one domain in From, else of the nearest domain above it that has some."""
        domains = author_domains(fields)
        return self._nearest(domains[0]) if len(domains) == 1 else ()

    def to_seal(self, address: str) -> dkim.Signer | None:
        """The key that seals mail forwarded from an address of ours: an RSA key if there is one, for few verify others."""
        signers = self._nearest(a_labels(address.rpartition("@")[2]))
        return next((one for one in signers if one.algorithm == "rsa-sha256"), None) or next(
            iter(signers), None
        )

    def _nearest(self, domain: str) -> tuple[dkim.Signer, ...]:
        while domain:
            if domain in self._signers:
                return self._signers[domain]
            domain = domain.partition(".")[2]
        return ()


def keys_folder(data: Path) -> Path:
    """Where the keys of a data folder lie."""
    return data / KEYS_FOLDER


def stored_keys(folder: Path) -> list[StoredKey]:
    """All keys, by domain and selector. Raises SigningError."""
    if not folder.is_dir():
        return []
    files = sorted(file for file in folder.glob("*/*") if file.suffix in _STATES)
    for home in (folder, *sorted({file.parent for file in files})):
        if problem := flaw_of_folder(home, folder.parent):
            raise SigningError(f"{home}: {problem}")
    return [_load(file) for file in files]


def _load(file: Path) -> StoredKey:
    try:
        with file.open("rb") as opened:
            about = os.fstat(opened.fileno())
            if problem := flaw(about, file.parents[2]):
                raise SigningError(f"{file}: {problem}")
            key = keys.load_key(opened.read(65_536))
    except OSError as error:
        raise SigningError(f"{file}: {unreadable(error, file)}") from error
    except keys.BadKey as error:
        raise SigningError(f"{file}: {error}") from error
    kind = keys.algorithm(key).partition("-")[0]
    state, made_at, since = _STATES[file.suffix], about.st_mtime, about.st_ctime
    return StoredKey(file.parent.name, file.stem, state, kind, made_at, since, file, key)


def make_keys(folder: Path, domain: str, *, now: float, kinds: Sequence[str] = _KINDS) -> list[StoredKey]:
    """New keys for a domain: they sign at once if none does so yet, else they wait. Raises SigningError or OSError."""
    name = a_labels(domain)
    if "." not in name or "/" in name:
        raise SigningError(f"{domain!r} is not a domain name")
    home = folder / name
    if not folder.parent.is_dir():
        raise SigningError(f"the data folder {folder.parent} is not there yet; start the server once")
    owner = folder.parent.stat()  # root makes keys for the user that the service runs as
    for made in (folder, home):
        if not made.exists():
            made.mkdir(mode=0o700)
            os.chown(made, owner.st_uid, owner.st_gid)
    present = [one for one in stored_keys(folder) if one.domain == name]
    state = "waits" if any(one.state == "signs" for one in present) else "signs"
    day = strftime("%Y%m%d", gmtime(now))
    taken = {one.selector for one in present}
    number = next(
        n for n in range(1, 1000) if not any(f"{day}{_serial(n)}{kind[0]}" in taken for kind in _KINDS)
    )
    names = [(home / f"{day}{_serial(number)}{kind[0]}{_SUFFIXES[state]}", kind) for kind in kinds]
    return [_make(file, kind, owner) for file, kind in names]


def _serial(number: int) -> str:
    return "" if number == 1 else f"-{number}"


def _make(file: Path, kind: str, owner: os.stat_result) -> StoredKey:
    """Write a key that is durable before anybody publishes its record."""
    opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.fchown(opened, owner.st_uid, owner.st_gid)
        os.write(opened, keys.format_key(keys.new_key(kind)))
        os.fsync(opened)
    finally:
        os.close(opened)
    return _load(file)


def activate(folder: Path, domain: str) -> tuple[list[StoredKey], list[StoredKey]]:
    """Let the keys that wait sign from now on, and retire those that did: the new ones and the old ones.

    Raises SigningError if none waits.
    """
    domain = a_labels(domain)
    present = [one for one in stored_keys(folder) if one.domain == domain]
    waiting = [one for one in present if one.state == "waits"]
    if not waiting:
        raise SigningError(f"no key of {domain} waits; `pillarbox dkim rotate {domain}` makes new ones first")
    for one in waiting:  # first the new ones: a stop in between leaves both signing, which does no harm
        one.file.rename(one.file.with_suffix(".key"))
    retired = [one for one in present if one.state == "signs"]
    for one in retired:
        one.file.rename(one.file.with_suffix(".old"))
    return waiting, retired


def remove(folder: Path, domain: str, selectors: Sequence[str], *, before: float) -> list[StoredKey]:
    """Forget keys that sign no more: the named ones, or all that were retired before that moment.

    Raises SigningError for one that signs, or was retired later.
    """
    domain = a_labels(domain)
    present = {one.selector: one for one in stored_keys(folder) if one.domain == domain}
    unknown = next((one for one in selectors if one not in present), None)
    if unknown is not None:
        raise SigningError(f"{domain} has no key {unknown}; `pillarbox dkim list` shows all")
    chosen = [present[one] for one in dict.fromkeys(selectors)] if selectors else [
        one for one in present.values() if one.state == "retired" and one.since < before
    ]  # fmt: skip
    for one in chosen:
        if one.state == "signs":
            raise SigningError(
                f"{one.name} signs; `pillarbox dkim rotate {domain}` gives it a successor first"
            )
        if one.state == "retired" and one.since >= before:
            raise SigningError(
                f"{one.name} signed until a short while ago, and mail with its signatures may be on its way"
            )
    for one in chosen:
        one.file.unlink()
    return chosen
