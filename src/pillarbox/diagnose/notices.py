"""Read what mail servers write to people about mail that failed, in the many forms that keep to no standard.

Three forms are known, all by their shape and none by their maker: paragraphs that begin with an address, transcripts of
sessions, and fields of a report copied into the text. What the words mean is left to `classify`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice

import msgspec

from pillarbox.mail.reply import Reply, Stage

MAX_LINES = 2000
MAX_LINE = 2000
MAX_TOLD = 1000
_MAX_WORDS = 4000  # of one recipient
_MAX_SEARCHED = 16384  # characters in which a reply is looked for
_MAX_REPLIES = 40

_ADDRESS = re.compile(r"[^\s<>\"'`(),:;\[\]=]{1,64}@[^\s<>\"'`(),:;\[\]=#]{1,255}")
_HEADER = re.compile(
    r"(?:Received|Return-Path|From|To|Cc|Subject|Date|Message-ID|MIME-Version|Reply-To|Sender|Content-[A-Za-z-]{1,40}"
    r"|DKIM-Signature|DomainKey-Signature|ARC-[A-Za-z-]{1,40}|Authentication-Results|Delivered-To|User-Agent|Importance"
    r"|Thread-[A-Za-z]{1,20}|References|In-Reply-To|Received-SPF|X-[A-Za-z0-9_-]{1,60})[ \t]*:",
    re.IGNORECASE,
)
_SURE_HEADER = re.compile(
    r"(?:Received|Return-Path|Message-ID|MIME-Version|DKIM-Signature|From)[ \t]*:", re.IGNORECASE
)
_STATUS_FIELD = re.compile(
    r"(?:Final-Recipient|Original-Recipient|Action|Status|Remote-MTA|Diagnostic-Code|Reporting-MTA|Arrival-Date"
    r"|Received-From-MTA|Last-Attempt-Date|Original-Envelope-Id|X-[A-Za-z-]{1,40}) ?:",
    re.IGNORECASE,
)
_DIVIDER = re.compile(r"[ \t]*(?:[-=_*#.][ \t]?){3}|[ \t]*-{2,}[ \t]")
_ABOUT_DELIVERY = re.compile(
    r"deliver|reach|recipient|undeliverable|fail|return|bounce|reject|unable|address|mailbox|unknown|invalid|exceed|user"
    r"|error|zugestellt|erreicht"
    r"|remis|entreg|consegn|recapit",
    re.IGNORECASE,
)
_ABOUT_OTHERS = re.compile(r"@|https?:|contact|write to|sent by|reply|questions", re.IGNORECASE)
_FIELD_OF_ADDRESS = re.compile(r"[\[,;] ?(?:e-?mail )?(?:address|recipient|rcpt):?$", re.IGNORECASE)
_SENTENCE_ENDS = re.compile(r"[>\"'`]{0,3}\.?[ \t]")
_GOES_ON = re.compile(
    r"[-;,\[] ?|(?:[^\n]{0,80}?)(?:because|fail|not |bounce|reject|unknown|invalid|error|no such|quota|full\b|exceed|denied|refus|disabled|expired|[45]\d\d )",
    re.IGNORECASE,
)
_WHEN = re.compile(r"on [A-Z0-9]")
_TELLS = re.compile(r"[^\s<>]@[^\s<>]|^[ \t]*[245]\d\d[ -]|deliver|fail|error", re.IGNORECASE)
_LETTERS = re.compile(r"[A-Za-z]{3}")
_LABEL = re.compile(
    r"(?:(?:final|original|failed)[ -]?)?(?:recipients?|rcpt|e-?mail|mailbox|user)(?:[ -]address(?:es)?)?|addressed to|failed|for",
    re.IGNORECASE,
)
_COMMAND = re.compile(r"[ \t]*(?:>>>|In:)[ \t]*([A-Za-z]{4})\b(.{0,400})")
_ANSWER = re.compile(r"[ \t]*(?:<<<|Out:)[ \t]*([2-5]\d\d)(?:([ -])|$)(.*)")
_SERVER_LINE = re.compile(r"([245]\d\d)[ -](.*)")
_TALKING = re.compile(
    r"\.{0,3}[ \t]*while (?:talking|connected) to (?:\[?)([A-Za-z0-9._:-]{1,255}?)[\].]*:?[ \t]*$",
    re.IGNORECASE,
)
_REPLY = re.compile(
    r"(?<![\w.@/#=-])([45]\d\d)(?:-|:?[ \t]|(?=\s|$))[ \t]{0,3}'?(?:[45]\d\d[ -])?\(?#?(?:([245]\.\d{1,3}\.\d{1,3})\b)?"
)
_STATUS = re.compile(r"(?<![\d.])([245]\.\d{1,3}\.\d{1,3})(?![\d.])")
_SPOKEN = re.compile(
    r"(?:said|replied|responded|returned|answered|response|error|reply|reason|was)\b(?:[^\n:]{0,60}:)?[\s\"'\[]{0,10}\Z",
    re.IGNORECASE,
)
_HOST = re.compile(
    r"\b(?:host|server|mta|talking to|connected to|connection to|gateway)[: ]{1,2}<?([A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,10})",
    re.IGNORECASE,
)
_STAGES = (
    (Stage.BODY, re.compile(r"end of data|after data|final data|DATA_END|\bEOM\b|end of message|failed after i sent the message|after sending (?:the )?message|message content", re.IGNORECASE)),
    (Stage.RCPT, re.compile(r"rcpt[ _]to|rcpt command|\[RCPT|does not like recipient|did not like our RCPT", re.IGNORECASE)),
    (Stage.MAIL, re.compile(r"mail[ _]from|mail command|does not like sender|sender was rejected|\[MAIL", re.IGNORECASE)),
    (Stage.DATA, re.compile(r"data command|after initial connection data|reply to data|\[DATA", re.IGNORECASE)),
    (Stage.HELLO, re.compile(r"my name was rejected|[eh][he]lo command|after (?:helo|ehlo)|reply to (?:helo|ehlo)", re.IGNORECASE)),
    (Stage.GREETING, re.compile(r"refused to talk to|initial connection|greeting failed|greeting", re.IGNORECASE)),
)  # fmt: skip
_OF_COMMAND = {
    "rcpt": Stage.RCPT,
    "mail": Stage.MAIL,
    "data": Stage.DATA,
    "ehlo": Stage.HELLO,
    "helo": Stage.HELLO,
}


class Told(msgspec.Struct):
    """What a notice tells of one recipient."""

    address: str
    words: str = ""
    host: str = ""
    stage: Stage | None = None

    def add(self, words: str) -> None:
        """More words, as far as there is room."""
        if words.strip() and words not in self.words:
            self.words = f"{self.words}\n{words.strip()}"[:_MAX_WORDS].strip()


class Notice(msgspec.Struct):
    """A notice taken apart. `fields` are the lines of a report for programs that stands in the text."""

    text: str
    recipients: list[Told]
    fields: str = ""
    returned: bytes = b""
    answer: str = ""  # the last refusal in a transcript that is about no recipient in particular
    mentioned: list[str] = msgspec.field(
        default_factory=list
    )  # in the words themselves, not as a paragraph's head


def read_notice(text: str) -> Notice:
    """Read the part for people. Never raises; looks at the first 2,000 lines, in time linear in their length."""
    lines = [line[:MAX_LINE].rstrip() for line in text.split("\n", MAX_LINES)[:MAX_LINES]]
    lines = _unquoted(lines)
    end = _returned_at(lines)
    own, returned = lines[:end], lines[end:]
    told: dict[str, Told] = {}
    answer = ""
    for one in (*_paragraphs(own), *_transcript(own)):
        if not one.address:
            answer = f"{answer}\n{one.words}".strip()[:_MAX_WORDS]
            continue
        known = told.setdefault(one.address.lower(), Told(one.address))
        known.add(one.words)
        known.host = known.host or one.host
        known.stage = known.stage or one.stage
    return Notice(
        text="\n".join(own),
        recipients=list(told.values())[:MAX_TOLD],
        fields=_fields(own),
        answer=answer,
        returned="\n".join(line.strip("\r") for line in returned).encode("utf-8", "surrogateescape"),
        mentioned=_mentioned(own),
    )


def _mentioned(lines: list[str]) -> list[str]:
    """Addresses in lines that may speak of the failure; not those one may write to."""
    telling = [line for line in lines[:200] if not _ABOUT_OTHERS.search(_ADDRESS.sub("", line))]
    found = dict.fromkeys(named[0].rstrip(".") for line in telling for named in _ADDRESS.finditer(line))
    return list(found)[:MAX_TOLD]


def find_reply(words: str) -> Reply | None:
    """The last server's reply in a report's words, with everything behind it; None if there is no code or status.

    Of several the first counts that somebody "said"; then one at the start of a line, then one with a status.
    """
    words = words[:_MAX_SEARCHED]
    best: tuple[int, re.Match[str]] | None = None
    for found in islice(_REPLY.finditer(words), _MAX_REPLIES):
        before = words[max(0, found.start() - 80) : found.start()]
        start_of_line = not before.rpartition("\n")[2].strip(" \t<>\"'(|-")
        if _SPOKEN.search(before):
            rank = 0
        elif start_of_line:
            rank = 1
        elif found[2] or before.rstrip().endswith((":", ";", ",", "->", "<")):
            rank = 2
        else:
            continue
        if best is None or rank < best[0]:
            best = (rank, found)
    if best is not None:
        found = best[1]
        rest = words[found.end() :].strip(" \t\r\n'\"")
        return Reply(int(found[1]), found[2] or "", (_one_line(rest, int(found[1])),))
    status = _STATUS.search(words)
    return Reply(0, status[1], (_one_line(words),)) if status else None


def find_stage(words: str) -> Stage | None:
    """The stage at which it failed, where the words tell it."""
    hits = [(found.start(), stage) for stage, pattern in _STAGES if (found := pattern.search(words))]
    return min(hits)[1] if hits else None


def find_host(words: str) -> str:
    """The host that said it, where the words name it."""
    found = _HOST.search(words)
    return found[1] if found else ""


def _one_line(text: str, code: int = 0) -> str:
    """Continuation lines joined, with the code that each of them repeats taken out."""
    if code:
        text = re.sub(rf"(^|[\s>|]){code}[- ](?:[245]\.\d{{1,3}}\.\d{{1,3}} )?", r"\1", text)
    return " ".join(text.split())[:_MAX_WORDS]


def _unquoted(lines: list[str]) -> list[str]:
    """Without the marks of a notice that somebody quoted."""
    quoted = sum(line.startswith(">") and not line.startswith(">>> ") for line in lines)
    if quoted * 2 < len(lines):
        return lines
    return [line[1:].removeprefix(" ") if line.startswith(">") else line for line in lines]


def _returned_at(lines: list[str]) -> int:
    """Where the returned message begins: at fields of a header section in a row, after words about a failure.

    Fields before any such words are those of a notice that somebody forwarded.
    """
    first, told = len(lines), False
    for number, line in enumerate(lines):
        if _HEADER.match(line) and _stands_apart(lines, number) and _is_head(lines[number : number + 40]):
            first = min(first, number)
            if told:
                return number
        told = told or _TELLS.search(line) is not None
    return first


def _stands_apart(lines: list[str], number: int) -> bool:
    above = lines[number - 1] if number else ""
    return (
        not above.strip()
        or above.endswith(":")
        or _DIVIDER.match(above) is not None
        or _STATUS_FIELD.match(above) is not None
    )


def _is_head(lines: list[str]) -> bool:
    names, sure = 0, False
    for line in lines:
        if _HEADER.match(line):
            names += 1
            sure = sure or _SURE_HEADER.match(line) is not None
        elif not line.startswith((" ", "\t")):
            break
    return sure and names >= 2


def _fields(lines: list[str]) -> str:
    """The lines from the first field of a report for programs to the last, if an Action or Status is among them."""
    marks = [number for number, line in enumerate(lines) if _STATUS_FIELD.match(line.lstrip())]
    names = {lines[number].lstrip().partition(":")[0].strip().lower() for number in marks}
    if "final-recipient" not in names or not names & {"action", "status", "diagnostic-code"}:
        return ""
    return "\n".join(
        line.strip() if _STATUS_FIELD.match(line.lstrip()) else line
        for line in lines[marks[0] : marks[-1] + 12]
    )


def _paragraphs(lines: list[str]) -> Iterator[Told]:
    """Addresses that stand at the head of a line, each with the words that belong to it."""
    current: Told | None = None
    has_words = False
    for line in lines:
        if (
            _COMMAND.match(line)
            or _ANSWER.match(line)
            or _TALKING.match(line.strip())
            or _STATUS_FIELD.match(line)
        ):
            continue  # a transcript or fields: others read those
        if _DIVIDER.match(line) and not _ADDRESS.search(line):
            if current and has_words:
                yield current
                current = None
            continue
        named = _named(line)
        if named is not None:
            if current:
                yield current
            current = Told(named[0])
            current.add(f"{named[2]} {named[1]}")
            has_words = _LETTERS.search(named[1]) is not None
        elif current is None:
            continue
        elif line.strip():
            current.add(line)
            has_words = True
        elif has_words:
            yield current
            current = None
    if current:
        yield current


def _named(line: str) -> tuple[str, str, str] | None:
    """The recipient that a line is about, the words behind it and those before; None if it is about none."""
    found = _ADDRESS.search(line)
    if found is None or _SERVER_LINE.match(line):
        return None
    address = found[0].rstrip(".")
    before = line[: found.start()].strip(" \t<\"'*>|-`")
    after = line[found.end() :].lstrip(">\"'` \t")
    if before.lower().endswith(("mail from:", "rcpt to:")):
        return None  # a command that somebody quotes
    if not before:
        return _headed(address, after)
    bare = not after.strip(" \t.>:\"'`")
    if bare and _LABEL.fullmatch(before.rstrip(": \t").strip()):
        return address, "", ""
    if _FIELD_OF_ADDRESS.search(before):
        return address, after, ""
    told = bare or after.startswith("(") or _SENTENCE_ENDS.match(line[found.end() :])
    if told and len(before) < 120 and _ABOUT_DELIVERY.search(before) and not _ABOUT_OTHERS.search(before):
        return address, after, before
    return None


def _headed(address: str, after: str) -> tuple[str, str, str] | None:
    """A line that begins with an address."""
    if after.startswith("<"):  # the same again, as in "name <address>"
        after = after.partition(">")[2].lstrip()
    if not after.strip(" \t.,"):
        return address, "", ""
    if after.startswith("..."):
        return address, after[3:].strip(), ""
    if after.startswith((":", "#")):
        return address, after[1:].strip(), ""
    if after.startswith("(") or _GOES_ON.match(after):
        return address, after, ""
    return (address, "", "") if _WHEN.match(after) else None


def _transcript(lines: list[str]) -> Iterator[Told]:
    """What the lines of sessions tell: commands, answers to them, and the server's word on each recipient."""
    host, answer, command, recipient = "", "", "", ""
    accepted: list[str] = []
    for line in _whole_lines(lines):
        if talking := _TALKING.match(line.strip()):
            host, answer, command, accepted = talking[1], "", "", []
        elif sent := _COMMAND.match(line):
            command, answer = sent[1].lower(), ""
            named = _ADDRESS.search(sent[2]) if command == "rcpt" else None
            recipient = named[0] if named else ""
        elif heard := _ANSWER.match(line):
            words = f"{heard[1]}{heard[2] or ' '}{heard[3]}"
            if heard[1][0] in "45":
                answer = f"{answer}\n{words}".strip()[:_MAX_WORDS]
                failed = [recipient] if recipient else accepted if command in {"data", "bdat"} else []
                if not failed and command != "quit":
                    failed = [""]  # about nobody in particular
                for one in failed:
                    yield Told(one, words, host, _OF_COMMAND.get(command))
            elif recipient:
                accepted.append(recipient)
        elif said := _SERVER_LINE.match(line):
            named = _ADDRESS.search(said[2])
            if named and "..." in said[2] and said[1][0] in "45":
                yield Told(
                    named[0].rstrip("."), answer or line, host, _OF_COMMAND.get(command) if answer else None
                )
                answer = ""


def _whole_lines(lines: Iterable[str]) -> Iterator[str]:
    """Lines of a transcript, with the folded ones joined."""
    held = ""
    for line in lines:
        if held and line.startswith(("     ", "\t")) and len(held) < MAX_LINE:
            held = f"{held} {line.strip()}"
            continue
        if held:
            yield held
        held = line if _COMMAND.match(line) or _ANSWER.match(line) else ""
        if not held:
            yield line
    if held:
        yield held
