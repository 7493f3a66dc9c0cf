"""Tell what became of each recipient in a recorded session, which reply decided it, and which are only its echoes.

A refused MAIL or login makes all that was pipelined behind it fail too: only the first refusal is a cause. What the
deciding reply means is told by `judge`.
"""

from __future__ import annotations

import msgspec

from pillarbox.diagnose.diagnosis import Outcome
from pillarbox.diagnose.exchanges import Exchange, Session
from pillarbox.mail.catalogue import delivery
from pillarbox.mail.reply import Cause, Reply, Stage

NO_ONE_ACCEPTED = (
    "The server asked for the message although it had refused all recipients; what followed reached nobody."
)

_HURDLES = (Stage.GREETING, Stage.HELLO, Stage.STARTTLS, Stage.AUTH)
_OUT_OF_ORDER = (503, 530)  # "first do something else", which may be what was refused before
_NOBODY_LEFT = (503, 554)  # to DATA: no recipients, because all were refused
_CLOSING = 421
_MAX_LEFTOVERS = 3  # more answers to one message are no answers


class Fate(msgspec.Struct, frozen=True):
    """What became of one recipient: places of exchanges in their session, or a cause where no reply came."""

    address: str
    outcome: Outcome
    stage: Stage
    decided_by: int | None = None
    echoes: tuple[int, ...] = ()
    cause: Cause | None = None
    line: int = 0


class _Transaction(msgspec.Struct):
    mail: int | None = None
    recipients: list[int] = msgspec.field(default_factory=list)
    data: int | None = None  # DATA, or the chunk that was refused
    finals: list[int] = msgspec.field(default_factory=list)  # the answers to the message


def follow(session: Session) -> tuple[list[Fate], list[str]]:
    """The recipients of a session in order, and what is odd about it."""
    course = _Course(session)
    if session.has_client:
        course.run()
    else:
        course.run_without_commands()
    return course.fates, course.notes


def _refused(reply: Reply | None) -> bool:
    return reply is not None and 400 <= reply.code < 600


def _positive(reply: Reply | None) -> bool:
    return reply is not None and reply.positive


class _Course:
    """The walk through a session."""

    def __init__(self, session: Session) -> None:
        self._exchanges: list[Exchange] = session.exchanges
        self._is_lmtp = session.is_lmtp
        self._hurdles: dict[Stage, int] = {}  # refused, and not overcome since
        self._open: _Transaction | None = None
        self._closing: int | None = None  # the 421 that ended the session
        self.fates: list[Fate] = []
        self.notes: list[str] = []

    def run(self) -> None:
        for place, exchange in enumerate(self._exchanges):
            self._step(place, exchange)
        self._close(is_end=True)
        if not self.fates:
            self._without_transaction()

    def run_without_commands(self) -> None:
        """Only the server was recorded: each refusal stands for itself."""
        for place, exchange in enumerate(self._exchanges):
            if _refused(exchange.reply) or (exchange.stage is Stage.BODY and _positive(exchange.reply)):
                self._add("", place)

    def _step(self, place: int, exchange: Exchange) -> None:
        reply, verb = exchange.reply, exchange.verb
        if reply is not None and reply.code == _CLOSING:
            self._closing = place
        if exchange.stage in _HURDLES:
            if _refused(reply):
                self._hurdles[exchange.stage] = place
            elif _positive(reply):
                self._hurdles.pop(exchange.stage, None)
        if verb in ("MAIL", "RSET", "HELO", "EHLO", "LHLO", "QUIT"):
            self._close(is_end=False)
        if verb == "MAIL":
            self._open = _Transaction(mail=place)
        elif verb == "RCPT":
            self._transaction().recipients.append(place)
        elif verb == "DATA":
            self._transaction().data = place
        elif exchange.stage is Stage.BODY and self._open is not None:
            self._open.finals.append(place)
        elif (
            exchange.stage is Stage.BDAT
            and _refused(reply)
            and self._open is not None
            and self._open.data is None
        ):
            self._open.data = place

    def _transaction(self) -> _Transaction:
        if self._open is None:
            self._open = _Transaction()
        return self._open

    # --- the end of a transaction

    def _close(self, *, is_end: bool) -> None:
        transaction, self._open = self._open, None
        if transaction is None:
            return
        mail = transaction.mail
        if mail is not None and _refused(self._exchanges[mail].reply):
            self._all_refused(transaction, mail)
        elif transaction.recipients:
            self._each(transaction, is_end=is_end)
        elif is_end and self._closing is not None:
            self._add("", self._closing)

    def _all_refused(self, transaction: _Transaction, mail: int) -> None:
        """MAIL was refused, and whatever was pipelined behind it failed for that reason (RFC 2920)."""
        cause = self._hurdle_before(mail)
        shared = [] if cause == mail else [mail]
        shared += [place for place in self._leftovers(transaction) if self._is_refused(place)]
        for place in transaction.recipients:
            own = [place] if self._is_refused(place) else []
            self._add(self._exchanges[place].address, cause, echoes=[*own, *shared])
        if not transaction.recipients:
            self._add("", cause, echoes=shared)

    def _leftovers(self, transaction: _Transaction) -> list[int]:
        """What was said to DATA and to the message, which means nothing if there were no recipients."""
        return [*self._places(transaction.data), *transaction.finals[:_MAX_LEFTOVERS]]

    def _hurdle_before(self, place: int) -> int:
        """The refusal that made this one come about: of the greeting, of EHLO, of STARTTLS or of a login."""
        reply = self._exchanges[place].reply
        earlier = [known for known in self._hurdles.values() if known < place]
        if earlier and reply is not None and reply.code in _OUT_OF_ORDER:
            return min(earlier)
        return place

    def _each(self, transaction: _Transaction, *, is_end: bool) -> None:
        accepted = {place for place in transaction.recipients if _positive(self._exchanges[place].reply)}
        data = transaction.data
        data_reply = self._exchanges[data].reply if data is not None else None
        leftovers = [] if accepted else self._leftovers(transaction)
        number = 0
        if not accepted and data_reply is not None and data_reply.intermediate:
            self.notes.append(NO_ONE_ACCEPTED)
        for place in transaction.recipients:
            address, reply = self._exchanges[place].address, self._exchanges[place].reply
            if _refused(reply):
                cause = self._hurdle_before(place)
                echoes = [one for one in leftovers if self._is_echo(one)]
                self._add(address, cause, echoes=echoes if cause == place else [place, *echoes])
            elif reply is None:
                self._broken(address, place, Stage.RCPT, delivery.CONNECTION_LOST)
            elif not reply.positive:
                self._senseless(place)
            elif data is not None and _refused(data_reply):
                self._add(address, data)
            else:
                self._after_data(transaction, place, number, is_end=is_end)
            number += place in accepted

    def _is_echo(self, place: int) -> bool:
        reply = self._exchanges[place].reply
        return reply is not None and (
            self._exchanges[place].stage is Stage.BODY or reply.code in _NOBODY_LEFT
        )

    def _after_data(self, transaction: _Transaction, place: int, number: int, *, is_end: bool) -> None:
        """An accepted recipient: what was said to the message, if it was sent at all."""
        address, finals = self._exchanges[place].address, transaction.finals
        final = (
            finals[number if self._is_lmtp else 0]
            if number < len(finals) or (finals and not self._is_lmtp)
            else None
        )
        if final is not None and (reply := self._exchanges[final].reply) is not None:
            if reply.positive or _refused(reply):
                self._add(address, final)
            else:
                self._senseless(final, address)
        elif finals:
            complete = self._exchanges[finals[-1]].complete
            self._broken(
                address, finals[-1], Stage.BODY, delivery.IN_DOUBT if complete else delivery.CONNECTION_LOST
            )
        elif self._closing is not None:
            self._add(address, self._closing)
        elif is_end and transaction.data is not None:
            self._broken(address, transaction.data, Stage.DATA, delivery.CONNECTION_LOST)
        else:
            self.fates.append(
                Fate(address, Outcome.UNSENT, Stage.RCPT, place, line=self._exchanges[place].line)
            )

    def _broken(self, address: str, place: int, stage: Stage, cause: Cause) -> None:
        """No answer came: the server had said that it closes, or the connection broke."""
        if self._closing is not None and cause is not delivery.IN_DOUBT:
            self._add(address, self._closing)
            return
        outcome = Outcome.IN_DOUBT if cause is delivery.IN_DOUBT else Outcome.TEMPORARY
        self.fates.append(Fate(address, outcome, stage, cause=cause, line=self._exchanges[place].line))

    def _senseless(self, place: int, address: str = "") -> None:
        """The server said something that is no answer to this."""
        exchange = self._exchanges[place]
        self.fates.append(
            Fate(
                address or exchange.address,
                Outcome.TEMPORARY,
                exchange.stage,
                place,
                cause=delivery.PROTOCOL,
                line=exchange.line,
            )
        )

    # --- sessions without a transaction

    def _without_transaction(self) -> None:
        """Nobody was named: what stopped the client, if anything."""
        hurdles = sorted(self._hurdles.values())
        if Stage.GREETING in self._hurdles:
            first = self._hurdles[Stage.GREETING]
            later = [place for place in range(first + 1, len(self._exchanges)) if self._is_refused(place)]
            self._add("", first, echoes=later)
        elif hurdles:
            self._add("", hurdles[-1])
        else:
            refused = [place for place in range(len(self._exchanges)) if self._is_refused(place)]
            if refused:
                self._add("", refused[-1])

    def _is_refused(self, place: int) -> bool:
        return _refused(self._exchanges[place].reply)

    @staticmethod
    def _places(place: int | None) -> list[int]:
        return [] if place is None else [place]

    def _add(self, address: str, place: int, *, echoes: list[int] | None = None) -> None:
        """A fate that a reply decided."""
        exchange = self._exchanges[place]
        assert exchange.reply is not None
        self.fates.append(
            Fate(
                address,
                outcome_of(exchange.reply),
                exchange.stage,
                place,
                tuple(echoes or ()),
                line=exchange.line,
            )
        )


def outcome_of(reply: Reply) -> Outcome:
    """What a reply, taken alone, means for the mail."""
    if reply.positive or reply.intermediate:
        return Outcome.ACCEPTED
    return Outcome.TEMPORARY if reply.temporary else Outcome.PERMANENT
