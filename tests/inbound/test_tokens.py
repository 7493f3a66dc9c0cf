"""Logins with tokens, and a real provider on loopback that issues them, changes its keys, and goes away."""

import asyncio
import base64
import json
import time

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey

from pillarbox.policy.account import SourceDown
from pillarbox.policy.accounts import AuthSettings, OidcSettings
from pillarbox.policy.tokens import OidcTokens
from pillarbox.smtp.profile import Limits

SECURE = {"tls": "implicit", "login": True, "mechanisms": "OAUTHBEARER XOAUTH2 PLAIN", "auth": AuthSettings()}


class Provider:
    """An OpenID provider: it publishes its keys, and signs what it is asked to."""

    def __init__(self):
        self.keys = [ECKey.generate_key("P-256", {"kid": "one"})]
        self.asked = []

    async def open(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        return self

    async def _serve(self, reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split()[1].decode()
        self.asked.append(path)
        if path == "/keys":
            body = KeySet(self.keys).as_dict(private=False)
        else:
            body = {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}
        octets = json.dumps(body).encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(octets) + octets
        )
        await writer.drain()
        writer.close()

    def token(self, *, key=None, alg="ES256", **claims):
        key = key or self.keys[-1]
        usual = {"iss": self.url, "aud": "mail", "exp": int(time.time()) + 300, "email": "Bob@example.org"}
        return jwt.encode({"alg": alg, "kid": key.kid}, usual | claims, key, algorithms=[alg])

    @property
    def tokens(self):
        return OidcTokens(OidcSettings(issuer=self.url, audience="mail"))

    async def close(self):
        self.server.close()
        await self.server.wait_closed()


@pytest.fixture
async def provider():
    opened = await Provider().open()
    yield opened
    await opened.close()


def bearer(token, user="bob@example.org"):
    who = f"n,a={user}," if user else "n,,"
    return b"AUTH OAUTHBEARER " + base64.b64encode(f"{who}\x01auth=Bearer {token}\x01\x01".encode())


def xoauth2(token, user="bob@example.org"):
    return b"AUTH XOAUTH2 " + base64.b64encode(f"user={user}\x01auth=Bearer {token}\x01\x01".encode())


async def test_E235_4_a_token_opens_the_account_that_it_names(open_office, begin, certificates, provider):
    office = await open_office(**SECURE, tokens=provider.tokens)
    for command in bearer(provider.token()), bearer(provider.token(), ""), xoauth2(provider.token()):
        caller, reply = await begin(office, tls=certificates.client)
        assert b"AUTH OAUTHBEARER XOAUTH2 PLAIN" in reply
        assert (await caller.ask(command))[:9] == b"235 2.7.0"
    assert office.protocols[0]._client.login == "bob@example.org"
    assert provider.asked == ["/.well-known/openid-configuration", "/keys"]


@pytest.mark.parametrize("answer", [b"AQ==", b"", b"*"])
@pytest.mark.parametrize("make", [bearer, xoauth2])
async def test_E334_3_E535_3_a_client_learns_why_its_token_is_refused(
    open_office, begin, certificates, provider, make, answer
):
    office = await open_office(**SECURE, tokens=provider.tokens)
    caller, reply = await begin(office, make(provider.token(exp=1)), tls=certificates.client)
    assert reply[:4] == b"334 "
    reason = json.loads(base64.b64decode(reply[4:]))
    assert reason["status"] == ("401" if make is xoauth2 else "invalid_token")
    assert (await caller.ask(answer))[:9] == b"535 5.7.8"
    assert (await caller.ask(b"NOOP"))[:3] == b"250"


async def test_tokens_that_are_not_for_this_server_or_this_account(
    open_office, begin, certificates, provider
):
    office = await open_office(**SECURE, tokens=provider.tokens, limits=Limits(login_failures=99))
    caller, _ = await begin(office, tls=certificates.client)
    stranger = ECKey.generate_key("P-256", {"kid": "one"})
    for command in (
        bearer(provider.token(aud="calendar")),
        bearer(provider.token(iss="https://elsewhere.example")),
        bearer(provider.token(key=stranger)),
        bearer(provider.token(email="zoe@example.org"), ""),
        bearer(provider.token(email="dora@example.org"), ""),
        bearer(provider.token(email_verified=False)),
        bearer(provider.token(), "alice@example.org"),
        bearer("x.y.z"),
        bearer(provider.token(key=RSAKey.generate_key(2048, {"kid": "one"}), alg="RS256")),
    ):
        assert (await caller.ask(command))[:4] == b"334 "
        assert (await caller.ask(b"AQ=="))[:9] == b"535 5.7.8"


async def test_a_provider_that_can_not_be_reached_says_nothing_about_the_token(
    open_office, begin, certificates, provider
):
    token, tokens = provider.token(), provider.tokens
    await provider.close()
    office = await open_office(**SECURE, tokens=tokens)
    _, reply = await begin(office, bearer(token), tls=certificates.client)
    assert reply[:9] == b"454 4.7.0"


async def test_many_logins_do_not_wait_one_by_one_for_a_provider_that_is_down():
    visits = []
    down = await asyncio.start_server(
        lambda _reader, writer: (visits.append(1), writer.close()), "127.0.0.1", 0
    )
    url = f"http://127.0.0.1:{down.sockets[0].getsockname()[1]}"
    tokens = OidcTokens(OidcSettings(issuer=url, audience="mail"))
    found = await asyncio.gather(*(tokens.user("x.y.z") for _ in range(9)), return_exceptions=True)
    assert {type(one) for one in found} == {SourceDown}
    assert len(visits) == 1
    down.close()


async def test_keys_that_are_known_stay_in_use_and_new_ones_are_fetched(provider, monkeypatch):
    tokens = provider.tokens
    assert await tokens.user(provider.token()) == "Bob@example.org"
    provider.keys.append(RSAKey.generate_key(2048, {"kid": "two"}))
    signed = provider.token(alg="RS256")
    assert await tokens.user(signed) is None, "keys were fetched a moment ago"
    monkeypatch.setattr("pillarbox.policy.tokens._AGAIN_S", -1.0)
    assert await tokens.user(signed) == "Bob@example.org"
    await provider.close()
    assert await tokens.user(signed) == "Bob@example.org"
    assert await tokens.user("x.y.z") is None
