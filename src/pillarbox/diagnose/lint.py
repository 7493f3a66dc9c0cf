"""Judge a recorded session by the standards: the form of replies, what may be said when, and the client's own faults.

The rules are in `rules`; how a recording is read is the business of `transcript` and `exchanges`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from pillarbox.diagnose import rules
from pillarbox.diagnose.exchanges import Exchange, Session, pair
from pillarbox.diagnose.rules import Rule
from pillarbox.diagnose.transcript import DOT, VERBS, Line, Side, read_recordings
from pillarbox.mail.catalogue import envelope, registry
from pillarbox.mail.reply import Reply, Stage, printable
from pillarbox.smtp.events import MailFrom, RcptTo
from pillarbox.smtp.grammar import parse_bdat, parse_hello, parse_mail, parse_rcpt
from pillarbox.smtp.replies import Extensions, parse_extensions
from pillarbox.smtp.states import ORDERED, TRANSITIONS, State

MAX_FAULTS = 1000

_STATUS = re.compile(r"([245])\.(\d{1,3})\.(\d{1,3})(?=\s|$)", re.ASCII)
_KEYWORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*(?:[ =][\x21-\x7e]+(?: +[\x21-\x7e]+)*)?\s*")
_WORD = re.compile(r"[ \t]+([A-Za-z0-9][A-Za-z0-9-]{0,40})(?:=(\S*))?")
_PATH_END = re.compile(r'[^:]{0,40}:[ \t]*(?:<(?:[^<>"]|"(?:[^"\\]|\\.)*")*>|[^\s<>]+)')
_DOMAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?\.?|\[[0-9A-Za-z:.]+\]")
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")

HELLOS = ("EHLO", "HELO", "LHLO")
# RFC 2920 3.1; those of AUTH and STARTTLS say it themselves (RFC 4954 4, RFC 3207 4)
LAST_OF_GROUP = frozenset({*HELLOS, "DATA", "VRFY", "EXPN", "TURN", "QUIT", "NOOP", "AUTH", "STARTTLS"})
# parameter of MAIL or RCPT -> the extension that has it
PARAMETERS = {
    "SIZE": "SIZE",
    "BODY": "8BITMIME",
    "SMTPUTF8": "SMTPUTF8",
    "RET": "DSN",
    "ENVID": "DSN",
    "NOTIFY": "DSN",
    "ORCPT": "DSN",
    "AUTH": "AUTH",
    "BY": "DELIVERBY",
    "HOLDFOR": "FUTURERELEASE",
    "HOLDUNTIL": "FUTURERELEASE",
    "MT-PRIORITY": "MT-PRIORITY",
    "RRVS": "RRVS",
    "REQUIRETLS": "REQUIRETLS",
}
# command -> the extension that has it
COMMANDS = {"BDAT": "CHUNKING", "STARTTLS": "STARTTLS", "AUTH": "AUTH", "ETRN": "ETRN"}
_EVERYTHING = frozenset({*PARAMETERS.values(), "BINARYMIME"})
# Codes that may answer a command although the registry's list for its stage is narrower.
_CONTENT_STAGES = frozenset({Stage.DATA, Stage.BODY, Stage.BDAT})
_NOT_IMPLEMENTED = (500, 502)
_HOPED = dict.fromkeys((*HELLOS, "RSET"), State.GREETED) | {"MAIL": State.MAIL, "RCPT": State.RCPT}
_CLOSING = 421
_READY = 220  # also the answer to an XCLIENT, which begins the session anew


class Fault(msgspec.Struct, frozen=True):
    """One breach of a rule."""

    line: int  # in the text, from 1
    rule: Rule
    detail: str  # what it is about, in a few words

    def to_dict(self) -> dict[str, object]:
        """The fault in plain values, fit for JSON."""
        return {
            "line": self.line,
            "rule": self.rule.id,
            "severity": self.rule.severity.value,
            "side": self.rule.side.value,
            "says": self.rule.says,
            "detail": self.detail,
            "clause": self.rule.clause,
        }


class Judgement(msgspec.Struct, frozen=True):
    """What is wrong with the sessions in a text."""

    notation: str  # how it is written; "" if it is no recording
    sessions: int
    exchanges: int
    faults: tuple[Fault, ...]

    def to_dict(self) -> dict[str, object]:
        """The judgement in plain values, fit for JSON."""
        return {
            "notation": self.notation,
            "sessions": self.sessions,
            "exchanges": self.exchanges,
            "faults": [fault.to_dict() for fault in self.faults],
        }


def lint(text: str) -> Judgement:
    """Judge the recorded sessions in a text. Never raises; takes time linear in its length."""
    sessions = [pair(recording) for recording in read_recordings(text)]
    faults: list[Fault] = []
    for session in sessions:
        faults += _Inspection(session).run()
    faults.sort(key=lambda fault: fault.line)
    notation = sessions[0].recording.notation if sessions else ""
    count = sum(len(session.exchanges) for session in sessions)
    return Judgement(notation, len(sessions), count, tuple(faults[:MAX_FAULTS]))


class _Inspection:
    """One session, and what is known at the point where it is read."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._exact = session.recording.is_exact
        self._faults: list[Fault] = []
        self._state: State | None = None  # None: the recording began in the middle
        self._offered: Extensions | None = None
        self._knows_offer = False
        self._hoped: State | None = None  # the state if all that was sent so far is granted
        self._tls = False
        self._tried = 0  # recipients of this transaction
        self._accepted = 0
        self._mail = ""  # the last MAIL command
        self._closed = False

    def run(self) -> list[Fault]:
        for line in self._session.strays:
            self._add(line.number, rules.UNREADABLE_REPLY, printable(line.text, 60))
        before: Exchange | None = None
        for exchange in self._session.exchanges:
            if exchange.said:
                self._check_form(exchange)
            if exchange.stage is Stage.GREETING and exchange.asked is None:
                self._greeting(exchange)
            else:
                self._command(exchange, before)
            before = exchange if exchange.asked is not None or exchange.stage is Stage.GREETING else before
        if self._session.missing_finals:
            end = self._session.exchanges[-1].line
            self._add(end, rules.TOO_FEW_REPLIES, f"{self._session.missing_finals} missing")
        return self._faults

    def _add(self, line: int, rule: Rule, detail: str) -> None:
        self._faults.append(Fault(line, rule, detail))

    # --- the form of a reply

    def _check_form(self, exchange: Exchange) -> None:
        reply = exchange.reply
        assert reply is not None
        for line in exchange.said:
            self._check_reply_line(line, exchange)
        first, last = exchange.said[0], exchange.said[-1]
        code = first.text[:3]
        if not "2" <= code[0] <= "5" or not "0" <= code[1] <= "5":
            self._add(first.number, rules.BAD_CODE, code)
        elif reply.code not in registry.codes():
            self._add(first.number, rules.UNKNOWN_CODE, code)
        for line in exchange.said:
            if line.text[:3] != code:
                self._add(line.number, rules.MIXED_CODES, f"{line.text[:3]} behind {code}")
                break
        if last.text[3:4] in ("-", "_"):
            self._add(last.number, rules.REPLY_WITHOUT_END, printable(last.text, 60))
        self._check_status(exchange, reply)

    def _check_reply_line(self, line: Line, exchange: Exchange) -> None:
        octets = len(line.text.encode("utf-8", "surrogateescape")) + 2
        if octets > rules.MAX_REPLY_OCTETS:
            self._add(line.number, rules.LONG_REPLY_LINE, f"{octets} octets")
        if self._exact and (line.end != "\r\n" or "\r" in line.text):
            self._add(line.number, rules.REPLY_LINE_END, printable(repr(line.text[-20:] + line.end), 60))
        if line.text[3:4] == "_":
            self._add(line.number, rules.UNREADABLE_REPLY, printable(line.text, 60))
        if any(not ("\x20" <= one <= "\x7e" or one == "\t") for one in line.text if one != "\r") and not (
            line.text.isprintable() and (self._offers("SMTPUTF8") or "SMTPUTF8" in exchange.command.upper())
        ):
            self._add(line.number, rules.REPLY_CHARACTERS, printable(line.text, 60))

    def _check_status(self, exchange: Exchange, reply: Reply) -> None:
        statuses = [found[0] if (found := _STATUS.match(line.text, 4)) else "" for line in exchange.said]
        first, number = statuses[0], exchange.said[0].number
        greets = exchange.stage is Stage.GREETING or (exchange.verb == "XCLIENT" and reply.code == _READY)
        if greets or exchange.verb in HELLOS:
            if first and not (exchange.verb in HELLOS and not reply.positive):
                self._add(number, rules.STATUS_NOT_HERE, first)
            return
        if reply.intermediate:
            if first:
                self._add(number, rules.STATUS_ON_3XX, first)
            return
        if len(set(statuses)) > 1 and any(statuses):
            self._add(
                number, rules.STATUS_VARIES, ", ".join(one or "none" for one in dict.fromkeys(statuses))
            )
        for line, status in zip(exchange.said, statuses, strict=True):
            if status and status[0] != line.text[0]:
                self._add(line.number, rules.STATUS_CLASS, f"{line.text[:3]} with {status}")
        if first and registry.of_status(first) is None:
            self._add(number, rules.STATUS_UNREGISTERED, first)
        if not first and self._offers("ENHANCEDSTATUSCODES"):
            self._add(number, rules.STATUS_MISSING, str(reply.code))

    # --- what is said when

    def _greeting(self, exchange: Exchange) -> None:
        reply = exchange.reply
        assert reply is not None
        self._state = State.CONNECTED if reply.positive else State.REFUSED
        self._check_code(exchange, reply)

    def _command(self, exchange: Exchange, before: Exchange | None) -> None:
        reply = exchange.reply
        if exchange.asked is not None:
            self._check_client(exchange, before)
        if reply is None:
            if (
                not self._closed
                and exchange.asked is not None
                and exchange is not self._session.exchanges[-1]
            ):
                self._add(exchange.line, rules.MISSING_REPLY, printable(exchange.command, 60))
            return
        if exchange.asked is None and self._session.has_client and not exchange.body:
            if exchange.stage is not Stage.BODY and reply.code != _CLOSING:
                self._add(exchange.line, rules.UNASKED_REPLY, printable(str(reply), 60))
            self._closed = self._closed or reply.code == _CLOSING
            return
        self._check_code(exchange, reply)
        self._check_service(exchange, reply)
        self._follow(exchange, reply)

    def _check_code(self, exchange: Exchange, reply: Reply) -> None:
        """The code is one of those for the stage, and its text says what programs read in it."""
        known = registry.codes().get(reply.code)
        stages = set(known.stages) if known is not None else {Stage.ANY}
        allowed = stages | (_CONTENT_STAGES if stages & _CONTENT_STAGES and not reply.intermediate else set())
        if exchange.stage is not Stage.ANY and Stage.ANY not in stages and exchange.stage not in allowed:
            what = "the greeting" if exchange.stage is Stage.GREETING else exchange.verb
            self._add(exchange.line, rules.CODE_NOT_HERE, f"{reply.code} to {what}")
        word = reply.lines[0].partition(" ")[0]
        names_itself = (
            (reply.code == _READY and exchange.stage is Stage.GREETING)
            or reply.code in (221, _CLOSING)
            or (reply.positive and exchange.verb in ("EHLO", "LHLO", "HELO"))
        )
        if names_itself and not (_DOMAIN.fullmatch(word) and ("." in word or word.startswith("["))):
            self._add(exchange.line, rules.NAME_MISSING, printable(str(reply), 60))
        if (
            reply.code in (251, 551)
            and exchange.verb in ("RCPT", "VRFY")
            and not re.search(r"<[^<>\s]{1,256}>", reply.text[:1000])
        ):
            self._add(exchange.line, rules.NEW_ADDRESS_MISSING, printable(str(reply), 60))

    def _check_service(self, exchange: Exchange, reply: Reply) -> None:
        if exchange.verb in HELLOS and reply.positive and exchange.verb != "HELO":
            for line in exchange.said[1:]:
                if not _KEYWORD.fullmatch(line.text[4:]):
                    self._add(line.number, rules.BAD_KEYWORD, printable(line.text[4:], 60))
                if self._tls and line.text[4:].strip().upper() == "STARTTLS":
                    self._add(line.number, rules.TLS_IN_TLS, "STARTTLS")
        extension = COMMANDS.get(exchange.verb, "")
        if extension and self._offers(extension) and reply.code in _NOT_IMPLEMENTED:
            self._add(exchange.line, rules.OFFERED_NOT_SERVED, f"{extension}, then {reply.code}")
        if self._is_out_of_order(exchange.verb, self._state) and (reply.positive or reply.intermediate):
            self._add(exchange.line, rules.ACCEPTED_OUT_OF_ORDER, f"{reply.code} to {exchange.verb}")

    def _is_out_of_order(self, verb: str, state: State | None) -> bool:
        if state is None or verb == DOT:
            return False
        if verb in ("DATA", "BDAT") and state is State.MAIL:
            return not self._tried
        return TRANSITIONS[state].get(verb) is not None and verb in ORDERED

    def _offers(self, keyword: str) -> bool:
        return self._offered is not None and keyword in self._offered

    def _max_octets(self) -> int:
        return self._offered.max_octets if self._offered is not None else 0

    def _follow(self, exchange: Exchange, reply: Reply) -> None:
        """The state that the reply leads to."""
        verb = exchange.verb
        if reply.code == _CLOSING or verb == "QUIT":
            self._closed = True
        if verb in HELLOS and reply.positive:
            self._offered, self._knows_offer = (
                parse_extensions(reply) if verb != "HELO" else Extensions(),
                True,
            )
            self._begin()
        elif verb == "RSET" and reply.positive and self._state not in (State.CONNECTED, None):
            self._begin()
        elif verb in ("STARTTLS", "XCLIENT") and reply.positive:
            self._state, self._offered, self._knows_offer = State.CONNECTED, None, False
            self._tls = self._tls or verb == "STARTTLS"
        elif verb == "MAIL" and reply.positive:
            self._state, self._tried, self._accepted = State.MAIL, 0, 0
        elif verb == "RCPT":
            self._tried += 1
            if reply.positive:
                self._accepted += 1
                self._state = State.RCPT
        elif exchange.stage is Stage.BODY and self._state is not State.CONNECTED:
            self._begin()
        elif verb == "BDAT" and reply.positive:
            self._state = State.CHUNKS

    def _begin(self) -> None:
        """No transaction is open."""
        self._state, self._tried, self._accepted = State.GREETED, 0, 0

    # --- the client

    def _check_client(self, exchange: Exchange, before: Exchange | None) -> None:
        asked = exchange.asked
        assert asked is not None
        if exchange.verb == DOT:
            self._check_message(exchange)
            return
        if exchange.stage is Stage.AUTH and exchange.command[:4].upper() != "AUTH":
            if not _BASE64.fullmatch(asked.text) and asked.text != "*":
                self._add(asked.number, rules.NOT_BASE64, "the answer to a challenge")
            return
        self._check_command_line(exchange, asked)
        self._check_pipelining(exchange, asked, before)
        if exchange.verb not in VERBS:
            self._add(asked.number, rules.UNKNOWN_COMMAND, printable(exchange.verb, 40) or "an empty line")
            return
        is_blind = before is not None and bool(before.said) and asked.number < before.said[0].number
        state = self._hoped if is_blind else self._state
        if self._is_out_of_order(exchange.verb, state):
            self._add(asked.number, rules.COMMAND_ORDER, exchange.verb)
        self._hoped = _HOPED.get(exchange.verb, state)
        self._check_argument(exchange, asked)

    def _check_command_line(self, exchange: Exchange, asked: Line) -> None:
        octets = len(asked.text.encode("utf-8", "surrogateescape")) + 2
        limit = {
            "AUTH": rules.MAX_AUTH_OCTETS,
            "MAIL": rules.MAX_LONG_COMMAND_OCTETS,
            "RCPT": rules.MAX_LONG_COMMAND_OCTETS,
        }.get(exchange.verb, rules.MAX_COMMAND_OCTETS)
        if octets > limit:
            self._add(asked.number, rules.LONG_COMMAND, f"{octets} octets")
        if self._exact and (asked.end != "\r\n" or "\r" in asked.text):
            self._add(asked.number, rules.COMMAND_LINE_END, printable(repr(asked.text[-20:] + asked.end), 60))
        if not asked.text.replace("\t", " ").replace("\r", "").isprintable() or (
            not asked.text.isascii() and not self._offers("SMTPUTF8")
        ):
            self._add(asked.number, rules.COMMAND_CHARACTERS, printable(asked.text, 60))

    def _check_pipelining(self, exchange: Exchange, asked: Line, before: Exchange | None) -> None:
        """Whether the client waited for the reply to what it said before, if it had to."""
        if before is None or not before.said or asked.number >= before.said[0].number:
            return
        if before.stage is Stage.GREETING:
            self._add(asked.number, rules.EARLY_TALKER, exchange.verb)
        elif before.verb in LAST_OF_GROUP:
            self._add(asked.number, rules.PIPELINED_PAST, f"{exchange.verb} behind {before.verb}")
        elif self._knows_offer and not self._offers("PIPELINING"):
            self._add(asked.number, rules.PIPELINED_UNOFFERED, f"{exchange.verb} behind {before.verb}")

    def _check_argument(self, exchange: Exchange, asked: Line) -> None:
        verb = exchange.verb
        argument = asked.text.lstrip(" ")[len(verb) :].lstrip(" \t")
        if verb in ("EHLO", "HELO", "LHLO") and parse_hello(argument) is None:
            self._add(asked.number, rules.BAD_ARGUMENT, printable(argument, 60) or "no name")
        elif verb in ("DATA", "RSET", "QUIT", "STARTTLS") and argument.strip():
            self._add(asked.number, rules.BAD_ARGUMENT, f"{verb} has no argument")
        elif verb == "BDAT" and parse_bdat(argument) is None:
            self._add(asked.number, rules.BAD_ARGUMENT, printable(argument, 60) or "no number")
        elif verb in ("MAIL", "RCPT"):
            self._check_path(exchange, asked, argument)
        extension = COMMANDS.get(verb, "")
        if extension and self._knows_offer and not self._offers(extension) and verb != "ETRN":
            self._add(asked.number, rules.NOT_OFFERED, verb)
        if verb == "MAIL":
            self._mail = asked.text

    def _check_path(self, exchange: Exchange, asked: Line, argument: str) -> None:
        head = _PATH_END.match(argument)
        path = head[0] if head else argument
        if re.match(r"[^:]{0,40}:[ \t]", path):
            self._add(asked.number, rules.SPACE_AFTER_COLON, printable(argument, 60))
        found: MailFrom | RcptTo | Reply
        if exchange.verb == "MAIL":
            found = parse_mail(argument, _EVERYTHING)
        else:
            found = parse_rcpt(argument, _EVERYTHING, smtputf8="SMTPUTF8" in self._mail.upper())
        if isinstance(found, Reply) and found.cause is not envelope.PARAMETER_UNKNOWN:
            self._add(asked.number, rules.BAD_ARGUMENT, printable(found.text, 100))
        for word, value in _WORD.findall(argument[len(path) :]):
            extension = PARAMETERS.get(word.upper(), "")
            if self._knows_offer and not self._offers(extension):
                self._add(asked.number, rules.NOT_OFFERED, word.upper())
            elif word.upper() == "BODY" and value.upper() == "BINARYMIME" and not self._offers("BINARYMIME"):
                self._add(asked.number, rules.NOT_OFFERED, "BODY=BINARYMIME")
            elif word.upper() == "SIZE" and 0 < self._max_octets() < _number(value):
                self._add(asked.number, rules.SIZE_OVER_LIMIT, f"{value} of {self._max_octets()}")
        if exchange.verb == "RCPT" and self._offered and 0 < self._offered.max_recipients <= self._tried:
            self._add(asked.number, rules.LIMIT_IGNORED, f"RCPTMAX={self._offered.max_recipients}")

    def _check_message(self, exchange: Exchange) -> None:
        body = exchange.body
        if self._state is State.MAIL and not self._accepted and body and self._tried:
            self._add(body[0].number, rules.MESSAGE_TO_NOBODY, f"{len(body)} lines")
        faults = list(self._body_faults(body))
        seen: set[str] = set()
        for line, rule, detail in faults:
            if rule.id not in seen:  # one of each kind is enough
                self._add(line, rule, detail)
                seen.add(rule.id)
        announced = re.search(r"\sSIZE=(\d{1,18})(?=\s|$)", self._mail, re.IGNORECASE)
        if announced and body and exchange.complete and self._session.recording.shows_bodies:
            size = sum(
                len(line.text.encode("utf-8", "surrogateescape")) + 2 - line.text.startswith(DOT)
                for line in body
            )
            if size > int(announced[1]):
                self._add(exchange.asked.number if exchange.asked else 0, rules.SIZE_UNTRUE, f"{size} octets, said {announced[1]}")  # fmt: skip

    def _body_faults(self, body: tuple[Line, ...]) -> Iterator[tuple[int, Rule, str]]:
        is_declared = re.search(r"\sBODY=(?:8BITMIME|BINARYMIME)|\sSMTPUTF8", self._mail, re.IGNORECASE)
        for line in body:
            text = line.text
            if len(text) > rules.MAX_TEXT_OCTETS - 2:
                yield line.number, rules.LONG_TEXT_LINE, f"{len(text) + 2} octets"
            if text.startswith(DOT) and not text.startswith(".."):
                yield line.number, rules.DOT_NOT_DOUBLED, printable(text, 60)
            if self._exact and (line.end != "\r\n" or "\r" in text):
                yield line.number, rules.TEXT_LINE_END, printable(repr(text[-20:] + line.end), 60)
            if not is_declared and not text.isascii():
                yield line.number, rules.UNDECLARED_8BIT, printable(text, 60)


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else 0


def faults_of(judgement: Judgement, side: Side) -> list[Fault]:
    """The faults of one side."""
    return [fault for fault in judgement.faults if fault.rule.side is side]
