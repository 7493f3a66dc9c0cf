"""Explain any text about the fate of mail: find out what it is, every reply in it, and what became of each recipient.

A code or an id is looked up by `meaning`; recordings are read by `transcript`, `exchanges` and `fates`, logs by `logs`,
bounces by `bounce`. How an explanation is shown is the command line's or the console's business.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from msgspec.structs import replace

from pillarbox.diagnose import meaning
from pillarbox.diagnose.bounce import BounceKind, read_bounce
from pillarbox.diagnose.diagnosis import Account, Diagnosis, Finding, Kind, Outcome, Role
from pillarbox.diagnose.diagnostic import reply_in, stage_in
from pillarbox.diagnose.exchanges import Exchange, Session, pair
from pillarbox.diagnose.fates import Fate, follow, outcome_of
from pillarbox.diagnose.judge import by_verdict, judge, unanswered, unsent
from pillarbox.diagnose.logs import Event, read_events, unreached
from pillarbox.diagnose.transcript import read_recordings
from pillarbox.mail.catalogue import delivery
from pillarbox.mail.reply import Reply, Stage, printable

MAX_CHARACTERS = 4 * 1024 * 1024  # what is behind is not read
_MAX_SINGLE = 400  # longer than any code, id, status or reply line that is looked up
_MAX_REPLY = 8192
_MAX_SENTENCE = 65_536

_CUT = "The text is very long; only its beginning was read."
_EXCEPTION = re.compile(
    r"""(?:['"](?P<address>[^'"\s]{1,320})['"]: )?\((?P<code>[2-5]\d\d), b?(?P<text>'(?:[^'\\]|\\.){0,1000}'|"(?:[^"\\]|\\.){0,1000}")"""
)
_MESSAGE = re.compile(
    r"(?:From |[A-Za-z][A-Za-z0-9-]{1,40}:[ \t])[^\n]*\n(?:[ \t]|[A-Za-z][A-Za-z0-9-]{1,40}:[ \t])"
)
_ACTIONS = {
    "failed": Outcome.PERMANENT,
    "delayed": Outcome.TEMPORARY,
    "delivered": Outcome.ACCEPTED,
    "relayed": Outcome.ACCEPTED,
    "expanded": Outcome.ACCEPTED,
}
# What came back although the message had arrived: what happened, and what to do.
_ARRIVED = {
    BounceKind.FEEDBACK: (
        "The message arrived, and the recipient complained about it or wants no more.",
        "Send this recipient no more mail of this kind.",
    ),
    BounceKind.AUTO_REPLY: ("The message arrived, and a program answered it.", "Read the answer."),
}
_ADDRESS = re.compile(r"<?([^\s<>:;,()\"']{1,64}@[A-Za-z0-9.-]{1,253}[A-Za-z0-9])>?")


def explain(text: str) -> Diagnosis:
    """Explain a code, an id, a reply, a transcript, lines of a log, a bounce, or what stands in an error message.

    Never raises; takes time linear in the length of the text, of which it reads the first 4 MiB.
    """
    cut = (_CUT,) if len(text) > MAX_CHARACTERS else ()
    text = text[:MAX_CHARACTERS]
    found = _find(text)
    return replace(found, notes=(*found.notes, *cut)) if cut else found


def _find(text: str) -> Diagnosis:
    asked = text.strip()
    if len(asked) <= _MAX_SINGLE and "\n" not in asked and (single := _single(asked)) is not None:
        return single
    if (bounce := _of_bounce(text)) is not None:
        return bounce
    sessions = [pair(recording) for recording in read_recordings(text)]
    notation, events = read_events(text)
    if any(_is_conversation(session) for session in sessions):
        return _of_sessions(sessions)
    if events:
        return _of_events(notation, events)
    if sum(exchange.reply is not None for session in sessions for exchange in session.exchanges) > 1:
        return _of_sessions(sessions)
    if (reply := _of_reply(asked)) is not None:
        return reply
    return _of_sentence(asked)


def _is_conversation(session: Session) -> bool:
    """Whether a client and a server speak; a single command and its reply do only if they are marked as such."""
    if not session.has_client:
        return False
    if len(session.exchanges) > 1:
        return True
    return session.recording.notation != "no marks" and any(
        exchange.command and exchange.reply for exchange in session.exchanges
    )


def _single(asked: str) -> Diagnosis | None:
    """A code, a status, or the id of a cause or a scenario."""
    if any(character.isspace() for character in asked):
        return None
    found = meaning.look_up(asked)
    return Diagnosis(Kind.LOOKUP if found.known else Kind.NOTHING, explanation=found, notes=found.notes)


def _of_reply(asked: str) -> Diagnosis | None:
    """One reply, with nothing around it but a mark."""
    if len(asked) > _MAX_REPLY:
        return None
    found = meaning.look_up(asked)
    reply = meaning.read_reply(asked)
    if reply is None or not found.known:
        return None
    account = replace(judge(reply, outcome=outcome_of(reply)), reply=0, line=1)
    finding = Finding(1, "", Stage.ANY, reply, Role.CAUSE)
    accounts = () if reply.intermediate else (account,)
    return Diagnosis(Kind.REPLY, "", "", accounts, (finding,), found.notes, found)


# --- recorded sessions -----------------------------------------------------------------------------------------------


def _of_sessions(sessions: list[Session]) -> Diagnosis:
    accounts: list[Account] = []
    findings: list[Finding] = []
    notes: list[str] = []
    for session in sessions:
        fates, remarks = follow(session)
        places = _add_findings(session, fates, findings)
        accounts += [_account(fate, session, places) for fate in fates]
        notes += [note for note in remarks if note not in notes]
    if not accounts:
        notes.append("No message was tried, and nothing was refused.")
    hosts = dict.fromkeys(session.host for session in sessions if session.host)
    return Diagnosis(
        Kind.TRANSCRIPT,
        sessions[0].recording.notation,
        next(iter(hosts)) if len(hosts) == 1 else "",
        tuple(accounts),
        tuple(findings),
        tuple(notes),
    )


def _add_findings(session: Session, fates: list[Fate], findings: list[Finding]) -> dict[int, int]:
    """Note all replies of a session; where each exchange's reply is among them."""
    causes = {fate.decided_by for fate in fates if fate.outcome is not Outcome.UNSENT}
    echoes = {place for fate in fates for place in fate.echoes}
    places: dict[int, int] = {}
    for place, exchange in enumerate(session.exchanges):
        if exchange.reply is None:
            continue
        places[place] = len(findings)
        role = Role.CAUSE if place in causes else Role.ECHO if place in echoes else Role.ANSWER
        findings.append(Finding(exchange.line, _shown(exchange), exchange.stage, exchange.reply, role))
    return places


def _shown(exchange: Exchange) -> str:
    """The command; what was said in a login is a secret."""
    if exchange.stage is Stage.AUTH:
        return (
            " ".join(exchange.command.split()[:2]) if exchange.command[:5].upper() == "AUTH " else "(login)"
        )
    return printable(exchange.command)


def _account(fate: Fate, session: Session, places: dict[int, int]) -> Account:
    host = session.host
    if fate.outcome is Outcome.UNSENT:
        found = unsent(host=host, address=fate.address)
    elif fate.cause is not None:
        found = unanswered(
            fate.cause, outcome=fate.outcome, stage=fate.stage, host=host, address=fate.address
        )
    else:
        assert fate.decided_by is not None
        reply = session.exchanges[fate.decided_by].reply
        assert reply is not None
        found = judge(reply, outcome=fate.outcome, stage=fate.stage, host=host, address=fate.address)
    return replace(
        found,
        reply=places.get(fate.decided_by) if fate.decided_by is not None else None,
        echoes=tuple(places[place] for place in fate.echoes if place in places),
        line=fate.line,
    )


# --- logs ------------------------------------------------------------------------------------------------------------


def _of_events(notation: str, events: list[Event], *, is_settled: bool = True) -> Diagnosis:
    """Of several tries for the same recipient the last one counts."""
    tries: dict[tuple[str, str], list[int]] = {}
    for place, event in enumerate(events):
        tries.setdefault((event.message, event.address.lower()), []).append(place)
    decided = {places[-1] for places in tries.values()}
    findings = tuple(
        Finding(
            event.line,
            "",
            event.stage or Stage.ANY,
            event.reply,
            Role.CAUSE if place in decided else Role.ANSWER,
        )
        for place, event in enumerate(events)
    )
    accounts = tuple(
        replace(_told(events[places[-1]], is_settled=is_settled), reply=places[-1], attempts=len(places))
        for places in tries.values()
    )
    hosts = dict.fromkeys(event.host for event in events if event.host)
    return Diagnosis(Kind.LOG, notation, next(iter(hosts)) if len(hosts) == 1 else "", accounts, findings)


def _told(event: Event, *, is_settled: bool) -> Account:
    host, address = event.host, event.address
    if event.outcome is Outcome.IN_DOUBT:
        found = unanswered(
            delivery.IN_DOUBT, outcome=event.outcome, stage=Stage.BODY, host=host, address=address
        )
    else:
        found = judge(
            event.reply,
            outcome=event.outcome,
            stage=event.stage,
            host=host,
            address=address,
            is_settled=is_settled,
        )
    return replace(found, message=event.message, line=event.line)


# --- bounces ---------------------------------------------------------------------------------------------------------


def _of_bounce(text: str) -> Diagnosis | None:
    """A message that came back, with its header section."""
    if not _MESSAGE.match(text):
        return None
    bounce = read_bounce(text.encode("utf-8", "surrogateescape"))
    if bounce.kind is BounceKind.NONE or not bounce.recipients:
        return None
    accounts, findings = [], []
    for place, one in enumerate(bounce.recipients):
        host = one.remote_mta or bounce.reporting_mta
        outcome = _ACTIONS.get(one.action, Outcome.UNKNOWN)
        found = judge(
            one.reply, outcome=outcome, stage=one.stage, host=host, address=one.address, is_settled=True
        )
        if outcome in (Outcome.TEMPORARY, Outcome.PERMANENT):
            found = by_verdict(found, one.verdict)
        elif outcome is Outcome.UNKNOWN and bounce.kind in _ARRIVED:
            happened, advice = _ARRIVED[bounce.kind]
            found = replace(
                judge(one.reply, outcome=Outcome.ACCEPTED, host=host, address=one.address),
                happened=happened,
                meaning="",
                advice=advice,
            )
        accounts.append(replace(found, reply=place, message=bounce.queue_id, line=0))
        findings.append(Finding(0, "", one.stage or Stage.ANY, one.reply, Role.CAUSE))
    notes = []
    if bounce.message_id:
        notes.append(f"About the message {printable(bounce.message_id)}.")
    return Diagnosis(
        Kind.BOUNCE, bounce.kind.value, bounce.reporting_mta, tuple(accounts), tuple(findings), tuple(notes)
    )


# --- sentences -------------------------------------------------------------------------------------------------------


def _of_sentence(asked: str) -> Diagnosis:
    """An error message of some program with a reply somewhere in it."""
    asked = asked[:_MAX_SENTENCE]
    events = list(_in_exceptions(asked))
    if events:
        return _of_events("python exception", events, is_settled=False)
    reply = reply_in(asked)
    if not reply.code and not reply.status:
        nobody = unreached(asked) if len(asked) <= _MAX_SINGLE and "\n" not in asked else None
        if nobody is Stage.CONNECT:
            event = Event("", Outcome.TEMPORARY, Reply(0, "", (asked,)), nobody, "", "", 1)
            return _of_events("sentence", [event])
        found = meaning.look_up(asked[:_MAX_SINGLE])
        return Diagnosis(Kind.NOTHING, explanation=found, notes=found.notes)
    address = _ADDRESS.search(asked[:_MAX_REPLY])
    told = replace(reply, lines=tuple(line for line in reply.lines if line) or ("",))
    outcome = outcome_of(reply) if reply.code else _of_status(reply.status)
    event = Event(address[1] if address else "", outcome, told, stage_in(asked), "", "", 1)
    return _of_events("sentence", [event])


def _of_status(status: str) -> Outcome:
    return {"2": Outcome.ACCEPTED, "4": Outcome.TEMPORARY}.get(status[:1], Outcome.PERMANENT)


def _in_exceptions(asked: str) -> Iterable[Event]:
    """What smtplib and aiosmtplib raise."""
    for found in _EXCEPTION.finditer(asked):
        words = found["text"][1:-1].replace("\\n", f"\n{found['code']} ").replace("\\r", "")
        reply = meaning.read_reply(f"{found['code']} {words}")
        if reply is not None:
            line = asked.count("\n", 0, found.start()) + 1
            stage = Stage.RCPT if found["address"] else None
            yield Event(found["address"] or "", outcome_of(reply), reply, stage, "", "", line)
