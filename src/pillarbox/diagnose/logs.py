"""Read what mail servers write into their logs about deliveries and refusals: one event a recipient.

Postfix, Exim, Sendmail, OpenSMTPD, qmail, Exchange (message tracking) and this server's own. Recordings of sessions
that stand in logs are the business of `transcript`.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import msgspec

from pillarbox.diagnose.diagnosis import Outcome
from pillarbox.diagnose.diagnostic import reply_in, stage_in
from pillarbox.mail.reply import Reply, Stage

MAX_EVENTS = 20_000
_MAX_RECIPIENTS = 1000  # of one line


class Event(msgspec.Struct, frozen=True):
    """What a line of a log says about one recipient."""

    address: str
    outcome: Outcome
    reply: Reply  # with code 0 if only words are there
    stage: Stage | None = None
    host: str = ""
    message: str = ""  # the queue id
    line: int = 0


def read_events(text: str) -> tuple[str, list[Event]]:
    """The notation that most events were found in, and the events in order. Never raises."""
    rows = [row.removesuffix("\r") for row in text.split("\n")]
    best: tuple[str, list[Event]] = ("", [])
    for name, reader in _READERS.items():
        events = list(islice(reader(rows), MAX_EVENTS))
        if len(events) > len(best[1]):
            best = (name, events)
    return best


def _by_class(reply: Reply) -> Outcome:
    """The outcome that a code, or without one a status, stands for."""
    digit = str(reply.code)[0] if reply.code else reply.status[:1]
    return {"2": Outcome.ACCEPTED, "4": Outcome.TEMPORARY, "5": Outcome.PERMANENT}.get(digit, Outcome.UNKNOWN)


def _host(text: str) -> str:
    """The name of `name[address]:port` or `name. [address]`; the address if it has no name."""
    name, _bracket, rest = text.strip().partition("[")
    name = name.strip(" .(")
    return name if name not in ("", "unknown", "none") else rest.partition("]")[0]


# --- Postfix ---------------------------------------------------------------------------------------------------------

_POSTFIX = re.compile(
    r"[^\[]{0,160}?\bpostfix[\w.-]{0,40}/(?:[\w.-]{1,40}/)?(?P<program>[\w-]{1,30})\[\d{1,10}\]: "
    r"(?P<id>NOQUEUE|[0-9A-Za-z]{4,25}): (?P<rest>.*)"
)
_POSTFIX_TO = re.compile(
    r"to=<(?P<to>[^>]*)>, (?:orig_to=<[^>]*>, )?relay=(?P<relay>[^,]+), (?:[a-z_]+=[^,]*, )*?"
    r"dsn=(?P<dsn>[\d.]+), status=(?P<status>[\w-]+) ?\(?(?P<text>.*)"
)
_POSTFIX_REJECT = re.compile(
    r"(?:milter-|header-|body-)?reject(?:_warning)?: (?P<where>[\w-]+(?: [\w-]+)??) from (?P<client>[^\s\[]*\[[^\]]*\])"
    r"(?::\d+)?: (?P<text>.*?)(?:; |, )from=<(?P<from>[^>]*)>,? ?(?:to=<(?P<to>[^>]*)>)?(?P<rest>.*)"
)
_POSTFIX_CLEANUP = re.compile(
    r"(?:reject|hold|discard): (?:header|body|mime-header|nested-header) .{0,2000}?; from=<[^>]*> "
    r"(?:to=<(?P<to>[^>]*)> )?proto=\S+ (?:helo=<[^>]*>)?: (?P<text>.*)"
)
_POSTFIX_STATUS = {
    "sent": Outcome.ACCEPTED,
    "deliverable": Outcome.ACCEPTED,
    "deferred": Outcome.TEMPORARY,
    "softbounce": Outcome.TEMPORARY,
    "bounced": Outcome.PERMANENT,
    "undeliverable": Outcome.PERMANENT,
    "expired": Outcome.PERMANENT,
}
_WHERE = {
    "CONNECT": Stage.GREETING,
    "HELO": Stage.HELLO,
    "EHLO": Stage.HELLO,
    "MAIL": Stage.MAIL,
    "RCPT": Stage.RCPT,
    "DATA": Stage.DATA,
    "END-OF-MESSAGE": Stage.BODY,
    "VRFY": Stage.VRFY,
    "AUTH": Stage.AUTH,
}


def _postfix(rows: Iterable[str]) -> Iterator[Event]:
    for number, row in enumerate(rows, 1):
        found = _POSTFIX.fullmatch(row) if "postfix" in row else None
        if found is None:
            continue
        message = "" if found["id"] == "NOQUEUE" else found["id"]
        if (sent := _POSTFIX_TO.match(found["rest"])) is not None:
            yield _postfix_delivery(sent, found["program"], message, number)
        elif (refused := _POSTFIX_REJECT.match(found["rest"])) is not None:
            reply = reply_in(refused["text"])
            stage = _WHERE.get(refused["where"].partition(" ")[0])
            yield Event(refused["to"] or "", _by_class(reply), reply, stage, "", message, number)
        elif (filtered := _POSTFIX_CLEANUP.match(found["rest"])) is not None:
            reply = reply_in(filtered["text"])
            yield Event(filtered["to"] or "", _by_class(reply), reply, Stage.BODY, "", message, number)


def _postfix_delivery(sent: re.Match[str], program: str, message: str, number: int) -> Event:
    text = sent["text"].removesuffix(")")
    reply = reply_in(text, status=sent["dsn"])
    outcome = _POSTFIX_STATUS.get(sent["status"].lower(), Outcome.UNKNOWN)
    stage = stage_in(text)
    if outcome is Outcome.ACCEPTED:
        stage = Stage.BODY if program in ("smtp", "lmtp") else Stage.LOCAL
    elif "message may be sent more than once" in text:
        outcome, stage = Outcome.IN_DOUBT, Stage.BODY
    elif stage is None and not reply.code:
        stage = unreached(text) or (None if program in ("smtp", "lmtp") else Stage.LOCAL)
    return Event(sent["to"], outcome, reply, stage, _host(sent["relay"]), message, number)


def unreached(text: str) -> Stage | None:
    """Where a delivery ended that reached no server."""
    if "name not found" in text or "Name service" in text or "look up" in text or "Host unknown" in text:
        return Stage.DNS
    lower = text.lower()
    is_connecting = any(
        words in lower
        for words in ("connect to ", "connection refused", "connection timed out", "unreachable", "no route")
    )
    return Stage.CONNECT if is_connecting else None


# --- Exim ------------------------------------------------------------------------------------------------------------

_EXIM = re.compile(
    r".{0,80}?\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?(?: [+-]\d{4})? (?:\[\d+\] )?"
    r"(?:(?P<id>\w{6}-(?:\w{6}-\w{2}|\w{11}-\w{4})) )?(?P<rest>.*)"
)
_EXIM_TO = re.compile(r"(?P<mark>\*\*|==|=>|->|\*>|>>) (?P<to>[^\s<:]+|<[^>]*>)(?P<text>.*)")
_EXIM_HOST = re.compile(r"\bH=(\S+)(?: \[([^\]]*)\])?")
_EXIM_SAID = re.compile(
    r': (?:SMTP error from remote mail server|LMTP error|Remote host)[^:]*?(?:<[^>]*>)?[^:<]*:|\bC="'
)
_EXIM_REASON = re.compile(r": (?!\d)|defer \([^)]*\):? ?")
_EXIM_REJECT = re.compile(
    r"(?:.*? )?(?P<temporary>temporarily )?rejected (?P<where>RCPT|MAIL|EHLO or HELO|connection|after DATA|DATA|VRFY|AUTH)"
    r"(?: <(?P<to>[^>]*)>| (?P<name>[^\s:]+))?[^:]{0,200}: ?(?P<text>.*)"
)
_EXIM_WHERE = {
    "RCPT": Stage.RCPT,
    "MAIL": Stage.MAIL,
    "EHLO or HELO": Stage.HELLO,
    "connection": Stage.GREETING,
    "after DATA": Stage.BODY,
    "DATA": Stage.DATA,
    "VRFY": Stage.VRFY,
    "AUTH": Stage.AUTH,
}
_EXIM_MARKS = {"**": Outcome.PERMANENT, "==": Outcome.TEMPORARY}


def _exim(rows: Iterable[str]) -> Iterator[Event]:
    for number, row in enumerate(rows, 1):
        found = _EXIM.fullmatch(row)
        if found is None:
            continue
        message, rest = found["id"] or "", found["rest"]
        sent = _EXIM_TO.fullmatch(rest) if message else None
        if sent is not None:
            yield _exim_delivery(sent, message, number)
        elif "rejected " in rest and (refused := _EXIM_REJECT.fullmatch(rest)) is not None:
            outcome = Outcome.TEMPORARY if refused["temporary"] else Outcome.PERMANENT
            stage = _EXIM_WHERE[refused["where"]]
            address = (refused["to"] or "") if stage is Stage.RCPT else ""
            yield Event(address, outcome, reply_in(refused["text"]), stage, "", message, number)


def _exim_delivery(sent: re.Match[str], message: str, number: int) -> Event:
    text = sent["text"]
    outcome = _EXIM_MARKS.get(sent["mark"], Outcome.ACCEPTED)
    host = _EXIM_HOST.search(text)
    said = _EXIM_SAID.search(text)
    if said is not None:
        reply, stage = reply_in(text[said.end() :].rstrip('"')), stage_in(text[said.start() :])
    else:
        reason = _EXIM_REASON.search(text)
        words = text[reason.end() :] if reason else text
        reply, stage = reply_in(words), stage_in(words) or unreached(words)
    if outcome is Outcome.ACCEPTED:
        stage = Stage.BODY if host else Stage.LOCAL
        if said is None:
            reply = Reply(0, "", ("",))
    return Event(
        _between(sent["to"], text),
        outcome,
        reply,
        stage,
        (host[1].strip("()") if host else ""),
        message,
        number,
    )


def _between(to: str, text: str) -> str:
    """The address: for a local user, the one in brackets behind the name."""
    if "@" not in to and (found := re.match(r" <([^>]*@[^>]*)>", text)):
        return found[1]
    return to.strip("<>:")


# --- Sendmail --------------------------------------------------------------------------------------------------------

_SENDMAIL = re.compile(
    r"[^\[]{0,200}?\b(?:sendmail|sm-mta|sm-msp-queue|sm-msp|mta)[\w-]{0,20}\[\d{1,10}\]: (?P<id>\w{8,24}): (?P<rest>.*)"
)
_FIELD = re.compile(r"(?:^|, )([a-z0-9]{2,12})=")
_SENDMAIL_RULES = {"check_rcpt": Stage.RCPT, "check_mail": Stage.MAIL, "check_relay": Stage.GREETING}


def _sendmail(rows: Iterable[str]) -> Iterator[Event]:
    for number, row in enumerate(rows, 1):
        found = _SENDMAIL.fullmatch(row)
        if found is None:
            continue
        rest, mark, said = found["rest"].partition("stat=")  # the last field, with foreign words in it
        pieces = _FIELD.split(rest)
        fields = dict(zip(pieces[1::2], pieces[2::2], strict=False)) | ({"stat": said} if mark else {})
        if "stat" in fields and "to" in fields:
            yield from _sendmail_delivery(fields, found["id"], number)
        elif "reject" in fields:
            reply = reply_in(fields["reject"])
            stage = _SENDMAIL_RULES.get(fields.get("ruleset", ""))
            address = fields.get("arg1", "").strip("<>") if stage is Stage.RCPT else ""
            yield Event(address, _by_class(reply), reply, stage, "", found["id"], number)


def _sendmail_delivery(fields: dict[str, str], message: str, number: int) -> Iterator[Event]:
    told = fields.get("reply") or fields["stat"]
    reply = reply_in(told, status=fields.get("dsn", "").strip(", "))
    stage: Stage | None
    if fields["stat"].startswith("Sent"):
        outcome = Outcome.ACCEPTED
        stage = (
            Stage.BODY
            if fields.get("mailer", "").strip(", ") in ("esmtp", "relay", "smtp", "")
            else Stage.LOCAL
        )
    elif fields["stat"].startswith(("Deferred", "queued")):
        outcome, stage = Outcome.TEMPORARY, stage_in(told) or unreached(told)
    else:
        outcome, stage = _by_class(reply), stage_in(told)
        outcome = Outcome.PERMANENT if outcome is Outcome.UNKNOWN else outcome
    for address in fields["to"].split(",")[:_MAX_RECIPIENTS]:
        yield Event(
            address.strip(" <>"),
            outcome,
            reply,
            stage,
            _host(fields.get("relay", "").strip(", ")),
            message,
            number,
        )


# --- OpenSMTPD and qmail ---------------------------------------------------------------------------------------------

_OPENSMTPD = re.compile(
    r".{0,200}?smtpd\[\d{1,10}\]: (?P<id>[0-9a-f]{8,16}) (?P<agent>m[td]a) delivery (?P<rest>.*result=.*)"
)
_WORD = re.compile(r'(\w+)=(?:<([^>]*)>|"([^"]*)"|(\S*))')
_RESULTS = {"Ok": Outcome.ACCEPTED, "TempFail": Outcome.TEMPORARY, "PermFail": Outcome.PERMANENT}
_QMAIL = re.compile(r".{0,200}?(?:starting )?delivery (?P<number>\d{1,12}): (?P<rest>.*)")
_QMAIL_START = re.compile(r"msg (?P<id>\d+) to (?:remote|local) (?P<to>\S+)")
_QMAIL_RESULTS = {
    "success": Outcome.ACCEPTED,
    "failure": Outcome.PERMANENT,
    "deferral": Outcome.TEMPORARY,
}


def _opensmtpd(rows: Iterable[str]) -> Iterator[Event]:
    for number, row in enumerate(rows, 1):
        found = _OPENSMTPD.fullmatch(row) if " delivery " in row else None
        if found is None:
            continue
        fields = {word[0]: word[1] or word[2] or word[3] for word in _WORD.findall(found["rest"])}
        reply = reply_in(fields.get("stat", ""))
        outcome = _RESULTS.get(fields.get("result", ""), _by_class(reply))
        stage = (
            Stage.LOCAL if found["agent"] == "mda" else Stage.BODY if outcome is Outcome.ACCEPTED else None
        )
        host = re.sub(r".*\((.*)\)", r"\1", fields.get("relay", "")[:300])
        yield Event(fields.get("to", ""), outcome, reply, stage, host, fields.get("evpid", ""), number)


def _qmail(rows: Iterable[str]) -> Iterator[Event]:
    started: dict[str, tuple[str, str]] = {}
    for number, row in enumerate(rows, 1):
        found = _QMAIL.fullmatch(row) if "delivery " in row else None
        if found is None:
            continue
        if (start := _QMAIL_START.match(found["rest"])) is not None:
            started[found["number"]] = (start["to"], start["id"])
            continue
        word, colon, text = found["rest"].partition(": ")
        if colon and word in _QMAIL_RESULTS:
            address, message = started.get(found["number"], ("", ""))
            outcome, words = _QMAIL_RESULTS[word], text.replace("_", " ")
            host = re.match(r"(?:Connected to )?([\d.]+)", words)
            stage = stage_in(words) or unreached(words)
            stage = Stage.BODY if outcome is Outcome.ACCEPTED else stage
            yield Event(address, outcome, reply_in(words), stage, host[1] if host else "", message, number)


# --- Exchange, message tracking --------------------------------------------------------------------------------------

_TRACKING = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z,.*")
_COLUMNS = (  # where the file does not name them
    *("date-time", "client-ip", "client-hostname", "server-ip", "server-hostname", "source-context"),
    *("connector-id", "source", "event-id", "internal-message-id", "message-id", "network-message-id"),
    *("recipient-address", "recipient-status"),
)
_EXCHANGE_EVENTS = {
    "SEND": Outcome.ACCEPTED,
    "DELIVER": Outcome.ACCEPTED,
    "FAIL": Outcome.PERMANENT,
    "DEFER": Outcome.TEMPORARY,
}
_LAST_ERROR = re.compile(r"\{LED=([^{}]*)\}")
_FQDN = re.compile(r"\{FQDN=([^{}]*)\}")


def _exchange(rows: Iterable[str]) -> Iterator[Event]:
    columns = list(_COLUMNS)
    for number, row in enumerate(rows, 1):
        if row.startswith("#Fields:"):
            columns = row.removeprefix("#Fields:").strip().split(",")
        elif row.startswith("date-time,"):
            columns = row.strip().split(",")
        elif _TRACKING.fullmatch(row):
            cells = dict(zip(columns, next(csv.reader([row.replace("\0", "")]), []), strict=False))
            yield from _exchange_row(cells, number)


def _exchange_row(cells: dict[str, str], number: int) -> Iterator[Event]:
    outcome = _EXCHANGE_EVENTS.get(cells.get("event-id", ""))
    if outcome is None or "recipient-address" not in cells:
        return
    statuses = cells.get("recipient-status", "").split(";250 " if outcome is Outcome.ACCEPTED else "\0")
    for place, address in enumerate(cells["recipient-address"].split(";")[:_MAX_RECIPIENTS]):
        status = statuses[min(place, len(statuses) - 1)]
        error, name = _LAST_ERROR.search(status), _FQDN.search(status)
        host = name[1] if name else cells.get("server-hostname", "") if outcome is Outcome.ACCEPTED else ""
        local = cells.get("source", "") == "STOREDRIVER"
        stage = Stage.LOCAL if local else Stage.BODY if outcome is Outcome.ACCEPTED else None
        yield Event(
            address,
            outcome,
            reply_in(error[1] if error else status),
            stage,
            host,
            cells.get("message-id", ""),
            number,
        )


# --- this server -----------------------------------------------------------------------------------------------------

_OWN_EVENTS = {
    "delivery.ok": Outcome.ACCEPTED,
    "delivery.deferred": Outcome.TEMPORARY,
    "delivery.failed": Outcome.PERMANENT,
    "delivery.in_doubt": Outcome.IN_DOUBT,
    "reply.refused": Outcome.UNKNOWN,
}


def _own(rows: Iterable[str]) -> Iterator[Event]:
    for number, row in enumerate(rows, 1):
        if '"event":' not in row:
            continue
        try:
            fields = json.loads(row[row.find("{") :])
        except (ValueError, RecursionError):
            continue
        if not isinstance(fields, dict) or fields.get("event") not in _OWN_EVENTS:
            continue
        told = {key: value for key, value in fields.items() if isinstance(value, str)}
        reply, outcome = reply_in(told.get("reply", "")), _OWN_EVENTS[told["event"]]
        outcome = _by_class(reply) if outcome is Outcome.UNKNOWN else outcome
        stage = next((one for one in Stage if one.value == told.get("stage")), None)
        yield Event(
            told.get("recipient", ""),
            outcome,
            reply,
            stage,
            told.get("host", ""),
            told.get("message", ""),
            number,
        )


_READERS: dict[str, Callable[[list[str]], Iterator[Event]]] = {
    "postfix log": _postfix,
    "exim log": _exim,
    "sendmail log": _sendmail,
    "exchange message tracking": _exchange,
    "opensmtpd log": _opensmtpd,
    "qmail log": _qmail,
    "pillarbox log": _own,
}
