"""Send messages by SMTP and LMTP: one host after the other, each conversation as the decision table says.

Which hosts there are is `relay.destination`'s, what a result means for the queue `queue.outcome`'s business.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from msgspec.structs import replace

from pillarbox import observe
from pillarbox.mail.catalogue import delivery, transport
from pillarbox.mail.envelope import NO_TERMS, Body, Envelope
from pillarbox.mail.reply import Origin, Reply, Result, Stage
from pillarbox.mail.verp import verp_address
from pillarbox.queue.decisions import Action, Fact, Scope, action, diagnose, find
from pillarbox.queue.schedule import left_alone, wants_rest
from pillarbox.queue.spool import format_id
from pillarbox.relay.attempt import Attempt
from pillarbox.relay.carriage import fit, keep_terms, needs_smtputf8, tunnel
from pillarbox.relay.connection import LinkError
from pillarbox.relay.demand import Source, Target, is_about_proof, under_tls
from pillarbox.relay.plan import Hop, family_of
from pillarbox.relay.session import Opener, Session, SmtpSettings
from pillarbox.smtp.client import LONE_DOT, ChunkWriter, DataWriter, Mode, Next, Transaction
from pillarbox.smtp.replies import CLOSING_CODE, ProtocolError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from pillarbox.policy.forwarding import SenderFor
    from pillarbox.queue.spool import Content, Pending, Queued
    from pillarbox.relay.demand import Demand
    from pillarbox.relay.destination import Destination
    from pillarbox.relay.hosts import Hosts

_IN_DOUBT_S = 6 * 3600.0  # how long the host of a message in doubt is remembered
_LEARNT_S = 24 * 3600.0  # how long a host's limits are remembered, and that it takes no mail
_HERE = frozenset({Action.SPLIT, Action.SINGLY, Action.STRIP, Action.RECONNECT, Action.ENCRYPT})
_AGAIN = frozenset({Action.RECONNECT, Action.ENCRYPT})  # on a new connection
_HOPELESS = frozenset({Action.BOUNCE, Action.OTHER_LOGIN})
_ELSEWHERE = frozenset({Action.NEXT_HOST, Action.LARGER_HOST, Action.OTHER_FAMILY})
_NO_TLS = frozenset({delivery.TLS_NOT_OFFERED, transport.DANE_MISMATCH, transport.STS_FAILED})
_TOO_MANY_MESSAGES = "protocol.too_many_messages"
_NO_MAIL = "host.no_mail"
_ASKED_BEFORE = "Not asked again: it said so within the last day, and that it will stay so."


class SmtpCourier:
    """Delivers the messages of one route; keeps its connection from one message to the next."""

    def __init__(
        self,
        destination: Destination,
        settings: SmtpSettings,
        hosts: Hosts,
        sender_for: SenderFor | None = None,
    ) -> None:
        """`hosts` is shared with all others that send; `sender_for` gives the reverse-path of a recipient's copy."""
        self._destination = destination
        self._settings = settings
        self._patience = settings.patience
        self._hosts = hosts
        self._lmtp = destination.manner.lmtp
        self._sender_for = None if self._lmtp else sender_for
        self._opener = Opener(destination.manner, settings, hosts, destination.watch)
        self._session: Session | None = None

    async def deliver(self, queued: Queued) -> Mapping[int, Result]:
        """Try to deliver to all recipients of `queued`, and tell what came of each, by its number."""
        assert queued.content is not None  # the manager loads it
        attempt = Attempt(queued, queued.content)
        attempt.verp = not self._lmtp and self._wants_verp(queued.envelope.sender)
        attempt.singly = attempt.verp
        try:
            await self._run(attempt)
            while attempt.open and attempt.concede():
                await self._run(attempt)
        except OSError as error:  # the message can't be read: what goes wrong with a host is a LinkError
            self._drop_session()
            attempt.fail(_local(delivery.DAMAGED.reply(detail=error)))
        except BaseException:
            self._drop_session()
            raise
        return self._complete(attempt) if attempt.open or attempt.troubled else attempt.results

    async def close(self) -> None:
        """Say goodbye to the host."""
        session, self._session = self._session, None
        if session is not None:
            await session.connection.quit(self._patience.quit_s)

    def _drop_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.connection.close()

    # --- hosts

    async def _run(self, attempt: Attempt) -> None:
        session = self._session
        doubtful = self._hosts.in_doubt.get(attempt.queued.id, asyncio.get_running_loop().time())
        strict = attempt.strict and not self._lmtp
        if (
            session is not None
            and session.usable
            and (doubtful is None or doubtful.hop == session.hop)
            and (session.keeps_tls or not strict)
            and (attempt.lax or not session.lax)
        ):
            attempt.hops.add(session.hop)
            await self._converse(session, attempt, Fact.NOTHING)
            if not attempt.open:
                return
            attempt.next_host()
        await self.close()
        async for target in self._targets(None if strict else doubtful, lax=attempt.lax):
            if isinstance(target, Result):
                attempt.unproven |= is_about_proof(target)
                attempt.hops.add(None)
                attempt.fail(target)
            elif strict and not target.demand.vouched:
                attempt.fail(
                    _unsafe(target.hop, "neither DNSSEC nor MTA-STS vouches for its being an exchanger")
                )
            elif attempt.ipv4_only and family_of(target.hop.address) == "ipv6":
                continue
            elif (known := self._known_trouble(target.hop)) is not None:
                attempt.hops.add(target.hop)
                attempt.fail(known)
            elif len(attempt.tried) >= self._settings.max_hosts:
                attempt.hops.add(None)
                return
            else:
                attempt.tried.add(target.hop)
                attempt.hops.add(target.hop)
                demand = under_tls(target.demand) if strict else target.demand
                if not await self._try_host(target.hop, demand, attempt):
                    return
            attempt.next_host()

    def _wants_verp(self, sender: str) -> bool:
        return bool(self._settings.verp) and sender.rpartition("@")[2].lower() in self._settings.verp

    def _known_trouble(self, hop: Hop) -> Result | None:
        """Why a host need not be tried now, if that is known."""
        now = asyncio.get_running_loop().time()
        never = self._hosts.no_mail.get(hop, now)
        if never is not None:
            return replace(never, note=_ASKED_BEFORE)
        said = self._hosts.resting(hop, now)
        return None if said is None else left_alone(hop.name, said, said.wait_s, time.time())

    def _complete(self, attempt: Attempt) -> dict[int, Result]:
        """The results, with what each host said; where all are left alone, nothing is tried before one of them may be."""
        results = attempt.finish(self._destination.name)
        now = asyncio.get_running_loop().time()
        rests = [hop and self._hosts.resting(hop, now) for hop in attempt.hops]
        rest_s = min([rest.wait_s if rest else 0.0 for rest in rests], default=0.0)
        for number, result in results.items():
            if rest_s and result.reply.temporary:
                results[number] = replace(result, wait_s=rest_s)
        return results

    async def _targets(self, doubtful: Target | None, *, lax: bool) -> AsyncIterator[Target | Result]:
        """The hosts in their order, but first the one that may have the message already."""
        if doubtful is not None:
            yield doubtful
        async for target in self._destination.targets(lax=lax):
            if doubtful is None or isinstance(target, Result) or target.hop != doubtful.hop:
                yield target

    async def _try_host(self, hop: Hop, demand: Demand, attempt: Attempt) -> bool:
        """Deliver what one host takes; whether it is worth to try another one."""
        facts = Fact.NOTHING
        while True:
            session = await self._opener.open(hop, demand, lax=attempt.lax)
            if isinstance(session, Result):
                self._note_refusal(hop, demand, attempt, session)
                return action(session.stage, session.reply, host=session.host) not in _HOPELESS
            await self._converse(session, attempt, facts)
            if not attempt.todo or Fact.RECONNECTED in facts:
                return attempt.open
            await self.close()
            if not session.worn_out:
                facts |= Fact.RECONNECTED

    def _note_refusal(self, hop: Hop, demand: Demand, attempt: Attempt, result: Result) -> None:
        """A session could not be opened: that counts for all who wait."""
        busy = result.origin is Origin.PEER and result.reply.temporary
        if result.stage in (Stage.STARTTLS, Stage.TLS):
            attempt.unproven |= demand.source is not Source.ROUTE
            if attempt.strict and not busy:
                says_no = result.stage is Stage.STARTTLS and result.reply.cause in _NO_TLS
                result = _unsafe(hop, result.reply.text, Stage.MAIL if says_no else Stage.TLS)
        attempt.fail(result)
        diagnosis = diagnose(result.stage, result.reply, result.host)
        if result.stage is Stage.GREETING and diagnosis is not None and diagnosis.cause.id == _NO_MAIL:
            self._hosts.no_mail.put(hop, result, asyncio.get_running_loop().time() + _LEARNT_S)

    # --- one host

    async def _converse(self, session: Session, attempt: Attempt, facts: Fact) -> None:
        """Send the message to those who wait, in as many transactions as it takes.

        Those who are left over, in `attempt.todo`, need another connection to the same host.
        """
        self._session = session
        again = False
        while attempt.todo and not again and session.usable:
            checks = self._lmtp or "RRVS" in session.extensions
            if not checks:
                self._without_unchecked(session, attempt)
                if not attempt.todo:
                    break
            batch = attempt.todo[:1] if attempt.singly else _batch(session, attempt.todo)
            content = attempt.content
            if not checks:
                batch = _apart(batch)
                content = tunnel(content, batch[0].recipient)
            envelope = self._envelope_for(attempt, batch)
            if envelope.terms.require_tls and not attempt.strict:
                envelope = replace(envelope, terms=replace(envelope.terms, require_tls=False))
            fitting = fit(
                envelope, content, session.extensions, session.hop.name, too_small=attempt.too_small
            )
            terms = envelope.terms
            if terms is not NO_TERMS and not self._lmtp:
                fitting = keep_terms(terms, session, time.time()) or fitting
            if isinstance(fitting, Reply):
                alike = attempt.todo if content is attempt.content else batch
                if not self._without_misfits(session, attempt, alike, fitting):
                    break
                continue
            mode = self._mode(session, fitting, content)
            now = time.time() if terms.by is not None else 0.0
            transaction = Transaction(fitting, content.octets, session.extensions, mode, now=now)
            await self._transact(session, transaction, content, chunked=Mode.CHUNKED in mode)
            session.messages += 1
            self._tell_of_oddity(session)
            session.dirty = transaction.dirty
            again = self._sort(session, attempt, batch, transaction, facts)
        if not session.usable:
            if session.connection.usable:
                await self.close()
            else:
                self._drop_session()

    def _envelope_for(self, attempt: Attempt, batch: list[Pending]) -> Envelope:
        """The envelope of one transaction; those whose copies have another sender than the first leave `batch`."""
        envelope = attempt.queued.envelope
        sender = envelope.sender
        if attempt.verp:
            sender = verp_address(sender, format_id(attempt.queued.id), batch[0].number)
        elif self._sender_for is not None:
            queue_id = format_id(attempt.queued.id)
            leaving = [self._sender_for(sender, queue_id, pending.recipient) for pending in batch]
            sender = leaving[0].sender
            alike = next((at for at, other in enumerate(leaving) if other.sender != sender), len(batch))
            del batch[alike:]
            for pending, one in zip(batch, leaving, strict=False):
                attempt.notes[pending.number] = one.note
        if sender != envelope.sender:
            envelope = replace(envelope, sender=sender)
        return _addressed(envelope, batch)

    def _tell_of_oddity(self, session: Session) -> None:
        """Have the operator hear of answers that no server should give, once an hour of each host."""
        oddity = session.connection.take_oddity()
        host = session.hop.name
        if oddity and self._hosts.alarms.is_due(host, 1, asyncio.get_running_loop().time()):
            observe.ALARM.note(problem=f"{host} answers oddly: {oddity}", cause=delivery.PROTOCOL.id)

    def _mode(self, session: Session, envelope: Envelope, content: Content) -> Mode:
        """Large messages go by BDAT where they can: looking for dots and line ends takes most of the time."""
        mode = Mode.LMTP if self._lmtp else Mode.NOTHING
        if envelope.body is Body.BINARY or (content.path is not None and "CHUNKING" in session.extensions):
            mode |= Mode.CHUNKED
        if session.dirty:
            mode |= Mode.RESET
        if not session.hints:
            mode |= Mode.WITHOUT_HINTS
        return mode

    def _without_misfits(
        self, session: Session, attempt: Attempt, alike: list[Pending], refusal: Reply
    ) -> bool:
        """Put those aside, of all who are to get the same octets, who can't be served by this host; whether others are left."""
        result = Result(refusal, Stage.MAIL, Origin.LOCAL, session.hop.name)
        misfits = [pending for pending in alike if needs_smtputf8(pending.recipient.address)]
        if refusal.cause is not delivery.NEEDS_SMTPUTF8 or len(misfits) in (0, len(alike)):
            misfits = list(alike)
        for pending in misfits:
            attempt.todo.remove(pending)
            attempt.later.append(pending)
            attempt.note_failure(pending, result)
        return bool(attempt.todo)

    def _without_unchecked(self, session: Session, attempt: Attempt) -> None:
        """Put those aside whose owner has to be checked by a host that can't do so (RFC 7293 5.3)."""
        result = None
        for pending in list(attempt.todo):
            valid = pending.recipient.valid_since
            if valid is not None and valid.refuse:
                reply = delivery.NEEDS_RRVS.reply(host=session.hop.name)
                result = result or Result(reply, Stage.RCPT, Origin.LOCAL, session.hop.name)
                attempt.todo.remove(pending)
                attempt.later.append(pending)
                attempt.note_failure(pending, result)

    def _sort(
        self, session: Session, attempt: Attempt, batch: list[Pending], transaction: Transaction, facts: Fact
    ) -> bool:
        """Take the outcome of a transaction; whether some need a new connection to the same host."""
        reports = session.hints and "DSN" in session.extensions
        host = session.hop.name
        facts |= self._facts(session, attempt)
        shared = transaction.accepted > 1 and not self._lmtp
        if shared and self._names_one(batch, transaction):
            facts |= Fact.ONE_NAMED
        actions: set[Action] = set()
        remaining = attempt.todo[len(batch) :]
        for index, pending in enumerate(batch):
            stage, reply = transaction.settled[index]
            if reply.positive:
                stage = Stage.LOCAL if self._lmtp else stage
                remark = transaction.remarks.get(index)
                attempt.results[pending.number] = Result(
                    reply,
                    stage,
                    Origin.PEER,
                    host,
                    reports,
                    remark=str(remark) if remark is not None else "",
                    note=attempt.notes.get(pending.number, ""),
                    tls=session.evidence,
                )
                continue
            origin = Origin.PEER if reply.cause is None else Origin.LOCAL
            alike = shared and stage is not Stage.RCPT
            result = Result(reply, stage, origin, host, shared=alike, tls=session.evidence)
            before = Fact.ACCEPTED if transaction.accepted_before(index) else Fact.NOTHING
            what = action(stage, reply, facts | before, host)
            actions.add(what)
            if what in _HERE:
                remaining.append(pending)
                attempt.note_failure(pending, result)
            elif what in _ELSEWHERE:
                attempt.later.append(pending)
                attempt.note_failure(pending, result)
            else:
                attempt.results[pending.number] = result
        attempt.todo = remaining
        if actions:
            attempt.troubled = True
            self._learn(session, attempt, transaction, actions)
        else:
            self._hosts.works(session.hop)
        return bool(actions & _AGAIN)

    def _facts(self, session: Session, attempt: Attempt) -> Fact:
        """What is known of a session when its replies are judged."""
        facts = Fact.HINTS if session.hints else Fact.NOTHING
        if session.could_encrypt:
            facts |= Fact.IN_CLEAR
        if self._other_family_left(session.hop, attempt):
            facts |= Fact.OTHER_FAMILY_LEFT
        return facts

    @staticmethod
    def _names_one(batch: list[Pending], transaction: Transaction) -> bool:
        """Whether the refusal of the message names one of its recipients, so that the others may fare better."""
        refusals = [
            reply.text
            for stage, reply in transaction.settled.values()
            if stage is Stage.BODY and reply.permanent
        ]
        if not refusals:
            return False
        text = refusals[-1].lower()
        named = [one for one in batch if one.recipient.address.lower() in text]
        return 0 < len(named) < len(batch)

    def _learn(
        self, session: Session, attempt: Attempt, transaction: Transaction, actions: set[Action]
    ) -> None:
        """Draw the conclusions that outlast one transaction."""
        now = asyncio.get_running_loop().time()
        if Action.SPLIT in actions:
            session.max_recipients = max(1, transaction.accepted)
            self._hosts.max_recipients.put(session.hop, session.max_recipients, now + _LEARNT_S)
        if Action.SINGLY in actions:
            attempt.singly = True
        if Action.STRIP in actions:
            session.hints = False
        if Action.OTHER_FAMILY in actions:
            attempt.ipv4_only = True
        if Action.LARGER_HOST in actions:
            attempt.too_small = session.extensions.max_octets
        if Action.ENCRYPT in actions:
            self._hosts.without_tls.forget(session.hop)
        if any(reply.cause is delivery.IN_DOUBT for _, reply in transaction.settled.values()):
            doubtful = Target(session.hop, session.demand)
            self._hosts.in_doubt.put(attempt.queued.id, doubtful, now + _IN_DOUBT_S)
        self._learn_about_messages(session, transaction, now)
        self._learn_about_load(session, transaction, now)

    def _learn_about_messages(self, session: Session, transaction: Transaction, now: float) -> None:
        """Remember how many messages a host takes on a connection, if it says that these were too many."""
        for stage, reply in transaction.settled.values():
            if reply.code == CLOSING_CODE and session.messages > 1:
                diagnosis = diagnose(stage, reply, session.hop.name)
                if diagnosis is not None and diagnosis.cause.id == _TOO_MANY_MESSAGES:
                    self._hosts.max_messages.put(session.hop, session.messages - 1, now + _LEARNT_S)

    def _learn_about_load(self, session: Session, transaction: Transaction, now: float) -> None:
        """Leave the host alone if it asks for that, other than by ending a connection that it has had enough of."""
        said = [
            Result(reply, stage, Origin.PEER, session.hop.name)
            for stage, reply in transaction.settled.values()
            if reply.cause is None
        ]
        tired = next(filter(wants_rest, said), None)
        if tired is None:
            if said:
                self._hosts.works(session.hop)
        elif session.messages == 1 or tired.reply.code != CLOSING_CODE:
            row = find(tired.stage, tired.reply, host=tired.host)
            asked_s = row.suspend_s if row.scope is Scope.HOST else 0.0
            self._hosts.rest(session.hop, tired, now, asked_s or self._settings.dead_s)

    def _other_family_left(self, hop: Hop, attempt: Attempt) -> bool:
        if attempt.ipv4_only or "ipv4" not in self._settings.families:
            return False
        return family_of(hop.address) == "ipv6"

    # --- one transaction

    async def _transact(
        self, session: Session, transaction: Transaction, content: Content, *, chunked: bool
    ) -> None:
        """Carry a transaction through; whatever happens, it is settled for all recipients afterwards."""
        connection = session.connection
        host = session.hop.name
        try:
            while transaction.next is Next.COMMANDS:
                octets, count = transaction.commands()
                what = transaction.stage.value.upper()
                transaction.take(await connection.ask(octets, count, self._patience.command_s, what))
            if transaction.next is Next.LONE_DOT:
                await connection.ask(LONE_DOT, 1, self._patience.end_s, "the end of nothing")
                transaction.nobody_got_it()
            elif transaction.next is Next.BODY:
                await self._send_message(session, transaction, content, chunked=chunked)
        except LinkError as error:
            self._take_what_came(transaction, error.replies)
            transaction.broken_off(error.reply)
        except ProtocolError as error:
            transaction.broken_off(delivery.PROTOCOL.reply(host=host, detail=error))
            connection.close()
        except BaseException:
            connection.close()
            raise

    @staticmethod
    def _take_what_came(transaction: Transaction, replies: list[Reply]) -> None:
        """Replies to the first commands of a group still count when the connection broke before the others."""
        if replies and transaction.next is Next.COMMANDS:
            try:
                transaction.take(replies)
            except ProtocolError:
                return

    async def _send_message(
        self, session: Session, transaction: Transaction, content: Content, *, chunked: bool
    ) -> None:
        """The message, by DATA or in one chunk (RFC 5321 4.1.1.4, RFC 3030 2).

        Raises LinkError, ProtocolError, OSError.
        """
        connection = session.connection
        early = connection.take_early()
        if early is None:
            connection.expect(transaction.final_replies, self._patience.end_s, "the message")
            writer = ChunkWriter(content.octets) if chunked else DataWriter()
            if content.path is None:
                octets = writer.encode(content.prefix + (content.inline or b"")) + writer.finish()
                ended = await connection.write(octets, self._patience.block_s)
            else:
                ended = await self._send_file(session, writer, content)
            if ended:
                await self._take_end(session, transaction)
                return
            # may raise: then nothing was said, and nothing is in doubt
            early = (await connection.replies())[0]
        if early.positive:
            raise ProtocolError("an answer before the end of the message")
        transaction.take_final([early])
        transaction.broken_off(early)
        connection.close()  # the rest of the message would be taken for commands

    async def _send_file(self, session: Session, writer: DataWriter | ChunkWriter, content: Content) -> bool:
        """Send a large message piece by piece; whether its end was sent before an answer came."""
        connection = session.connection
        pieces, left = content.chunks(), content.octets
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:  # a disk may be slow
            left -= len(piece)
            if left < 0:
                break
            octets = writer.encode(piece)
            if left == 0:
                return await connection.write(octets + writer.finish(), self._patience.block_s)
            await connection.write(octets, self._patience.block_s)
            if connection.answered:
                return False
        raise OSError(f"the stored message has not the {content.octets} octets that it should have")

    async def _take_end(self, session: Session, transaction: Transaction) -> None:
        """The message and its end were sent: without an answer nobody knows whether it arrived (RFC 1047)."""
        try:
            transaction.take_final(await session.connection.replies())
        except LinkError as error:
            transaction.take_final(error.replies)
            cause = delivery.TOO_FEW_REPLIES if error.replies else delivery.IN_DOUBT
            transaction.broken_off(cause.reply(host=session.hop.name))


def _batch(session: Session, todo: list[Pending]) -> list[Pending]:
    """Those that one transaction can serve (RFC 9422 4)."""
    batch = todo[: session.max_recipients]
    most = session.extensions.max_domains
    if not most:
        return batch
    domains: set[str] = set()
    for number, pending in enumerate(batch):
        domains.add(pending.recipient.address.rpartition("@")[2].lower())
        if len(domains) > most:
            return batch[:number]
    return batch


def _apart(batch: list[Pending]) -> list[Pending]:
    """Those that a host without RRVS gets at once: a field about one recipient is not for the eyes of the others."""
    for number, pending in enumerate(batch):
        if pending.recipient.valid_since is not None:
            return batch[: number or 1]
    return batch


def _unsafe(hop: Hop, why: str, stage: Stage = Stage.MAIL) -> Result:
    """The result for a message that must not travel without TLS; at the stage of TLS it may be mended."""
    reply = transport.NEEDS_ENCRYPTION.reply(host=hop.name, detail=why)
    return Result(reply, stage, Origin.LOCAL, hop.name)


def _addressed(envelope: Envelope, batch: list[Pending]) -> Envelope:
    """The envelope with the recipients of one transaction, in their order."""
    recipients = tuple([pending.recipient for pending in batch])
    utf8 = envelope.smtputf8 or not all([one.address.isascii() for one in recipients])  # noqa: C419 - faster
    if recipients == envelope.recipients and utf8 == envelope.smtputf8:
        return envelope
    return replace(envelope, recipients=recipients, smtputf8=utf8)


def _local(reply: Reply, stage: Stage = Stage.LOCAL) -> Result:
    return Result(reply, stage, Origin.LOCAL)
