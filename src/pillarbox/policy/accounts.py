"""Decide who is let in: find the account, weigh what the client showed, and never tell who exists.

Where accounts are kept is the business of the directories (`policy.account`), hashing that of `policy.passwords`, what
a login may do that of `policy.rules`.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from pillarbox import observe
from pillarbox.mail.catalogue import auth, peers
from pillarbox.mail.reply import Reply
from pillarbox.mail.units import Seconds, Settings
from pillarbox.policy.account import Account, Source, SourceDown
from pillarbox.policy.lists import Networks
from pillarbox.policy.passwords import Passwords, TooManyWaiting, digest_app_password, keys_of_nobody
from pillarbox.smtp.events import Login, Proof, SecretWanted
from pillarbox.smtp.sasl import BY_KEYS, BY_TOKEN, Strength
from pillarbox.smtp.scram import HASHES, ITERATIONS, PLUS, ScramKeys, format_keys, parse_keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pillarbox.policy.guard import Guard

_SHARES = 1 << 16


class AuthSettings(Settings, frozen=True):
    """Logins: `[auth]`."""

    mechanisms: tuple[str, ...] = (
        "SCRAM-SHA-256",
        "EXTERNAL",
        "OAUTHBEARER",
        "XOAUTH2",
        "PLAIN",
        "LOGIN",
    )
    """The mechanisms to offer, the best first; each only where it can work. Further ones are SCRAM-SHA-256-PLUS,
    SCRAM-SHA-1-PLUS, SCRAM-SHA-1 and CRAM-MD5."""
    require_tls: bool = True
    """Let nobody log in without TLS, not even with a mechanism that hides the password."""
    min_strength: Literal["password", "digest", "scram", "bound"] = "password"
    """The weakest mechanisms to take: "password" those that send it, "digest" CRAM-MD5 and better, "scram" SCRAM and
    tokens, "bound" those that are bound to the TLS session."""
    disclose_state: bool = False
    """Tell somebody who knows the password that the account is disabled (525)."""
    check_from: bool = True
    """Hold an account that may use only some sender addresses to them in the From field, too (550)."""
    max_waiting: int = 64
    """Passwords that may wait to be checked; further logins are put off (454)."""
    max_delay_s: Seconds = Seconds(30)
    """The longest that a login is held up after failures of its network or account; beyond that it is put off (454)."""
    trusted_networks: tuple[str, ...] = ("127.0.0.0/8", "::1/128")
    """Networks whose failed logins are not counted, such as that of a webmail server."""


class OidcSettings(Settings, frozen=True):
    """The OpenID provider whose tokens let users log in: `[oidc]`. It needs the extra `oidc`."""

    issuer: str = ""
    """What its tokens name as their issuer, an https address; "" for no such logins."""
    audience: str = ""
    """What they name as their audience: this server, as it is registered with the provider."""
    keys_url: str = ""
    """Where its keys are; "" to ask `issuer`/.well-known/openid-configuration."""
    claim: str = "email"
    """The claim that holds the name of the account."""


class SqlSettings(Settings, frozen=True):
    """Accounts and mailboxes in a PostgreSQL database: `[sql_accounts]`. It needs the extra `postgres`."""

    url: str = ""
    """Where it is, such as "postgresql://pillarbox@db.example.org/mail"; "" for none. A password can be in `PGPASSFILE`."""
    query: str = "SELECT password, senders, enabled FROM account WHERE name = $1"
    """What finds an account by its name in lower case. The columns are `password`, an argon2 hash; `scram`, keys for
    SCRAM-SHA-256; `senders`, a text with spaces between or an array; and `enabled`. All may be left out. "" for no logins."""
    mailbox_query: str = ""
    """What finds a mailbox by its address in lower case, for domains with `users_from = ["sql"]`: no row says that there is
    none. A column `forward`, a text with spaces between or an array, names what the address stands for."""


LDAP_PLACEHOLDERS = ("address", "user", "domain")


class LdapSettings(Settings, frozen=True):
    """Accounts and mailboxes in an LDAP directory, such as OpenLDAP or Active Directory: `[ldap]`."""

    url: str = ""
    """Where it is, such as "ldaps://ldap.example.org" or "ldap://10.0.0.7:389"; "" for none."""
    start_tls: bool = True
    """Encrypt connections to "ldap://" before anything is said. Without it passwords can be read on the way."""
    ca_file: str = ""
    """Who vouches for the server's certificate, as PEM; "" for those whom the system trusts."""
    bind_dn: str = ""
    """The entry as which to search; "" to search without a login."""
    password_file: str = ""
    """A file with the password for `bind_dn`, alone on its line."""
    base: str = ""
    """Below which entry to search, such as "ou=people,dc=example,dc=org"."""
    account_filter: str = "(mail={address})"
    """What finds the entry of an account. `{address}` is the name that was given, `{user}` and `{domain}` are its parts. The
    password is checked by logging in as the entry that is found. "" for no logins."""
    mailbox_filter: str = ""
    """What finds the entry of an address, for domains with `users_from = ["ldap"]`: none says that there is no mailbox."""
    senders_attribute: str = ""
    """The attribute with the sender addresses that the account may use; "" for any address."""
    forward_attribute: str = ""
    """The attribute with the addresses that a mailbox stands for; "" if none is forwarded."""
    limit_s: Seconds = Seconds(5)
    """How long an answer may take; then logins and mail are put off (454, 451)."""


class AccountSettings(Settings, frozen=True):
    """One account that may log in: `[account.NAME]`."""

    password: str
    """The argon2 hash of the password; `pillarbox user hash` makes it."""
    scram: tuple[str, ...] = ()
    """Keys for SCRAM; `pillarbox user hash --scram` makes them."""
    cram_md5: str = ""
    """The password itself, if the account is to log in by CRAM-MD5, which can't do without it."""
    enabled: bool = True
    """Whether it may log in."""
    senders: tuple[str, ...] = ()
    """The sender addresses that it may use, "@domain" for all of a domain; none: any address."""


class Peer(msgspec.Struct, frozen=True):
    """Where a login comes from."""

    address: str
    certified: tuple[str, ...] = ()  # the mail addresses in its certificate, which was verified


class Admitted(msgspec.Struct, frozen=True):
    """A login that was accepted."""

    name: str
    senders: tuple[str, ...] = ()


class Tokens(Protocol):
    """What checks the tokens of OAuth."""

    async def user(self, token: str) -> str | None:
        """The account that a token was issued for, or None if it is not good. Raises SourceDown."""


class ConfigAccounts:
    """The accounts that stand in the configuration."""

    title = "configuration"
    makes_keys = False
    keyless = 0.0  # as nobody makes keys, who has none is told nothing of them

    def __init__(self, accounts: dict[str, AccountSettings]) -> None:
        """Take the accounts by name. Raises ValueError for keys that can't be read."""
        self._accounts = {name.lower(): _configured(name, account) for name, account in accounts.items()}
        found = self._accounts.values()
        self.keyed = frozenset(name for name in HASHES if all(name in account.keys for account in found))
        if any(account.cram_md5 for account in found):
            self.keyed |= {"CRAM-MD5"}

    def __len__(self) -> int:
        """How many there are."""
        return len(self._accounts)

    async def find(self, name: str) -> Account | None:
        return self._accounts.get(name)

    async def verify(self, account: Account | None, password: str) -> None:
        """Leave it to others."""

    async def logged_in(self, account: Account, password: str, app_password: str) -> None:
        """Nothing to learn: the configuration is the operator's."""

    async def close(self) -> None:
        """Nothing is open."""


def _configured(name: str, settings: AccountSettings) -> Account:
    return Account(
        name.lower(),
        settings.password,
        dict(parse_keys(text) for text in settings.scram),
        settings.cram_md5,
        settings.senders,
        settings.enabled,
    )


class Accounts:
    """All who may log in to one server, in the order in which its directories are asked."""

    def __init__(
        self,
        sources: Sequence[Source],
        settings: AuthSettings = AuthSettings(),  # noqa: B008 - it is frozen
        *,
        tokens: Tokens | None = None,
        guard: Guard | None = None,
        key: bytes = b"",
    ) -> None:
        """`key` is secret and stays the same: the challenges of users that don't exist are made from it.

        Without `guard` failed logins have no consequences.
        """
        self._sources = sources
        self._settings = settings
        self._tokens = tokens
        self._key = hashlib.sha256(b"nobody" + key).digest()
        self._passwords = Passwords(settings.max_waiting)
        self._guard = guard
        self._trusted = Networks(settings.trusted_networks)

    def mechanisms(self, *, certificates: bool = False) -> tuple[str, ...]:
        """Those of the settings that can work with these directories; none if there is no directory."""
        return tuple(name for name in self._settings.mechanisms if self._can(name, certificates=certificates))

    def _can(self, name: str, *, certificates: bool) -> bool:
        if name in BY_TOKEN:
            return self._tokens is not None
        if name == "EXTERNAL":
            return certificates and bool(self._sources)
        if name in BY_KEYS or name == "CRAM-MD5":
            return bool(self._sources) and all(
                name.removesuffix(PLUS) in source.keyed for source in self._sources
            )
        return bool(self._sources)

    @property
    def min_strength(self) -> Strength:
        """The weakest that is taken."""
        return Strength[self._settings.min_strength.upper()]

    # ------------------------------------------------------------------ what sessions ask

    async def secret(self, event: SecretWanted, peer: Peer) -> ScramKeys | str | Reply:
        """What a mechanism compares with, or why it gets nothing. Unknown users get something that nothing fits."""
        name = event.user.lower()
        guard = self._guard_for(peer)
        try:
            if guard is not None and not await guard.admit(peer.address, name):
                return auth.THROTTLED.reply()
            found = await self._secret(event, name)
            if isinstance(found, Reply) and guard is not None:
                await guard.forgive(peer.address, name)
        except SourceDown as error:
            return await self._down(error, guard, peer, name)
        return found

    async def _secret(self, event: SecretWanted, name: str) -> ScramKeys | str | Reply:
        found, source, down = await self._find(name)
        if found is None and down is not None:
            raise down
        await self._ask_others(source, name)
        if found is not None and not found.enabled and not self._settings.disclose_state:
            found = None
        if event.mechanism == "CRAM-MD5":
            return found.cram_md5 if found and found.cram_md5 else self._mark("cram", name).hex()
        keys = found.keys.get(event.mechanism) if found is not None else None
        if keys is not None:
            return keys
        if (found is not None and source is not None and source.makes_keys) or (
            found is None and self._would_be_keyless(name)
        ):
            return auth.PASSWORD_TRANSITION.reply()
        return keys_of_nobody(self._key, event.mechanism, name, ITERATIONS)

    def _would_be_keyless(self, name: str) -> bool:
        """Whether a user who does not exist has no keys: as many of them as of those who do, and always the same."""
        share = max((source.keyless for source in self._sources if source.makes_keys), default=0.0)
        return int.from_bytes(self._mark("share", name)[:2]) < share * _SHARES

    def _mark(self, purpose: str, name: str) -> bytes:
        return hmac.digest(self._key, f"{purpose}\0{name}".encode(), "sha256")

    async def login(self, event: Login, peer: Peer) -> Admitted | Reply:
        """The account that is let in, or the refusal."""
        name, guard = self._name(event, peer), self._guard_for(peer)
        looked_at = event.proof in (Proof.PASSWORD, Proof.TOKEN)
        try:
            if looked_at and guard is not None and not await guard.admit(peer.address, name):
                return auth.THROTTLED.reply()
            found = await self._login(event, name)
            if guard is not None:
                told = guard.succeeded if isinstance(found, Admitted) else guard.failed
                await told(peer.address, name, admitted=event.proof is not Proof.CERTIFICATE)
        except TooManyWaiting:
            if guard is not None:
                await guard.forgive(peer.address, name)
            return auth.TOO_MANY_LOGINS.reply()
        except SourceDown as error:
            return await self._down(error, guard if looked_at else None, peer, name)
        return found

    async def _login(self, event: Login, name: str) -> Admitted | Reply:
        if event.proof is Proof.TOKEN:
            assert self._tokens is not None  # or the mechanism would not be offered
            issued_for = (await self._tokens.user(event.password) or "").lower()
            name = name or issued_for
            right = bool(issued_for) and issued_for == name
        else:
            right = event.proof in (Proof.PROVEN, Proof.CERTIFICATE)
        account, source, down = await self._find(name)
        if event.proof is Proof.PASSWORD:
            right = await self._knows_password(name, account, source, event.password)
            if not right:
                down = await self._ask_others(source, name, event.password) or down
        if down is not None and (account is None or not right):
            raise down
        if account is None or not right or event.authorize_as.lower() not in ("", name):
            return auth.BAD_CREDENTIALS.reply()
        if not account.enabled:
            return (auth.DISABLED if self._settings.disclose_state else auth.BAD_CREDENTIALS).reply()
        return Admitted(account.name, account.senders)

    async def vouched(self, name: str) -> Admitted | Reply:
        """The account whose login somebody else has checked who may do so; any name where there are no accounts."""
        account, _source, down = await self._find(name.lower())
        if down is not None and account is None:
            return _down(down)
        if account is not None and account.enabled:
            return Admitted(account.name, account.senders)
        return peers.LOGIN_NOT_KNOWN.reply() if self._sources else Admitted(name)

    def _name(self, event: Login, peer: Peer) -> str:
        if event.proof is not Proof.CERTIFICATE:
            return event.user.lower()
        names = [name.lower() for name in peer.certified]
        wanted = event.authorize_as.lower()
        return wanted if wanted in names else (names[0] if names else "")

    async def _knows_password(
        self, name: str, account: Account | None, source: Source | None, password: str
    ) -> bool:
        if account is None or source is None:
            return await self._passwords.matches_nobody(self._mark("password", name), password)
        app = account.app_passwords.get(digest_app_password(password), "") if account.app_passwords else ""
        if not app:
            known = await source.verify(account, password)
            if known is False:  # as long as where we have to check it
                await self._passwords.matches_nobody(self._mark("password", name), password)
            if known is None:
                keys = next(iter(account.keys.items()), None)
                kept = account.password or (format_keys(*keys) if keys else "")
                known = await self._passwords.matches(kept, password)
            if not known:
                return False
        await source.logged_in(account, password, app)
        return True

    async def _find(self, name: str) -> tuple[Account | None, Source | None, SourceDown | None]:
        """The account and its directory; if it was not found, also which directory could not be asked."""
        down = None
        for source in self._sources:
            try:
                found = await source.find(name)
            except SourceDown as error:
                down = error
                continue
            if found is not None:
                return found, source, None
        return None, None, down

    async def _ask_others(
        self, knew: Source | None, name: str, password: str | None = None
    ) -> SourceDown | None:
        """Do what would have been done for an unknown name, so that a refusal takes the same time and may be the same.

        `knew` is the directory that has the account. One that can't be asked makes every refusal a "not now": whether the
        name is in it can't be told.
        """
        down = None
        found = False
        for source in self._sources:
            try:
                if found:
                    await source.find(name)
                if source is not knew and password is not None:
                    await source.verify(None, password)
            except SourceDown as error:
                down = error
            found = found or source is knew
        return down

    def _guard_for(self, peer: Peer) -> Guard | None:
        return None if self._guard is None or self._trusted.holds(peer.address) else self._guard

    async def _down(self, error: SourceDown, guard: Guard | None, peer: Peer, name: str) -> Reply:
        """A directory gives no answer: that is nobody's failure."""
        if guard is not None:
            with contextlib.suppress(SourceDown):  # it may be the memory itself that is down
                await guard.forgive(peer.address, name)
        return _down(error)

    async def close(self) -> None:
        """Let threads and connections go."""
        self._passwords.close()
        for source in self._sources:
            await source.close()


def _down(error: SourceDown) -> Reply:
    observe.ACCOUNTS_DOWN.note(problem=str(error))
    return auth.BACKEND_DOWN.reply()
