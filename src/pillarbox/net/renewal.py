"""Keep the certificates of an ACME authority fresh: when to ask for one, and what becomes of it.

The talk with the authority is the business of `net.acme`; clients get what lies in the folder by `net.certificates`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import fcntl
import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import msgspec

from pillarbox import observe
from pillarbox.mail.units import Settings
from pillarbox.net.private_files import give_to_owner, write_private

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    from pillarbox.net.acme import AcmeClient, Binding, Key
    from pillarbox.net.chains import Chain

FOLDER = "acme"  # in the data folder
_LOOK_S = 60.0
_AGAIN_S = (900.0, 43_200.0)  # after a failure; twice as long after each further one
_LEFT = 1 / 3  # of its life, when a certificate is renewed


class AcmeSettings(Settings, frozen=True):
    """Certificates from an authority that issues them by ACME, such as Let's Encrypt."""

    directory: str = ""
    """The authority's address, such as "https://acme-v02.api.letsencrypt.org/directory"; "" asks for none."""
    terms_agreed: bool = False
    """You agree to the authority's terms."""
    names: tuple[str, ...] = ()
    """The names in the certificate; none for `hostname`."""
    email: str = ""
    """Where the authority may write to."""
    eab_key_id: str = ""
    """The id of a key that the authority has given you, if it issues to its customers alone (external account binding)."""
    eab_key_file: str = ""
    """File with that key, in base64url as the authority shows it."""
    keys: tuple[Literal["ecdsa", "rsa"], ...] = ("ecdsa",)
    """The kinds of keys; a certificate is asked for with each."""
    challenge: Literal["http-01", "tls-alpn-01"] = "http-01"
    """How to show that the names are ours: by HTTP on port 80, or by TLS on port 443."""
    address: str = ""
    """Where the authority's questions are answered; "" for port 80 or 443 of all addresses. It has to come in there."""
    ca_file: str = ""
    """File with the certificates by which to trust the authority's web server; "" for those of the system."""

    @property
    def listens_on(self) -> str:
        """The address where questions are answered; "" if none come."""
        if not self.directory:
            return ""
        return self.address or ("0.0.0.0:80" if self.challenge == "http-01" else "0.0.0.0:443")


class Failure(msgspec.Struct, frozen=True):
    """The last attempt failed."""

    at: float
    problem: str
    times: int  # in a row
    again: float


class RenewalError(Exception):
    """There is no new certificate; the text says why. `failure` is None if another process asks already."""

    def __init__(self, problem: str, failure: Failure | None = None) -> None:
        """Keep both."""
        super().__init__(problem)
        self.failure = failure


class Renewal:
    """The certificates of one configuration. Several workers may have one each: a lock lets one of them ask at a time."""

    def __init__(
        self, settings: AcmeSettings, hostname: str, data: Path, clock: Callable[[], float] = time.time
    ) -> None:
        """Nothing is written before a certificate is due."""
        self._settings = settings
        self._clock = clock
        self._failed: Failure | None = None  # should the disk not take it
        self._names = settings.names or (hostname,)
        self._folder = data / FOLDER

    @property
    def answers(self) -> Path:
        """The folder with the answers to the authority's questions."""
        return self._folder / "answers"

    def file(self, kind: str) -> Path:
        """Where the certificate with one kind of key lies, its key beside it."""
        return chain_file(self._folder.parent, kind)

    def failure(self) -> Failure | None:
        """What went wrong at last, if it did."""
        try:
            return msgspec.json.decode((self._folder / "failure.json").read_bytes(), type=Failure)
        except (OSError, msgspec.MsgspecError):
            return self._failed

    def due(self, now: float) -> list[str]:
        """The kinds of keys that need a new certificate."""
        return [kind for kind in self._settings.keys if self._is_due(kind, now)]

    def _is_due(self, kind: str, now: float) -> bool:
        chain = self._present(kind)
        if chain is None or set(chain.names) != {name.lower() for name in self._names}:
            return True
        return chain.expires - now < (chain.expires - chain.begins) * _LEFT

    def _present(self, kind: str) -> Chain | None:
        from pillarbox.net.chains import ChainError, Source, read_chain  # noqa: PLC0415 - as few need it

        try:
            return read_chain(Source("acme", str(self.file(kind))))
        except ChainError:
            return None

    async def run(self) -> None:
        """Renew what is due, for ever."""
        while True:
            try:
                await asyncio.to_thread(self.look)
            except Exception as error:  # noqa: BLE001 - a bug; the next look may do better
                observe.report_incident(error)
            await asyncio.sleep(_LOOK_S)

    def look(self) -> None:
        """Renew what is due, unless that failed a short while ago or another worker does it; say what came of it."""
        now = self._clock()
        failed = self.failure()
        if (failed is not None and now < failed.again) or not self.due(now):
            return
        authority = self._settings.directory
        try:
            for kind in self.renew():
                observe.ACME_ISSUED.note(authority=authority, names=", ".join(self._names), key=kind)
        except RenewalError as error:
            if error.failure is None:
                return  # another worker asks already, and tells what came of it
            observe.ACME_FAILED.note(
                authority=authority,
                problem=error.failure.problem,
                kept="the old one" if any(map(self._present, self._settings.keys)) else "nothing",
                again_s=round(error.failure.again - error.failure.at),
            )

    def renew(self, *, everything: bool = False) -> list[str]:
        """Ask for what is due, or for everything; the kinds of keys that were renewed. Raises RenewalError."""
        try:
            for folder in (self._folder, self.answers):
                folder.mkdir(mode=0o700, exist_ok=True)
                give_to_owner(folder)
            with _locked(self._folder / "lock"):
                return self._renew_alone([*self._settings.keys] if everything else self.due(self._clock()))
        except OSError as error:
            raise self._note_failure(error) from error

    def _renew_alone(self, kinds: list[str]) -> list[str]:
        if kinds:
            try:
                self._obtain(kinds)
            except Exception as error:
                raise self._note_failure(error) from error
            self._failed = None
            (self._folder / "failure.json").unlink(missing_ok=True)
        return kinds

    def _note_failure(self, error: Exception) -> RenewalError:
        from pillarbox.net.acme import AcmeError  # noqa: PLC0415 - as above

        said = str(error) if isinstance(error, AcmeError | OSError) else f"{type(error).__name__}: {error}"
        before, now = self.failure(), self._clock()
        times = before.times + 1 if before is not None else 1
        wait_s = min(_AGAIN_S[0] * 2 ** min(times - 1, 10), _AGAIN_S[1])
        self._failed = failure = Failure(now, said, times, now + wait_s)
        with contextlib.suppress(OSError):  # a full disk, perhaps; the log has it in any case
            write_private(self._folder / "failure.json", msgspec.json.encode(failure))
        return RenewalError(said, failure)

    def _obtain(self, kinds: list[str]) -> None:
        from pillarbox.net import acme  # noqa: PLC0415 - it is needed once in weeks

        settings = self._settings
        with acme.AcmeClient(settings.directory, self._account_key(), settings.ca_file) as client:
            client.register(settings.email, self._binding())
            for kind in kinds:
                url, order = client.order(self._names)
                self._prove(client, [str(one) for one in order["authorizations"]])
                key = self._next_key(kind) or acme.new_key(kind)
                chain = client.finish(url, order, acme.signing_request(key, self._names))
                write_private(self.file(kind), acme.key_octets(key) + chain)
                write_private(next_key_file(self._folder.parent, kind), acme.key_octets(acme.new_key(kind)))

    def _next_key(self, kind: str) -> Key | None:
        """The key that was made beforehand, so that its TLSA record could be published."""
        from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415 - as above

        try:
            octets = next_key_file(self._folder.parent, kind).read_bytes()
            return cast("Key", load_pem_private_key(octets, None))
        except (OSError, ValueError):
            return None

    def _binding(self) -> Binding | None:
        """What the authority has given out for our account. Raises AcmeError or OSError."""
        from pillarbox.net import acme  # noqa: PLC0415 - as above

        settings = self._settings
        if not settings.eab_key_id:
            return None
        text = Path(settings.eab_key_file).read_text("utf-8").strip()
        try:
            key = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except ValueError as error:
            raise acme.AcmeError(f"{settings.eab_key_file} holds no key in base64url") from error
        return acme.Binding(settings.eab_key_id, key)

    def _prove(self, client: AcmeClient, authorizations: list[str]) -> None:
        """Show that each name is ours; the answers lie there only as long as they are needed."""
        from pillarbox.net.challenges import answer_in_handshake, name_file, token_file  # noqa: PLC0415 - as above

        for one in authorizations:
            challenge = client.challenge(one, self._settings.challenge)
            if challenge is None:
                continue
            if self._settings.challenge == "http-01":
                file, octets = token_file(self.answers, challenge.token), challenge.authorization.encode()
            else:
                file = name_file(self.answers, challenge.name)
                octets = answer_in_handshake(challenge.name, challenge.authorization)
            write_private(file, octets)
            try:
                client.prove(challenge, one)
            finally:
                file.unlink(missing_ok=True)

    def _account_key(self) -> EllipticCurvePrivateKey:
        """The key of our account with this authority, made if there is none: the account is found by it."""
        from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415 - as above

        from pillarbox.net import acme  # noqa: PLC0415 - as above

        digest = hashlib.sha256(self._settings.directory.encode()).hexdigest()[:12]
        file = self._folder / f"account-{digest}.pem"
        if not file.exists():
            write_private(file, acme.key_octets(acme.new_key("ecdsa")))
        return cast("EllipticCurvePrivateKey", load_pem_private_key(file.read_bytes(), None))


def chain_file(data: Path, kind: str) -> Path:
    """Where the certificate with one kind of key lies."""
    return data / FOLDER / f"{kind}.pem"


def next_key_file(data: Path, kind: str) -> Path:
    """Where the key of the next certificate lies: it is made when the one before it is issued."""
    return data / FOLDER / f"{kind}.next.pem"


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Be the only one that asks for certificates. Raises RenewalError if another does already."""
    with file.open("a") as lock:
        give_to_owner(file)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RenewalError("another process asks for certificates already") from error
        yield
