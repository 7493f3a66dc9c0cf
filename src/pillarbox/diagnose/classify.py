"""Find out why another host refused: from its reply, the stage of the session and its name, one verdict.

What a queue does about it is `queue.outcome`'s business; bounce messages are taken apart by `bounce`.
"""

from __future__ import annotations

import re
from enum import StrEnum

import msgspec

from pillarbox.diagnose.causes import Category, PeerCause, Retry, Scope, Suppress, peer_causes
from pillarbox.diagnose.dialects import ANYBODY, MAX_TEXT, Book, Pattern, Words, book
from pillarbox.mail.reply import Reply, Stage, Who

_WAIT = re.compile(
    r"(?:in|for|after|within|wait|until|least) {0,3}(\d{1,5}) {0,3}(s|sec|secs|seconds?|m|min|mins|minutes?|h|hours?)\b",
    re.IGNORECASE,
)
_STATUS = re.compile(r"[245]\.\d{1,3}\.\d{1,3}", re.ASCII)
_UNIT_S = {"s": 1.0, "m": 60.0, "h": 3600.0}
_MIN_WAIT_S, _MAX_WAIT_S = 60.0, 86400.0
_ABOUT_RECIPIENT = (Category.MAILBOX, Category.INACTIVE, Category.QUOTA)
_NOT_YET_RECIPIENT = (
    Stage.DNS,
    Stage.CONNECT,
    Stage.GREETING,
    Stage.HELLO,
    Stage.STARTTLS,
    Stage.TLS,
    Stage.AUTH,
    Stage.MAIL,
)
_TAKEN_FOR_NOBODY = 254  # some relays answer so where they suppress the recipient
# In the standard's sense these speak of one address that is bad for good.
_SAYS_DEAD = ("1.1", "1.6", "2.1")
_AFTER_ALL = (Retry.REPAIRED, Retry.ONCE)  # hold for permanent refusals too


class Certainty(StrEnum):
    """What a verdict rests on, from the surest to none."""

    PATTERN = "exact pattern"  # known words of a known sender of them
    STATUS = "status"  # the enhanced status, as the registry defines it
    CODE = "code only"
    GUESS = "guess"  # words that mostly mean this
    UNKNOWN = "unknown"


class Verdict(msgspec.Struct, frozen=True):
    """Why a host said what it said, and what follows; `cause.id` is "unknown" where nothing can be told."""

    cause: PeerCause
    certainty: Certainty
    hard: bool  # the address is bad for good; only a permanent reply says so
    suppress: Suppress
    retry: Retry
    wait_s: float = 0.0  # how long to wait at least; 0 leaves it to the schedule
    pattern: str = ""  # id of the entry of dialects.toml that fits, if any
    dialect: str = ""  # whose words these are: "gmail", "exchange", ...; "" if unknown

    @property
    def scope(self) -> Scope:
        """What else the same refusal would hit."""
        return self.cause.scope

    @property
    def who(self) -> Who:
        """Whose move it is."""
        return self.cause.who


def classify(reply: Reply, *, stage: Stage | None = None, host: str = "") -> Verdict:
    """Tell the cause of a peer's reply, from its text, its numbers, and if known the stage and the peer's name.

    `reply.code` may be 0 for words without a code, as bounces have them. Never raises; looks at the first 8 KiB of
    text, in time linear in their length.
    """
    status = reply.status if _STATUS.fullmatch(reply.status) else ""
    first = reply.code // 100 if reply.code else int(status[:1] or 0)
    numbers = (reply.code, first, status)
    if first in {2, 3} and reply.code != _TAKEN_FOR_NOBODY:
        return _Finding(peer_causes()["accepted"], Certainty.CODE).verdict(reply, first, stage)
    patterns = book()
    words = Words.of(_joined(reply))
    dialect = patterns.dialect_of(host, words)
    if first in {2, 3}:
        odd = patterns.first(words, numbers, dialect, weak=False)
        return _Finding(peer_causes()["accepted"], Certainty.CODE, dialect, odd).verdict(reply, first, stage)
    return _find(patterns, words, numbers, dialect, stage).verdict(reply, first, stage)


class _Finding(msgspec.Struct, frozen=True):
    """A cause, and what it was found by."""

    cause: PeerCause
    certainty: Certainty
    dialect: str = ""
    pattern: Pattern | None = None
    dead: bool = False  # strong enough to stop mail to the address at once

    def verdict(self, reply: Reply, first: int, stage: Stage | None) -> Verdict:
        """What follows, given the class of the reply and the stage."""
        cause = self.pattern.cause if self.pattern else self.cause
        permanent = first == 5
        if stage in _NOT_YET_RECIPIENT:
            cause = _before_recipients(cause, stage)
        retry = self._retry(cause, first)
        return Verdict(
            cause=cause,
            certainty=self.certainty,
            hard=cause.hard and permanent,
            suppress=self._suppress(cause, permanent=permanent),
            retry=retry,
            wait_s=0.0 if retry in {Retry.NO, Retry.SPLIT, Retry.REPAIRED} else self._wait_s(cause, reply),
            pattern=self.pattern.id if self.pattern else "",
            dialect=self.dialect or self._foreign_dialect(),
        )

    def _foreign_dialect(self) -> str:
        """The dialect of a pattern whose words are nobody else's."""
        return self.pattern.dialect if self.pattern and self.pattern.dialect != ANYBODY else ""

    def _retry(self, cause: PeerCause, first: int) -> Retry:
        """The words count where they are plainer than the class of the code, in both directions."""
        if first in {2, 3}:
            return Retry.NO
        if self.pattern and self.pattern.retry is not None:
            return self.pattern.retry
        if first == 5:
            return cause.retry if cause.insist or cause.retry in _AFTER_ALL else Retry.NO
        return Retry.SCHEDULE if cause.retry in {Retry.NO, Retry.REPAIRED} else cause.retry

    def _wait_s(self, cause: PeerCause, reply: Reply) -> float:
        if cause.category in {Category.GREYLIST, Category.RATE} and (asked := asked_wait_s(reply.text)):
            return asked
        if self.pattern and self.pattern.wait_s is not None:
            return self.pattern.wait_s
        return cause.wait_s

    def _suppress(self, cause: PeerCause, *, permanent: bool) -> Suppress:
        """Only a permanent refusal of the address itself, in words or numbers that leave no doubt."""
        wanted = cause.suppress
        if self.pattern and self.pattern.suppress is not None:
            wanted = self.pattern.suppress
        sure = self.certainty in {Certainty.PATTERN, Certainty.STATUS}
        if not permanent or (not sure and self.certainty is not Certainty.GUESS):
            return Suppress.NEVER
        if self.pattern and self.pattern.weak:
            return Suppress.NEVER
        if wanted in {Suppress.ADDRESS, Suppress.DOMAIN} and not self.dead:
            return Suppress.REPEATED if wanted is Suppress.ADDRESS else Suppress.NEVER
        return wanted


def _before_recipients(cause: PeerCause, stage: Stage) -> PeerCause:
    """No recipient was named yet, so what sounds like one speaks of the sender or of our own name."""
    if cause.category in _ABOUT_RECIPIENT or (cause.id == "client.refused" and stage is Stage.MAIL):
        return peer_causes()["sender.refused"]
    if cause.id == "domain.unknown" and stage is Stage.MAIL:
        return peer_causes()["sender.domain_unknown"]
    if cause.id == "domain.unknown" and stage is Stage.HELLO:
        return peer_causes()["client.bad_hello"]
    return cause


def _find(
    patterns: Book, words: Words, numbers: tuple[int, int, str], dialect: str, stage: Stage | None
) -> _Finding:
    """The cause, from the surest sign to the weakest."""
    by_status = patterns.default(numbers, stage, weak=False)
    found = patterns.first(words, numbers, dialect, weak=False)
    if found is not None and found.dialect != ANYBODY:
        return _Finding(found.cause, Certainty.PATTERN, dialect, found, dead=True)
    if found is not None:
        agrees = by_status is not None and by_status.cause.category is found.cause.category
        certainty = Certainty.STATUS if agrees else Certainty.GUESS
        return _Finding(found.cause, certainty, dialect, found, dead=agrees)
    if by_status is not None:
        redefined = dialect and (there := patterns.dialects[dialect].redefines) and there.fit(*numbers)
        dead = not redefined and (
            numbers[2].partition(".")[2] in _SAYS_DEAD or by_status.cause.suppress is Suppress.DOMAIN
        )
        return _Finding(by_status.cause, Certainty.STATUS, dialect, dead=dead)
    if hint := patterns.first(words, numbers, dialect, weak=True):
        return _Finding(hint.cause, Certainty.GUESS, dialect, hint)
    if by_code := patterns.default(numbers, stage, weak=True):
        return _Finding(by_code.cause, Certainty.CODE, dialect)
    return _Finding(peer_causes()["unknown"], Certainty.UNKNOWN, dialect)


def _joined(reply: Reply) -> str:
    """The text on one line, without code and status where a folded report repeats them in the midst of it."""
    text = reply.text[:MAX_TEXT]
    if reply.code:
        if reply.status:
            text = text.replace(f"{reply.code}-{reply.status} ", "").replace(
                f"{reply.code} {reply.status} ", ""
            )
        text = text.replace(f" {reply.code}-", " ")
    return text


def asked_wait_s(text: str) -> float:
    """How long a host asks to wait, between a minute and a day; 0 if it names no time."""
    found = _WAIT.search(text[:MAX_TEXT])
    if found is None:
        return 0.0
    return min(max(int(found[1]) * _UNIT_S[found[2][0].lower()], _MIN_WAIT_S), _MAX_WAIT_S)
