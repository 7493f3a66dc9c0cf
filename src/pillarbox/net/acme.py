"""Ask an authority for certificates: the client's side of ACME (RFC 8555), in a thread of its own.

Answering the authority's challenges is the business of `net.challenges`, when to ask that of `net.renewal`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ssl
import time
from typing import TYPE_CHECKING, Any

import httpx2
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

_REQUEST_S = 30.0
_ORDER_S = 180.0  # for all that one order takes, the authority's look at our answers included
_POLL_S = (1.0, 15.0)  # how long to wait before asking again, whatever the authority wishes
_MAX_OCTETS = 262_144
_NONCES = 6  # tries, if the authority does not like the last one (RFC 8555 6.5)
_MAX_DETAIL = 480  # characters of what the authority says
_RSA_BITS = 2048
_CHAIN = "application/pem-certificate-chain"


class AcmeError(Exception):
    """The authority refused, or can't be reached; the text says why."""


class Challenge(msgspec.Struct, frozen=True):
    """What to show so that the authority believes that a name is ours."""

    name: str
    token: str
    authorization: str  # of the key (RFC 8555 8.1)
    url: str


class Binding(msgspec.Struct, frozen=True):
    """What ties our account to one that an authority has given out by other means (RFC 8555 7.3.4)."""

    key_id: str
    key: bytes

    def __repr__(self) -> str:
        """Without the key."""
        return f"Binding({self.key_id!r})"


class AcmeClient:
    """One account with one authority."""

    def __init__(self, directory: str, key: ec.EllipticCurvePrivateKey, ca_file: str = "") -> None:
        """Nothing is asked yet."""
        self._directory_url = directory
        self._key = key
        self._account = ""  # its address
        trust = ssl.create_default_context(cafile=ca_file or None)
        self._web = httpx2.Client(verify=trust, timeout=_REQUEST_S)
        self._nonce = ""
        self._directory: dict[str, Any] = {}
        self._until = 0.0

    def __enter__(self) -> Self:
        """Learn the authority's addresses. Raises AcmeError."""
        self._until = time.monotonic() + _ORDER_S
        try:
            self._directory = self._json(self._send("GET", self._directory_url))
        except BaseException:
            self._web.close()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        """Hang up."""
        self._web.close()

    def register(self, email: str, binding: Binding | None = None) -> None:
        """Make the account, or find it by its key; the terms are agreed to by the operator's setting. Raises AcmeError."""
        url = self._address("newAccount")
        wish: dict[str, Any] = {"termsOfServiceAgreed": True}
        if email:
            wish["contact"] = [f"mailto:{email}"]
        if binding is not None:
            wish["externalAccountBinding"] = _bind(binding, url, self._public())
        answer = self._post(url, wish)
        self._account = answer.headers.get("location", "")
        if not self._account:
            raise AcmeError("the authority gives no address for the account")

    def order(self, names: Sequence[str]) -> tuple[str, dict[str, Any]]:
        """Ask for a certificate; the order's address, and the order. Raises AcmeError."""
        wish = {"identifiers": [{"type": "dns", "value": name} for name in names]}
        answer = self._post(self._address("newOrder"), wish)
        return answer.headers.get("location", ""), self._json(answer)

    def challenge(self, authorization: str, kind: str) -> Challenge | None:
        """What to prove about one name; None if that was done before. Raises AcmeError."""
        found = self._json(self._post(authorization, None))
        if found.get("status") == "valid":
            return None
        name = str(found["identifier"]["value"])
        for one in found.get("challenges", ()):
            if one.get("type") == kind:
                token = str(one["token"])
                return Challenge(name, token, f"{token}.{self._thumbprint()}", str(one["url"]))
        raise AcmeError(f"the authority offers no {kind} for {name}")

    def prove(self, challenge: Challenge, authorization: str) -> None:
        """Let the authority look, and wait for what it says. Raises AcmeError."""
        self._post(challenge.url, {})
        found = self._wait(authorization, {"pending", "processing"})
        if found.get("status") != "valid":
            errors = [one["error"] for one in found.get("challenges", ()) if "error" in one]
            said = errors[0].get("detail", "") if errors else found.get("status")
            raise AcmeError(f"the authority is not convinced that {challenge.name} is ours: {said}")

    def finish(self, url: str, order: dict[str, Any], request: bytes) -> bytes:
        """Hand in the request for the certificate; the chain in PEM. Raises AcmeError."""
        self._post(str(order["finalize"]), {"csr": _text(request)})
        done = self._wait(url, {"pending", "ready", "processing"})
        if done.get("status") != "valid" or "certificate" not in done:
            said = done.get("error", {}).get("detail") or done.get("status")
            raise AcmeError(f"the authority issues no certificate: {said}")
        return self._post(str(done["certificate"]), None, accept=_CHAIN).content

    def _wait(self, url: str, meanwhile: set[str]) -> dict[str, Any]:
        """Ask until something has another state."""
        while True:
            answer = self._post(url, None)
            found = self._json(answer)
            if found.get("status") not in meanwhile:
                return found
            wished = answer.headers.get("retry-after", "")
            time.sleep(min(max(float(wished) if wished.isdecimal() else 0.0, _POLL_S[0]), _POLL_S[1]))

    # --- messages (RFC 8555 6)

    def _address(self, name: str) -> str:
        if not isinstance(self._directory.get(name), str):
            raise AcmeError(f"{self._directory_url} is no ACME directory: it has no {name}")
        return str(self._directory[name])

    def _post(
        self, url: str, payload: dict[str, Any] | None, *, accept: str = "application/json"
    ) -> httpx2.Response:
        """Send a signed message; without a payload it only reads."""
        for left in reversed(range(_NONCES)):
            if not self._nonce:
                self._send("HEAD", self._address("newNonce"))
            answer = self._send("POST", url, self._signed(url, payload), accept)
            if answer.is_success:
                return answer
            problem = self._problem(answer)
            if not left or not problem[0].endswith(":badNonce"):
                break
        raise AcmeError(f"the authority refuses: {problem[1]}")

    def _send(self, method: str, url: str, body: bytes | None = None, accept: str = "*/*") -> httpx2.Response:
        if time.monotonic() > self._until:
            raise AcmeError("the authority takes too long")
        headers = {"accept": accept, "user-agent": "Pillarbox"}
        if body is not None:
            headers["content-type"] = "application/jose+json"
            self._nonce = ""
        try:
            with self._web.stream(method, url, content=body, headers=headers) as answer:
                read = b""
                for piece in answer.iter_bytes():
                    read += piece
                    if len(read) > _MAX_OCTETS:
                        raise AcmeError(f"{url} answers without end")
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise AcmeError(f"{url} cannot be asked: {str(error) or type(error).__name__}") from error
        self._nonce = answer.headers.get("replay-nonce", self._nonce)
        if method != "POST" and not answer.is_success:
            raise AcmeError(f"{url} answers {answer.status_code}")
        return httpx2.Response(answer.status_code, headers=_plain(answer.headers), content=read)

    def _json(self, answer: httpx2.Response) -> dict[str, Any]:
        try:
            return msgspec.json.decode(answer.content, type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise AcmeError("the authority's answer can't be read") from error

    def _problem(self, answer: httpx2.Response) -> tuple[str, str]:
        """Type and text of an error (RFC 7807)."""
        try:
            said = self._json(answer)
        except AcmeError:
            said = {}
        detail = str(said.get("detail") or f"status {answer.status_code}")
        for one in said.get("subproblems") or ():
            detail += f"; {one.get('identifier', {}).get('value', '')}: {one.get('detail', '')}"
        return str(said.get("type", "")), detail[:_MAX_DETAIL]

    def _signed(self, url: str, payload: dict[str, Any] | None) -> bytes:
        head: dict[str, Any] = {"alg": "ES256", "nonce": self._nonce, "url": url}
        head |= {"kid": self._account} if self._account else {"jwk": self._public()}
        protected = _text(msgspec.json.encode(head))
        body = "" if payload is None else _text(msgspec.json.encode(payload))
        signature = self._key.sign(f"{protected}.{body}".encode(), ec.ECDSA(hashes.SHA256()))
        octets = b"".join(number.to_bytes(32, "big") for number in decode_dss_signature(signature))
        return msgspec.json.encode({"protected": protected, "payload": body, "signature": _text(octets)})

    def _public(self) -> dict[str, str]:
        """The account's key; its members in the order in which the thumbprint needs them (RFC 7638 3)."""
        point = self._key.public_key().public_numbers()
        x, y = (_text(number.to_bytes(32, "big")) for number in (point.x, point.y))
        return {"crv": "P-256", "kty": "EC", "x": x, "y": y}

    def _thumbprint(self) -> str:
        return _text(hashlib.sha256(msgspec.json.encode(self._public())).digest())


def _bind(binding: Binding, url: str, public: dict[str, str]) -> dict[str, str]:
    """Our key, signed with the one that the authority has given out."""
    protected = _text(msgspec.json.encode({"alg": "HS256", "kid": binding.key_id, "url": url}))
    payload = _text(msgspec.json.encode(public))
    signature = hmac.digest(binding.key, f"{protected}.{payload}".encode(), "sha256")
    return {"protected": protected, "payload": payload, "signature": _text(signature)}


def _plain(headers: httpx2.Headers) -> list[tuple[str, str]]:
    """The headers of an answer whose body was decoded already."""
    return [
        (name, value)
        for name, value in headers.multi_items()
        if name not in ("content-encoding", "content-length")
    ]


def _text(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def new_key(kind: str) -> Key:
    """A private key: "ecdsa" or "rsa"."""
    if kind == "rsa":
        return rsa.generate_private_key(65537, _RSA_BITS)
    return ec.generate_private_key(ec.SECP256R1())


def key_octets(key: Key) -> bytes:
    """A private key in PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def signing_request(key: Key, names: Sequence[str]) -> bytes:
    """What a certificate is asked for with, in DER."""
    alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
    builder = x509.CertificateSigningRequestBuilder(x509.Name([])).add_extension(alternatives, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
