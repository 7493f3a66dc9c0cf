"""SCRAM: prove a password without sending it, and without keeping it (RFC 5802, RFC 7677), both ends.

The other mechanisms are in `smtp.sasl` and `smtp.login`; where keys are kept is the business of `policy`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import stringprep
import unicodedata
from typing import TYPE_CHECKING

import msgspec

from pillarbox.mail.catalogue import auth
from pillarbox.smtp.events import Login, Proof, SecretWanted

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillarbox.mail.reply import Reply

HASHES = {"SCRAM-SHA-256": "sha256", "SCRAM-SHA-1": "sha1"}
PLUS = "-PLUS"
END_POINT = "tls-server-end-point"  # RFC 5929 4: the one binding that can be had from Python's ssl
ITERATIONS = 10_000  # RFC 7677 4 asks for 4,096
MAX_ITERATIONS = 1_000_000  # a server that asks for more wants us to burn time
_MAX_TEXT = 4096
_MAX_NONCE = 128  # what we answer has to fit into a reply line


class ScramKeys(msgspec.Struct, frozen=True):
    """What a server keeps in place of the password (RFC 5802 3)."""

    salt: bytes
    iterations: int
    stored: bytes
    server: bytes

    def __repr__(self) -> str:
        """Without the keys, so that no log can show them."""
        return f"ScramKeys({self.iterations})"


class ScramError(ValueError):
    """The other end does not keep to the protocol, or is not who it should be."""


class _Refused(ScramError):
    """It keeps to the protocol, but asks for what there is not."""


def saslprep(text: str) -> str:
    """Bring a name or password into the one form that both ends hash (RFC 4013). Raises ScramError."""
    mapped = "".join(
        " " if stringprep.in_table_c12(letter) else letter
        for letter in text
        if not stringprep.in_table_b1(letter)
    )
    prepared = unicodedata.normalize("NFKC", mapped)
    if any(_forbidden(letter) for letter in prepared):
        raise ScramError("a character that no password may hold")
    if any(stringprep.in_table_d1(letter) for letter in prepared) and (
        any(stringprep.in_table_d2(letter) for letter in prepared)
        or not (stringprep.in_table_d1(prepared[0]) and stringprep.in_table_d1(prepared[-1]))
    ):
        raise ScramError("letters of both directions")  # RFC 3454 6
    return prepared


def _forbidden(letter: str) -> bool:
    return (
        stringprep.in_table_c21_c22(letter)
        or stringprep.in_table_c12(letter)
        or stringprep.in_table_c3(letter)
        or stringprep.in_table_c4(letter)
        or stringprep.in_table_c5(letter)
        or stringprep.in_table_c6(letter)
        or stringprep.in_table_c7(letter)
        or stringprep.in_table_c8(letter)
        or stringprep.in_table_c9(letter)
    )


def derive_keys(mechanism: str, password: str, salt: bytes, iterations: int = ITERATIONS) -> ScramKeys:
    """The keys for a password. It takes milliseconds by design. Raises ScramError for an impossible password."""
    kind = HASHES[mechanism]
    salted = _salted(kind, password, salt, iterations)
    client = hmac.digest(salted, b"Client Key", kind)
    return ScramKeys(
        salt, iterations, hashlib.new(kind, client).digest(), hmac.digest(salted, b"Server Key", kind)
    )


def _salted(kind: str, password: str, salt: bytes, iterations: int) -> bytes:
    return hashlib.pbkdf2_hmac(kind, saslprep(password).encode(), salt, iterations)


def format_keys(mechanism: str, keys: ScramKeys) -> str:
    """Write keys as PostgreSQL and others do (RFC 5803): "SCRAM-SHA-256$10000:salt$stored:server"."""
    salt, stored, server = map(_encode, (keys.salt, keys.stored, keys.server))
    return f"{mechanism}${keys.iterations}:{salt}${stored}:{server}"


def parse_keys(text: str) -> tuple[str, ScramKeys]:
    """Read what `format_keys` wrote: the mechanism and its keys. Raises ValueError."""
    try:
        mechanism, how, pair = text.split("$")
        iterations, _, salt = how.partition(":")
        stored, _, server = pair.partition(":")
        keys = ScramKeys(_decode(salt), int(iterations), _decode(stored), _decode(server))
        size = hashlib.new(HASHES[mechanism]).digest_size
    except (KeyError, ValueError) as error:
        raise ValueError("not SCRAM keys; `pillarbox user hash --scram` makes them") from error
    if not (
        0 < keys.iterations <= MAX_ITERATIONS and keys.salt and len(keys.stored) == len(keys.server) == size
    ):
        raise ValueError("not SCRAM keys; `pillarbox user hash --scram` makes them")
    return mechanism, keys


def _encode(octets: bytes) -> str:
    return base64.b64encode(octets).decode("ascii")


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ScramError("not valid base64") from error


def _attributes(text: str) -> dict[str, str]:
    """Read "a=x,b=y"; the first mention of a letter counts. Raises ScramError."""
    found: dict[str, str] = {}
    for part in text.split(","):
        letter, equals, value = part.partition("=")
        if not equals or len(letter) != 1:
            raise ScramError("not a list of attributes")
        found.setdefault(letter, value)
    if "m" in found:
        raise _Refused("an extension that must be understood")  # RFC 5802 5.1
    return found


def _quote(name: str) -> str:
    return name.replace("=", "=3D").replace(",", "=2C")


def _unquote(name: str) -> str:
    rest = name.replace("=2C", "").replace("=3D", "")
    if "=" in rest:
        raise ScramError("a name with a bare equals sign")
    return name.replace("=2C", ",").replace("=3D", "=")


def _signatures(kind: str, keys: ScramKeys, message: str) -> tuple[bytes, bytes]:
    """What the client's key is hidden with, and what the server shows in return."""
    octets = message.encode()
    return hmac.digest(keys.stored, octets, kind), hmac.digest(keys.server, octets, kind)


def _xor(one: bytes, other: bytes) -> bytes:
    return (int.from_bytes(one) ^ int.from_bytes(other)).to_bytes(len(one))


class ScramServer:
    """The server's end. `end_point` is the hash of our certificate, if the session has one."""

    def __init__(
        self, mechanism: str, nonce: bytes, end_point: bytes = b"", *, offers_plus: bool = False
    ) -> None:
        """`offers_plus` tells whether the session was offered the bound form of the mechanism as well."""
        self._mechanism = mechanism
        self._base = mechanism.removesuffix(PLUS)
        self._kind = HASHES[self._base]
        self._nonce = _encode(nonce)
        self._end_point = end_point
        self._offers_plus = offers_plus
        self._take: Callable[[str], bytes | Login | SecretWanted] = self._take_first
        self._user = self._authorize_as = self._header = self._first = self._challenge = ""
        self._login: Login | None = None

    def step(self, response: bytes | None) -> bytes | Login | SecretWanted | Reply:
        """Ask with an empty challenge if there was no initial response; then take each answer."""
        if response is None:
            return b""
        if self._login is not None:
            return self._login  # the client has seen our proof, and answers with nothing
        try:
            if len(response) > _MAX_TEXT:
                raise ScramError("too long")
            return self._take(response.decode("utf-8"))
        except _Refused:
            return auth.BAD_CREDENTIALS.reply()
        except ValueError:
            return auth.MALFORMED.reply()

    def _take_first(self, text: str) -> SecretWanted:
        flag, authorize_as, bare = _three_parts(text)
        self._check_binding(flag)
        self._header = text[: len(text) - len(bare)]
        self._authorize_as = _unquote(authorize_as.removeprefix("a="))
        if authorize_as and not authorize_as.startswith("a="):
            raise ScramError("not an authorization identity")
        if not bare.startswith("n="):
            raise ScramError("no name")
        found = _attributes(bare)
        self._user = saslprep(_unquote(found["n"]))
        if not self._user or not 0 < len(found.get("r", "")) <= _MAX_NONCE:
            raise ScramError("no name, or no nonce of a sensible size")
        self._nonce = found["r"] + self._nonce
        self._first = bare
        return SecretWanted(self._base, self._user)

    def _check_binding(self, flag: str) -> None:
        if self._mechanism.endswith(PLUS):
            if flag != f"p={END_POINT}":
                raise _Refused("another channel binding than ours")
        elif flag != "n" and (flag != "y" or self._offers_plus):
            # "y": the client thinks we can't bind. If we said that we can, somebody took it out (RFC 5802 6).
            raise _Refused("no binding in this mechanism")

    def take_secret(self, keys: object) -> bytes:
        """Go on with the keys of the account."""
        assert isinstance(keys, ScramKeys)  # what was asked for
        self._keys = keys
        self._challenge = f"r={self._nonce},s={_encode(keys.salt)},i={keys.iterations}"
        self._take = self._take_final
        return self._challenge.encode()

    def _take_final(self, text: str) -> bytes | Login:
        without_proof, _, proof = text.rpartition(",p=")
        found = _attributes(without_proof)
        bound = self._header.encode() + (self._end_point if self._mechanism.endswith(PLUS) else b"")
        message = f"{self._first},{self._challenge},{without_proof}"
        mask, verifier = _signatures(self._kind, self._keys, message)
        given = _decode(proof)
        key = _xor(mask, given) if len(given) == len(mask) else b""
        right = hmac.compare_digest(hashlib.new(self._kind, key).digest(), self._keys.stored)
        agreed = found.get("c") == _encode(bound) and found.get("r") == self._nonce
        proven = Proof.PROVEN if right and agreed else Proof.DISPROVEN
        login = Login(self._mechanism, self._authorize_as, self._user, "", proven)
        if proven is Proof.DISPROVEN:
            return login
        self._login = login
        return b"v=" + base64.b64encode(verifier)


def _three_parts(text: str) -> tuple[str, str, str]:
    parts = text.split(",", 2)
    if len(parts) != 3:
        raise ScramError("not a first message")
    return parts[0], parts[1], parts[2]


class ScramClient:
    """The client's end. `step` may take long: the server says how often the password is hashed."""

    def __init__(
        self, mechanism: str, user: str, password: str, nonce: bytes, end_point: bytes = b""
    ) -> None:
        """With a mechanism that ends in -PLUS `end_point` is the hash of the server's certificate."""
        self._kind = HASHES[mechanism.removesuffix(PLUS)]
        bound = mechanism.endswith(PLUS)
        self._header = f"p={END_POINT},," if bound else "n,,"
        self._bound = self._header.encode() + (end_point if bound else b"")
        self._nonce = _encode(nonce)
        self._first = f"n={_quote(saslprep(user))},r={self._nonce}"
        self._password = password
        self._expected: bytes | None = None
        self.proven = False  # the server has shown that it knows the password, too
        self.initial = (self._header + self._first).encode()

    def step(self, challenge: bytes) -> bytes:
        """Answer a challenge. Raises ScramError."""
        text = challenge.decode("utf-8", "replace")
        return self._prove(text) if self._expected is None else self._check(text)

    def _prove(self, text: str) -> bytes:
        found = _attributes(text)
        nonce, iterations = found.get("r", ""), int(found.get("i", "0"))
        if not nonce.startswith(self._nonce) or len(nonce) == len(self._nonce):
            raise ScramError("the nonce is not ours")
        if not 1 <= iterations <= MAX_ITERATIONS:
            raise ScramError("so many rounds are not for us")
        salted = _salted(self._kind, self._password, _decode(found.get("s", "")), iterations)
        key = hmac.digest(salted, b"Client Key", self._kind)
        keys = ScramKeys(
            b"",
            iterations,
            hashlib.new(self._kind, key).digest(),
            hmac.digest(salted, b"Server Key", self._kind),
        )
        without_proof = f"c={_encode(self._bound)},r={nonce}"
        mask, self._expected = _signatures(self._kind, keys, f"{self._first},{text},{without_proof}")
        return f"{without_proof},p={_encode(_xor(key, mask))}".encode()

    def _check(self, text: str) -> bytes:
        """The server must know the password as well, or its keys."""
        shown = _decode(text.removeprefix("v="))
        assert self._expected is not None  # this is the second challenge
        if not hmac.compare_digest(shown, self._expected):
            raise ScramError("the server does not know the password")
        self.proven = True
        return b""
