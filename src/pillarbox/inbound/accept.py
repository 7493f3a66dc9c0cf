"""The one door into the queue: everything that becomes a queued message passes here, whoever brought it.

gather (header, trace) -> decide -> commit. What happens to the message afterwards is the queue manager's business.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Self

import msgspec

from pillarbox import observe
from pillarbox.inbound.owners import check_owners
from pillarbox.mail import message
from pillarbox.mail.address import AddressError, parse_address
from pillarbox.mail.authors import addresses
from pillarbox.mail.catalogue import content, envelope, extensions
from pillarbox.mail.envelope import NO_TERMS, Envelope, Notify, Recipient, Terms
from pillarbox.mail.reply import Reply
from pillarbox.mail.route import Transport
from pillarbox.mail.since import FIELD as VALID_SINCE
from pillarbox.policy.account import owns
from pillarbox.policy.asked_names import Need
from pillarbox.policy.evidence import Said
from pillarbox.policy.hooks import Client, Hooks, Incoming, Tag
from pillarbox.policy.names import Target
from pillarbox.queue.spool import Draft, Entry, Queued, Spool, SpoolError, Trace, format_id
from pillarbox.smtp.attributes import known
from pillarbox.smtp.events import MailFrom, MailParameters, RcptTo

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillarbox.inbound.consequence import Checked
    from pillarbox.inbound.origin import OriginChecks
    from pillarbox.mail.route import Route
    from pillarbox.mailauth.dkim import Signer
    from pillarbox.policy.directory import Directory
    from pillarbox.policy.signing import SigningKeys
    from pillarbox.policy.terms import TermRules
    from pillarbox.smtp.profile import Limits
    from pillarbox.smtp.server import ServerSession

_NO_PARAMETERS = MailParameters()
_ELSEWHERE = frozenset({Transport.MX, Transport.SMTP})  # ways to hosts of others
KEPT_HEAD_OCTETS = 16_384  # of a message on its way, beside its draft; few header sections are longer
_MOST_WAITING_OCTETS = 64 << 20  # until they are written
_RECIPIENT_OCTETS = 600  # what a recipient takes in memory, about
_LOOK_S = 1.0  # free space is looked at no more often than this


class Accepted(NamedTuple):
    """One recipient of a letter: as it was asked for, and where mail for it goes."""

    asked: RcptTo
    address: str
    targets: tuple[Target, ...]


class Letter(msgspec.Struct):
    """One message on its way through the door: its envelope so far, its draft, and the beginning of its octets."""

    client: Client
    protocol: str
    sender: str
    parameters: MailParameters = _NO_PARAMETERS
    recipients: list[Accepted] = msgspec.field(default_factory=list)
    draft: Draft | None = None
    head: bytes | bytearray = b""
    head_complete: bool = False
    tls_cipher: str = ""
    # What checks that may only warn would have refused.
    warned: list[str] = msgspec.field(default_factory=list)
    forwarded: str = ""  # what a trusted host told by XFORWARD of where it came from
    terms: Terms = NO_TERMS
    max_octets: int = 0  # for its priority; 0 for no such limit
    origin: Checked | None = None  # what was found about who really sent it
    signers: tuple[Signer, ...] = ()  # whose keys it is signed with
    body_hash: bytes = b""  # what they sign of a large body

    @classmethod
    def begin(
        cls,
        client: Client,
        session: ServerSession,
        mail: MailFrom,
        warned: list[str],
        tls_cipher: str,
        *,
        lmtp: bool,
    ) -> Self:
        """The letter of a transaction that begins."""
        protocol = message.protocol_name(
            lmtp=lmtp,
            extended=session.hello_verb != "HELO",
            tls=session.tls,
            login=bool(session.login),
            smtputf8=mail.parameters.smtputf8,
        )
        sender = "" if mail.sender is None else str(mail.sender)
        return cls(client, protocol, sender, mail.parameters, warned=warned, tls_cipher=tls_cipher)

    def note_incomplete(self) -> None:
        """Its client is gone; that is worth a word if its body had begun."""
        if self.draft is not None:
            observe.MESSAGE_INCOMPLETE.note(
                session=self.client.session,
                client=self.client.address,
                sender=self.sender,
                octets=self.draft.octets,
            )

    @property
    def octets(self) -> int:
        """How much of its body has come."""
        return self.draft.octets if self.draft is not None else 0

    @property
    def held_octets(self) -> int:
        """About how much of it is in memory."""
        draft = self.draft
        body = draft.octets if draft is not None and draft.file is None else 0
        return min(len(self.head), KEPT_HEAD_OCTETS) + body + len(self.recipients) * _RECIPIENT_OCTETS

    def keep_head(self, piece: bytes, limit: int) -> None:
        """Remember the beginning of the message until the header section is complete, or longer than `limit`.

        The rest of a longer one is in the draft: many clients at once must not have us keep it twice.
        """
        if not self.head:
            self.head = piece
            self.head_complete = piece.find(b"\r\n\r\n") >= 0
            if not self.head_complete and len(piece) > limit:
                self.head, self.head_complete = piece[: limit + 1], True
            return
        known = len(self.head)
        if type(self.head) is bytes:
            self.head = bytearray(self.head)  # from now on it grows in place, however small the pieces
        self.head += piece[:limit]
        self.head_complete = self.head.find(b"\r\n\r\n", max(known - 3, 0)) >= 0 or len(self.head) > limit


class Door:
    """Admits letters: each either gets a refusal or becomes durable and is offered to the queue manager."""

    def __init__(  # noqa: PLR0913 - one argument for each part that it works with
        self,
        spool: Spool,
        directory: Directory,
        hooks: Hooks,
        *,
        hostname: str,
        limits: Limits,
        offer: Callable[[Queued], None],
        max_messages: int = 0,
        origin: OriginChecks | None = None,
        keys: SigningKeys | None = None,
        terms: TermRules | None = None,
    ) -> None:
        """`offer` takes each message that has become durable; 0 is no limit of messages in the queue.

        Without `origin` nobody asks who really sent one, without `keys` none is signed, and without `terms` the header
        section is not asked since when the sender knows a recipient.
        """
        self.check_from = True  # who logged in may name only own addresses as the author
        self._spool = spool
        self._directory = directory
        self._hooks = hooks
        self._hostname = hostname
        self._limits = limits
        self._offer = offer
        self._origin = origin
        self._keys = keys
        self._terms = terms
        self._telling: set[asyncio.Future[None]] = set()
        self._look_again = 0.0
        self._free_octets = 0
        self._max_messages = max_messages
        self._count_again = 0.0
        self._messages = 0  # in the queue when they were last counted, and taken since

    def has_room(self, octets: int) -> Reply | None:
        """Refuse a message of the announced size for now if the disk would become too full (RFC 1870 6), or is too slow."""
        now = time.monotonic()
        if now >= self._look_again:
            self._look_again = now + _LOOK_S
            self._free_octets = self._spool.free_octets()
        if self._free_octets - octets < self._limits.min_free_octets:
            return envelope.NO_SPACE.reply()
        if self._spool.waiting_octets > _MOST_WAITING_OCTETS:
            return envelope.STORE_BEHIND.reply()
        if self._max_messages and self._is_full(now):
            return envelope.QUEUE_FULL.reply()
        return None

    def _is_full(self, now: float) -> bool:
        """Whether the queue holds as many messages as it may; they are counted now and then, by the side."""
        if now >= self._count_again:
            self._count_again = now + _LOOK_S
            self._spool.open_messages().add_done_callback(self._counted)
        return self._messages >= self._max_messages

    def _counted(self, done: asyncio.Future[int]) -> None:
        if not done.cancelled() and done.exception() is None:
            self._messages = done.result()

    def check_writable(self) -> asyncio.Future[None]:
        """See whether the store can be written now. Fails with SpoolError."""
        return self._spool.check_writable()

    def draft(self) -> Draft:
        """Begin to store a body. Raises SpoolError."""
        return self._spool.draft()

    def admit(self, letter: Letter) -> asyncio.Future[Reply]:
        """Decide on a complete letter and make it durable; the future's reply may be sent as it is.

        The ordinary path waits for nothing but the commit: no task is made for it.
        """
        most = self._limits.header_octets
        head = message.scan_head(bytes(letter.head), most)
        if not head.complete and letter.draft is not None and letter.draft.octets > len(letter.head):
            letter.head = _beginning(letter.draft, most + 1)
            head = message.scan_head(letter.head, most)
        refusal = self._refusal(head, letter)
        if refusal is None and self._terms is not None and VALID_SINCE in head:
            refusal = check_owners(self._terms, head, letter)
        if refusal is not None:
            return self._refuse(letter, refusal)
        if self._origin is not None and letter.client.stranger:
            return self._admit_checked(self._origin, letter, head)
        if self._keys is not None and _is_ours(letter.client):
            letter.signers = self._keys.for_authors(head.get_all("from", 2))
            draft = letter.draft
            if letter.signers and draft is not None and draft.file is not None:
                return asyncio.ensure_future(self._admit_large(letter, head, draft))
        return self._admit(letter, head)

    async def _admit_large(self, letter: Letter, head: message.Head, draft: Draft) -> Reply:
        """Hash first what will be signed, off the loop."""
        from pillarbox.inbound.origin import hash_to_sign  # noqa: PLC0415 - only who has keys needs it

        letter.body_hash = await hash_to_sign(draft, head.body_at)
        return await self._admit(letter, head)

    def _admit(self, letter: Letter, head: message.Head) -> asyncio.Future[Reply]:
        if "decide_message" in self._hooks.wanted or "notify_received" in self._hooks.wanted:
            return asyncio.ensure_future(self._admit_by_hooks(letter, head))
        return self._commit(letter, head)

    def _admit_checked(
        self, origin: OriginChecks, letter: Letter, head: message.Head
    ) -> asyncio.Future[Reply]:
        """Find out first who really sent it; a task is made only if something has to be waited for."""
        draft = letter.draft
        assert draft is not None  # a complete letter has one
        try:
            sealer = self._sealer(letter) if origin.seals else None
            checked = origin.begin(letter.client, letter.sender, head, draft, sealer)
            if isinstance(checked, Awaitable):
                return asyncio.ensure_future(self._admit_later(origin, letter, head, draft, checked))
            refusal = self._take_findings(origin, letter, head, draft, checked)
        except SpoolError as error:
            return _answered(self._not_kept(error, letter))
        except BaseException:
            draft.discard()
            raise
        return self._admit(letter, head) if refusal is None else self._refuse(letter, refusal)

    async def _admit_later(
        self,
        origin: OriginChecks,
        letter: Letter,
        head: message.Head,
        draft: Draft,
        checking: Awaitable[Checked],
    ) -> Reply:
        try:
            refusal = self._take_findings(origin, letter, head, draft, await checking)
        except SpoolError as error:
            return self._not_kept(error, letter)
        except BaseException:
            draft.discard()
            raise
        return await (self._admit(letter, head) if refusal is None else self._refuse(letter, refusal))

    @staticmethod
    def _take_findings(
        origin: OriginChecks, letter: Letter, head: message.Head, draft: Draft, checked: Checked
    ) -> Reply | None:
        """The refusal that follows from what was found, or None, and then it is kept with the letter."""
        for warning in checked.warnings:
            letter.warned.append(str(warning))
            observe.CHECK_WARNED.note(
                session=letter.client.session,
                cause=warning.cause_id,
                stage="body",
                client=letter.client.address,
                reply=str(warning),
            )
        if checked.refusal is not None:
            observe.CHECK_PROVEN.note(
                session=letter.client.session,
                cause=checked.refusal.cause_id,
                stage="body",
                client=letter.client.address,
                answers="; ".join(" ".join(line.split()) for line in checked.told.split("\n") if line),
            )
            return checked.refusal
        letter.origin = checked
        origin.disown_results(head, draft)
        return None

    def _sealer(self, letter: Letter) -> Signer | None:
        """The key to seal a letter with that is forwarded to another host: that of the first such recipient."""
        for accepted in letter.recipients if self._keys is not None else ():
            if any(target.route.transport in _ELSEWHERE for target in accepted.targets):
                return self._keys.to_seal(accepted.address) if self._keys is not None else None
        return None

    def _refuse(self, letter: Letter, refusal: Reply) -> asyncio.Future[Reply]:
        if letter.draft is not None:
            letter.draft.discard()
        observe.MESSAGE_REFUSED.note(
            session=letter.client.session,
            cause=refusal.cause_id,
            client=letter.client.address,
            sender=letter.sender,
            reply=str(refusal),
        )
        return _answered(refusal)

    def _refusal(self, head: message.Head, letter: Letter) -> Reply | None:
        """What is wrong with the header section, if anything."""
        if head.hops > self._limits.hops:
            return content.TOO_MANY_HOPS.reply()
        if not head.complete and len(letter.head) > self._limits.header_octets:
            return content.HEADER_TOO_BIG.reply(limit=self._limits.header_octets)
        if 0 < letter.max_octets < letter.octets:
            return extensions.TOO_BIG_FOR_PRIORITY.reply(limit=letter.max_octets)
        senders = letter.client.senders
        if senders and self.check_from:
            named = [author for value in head.get_all("from") for author in addresses(value)]
            if not all(owns(senders, author) for author in named) or (not named and "from" in head):
                return content.AUTHOR_NOT_OWNED.reply()
        return None

    async def _admit_by_hooks(self, letter: Letter, head: message.Head) -> Reply:
        draft = letter.draft
        assert draft is not None  # a complete letter has one
        incoming = Incoming(
            letter.client,
            _envelope(letter)[0],
            head,
            draft.octets,
            draft.inline() if draft.file is None else None,
            draft.file,
            findings=letter.origin.findings if letter.origin is not None else (),
        )
        try:
            refusal = await self._hooks.decide("decide_message", incoming, warned=letter.warned)
            if refusal is not None and not refusal.positive:
                return await self._refuse(letter, refusal)
            committing = self._commit(letter, head)
        except BaseException:
            draft.discard()
            raise
        reply = await committing
        if reply.positive:
            queue_id = reply.lines[0].rpartition(" ")[2]
            told = asyncio.ensure_future(self._hooks.notify("notify_received", queue_id, incoming))
            self._telling.add(told)  # the client does not wait for it, and the loop keeps no hold of it
            told.add_done_callback(self._telling.discard)
        return reply

    def _commit(self, letter: Letter, head: message.Head) -> asyncio.Future[Reply]:
        """Hand the letter to the store; when it is durable, offer it to the queue."""
        now = time.time()
        draft = letter.draft
        assert draft is not None  # a complete letter has one
        number = self._spool.new_id(now)
        queue_id = format_id(number)
        addressed, routes = _envelope(letter)
        prefix = self._prefix(letter, head, queue_id, now)
        client = letter.client
        entry = Entry(
            number,
            addressed,
            routes,
            now,
            prefix,
            Trace(
                client.session,
                f"{client.address}:{client.port}",
                client.helo,
                letter.protocol,
                client.login,
                _warnings(letter.warned) if letter.warned else "",
                origin=_evidence(letter),
                forwarded=letter.forwarded,
            ),
            hold=letter.origin is not None and letter.origin.held,
        )
        return self._spool.commit(draft, entry, partial(self._settle, letter, queue_id))

    def _settle(
        self, letter: Letter, queue_id: str, answered: asyncio.Future[Reply], outcome: Queued | SpoolError
    ) -> None:
        """Answer the client of a letter; if that has become durable, offer it to the queue."""
        if isinstance(outcome, SpoolError):
            reply, queued = self._not_kept(outcome, letter), None
        else:
            reply, queued = content.QUEUED.reply(id=queue_id), outcome
        if not answered.done():
            answered.set_result(reply)
        if queued is not None:
            self._note_received(letter, queue_id, queued)
            self._messages += 1
            self._offer(queued)

    @staticmethod
    def _note_received(letter: Letter, queue_id: str, queued: Queued) -> None:
        client = letter.client
        # An empty fact would be left out too, but by a look at each of them, for every message.
        forwarded = {"forwarded": letter.forwarded} if letter.forwarded else {}
        observe.MESSAGE_RECEIVED.note(
            message=queue_id,
            session=client.session,
            cause=content.QUEUED.id,
            client=client.address,
            sender=queued.envelope.sender,
            recipients=len(queued.envelope.recipients),
            octets=letter.octets,
            protocol=letter.protocol,
            **forwarded,
        )

    @staticmethod
    def _not_kept(error: SpoolError, letter: Letter) -> Reply:
        observe.SPOOL_TROUBLE.note(session=letter.client.session, problem=repr(error))
        return error.reply

    def _prefix(self, letter: Letter, head: message.Head, queue_id: str, now: float) -> bytes:
        """The fields that this hop adds in front: our trace, and for users' mail what they left out."""
        client = letter.client
        only = letter.recipients[0].address if len(letter.recipients) == 1 else ""
        received = message.received_field(
            hostname=self._hostname,
            protocol=letter.protocol,
            queue_id=queue_id,
            now=now,
            helo=client.helo,
            client="" if client.address == "local" else client.address,
            client_name=_client_name(letter),
            recipient=only,
            tls_cipher=letter.tls_cipher,
            priority=letter.terms.priority,
        )
        for tag in letter.warned:
            if isinstance(tag, Tag):
                received += message.tag_field(self._hostname, tag.cause, tag)
        added = b""
        if client.login or client.role in ("submission", "sandbox"):
            added = message.completing_fields(
                head, hostname=self._hostname, now=now, random=secrets.token_bytes(8), sender=letter.sender
            )
        if letter.signers and letter.draft is not None:
            from pillarbox.mailauth.canonical import relaxed_sum  # noqa: PLC0415 - only who has keys needs it
            from pillarbox.mailauth.dkim import Header, sign  # noqa: PLC0415 - the same

            digest = letter.body_hash or relaxed_sum(letter.draft.inline()[head.body_at :])
            return sign(Header(added + head.section), digest, letter.signers, now=now) + received + added
        return letter.origin.prefix + received if letter.origin is not None else received + added

    def prepare_report(self, report: Envelope, octets: bytes, now: float) -> tuple[Draft, Entry]:
        """Make a delivery report of ours ready to be stored together with the outcome it tells of."""
        draft = self._spool.draft()
        draft.write(octets)
        number = self._spool.new_id(now)
        targets = [self._targets(recipient.address) for recipient in report.recipients]
        recipients = tuple(Recipient(target.address, Notify.NEVER) for found in targets for target in found)
        routes = tuple(target.route for found in targets for target in found)
        prefix = self._sign_report(octets, now) + message.received_field(
            hostname=self._hostname, protocol="local", queue_id=format_id(number), now=now
        )
        entry = Entry(
            number,
            Envelope(report.sender, recipients, report.body, report.smtputf8, terms=report.terms),
            routes,
            now,
            prefix,
            Trace(client="local"),
        )
        return draft, entry

    def _sign_report(self, octets: bytes, now: float) -> bytes:
        if self._keys is None:
            return b""
        from pillarbox.mailauth.dkim import message_hash, sign  # noqa: PLC0415 - only who has keys needs it

        signers = self._keys.for_authors(message.scan_head(octets).get_all("from", 2))
        return sign(*message_hash(octets), signers, now=now) if signers else b""

    def _targets(self, address: str) -> tuple[Target, ...]:
        """Where mail of our own goes; nowhere if the directory knows no such address."""
        try:
            found = self._directory.resolve(parse_address(address), Need.GUESS)
        except AddressError:
            return ()
        return () if isinstance(found, Reply) else found


def _client_name(letter: Letter) -> str:
    """The client's host name, if it is known for certain."""
    if letter.client.name:  # as a trusted host told it, or the mark that there is none
        return known({"NAME": letter.client.name}, "NAME")
    return letter.origin.client_name if letter.origin is not None else ""


def _answered(reply: Reply) -> asyncio.Future[Reply]:
    """An answer that nobody has to wait for."""
    answered: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
    answered.set_result(reply)
    return answered


def _warnings(warned: list[str]) -> str:
    """What checks that may only warn would have refused."""
    return "; ".join([one for one in warned if not isinstance(one, Said)])


def _evidence(letter: Letter) -> str:
    """What was found about who sent it, and all that DNS answered."""
    told = letter.origin.told if letter.origin is not None else ""
    if not letter.warned:
        return told
    known = set(told.split("\n"))
    said = [one for one in letter.warned if isinstance(one, Said) and one not in known]
    return "\n".join([told, *said] if told else said)


def _beginning(draft: Draft, octets: int) -> bytes:
    """The first octets of a body; they were written a moment ago, so no disk is waited for."""
    if draft.file is None:
        return draft.inline()[:octets]
    with draft.file.open("rb") as file:
        return file.read(octets)


def _is_ours(client: Client) -> bool:
    """Whether a client sends for us, so that what it sends is signed."""
    return bool(client.login) or client.trusted or client.role in {"submission", "relay"}


def _envelope(letter: Letter) -> tuple[Envelope, tuple[Route, ...]]:
    """The envelope with aliases expanded and each address once, and the route of each recipient."""
    parameters = letter.parameters
    if len(letter.recipients) == 1 and len(letter.recipients[0].targets) == 1:  # the ordinary case
        target = letter.recipients[0].targets[0]
        recipients: tuple[Recipient, ...] = (_recipient(letter.recipients[0], target),)
        routes: tuple[Route, ...] = (target.route,)
    else:
        found = {
            (target.address, target.route): _recipient(accepted, target)
            for accepted in reversed(letter.recipients)
            for target in reversed(accepted.targets)
        }
        recipients = tuple(reversed(found.values()))
        routes = tuple(route for _, route in reversed(found))
    return (
        Envelope(
            letter.sender,
            recipients,
            parameters.body,
            parameters.smtputf8,
            parameters.ret,
            parameters.envid,
            letter.terms,
        ),
        routes,
    )


def _recipient(accepted: Accepted, target: Target) -> Recipient:
    original = "" if target.address == accepted.address else accepted.address
    asked = accepted.asked
    # whoever an address of ours stands for is not the one whom the sender knows (RFC 7293 8)
    valid_since = None if original else asked.valid_since
    return Recipient(target.address, asked.notify, asked.orcpt, original, valid_since)
