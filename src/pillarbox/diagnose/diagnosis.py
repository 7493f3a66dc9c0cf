"""The values of an explanation: what a text was found to be, the replies in it, and what became of each recipient.

They are filled by `explain`; the reference page of their JSON form is made from the comments here.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from pillarbox.diagnose.causes import Retry, Suppress
from pillarbox.diagnose.classify import Certainty
from pillarbox.diagnose.meaning import Explanation
from pillarbox.mail.reply import Reply, Stage, Who, printable

MAX_SHOWN = 2000  # characters of a reply or a command in JSON


class Kind(StrEnum):
    """What a text was found to be."""

    LOOKUP = "look-up"  # a code, a status, the id of a cause or of a scenario
    REPLY = "reply"
    TRANSCRIPT = "transcript"
    BOUNCE = "bounce"
    LOG = "log"
    NOTHING = "nothing"


class Outcome(StrEnum):
    """What became of mail to one recipient, or of the whole text."""

    ACCEPTED = "accepted"  # delivered, or taken over by the next host
    TEMPORARY = "temporary"  # refused for now
    PERMANENT = "permanent"  # refused for good
    IN_DOUBT = "in doubt"  # the answer to the message got lost
    UNSENT = "unsent"  # not refused; the sending side stopped
    MIXED = "mixed"  # recipients with different outcomes; only of the whole
    UNKNOWN = "unknown"  # the text does not tell, or nobody was refused anything


class Role(StrEnum):
    """What a reply has to do with the outcome."""

    CAUSE = "cause"  # it decided about somebody
    ECHO = "echo"  # it only follows from an earlier refusal
    ANSWER = "answer"  # an answer that decided nothing


class Finding(msgspec.Struct, frozen=True):
    """One reply that stands in the text."""

    line: int  # where it begins, from 1
    command: str  # what it answers; "" for a greeting, or if that does not stand in the text
    stage: Stage  # where it stands in the session
    reply: Reply
    role: Role  # cause: it decided about somebody; echo: it follows from an earlier refusal; answer: neither


class Account(msgspec.Struct, frozen=True):
    """What became of mail to one recipient, and what follows."""

    address: str  # "" if the text does not tell, or if it is about the whole session
    outcome: Outcome  # one of the outcomes above, but for "mixed"
    happened: str  # one sentence
    cause: str  # id of an entry of the list of causes, or "" if nothing was refused
    meaning: str  # the cause in plain words
    who: Who  # whose move it is
    advice: str  # what to do
    retry: Retry  # what a sending server does with the message
    will_retry: bool  # whether it is tried again without anybody's help
    wait_s: float  # how long it should wait at least; 0 leaves it to its schedule
    next_step: str  # whether and when it is tried again, as a sentence
    suppress: Suppress  # whether to stop mail to the address
    certainty: Certainty  # what the cause rests on
    stage: Stage | None = (
        None  # where it was decided: dns, connect, greeting, hello, mail, rcpt, data, body, ...
    )
    host: str = ""  # who decided
    dialect: str = ""  # whose words these are, if known: "gmail", "exchange", ...
    ours: str = ""  # id of the cause of this server's catalogue whose words these are, if any
    reply: int | None = None  # place in `replies` of the one that decided
    echoes: tuple[int, ...] = ()  # places of those which only follow from it
    attempts: int = 1  # how often the text shows a try
    message: str = ""  # the queue id, if the text has one
    line: int = 0  # where it stands in the text, from 1


class Diagnosis(msgspec.Struct, frozen=True):
    """All that can be told about a text."""

    kind: Kind
    notation: str = ""  # how the text is written: "swaks", "postfix log", ...
    host: str = ""  # the server that answered, if the text has its name
    recipients: tuple[Account, ...] = ()
    replies: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()  # what is odd
    explanation: Explanation | None = None  # of a single code, status, cause or reply

    @property
    def known(self) -> bool:
        """Whether anything could be told."""
        return self.kind is not Kind.NOTHING

    @property
    def outcome(self) -> Outcome:
        """What became of all recipients together."""
        return together(account.outcome for account in self.recipients)

    def to_dict(self) -> dict[str, object]:
        """The diagnosis in plain values, fit for JSON."""
        return {
            "kind": self.kind.value,
            "notation": self.notation,
            "known": self.known,
            "outcome": self.outcome.value,
            "host": printable(self.host),
            "recipients": [_account_to_dict(account) for account in self.recipients],
            "replies": [_finding_to_dict(finding) for finding in self.replies],
            "notes": list(self.notes),
            "explanation": self.explanation.to_dict() if self.explanation is not None else None,
        }


def together(outcomes: Iterable[Outcome]) -> Outcome:
    """The one outcome that all have, else mixed."""
    found = set(outcomes)
    if len(found) > 1:
        return Outcome.MIXED
    return found.pop() if found else Outcome.UNKNOWN


def _account_to_dict(account: Account) -> dict[str, object]:
    return {
        "address": printable(account.address, MAX_SHOWN),
        "outcome": account.outcome.value,
        "happened": account.happened,
        "cause": account.cause,
        "meaning": account.meaning,
        "who": account.who.value,
        "advice": account.advice,
        "retry": account.retry.value,
        "will_retry": account.will_retry,
        "wait_s": account.wait_s,
        "next_step": account.next_step,
        "suppress": account.suppress.value,
        "certainty": account.certainty.value,
        "stage": account.stage.value if account.stage is not None else "",
        "host": printable(account.host),
        "dialect": account.dialect,
        "ours": account.ours,
        "reply": account.reply,
        "echoes": list(account.echoes),
        "attempts": account.attempts,
        "message": printable(account.message),
        "line": account.line,
    }


def _finding_to_dict(finding: Finding) -> dict[str, object]:
    reply = finding.reply
    return {
        "line": finding.line,
        "command": printable(finding.command, MAX_SHOWN),
        "stage": finding.stage.value,
        "code": reply.code,
        "status": reply.status,
        "text": [printable(line, MAX_SHOWN) for line in reply.lines],
        "role": finding.role.value,
    }
