"""Check the tokens of an OpenID provider: signature, issuer, audience, time; its keys are fetched and kept for a while.

Which account a token opens is decided by `policy.accounts`. The extra `oidc` brings the library that this needs.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import httpx2
import msgspec
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from pillarbox.policy.account import SourceDown

if TYPE_CHECKING:
    from pillarbox.policy.accounts import OidcSettings

_KEEP_S = 3600.0  # keys are fetched anew after so long
_AGAIN_S = 30.0  # and no more often than this, whatever keys tokens name
_DOWN_S = 2.0  # nor so often while there are none, so that logins do not wait for it one after the other
_LIMIT_S = 5.0
_MAX_OCTETS = 262_144
_LEEWAY_S = 60
_ALGORITHMS = [
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "ES256",
    "ES384",
    "EdDSA",
    "Ed25519",
]  # never "none" nor HMAC


class OidcTokens:
    """The tokens of one provider."""

    def __init__(self, settings: OidcSettings) -> None:
        """Nothing is fetched before the first token comes."""
        self._settings = settings
        self._keys: KeySet | None = None
        self._fetched = 0.0
        self._tried = self._failed = -_AGAIN_S
        self._fetching = asyncio.Lock()
        self._claims = jwt.JWTClaimsRegistry(
            leeway=_LEEWAY_S,
            iss={"essential": True, "value": settings.issuer},
            aud={"essential": True, "value": settings.audience},
            exp={"essential": True},
        )

    async def user(self, token: str) -> str | None:
        """Whom a token was issued for, or None if it is not good. Raises SourceDown if there are no keys to tell."""
        if self._keys is None or time.monotonic() - self._fetched > _KEEP_S:
            await self._fetch()
        found = self._read(token)
        if found is None and time.monotonic() - self._tried > _AGAIN_S:
            await self._fetch()  # the provider may sign with a key that we have not seen yet
            found = self._read(token)
        return found

    def _read(self, token: str) -> str | None:
        assert self._keys is not None  # they were fetched
        try:
            decoded = jwt.decode(token, self._keys, algorithms=_ALGORITHMS)
            self._claims.validate(decoded.claims)
        except (JoseError, ValueError, TypeError):
            return None
        named = decoded.claims.get(self._settings.claim)
        return named if isinstance(named, str) and decoded.claims.get("email_verified", True) else None

    async def _fetch(self) -> None:
        """Get the keys; those that are known stay in use if the provider can't be reached."""
        async with self._fetching:
            now = time.monotonic()
            if now - self._tried < _AGAIN_S and self._keys is not None:
                return
            if now - self._failed < _DOWN_S and self._keys is None:
                raise SourceDown(f"the keys of {self._settings.issuer} could not be fetched a moment ago")
            self._tried = now
            try:
                async with asyncio.timeout(_LIMIT_S), httpx2.AsyncClient(timeout=_LIMIT_S) as client:
                    url = self._settings.keys_url or str(
                        (await self._get(client, self._discovery))["jwks_uri"]
                    )
                    self._keys = KeySet.import_key_set(await self._get(client, url))
                    self._fetched = now
            except (httpx2.HTTPError, JoseError, ValueError, KeyError, TypeError, TimeoutError) as error:
                self._failed = time.monotonic()
                if self._keys is None:
                    raise SourceDown(
                        f"the keys of {self._settings.issuer} can't be fetched: {error!r}"
                    ) from error

    @property
    def _discovery(self) -> str:
        return self._settings.issuer.rstrip("/") + "/.well-known/openid-configuration"

    async def _get(self, client: httpx2.AsyncClient, url: str) -> Any:
        async with client.stream("GET", url) as answer:
            answer.raise_for_status()
            body = b""
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > _MAX_OCTETS:
                    raise ValueError("too long")
        return msgspec.json.decode(body)
