"""Know the MTA-STS policies of domains: ask DNS whether there is one, fetch it, keep it, fetch it anew (RFC 8461 3.3, 5.1).

What a policy says is read by `mailauth.mta_sts`; what follows for a session is the business of `relay.demand`.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

import apsw
import msgspec

from pillarbox import observe
from pillarbox.mailauth.dns import follow
from pillarbox.mailauth.mta_sts import MAX_POLICY_OCTETS, Mode, PolicyError, find_record, parse_policy
from pillarbox.net.https import HTTPS_PORT, FetchError, fetch
from pillarbox.policy.shared_file import FileFullError
from pillarbox.relay.demand import StsFinding
from pillarbox.relay.sts_store import Kept

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable

    from pillarbox.mailauth.mta_sts import Announced, StsPolicy
    from pillarbox.net.resolver import Resolver
    from pillarbox.relay.sts_store import StsStore

_PATH = "/.well-known/mta-sts.txt"
_LIMIT_S = 30.0  # to fetch one policy; mail waits for it
_MAX_AT_ONCE = 20  # fetches
_AGAIN_S = 300.0  # after a fetch that failed (RFC 8461 3.3)
_REFRESH_S = 86400.0  # a policy is fetched so often although its id is the same, or twice in its time
_LOOK_S = 600.0  # between looks whether policies are to be fetched anew
_USED_S = 31 * 86400.0  # only those of domains that got mail in this time are
_AT_ONE_LOOK = 50
_MAX_KNOWN = 5_000  # domains in memory


class _Known(msgspec.Struct):
    """What this worker knows of one domain; times are Unix times."""

    policy: StsPolicy | None = None
    id: str = ""
    fetched: float = 0.0
    expires: float = 0.0
    failed: str = ""
    kind: str = ""
    again: float = 0.0  # not fetched before
    used: float = 0.0  # noted in the file

    def finding(self, now: float) -> StsFinding:
        if self.policy is None or now >= self.expires or self.policy.mode is Mode.NONE:
            return StsFinding(failed=self.failed, kind=self.kind)
        return StsFinding(self.policy, self.id, self.failed, self.kind)


class StsPolicies:
    """The policies of all domains that mail goes to. Equal fetches at the same time are one."""

    def __init__(
        self,
        resolver: Callable[[], Resolver],
        store: StsStore,
        context: Callable[[], Awaitable[ssl.SSLContext]],
        *,
        clock: Callable[[], float] = time.time,
        port: int = HTTPS_PORT,
    ) -> None:
        """`resolver` gives the present one; `context` gives the authorities that policy hosts are checked by; `port` is 443 everywhere but in tests."""
        self._resolver = resolver
        self._store = store
        self._context = context
        self._clock = clock
        self._port = port
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._fetching: dict[str, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(_MAX_AT_ONCE)

    async def find(self, domain: str) -> StsFinding:
        """The policy that holds for a domain now. A policy that was kept holds on when a newer one can't be had."""
        announced = await follow(find_record(domain), self._resolver().lookup)
        known = self._known.get(domain)
        if known is None:
            known = await self._recall(domain)
        now = self._clock()
        if announced.id and self._wants_fetch(known, announced, now):
            await self._fetch(domain, announced.id, known)
        if known.policy is not None and now - known.used >= _REFRESH_S:
            known.used = now
            await self._write(lambda rows: rows.use(domain))
        return known.finding(now)

    @staticmethod
    def _wants_fetch(known: _Known, announced: Announced, now: float) -> bool:
        if now < known.again:
            return False
        lasts_s = min(_REFRESH_S, (known.expires - known.fetched) / 2)
        return known.policy is None or known.id != announced.id or now >= known.fetched + lasts_s

    async def keep_fresh(self) -> None:
        """Fetch policies anew before they run out, also when no mail asks for them. Runs until it is cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            await self.refresh()

    async def refresh(self) -> None:
        """One look at what is to be fetched anew."""
        now = self._clock()
        try:
            stale = await self._store.ask(
                lambda rows: rows.take_stale(
                    used_since=now - _USED_S, again=now + _LOOK_S * 6, most=_AT_ONE_LOOK
                )
            )
        except (apsw.Error, OSError, FileFullError):
            return
        for domain in stale:
            announced = await follow(find_record(domain), self._resolver().lookup)
            if announced.id:
                await self._fetch(domain, announced.id, self._known.get(domain) or await self._recall(domain))

    async def close(self) -> None:
        """Give up fetches that go on, and close the file."""
        for task in list(self._fetching.values()):
            task.cancel()
        await asyncio.gather(*self._fetching.values(), return_exceptions=True)
        await self._store.close()

    # ------------------------------------------------------------------ memory

    async def _recall(self, domain: str) -> _Known:
        """What the file has of a domain; other workers write there too."""
        known = _Known()
        kept = None
        try:
            kept = await self._store.ask(lambda rows: rows.get(domain))
        except (apsw.Error, OSError, FileFullError) as error:
            observe.STS_TROUBLE.note(domain=domain, problem=f"the file of policies can't be read: {error}")
        if kept is not None:
            _take(known, kept)
        return self._remember(domain, known)

    def _remember(self, domain: str, known: _Known) -> _Known:
        found = self._known.setdefault(domain, known)  # somebody may have been faster
        self._known.move_to_end(domain)
        if len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)
        return found

    async def _write(self, work: Callable[..., None]) -> None:
        try:
            await self._store.ask(work)
        except (apsw.Error, OSError, FileFullError) as error:
            observe.STS_TROUBLE.note(domain="", problem=f"the file of policies can't be written: {error}")

    # ------------------------------------------------------------------ fetching

    async def _fetch(self, domain: str, identity: str, known: _Known) -> None:
        task = self._fetching.get(domain)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._try_fetch(domain, identity, known))
            self._fetching[domain] = task
            task.add_done_callback(lambda _: self._fetching.pop(domain, None))
        await asyncio.shield(task)

    async def _try_fetch(self, domain: str, identity: str, known: _Known) -> None:
        kept = await self._recall_newer(domain, identity, known)
        if kept:
            return
        try:
            policy = parse_policy(await self._get(domain))
        except PolicyError as error:
            self._fail(domain, known, "sts-policy-invalid", str(error))
            return
        except FetchError as error:
            kind = "sts-webpki-invalid" if error.certificate else "sts-policy-fetch-error"
            self._fail(domain, known, kind, str(error))
            return
        now = self._clock()
        fresh = Kept(domain, identity, str(policy).encode(), now, now + policy.max_age_s)
        known.policy, known.id, known.fetched, known.expires = policy, identity, now, fresh.expires
        known.failed = known.kind = ""
        known.used = now
        refresh = now + min(_REFRESH_S, policy.max_age_s / 2)
        await self._write(lambda rows: rows.put(fresh, refresh))

    async def _recall_newer(self, domain: str, identity: str, known: _Known) -> bool:
        """Whether another worker has fetched it meanwhile."""
        try:
            kept = await self._store.ask(lambda rows: rows.get(domain))
        except (apsw.Error, OSError, FileFullError):
            return False
        if kept is None or kept.id != identity or kept.fetched <= known.fetched:
            return False
        _take(known, kept)
        return known.policy is not None

    async def _get(self, domain: str) -> bytes:
        """The policy's octets. Raises FetchError."""
        host = f"mta-sts.{domain}"
        async with self._slots:
            found = await self._resolver().addresses(host)
            if not found.records:
                raise FetchError(f"{host} has no address{f' ({found.detail})' if found.detail else ''}")
            return await fetch(
                host,
                _PATH,
                found.records,
                await self._context(),
                limit_s=_LIMIT_S,
                max_octets=MAX_POLICY_OCTETS,
                port=self._port,
            )

    def _fail(self, domain: str, known: _Known, kind: str, detail: str) -> None:
        known.failed, known.kind = detail, kind
        known.again = self._clock() + _AGAIN_S
        observe.STS_TROUBLE.note(domain=domain, problem=detail, kind=kind)


def _take(known: _Known, kept: Kept) -> None:
    try:
        known.policy = parse_policy(kept.content)
    except PolicyError:  # written by an older version that knew it otherwise
        return
    known.id, known.fetched, known.expires = kept.id, kept.fetched, kept.expires
