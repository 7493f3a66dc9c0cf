"""Look up what a code, a status, a cause, a scenario or one reply means, in the catalogue and the registry.

Why it was said to somebody, and whole transcripts, are `explain`'s business.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from enum import StrEnum
from functools import cache

import msgspec
from msgspec.structs import replace

from pillarbox.mail import catalogue
from pillarbox.mail.catalogue import CAUSES, registry
from pillarbox.mail.catalogue.registry import Meaning
from pillarbox.mail.reply import Cause, Reply, Who, parse_reply, printable

MAX_OCTETS = 8192
MAX_LINES = 100
_MAX_MATCHED = 480  # longer than any reply line of ours

_CODE = re.compile(r"\d{3}", re.ASCII)
_STATUS = re.compile(r"([245xX])\.(\d{1,3})\.(\d{1,3})", re.ASCII)
_SCENARIO = re.compile(r"[eE]\d{3}-\d{1,2}", re.ASCII)
_CAUSE_ID = re.compile(r"[a-z]+\.[a-z0-9_]+")
_REPLY_LINE = re.compile(r"\d{3}(?:[ \t_-].*)?", re.ASCII)
_STATUS_LINE = re.compile(r"([245]\.\d{1,3}\.\d{1,3})\s+(.*)", re.ASCII | re.DOTALL)
_MARK = re.compile(r"\s*(?:(?:S:|<[-~*<]*|remote host said:)\s*)?", re.IGNORECASE)
_FIELD = re.compile(r"\\\{[a-z_]+\\\}")
_CLASSES = {"2": "done", "4": "not now, it may work later", "5": "refused for good"}


class Basis(StrEnum):
    """What an explanation rests on, from the surest to none."""

    CAUSE = "cause"  # this server's own catalogue
    STATUS = "status"  # the enhanced status, as the registry defines it
    CODE = "code"  # the reply code, as the standards define it
    CLASS = "class"  # only the first digit is known
    NOTHING = "nothing"


class Explanation(msgspec.Struct, frozen=True):
    """What something means, for a person. `causes` are the reasons for which this server itself would say it."""

    asked: str
    basis: Basis
    title: str
    meaning: str = ""
    explanation: str = ""
    who: Who = Who.NOBODY
    advice: str = ""
    client: str = ""  # what a sending host does about it
    clause: str = ""
    notes: tuple[str, ...] = ()
    causes: tuple[Cause, ...] = ()

    @property
    def known(self) -> bool:
        """Whether anything could be told; a command that explains fails if not."""
        return self.basis is not Basis.NOTHING

    def to_dict(self) -> dict[str, object]:
        """The explanation in plain values, fit for JSON."""
        return {
            "asked": self.asked,
            "known": self.known,
            "basis": self.basis.value,
            "title": self.title,
            "meaning": self.meaning,
            "explanation": self.explanation,
            "who": self.who.value,
            "advice": self.advice,
            "client": self.client,
            "clause": self.clause,
            "notes": list(self.notes),
            "causes": [_cause_to_dict(cause) for cause in self.causes],
        }


def _cause_to_dict(cause: Cause) -> dict[str, object]:
    return {
        "id": cause.id,
        "code": cause.code,
        "status": cause.status,
        "text": cause.text,
        "meaning": cause.meaning,
        "explanation": cause.explanation,
        "who": cause.who.value,
        "advice": cause.advice,
        "setting": cause.setting,
        "clause": cause.clause,
        "stages": [stage.value for stage in cause.stages],
        "scenarios": list(cause.scenarios),
    }


def look_up(text: str) -> Explanation:
    """Explain "550", "5.1.1", "X.1.1", "envelope.recipient_unknown", "E550-1", or a reply of one or many lines.

    Never raises; what can't be read gets an explanation that says so, with `known` false.
    """
    asked = text[:MAX_OCTETS].strip()
    if _CODE.fullmatch(asked):
        return _explain_code(int(asked))
    if status := _STATUS.fullmatch(asked):
        return _explain_status(status)
    if asked in CAUSES:
        return _explain_cause(CAUSES[asked], asked)
    if _SCENARIO.fullmatch(asked):
        return _explain_scenario(asked.upper())
    if _CAUSE_ID.fullmatch(asked):
        close = get_close_matches(asked, CAUSES, n=3, cutoff=0.75)
        return _unknown(asked, f"Did you mean {' or '.join(close)}?" if close else "No cause has this id.")
    return _explain_reply(asked)


def _unknown(asked: str, note: str) -> Explanation:
    return Explanation(printable(asked), Basis.NOTHING, "Not known here", notes=(note,))


def _from_meaning(
    asked: str, title: str, known: Meaning, notes: list[str], causes: list[Cause]
) -> Explanation:
    key = known.key
    basis = Basis.STATUS if key[0] == "X" else Basis.CLASS if key.endswith("xx") else Basis.CODE
    return Explanation(
        printable(asked),
        basis,
        title,
        known.meaning,
        known.explanation,
        known.who,
        known.advice,
        known.client,
        known.clause,
        tuple(notes),
        tuple(causes),
    )


def _explain_code(code: int) -> Explanation:
    known = registry.of_code(code)
    if known is None:
        return _unknown(f"{code:03}", "Reply codes of SMTP begin with 2, 3, 4 or 5.")
    causes = catalogue.with_code(code)
    return _from_meaning(str(code), f"{code}: {known.name}", known, _code_notes(code), causes)


def _code_notes(code: int) -> list[str]:
    """What is odd about a code."""
    notes = []
    if code not in registry.codes():
        notes.append(f"No standard defines {code}; only its first digit can be relied upon.")
    if code // 10 % 10 > 5:
        notes.append("The second digit is outside of what RFC 5321 4.2 allows.")
    return notes


def _explain_status(status: re.Match[str]) -> Explanation:
    first, text = status[1].upper(), status[0].upper()
    known = registry.of_status(text)
    notes = [] if first == "X" else [f"The first digit, {first}, says: {_CLASSES[first]}."]
    if known is None:
        notes.append(f"{text} is not registered; some providers have numbers of their own.")
        if first == "X":
            return _unknown(text, notes[-1])
        return _from_meaning(text, f"{text}: not registered", registry.of_class(first), notes, [])
    classes = "245" if first == "X" else first
    causes = [cause for digit in classes for cause in catalogue.with_status(f"{digit}{text[1:]}")]
    return _from_meaning(text, f"{text}: {known.name}", known, notes, causes)


def _explain_cause(cause: Cause, asked: str, notes: list[str] | None = None) -> Explanation:
    number = f"{cause.code} {cause.status}".strip()
    known = registry.of_code(cause.code)
    return Explanation(
        printable(asked),
        Basis.CAUSE,
        f"{cause.id}: {number}",
        cause.meaning,
        cause.explanation,
        cause.who,
        cause.advice,
        known.client if known else "",
        cause.clause,
        tuple(notes or ()),
        (cause,),
    )


def _explain_scenario(asked: str) -> Explanation:
    found = [cause for cause in CAUSES.values() if asked in cause.scenarios]
    if not found:
        return _unknown(asked, "No cause of this server answers this situation.")
    if len(found) == 1:
        return _explain_cause(found[0], asked)
    known = registry.of_code(found[0].code)
    assert known is not None  # a test holds the catalogue to the registry
    return _from_meaning(asked, f"{asked}: {known.name}", known, [], found)


def read_reply(text: str) -> Reply | None:
    """A reply as it stands in a log or a transcript, of one or many lines; None if it is something else."""
    lines = _reply_lines(text)
    return parse_reply([line.encode("utf-8", "surrogateescape") for line in lines]) if lines else None


def _reply_lines(text: str) -> list[str]:
    """The lines of a reply without what may stand in front of them; none if any line is something else."""
    lines = [_MARK.sub("", line, count=1).rstrip() for line in re.split(r"\r?\n", text)[:MAX_LINES]]
    lines = [line for line in lines if line]
    return lines if all(_REPLY_LINE.fullmatch(line) for line in lines) else []


def _explain_reply(asked: str) -> Explanation:
    if (bare := _STATUS_LINE.fullmatch(asked)) is not None:
        status = _STATUS.fullmatch(bare[1])
        assert status is not None  # the one pattern contains the other
        return _explain_status(status)
    if not asked:
        return _unknown(asked, "The text is empty.")
    lines = _reply_lines(asked)
    if not lines:
        return _unknown(
            asked, "Neither a reply, nor a code, nor a status such as X.1.1, nor the id of a cause."
        )
    reply = parse_reply([line.encode("utf-8", "surrogateescape") for line in lines])
    return _explain(reply, asked, _reply_notes(reply, lines))


def look_up_reply(reply: Reply) -> Explanation:
    """Explain a reply that was read already. Its code may be 0, for words without a number. Never raises."""
    return _explain(reply, str(reply), [])


def _explain(reply: Reply, asked: str, notes: list[str]) -> Explanation:
    ours = _spoken_by_us(reply)
    if ours is not None:
        notes.append("This server, Pillarbox, uses these words.")
        return _explain_cause(ours, asked, notes)
    known = registry.of_reply(reply)
    if known is None:
        return _unknown(asked, "Reply codes of SMTP begin with 2, 3, 4 or 5.")
    number = f"{reply.code} {reply.status}".strip()
    causes = [
        cause for cause in catalogue.with_code(reply.code) if not reply.status or cause.status == reply.status
    ]
    found = _from_meaning(asked, f"{number}: {known.name}", known, notes, causes)
    by_code = registry.of_code(reply.code)
    return replace(found, client=by_code.client if by_code else "")


def _reply_notes(reply: Reply, lines: list[str]) -> list[str]:
    """What is odd about a reply, and what follows from it."""
    notes = _code_notes(reply.code)
    if len({line[:3] for line in lines}) > 1:
        notes.append(f"The lines have different codes, which is not allowed; {reply.code} counts.")
    if reply.status and reply.status[0] != str(reply.code)[0]:
        notes.append(
            f"Code and status disagree: {reply.code} counts for what happens next, {reply.status} only tells why."
        )
    if reply.status and registry.of_status(reply.status) is None:
        notes.append(f"{reply.status} is not registered; some providers have numbers of their own.")
    return notes


def _spoken_by_us(reply: Reply) -> Cause | None:
    """The cause whose default text this is, if any; of several that fit, the one with the most words of its own."""
    text = "\n".join(reply.lines)
    if len(text) > _MAX_MATCHED:
        return None
    fitting = [
        cause
        for cause in catalogue.with_code(reply.code)
        if cause.status == reply.status and _pattern(cause).fullmatch(text)
    ]
    return max(fitting, key=lambda cause: len(_pattern(cause).pattern), default=None)


@cache
def _pattern(cause: Cause) -> re.Pattern[str]:
    """An expression for the default text; one such as "{detail}" alone is no sign of anybody and fits nothing."""
    words = _FIELD.sub("", re.escape(cause.text))
    return re.compile(_FIELD.sub(".{1,200}", re.escape(cause.text)) if words else r"\Z.")
