"""Declare every event and metric once, write one structured line an event, and count it.

What is worth noting is decided where it happens; the lasting history of a message is kept in the store, not here.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import IntEnum
from functools import cache, partial
from importlib import import_module
from threading import get_ident
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import msgspec

from pillarbox.mail.reply import escaped
from pillarbox.mail.spelling import nearest
from pillarbox.mail.units import Settings

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from prometheus_client import CollectorRegistry

LevelName = Literal["debug", "info", "warning", "error"]
MAX_VALUE_CHARACTERS = 2000  # of one fact; a traceback, which we make ourselves, may be longer
MAX_LINE_OCTETS = 4096  # a longer line is looked at again, fact by fact
_LINES_AT_ONCE = 64  # in one write
MAX_LABEL_SETS = 500  # of one metric; what comes later is counted as "other", so no peer can grow it
_MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"
_COLOURS = {"debug": "\033[2m", "info": "\033[32m", "warning": "\033[33m", "error": "\033[1;31m"}
_PLAIN = "\033[0m"


class Level(IntEnum):
    """How much an event matters."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40


class LogSettings(Settings, frozen=True):
    """What is written to the log, and how. The log goes to standard error."""

    level: LevelName = "info"
    """Events below this level are counted but not written."""
    format: Literal["auto", "text", "json"] = "auto"
    """`text` is for people, `json` one object a line; `auto` means text on a terminal and JSON elsewhere."""
    levels: dict[str, LevelName] = msgspec.field(default_factory=dict)
    """Levels for groups of events or single ones: `{ session = "debug", "delivery.ok" = "warning" }`."""

    def __post_init__(self) -> None:
        """Refuse names that no event has."""
        known = {event.name for event in Event.declared} | {event.group for event in Event.declared}
        for name in self.levels:
            if name not in known:
                close = nearest(name, sorted(known))
                advice = (
                    f'did you mean "{close}"?' if close else f"the groups are {', '.join(sorted(_groups()))}"
                )
                msg = f'levels."{name}": no event or group of events is called so; {advice}'
                raise ValueError(msg)


# --- metrics ----------------------------------------------------------------------------------------------------------


class Metric:
    """A family of numbers with one child for each set of label values. Nothing is counted before `start_counting`."""

    declared: ClassVar[list[Metric]] = []

    def __init__(
        self, kind: str, name: str, meaning: str, labels: tuple[str, ...] = (), **options: object
    ) -> None:
        self.name = f"pillarbox_{name}"
        self.kind = kind
        self.meaning = meaning
        self.labels = labels
        self._options = options
        self._children: dict[object, Any] = {}
        self._family: Any = None  # the library's own object, once counting has begun
        self.counting = False
        Metric.declared.append(self)

    def start(self) -> None:
        """Count from now on."""
        if self._family is None:
            make = getattr(import_module("prometheus_client"), self.kind)
            self._family = make(self.name, self.meaning, self.labels, registry=_registry(), **self._options)
            self.counting = True

    def child(self, values: tuple[object, ...] = ()) -> Any:
        """Find or make the number for these label values."""
        child = self._children.get(values)
        return self._new_child(values) if child is None else child

    def _new_child(self, values: tuple[object, ...]) -> Any:
        if len(self._children) >= MAX_LABEL_SETS:
            values = ("other",) * len(self.labels)
        child = self._family.labels(*(visible(str(value)) for value in values)) if values else self._family
        self._children[values] = child
        return child


class Counter(Metric):
    """How often something happened."""

    def __init__(self, name: str, meaning: str, labels: tuple[str, ...] = ()) -> None:
        """Declare it."""
        super().__init__("Counter", name, meaning, labels)

    def add(self, facts: Mapping[str, object]) -> None:
        """Count one, under the values that `facts` has for the labels."""
        if self._family is not None:
            values = tuple([facts.get(label, "") for label in self.labels]) if self.labels else ()
            self.child(values).inc()


class Gauge(Metric):
    """A number that goes up and down. `across` says how the values of several workers become one."""

    def __init__(
        self,
        name: str,
        meaning: str,
        labels: tuple[str, ...] = (),
        *,
        across: Literal["livesum", "mostrecent"],
    ) -> None:
        """Declare it."""
        super().__init__("Gauge", name, meaning, labels, multiprocess_mode=across)

    def set(self, value: float, *labels: str) -> None:
        """Set it."""
        if self._family is not None:
            self.child(labels).set(value)


class Timing(Metric):
    """How long something takes, in seconds, as a histogram."""

    def __init__(
        self, name: str, meaning: str, labels: tuple[str, ...] = (), *, buckets: Sequence[float]
    ) -> None:
        """Declare it."""
        super().__init__("Histogram", name, meaning, labels, buckets=buckets)

    def record(self, seconds: float, *labels: str) -> None:
        """Count one duration."""
        if self._family is not None:
            self.child(labels).observe(seconds)


# Every worker sees the whole queue, so what one of them counted last is the number; connections are each one's own.
QUEUE_RECIPIENTS = Gauge(
    "queue_recipients", "recipients in the queue: waiting, active or held", ("state",), across="mostrecent"
)
CERTIFICATE_LEFT = Gauge(
    "certificate_seconds_left",
    "how long a certificate is still valid; negative once it has ended",
    ("file",),
    across="mostrecent",
)
SESSIONS_OPEN = Gauge("sessions_open", "connections being served", across="livesum")
LOG_LINES_LOST = Counter("log_lines_lost", "log lines that could not be written")
COMMIT_SECONDS = Timing(
    "commit_seconds",
    "one transaction of the store, to the end of its sync",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5),
)
DELIVERY_SECONDS = Timing(
    "delivery_seconds",
    "length of one delivery attempt",
    ("transport",),
    buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 1200),
)


@cache
def _registry() -> CollectorRegistry:
    import prometheus_client  # noqa: PLC0415 - late, see start_counting

    registry = prometheus_client.CollectorRegistry()
    if _MULTIPROCESS not in os.environ:
        prometheus_client.ProcessCollector(registry=registry)
    return registry


def start_counting() -> None:
    """Count from now on, in this process and those that it starts.

    It loads a library, which takes some 70 ms; so call it before mail is served, and only where somebody reads metrics.
    """
    for metric in Metric.declared:
        metric.start()


def share_metrics(root: Path) -> Path:
    """Count from now on, several processes together through files in a folder of this process below `root`: its path.

    Call it in the parent before the workers start; they inherit it. What parents left there that were killed is removed.
    """
    if "prometheus_client" in sys.modules:
        msg = "metrics must be shared before counting starts"
        raise RuntimeError(msg)
    import shutil  # noqa: PLC0415 - only a parent of several workers needs it

    folder = root / str(os.getpid())
    for left in root.iterdir() if root.exists() else ():
        if left == folder or not _is_running(left.name):
            shutil.rmtree(left, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    os.environ[_MULTIPROCESS] = str(folder)
    start_counting()
    return folder


def _is_running(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return True


def forget_worker(pid: int) -> None:
    """Drop the live gauges of a worker that died, when metrics are shared."""
    if _MULTIPROCESS in os.environ:
        from prometheus_client import multiprocess  # noqa: PLC0415 - late, see start_counting

        multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]


def exposition() -> bytes:
    """All metrics, of all workers if they share them, in Prometheus' text format. Takes milliseconds: use a thread."""
    import prometheus_client  # noqa: PLC0415 - late, see start_counting
    from prometheus_client import multiprocess  # noqa: PLC0415

    registry = _registry()
    if _MULTIPROCESS in os.environ:
        registry = prometheus_client.CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return prometheus_client.generate_latest(registry)


# --- events -----------------------------------------------------------------------------------------------------------


class Event:
    """A kind of thing that happens: its name, its level, and the sentence for people.

    Each also feeds the counter `pillarbox_<name>_total`, split by the facts named in `labels`.
    """

    declared: ClassVar[list[Event]] = []

    def __init__(self, name: str, level: Level, text: str, *, labels: tuple[str, ...] = ()) -> None:
        """Declare it; `{fact}` in `text` is filled from the facts of the moment."""
        self.name = name
        self.group = name.partition(".")[0]
        self.level_name = level.name.lower()
        self.level = level
        self.text = text
        self.written = level >= Level.WARNING  # until `configure` says otherwise: a library keeps quiet
        self.counter = Counter(name.replace(".", "_"), f"{name} events", labels)
        Event.declared.append(self)

    def note(self, /, **facts: object) -> None:
        """Count the event and, if its level is on, write its line. Facts that are None or "" are left out.

        Never raises; text from outside may be passed as it came.
        """
        # Asked here too, because most events of a session are neither counted nor written.
        if self.counter.counting:
            self.counter.add(facts)
        if self.written:
            _log.write(self, facts)


SERVER_STARTED = Event("server.started", Level.INFO, "Pillarbox is running on {listeners}")
SERVER_STOPPING = Event("server.stopping", Level.INFO, "stopping: {reason}")
SERVER_STOPPED = Event("server.stopped", Level.INFO, "Pillarbox has stopped")
CONFIG_RELOADED = Event("config.reloaded", Level.INFO, "configuration read again")
CONFIG_UNWISE = Event("config.unwise", Level.WARNING, "configuration: {problem}")
CONFIG_WAITS = Event("config.waits", Level.WARNING, "changed, and only a restart takes it: {settings}")
CONFIG_REFUSED = Event(
    "config.refused", Level.ERROR, "new configuration refused, the old one stays: {problem}"
)
WORKER_STARTED = Event("worker.started", Level.INFO, "worker {worker} started")
WORKER_LOST = Event("worker.lost", Level.ERROR, "worker {worker} died: {reason}")
SESSION_OPENED = Event("session.opened", Level.DEBUG, "connection from {client}")
CLIENT_PRESENTED = Event("session.presented", Level.INFO, "{proxy} speaks for {client}")
PROXY_REFUSED = Event(
    "session.proxy_refused", Level.WARNING, "connection from {client} cut off: {problem}", labels=("problem",)
)
ACCEPT_FAILED = Event("session.not_accepted", Level.ERROR, "no connection can be accepted now: {problem}")
TLS_FAILED = Event("tls.failed", Level.INFO, "no TLS with {client}: {problem}", labels=("problem",))
SESSION_CLOSED = Event("session.closed", Level.DEBUG, "connection from {client} closed")
SESSION_ENDED = Event("session.ended", Level.INFO, "hung up on {client}: {cause}", labels=("cause",))
SESSION_REFUSED = Event("session.refused", Level.INFO, "connection from {client} refused", labels=("cause",))
MEMORY_SHORT = Event(
    "session.memory_short",
    Level.WARNING,
    "clients held {held} octets in memory; {sessions} that held most are cut off",
)
REPLY_REFUSED = Event("reply.refused", Level.INFO, "refused {client}: {reply}", labels=("cause", "stage"))
SCANNER_FAILED = Event("scanner.failed", Level.ERROR, "a scanner gives no verdict: {problem}")
CHECK_WARNED = Event(
    "check.warned", Level.INFO, "would have refused {client}: {reply}", labels=("cause", "stage")
)
CHECK_TAGGED = Event(
    "check.tagged", Level.INFO, "tags what {client} sends: {reply}", labels=("cause", "stage")
)
CHECK_PROVEN = Event(
    "check.proven", Level.INFO, "what was said of {client} rests on: {answers}", labels=("cause", "stage")
)
TARPIT_WARNED = Event("tarpit.warned", Level.INFO, "would have kept answers to {client} back for {seconds} s")
LOGIN_OK = Event("login.ok", Level.INFO, "{login} logged in from {client}", labels=("mechanism",))
ACCOUNTS_DOWN = Event("accounts.down", Level.ERROR, "accounts cannot be looked up: {problem}")
LOGIN_FAILED = Event(
    "login.failed", Level.WARNING, "login of {login} from {client} failed", labels=("mechanism",)
)
MESSAGE_RECEIVED = Event(
    "message.received", Level.INFO, "{message} received from <{sender}>", labels=("protocol",)
)
MESSAGE_INCOMPLETE = Event(
    "message.incomplete",
    Level.INFO,
    "{client} left after {octets} octets of a message from <{sender}>, before its end: it was not taken",
)
MESSAGE_REFUSED = Event(
    "message.refused", Level.INFO, "message from <{sender}> refused: {reply}", labels=("cause",)
)
MESSAGE_DAMAGED = Event(
    "message.damaged", Level.ERROR, "{message} cannot be read and was set aside: {problem}"
)
DELIVERY_OK = Event("delivery.ok", Level.INFO, "{message} to <{recipient}> delivered", labels=("transport",))
DELIVERY_DEFERRED = Event(
    "delivery.deferred",
    Level.INFO,
    "{message} to <{recipient}> deferred: {reply}",
    labels=("transport", "stage", "cause"),
)
DELIVERY_FAILED = Event(
    "delivery.failed",
    Level.WARNING,
    "{message} to <{recipient}> failed: {reply}",
    labels=("transport", "stage", "cause"),
)
DELIVERY_IN_DOUBT = Event(
    "delivery.in_doubt",
    Level.WARNING,
    "{message} to <{recipient}> may have arrived: {reply}",
    labels=("transport",),
)
ADDRESS_SUPPRESSED = Event(
    "address.suppressed", Level.INFO, "nothing more is sent to {entry}: {cause}", labels=("cause",)
)
BOUNCE_RETURNED = Event(
    "bounce.returned", Level.INFO, "{message} to <{recipient}> came back: {reply}", labels=("cause",)
)
BOUNCE_UNKNOWN = Event(
    "bounce.unknown", Level.INFO, "{message} is a bounce of a message that is not known here"
)
REPORT_QUEUED = Event(
    "report.queued", Level.INFO, "{message} reports {kind} of {cause_message}", labels=("kind",)
)
REPORT_SENT = Event("report.sent", Level.INFO, "{kind} report about {domain} sent to {to}", labels=("kind",))
REPORT_NOT_SENT = Event(
    "report.not_sent", Level.WARNING, "{kind} report about {domain} not sent: {problem}", labels=("kind",)
)
REPORT_READ = Event(
    "report.read", Level.INFO, "{kind} report of {organization} about {domain} read", labels=("kind",)
)
REPORT_UNREADABLE = Event(
    "report.unreadable", Level.WARNING, "{message} is no report that can be read: {problem}"
)
SPOOL_TROUBLE = Event("spool.trouble", Level.ERROR, "the store has trouble: {problem}")
HOOK_FAILED = Event(
    "hook.failed", Level.ERROR, "hook {hook} failed, incident {incident}: {error}", labels=("hook",)
)
DIRECTORY_TROUBLE = Event("directory.trouble", Level.ERROR, "{file} cannot be used: {problem}")
CERTIFICATE_LOADED = Event(
    "certificate.loaded", Level.INFO, "{file} was read again: a certificate for {names} until {until}"
)
CERTIFICATE_REFUSED = Event(
    "certificate.refused", Level.ERROR, "{file} cannot be used: it {problem}; in use stays {kept}"
)
CERTIFICATE_FOR_TESTS = Event(
    "certificate.self_signed",
    Level.WARNING,
    "tls.self_signed: clients are shown a certificate that nobody vouches for",
)
AUTHORITIES_LOADED = Event(
    "certificate.authorities", Level.INFO, "{file} was read again: whom to trust about clients"
)
CERTIFICATE_EXPIRES = Event("certificate.expires", Level.WARNING, "the certificate in {file} ends {until}")
ACME_ISSUED = Event("acme.issued", Level.INFO, "{authority} issued a certificate for {names}")
ACME_FAILED = Event(
    "acme.failed",
    Level.ERROR,
    "no certificate from {authority}: {problem}; clients get {kept}; the next try is in {again_s} s",
)
INCIDENT = Event("incident", Level.ERROR, "a bug, incident {incident}: {error}")
STS_TROUBLE = Event(
    "sts.trouble", Level.INFO, "no newer MTA-STS policy of {domain}: {problem}", labels=("kind",)
)
TLS_SESSION = Event("tls.session", Level.DEBUG, "{host} for {domain}: {detail}", labels=("policy", "result"))
TLS_DOWNGRADED = Event(
    "tls.downgraded", Level.WARNING, "{host} takes mail for {domain} less safely than before: {detail}"
)
ALARM = Event("alarm", Level.WARNING, "{problem}", labels=("cause",))


def moment(at: float) -> datetime:
    """A Unix time as a fact of an event."""
    return datetime.fromtimestamp(at, UTC)


def report_incident(error: BaseException, event: Event = INCIDENT, **facts: object) -> str:
    """Note a bug with its traceback; the id returned goes into the reply, so that the two can be matched.

    `event` is another one for what is not a bug of this server.
    """
    incident = secrets.token_hex(4)
    trace = "".join(traceback.format_exception(error, limit=-40))
    event.note(incident=incident, error=f"{type(error).__name__}: {error}", **facts, traceback=trace)
    return incident


def _groups() -> set[str]:
    return {event.group for event in Event.declared}


# --- lines ------------------------------------------------------------------------------------------------------------


_NOT_ASCII = re.compile(r"[^\x20-\x7e]")
_Noted = tuple[Event, Mapping[str, object], datetime]


class _Log:
    """Writes whole lines to a file descriptor, so that lines of several processes do not mix.

    Where a loop runs, the lines of one turn of it are made and written together in the turn after the next: much that is
    noted goes with an answer that somebody waits for, and that is on its way by then.
    """

    def __init__(self) -> None:
        self.descriptor = 2
        self.format: Callable[[Sequence[_Noted]], bytes] = _json_lines
        self.worker: int | None = None  # stands in every line when there are several
        self.soon: Callable[[Callable[[], None]], object] | None = None  # the loop's `call_soon`
        self._loop_thread = 0
        self._noted: list[_Noted] = []

    def write_behind(self, soon: Callable[[Callable[[], None]], object] | None) -> None:
        self.flush()
        self.soon = soon
        self._loop_thread = get_ident()

    def write(self, event: Event, facts: Mapping[str, object]) -> None:
        noted = (event, facts, datetime.now(UTC))
        if self.soon is None or get_ident() != self._loop_thread:
            self._put(self._lines([noted]))
            return
        if not self._noted:
            self.soon(self._flush_next)
        self._noted.append(noted)

    def _flush_next(self) -> None:
        if self.soon is not None:
            self.soon(self.flush)

    def flush(self) -> None:
        noted, self._noted = self._noted, []
        for start in range(0, len(noted), _LINES_AT_ONCE):
            self._put(self._lines(noted[start : start + _LINES_AT_ONCE]))

    def _lines(self, noted: Sequence[_Noted]) -> bytes:
        return self.format([(event, self._kept(facts), at) for event, facts, at in noted])

    def _kept(self, facts: Mapping[str, object]) -> Mapping[str, object]:
        """The facts that say something, and the worker."""
        if not all(facts.values()):
            facts = {name: value for name, value in facts.items() if value or value not in (None, "")}
        return facts if self.worker is None else {**facts, "worker": self.worker}

    def _put(self, rest: bytes) -> None:
        try:
            while rest:
                rest = rest[os.write(self.descriptor, rest) :]
        except OSError:  # a full disk or a reader that went away must not stop the mail
            LOG_LINES_LOST.add({})


def _json_lines(noted: Sequence[_Noted]) -> bytes:
    """For each one JSON object in printable characters and a newline."""
    lines = [
        {"at": at, "level": event.level_name, "event": event.name, **facts} for event, facts, at in noted
    ]
    try:
        encoded = _encoder.encode_lines(lines)
        if encoded.isascii() and max(map(len, encoded.split(b"\n"))) <= MAX_LINE_OCTETS:
            return encoded
    except (ValueError, TypeError):  # a lone surrogate, from octets that are no UTF-8
        pass
    if len(noted) > 1:
        return b"".join([_json_lines([one]) for one in noted])
    return _json_line(lines[0])


def _json_line(line: dict[str, Any]) -> bytes:
    """The same for a line that has more than ASCII in it, or is long: what does not print is escaped as JSON has it."""
    safe = {name: _shorten(name, value) for name, value in line.items()}
    import json  # noqa: PLC0415 - rarely needed, and a start would have to wait

    text = json.dumps(msgspec.to_builtins(safe, enc_hook=str), ensure_ascii=False, separators=(",", ":"))
    return b"%s\n" % _NOT_ASCII.sub(_printing, text).encode("utf-8")


def _printing(found: re.Match[str]) -> str:
    """A character as it may stand in a line; of what does not print the two halves that JSON knows."""
    if found[0].isprintable():
        return found[0]
    halves = found[0].encode("utf-16-be", "surrogatepass")
    return "".join([f"\\u{halves[at : at + 2].hex()}" for at in range(0, len(halves), 2)])


_encoder = msgspec.json.Encoder(enc_hook=str)


def _shorten(name: str, value: object) -> object:
    if value is None or isinstance(value, bool | int | float | datetime):
        return value
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
    return text if name == "traceback" else text[:MAX_VALUE_CHARACTERS]


class _Shown(dict[str, str]):
    """Facts as shown inside a sentence; remembers which were used."""

    def __init__(self, facts: Mapping[str, object]) -> None:
        super().__init__({name: visible(str(_shorten(name, value))) for name, value in facts.items()})
        self.used: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.used.add(name)
        return self.get(name, "")


def _text_lines(noted: Sequence[_Noted], *, colour: bool) -> bytes:
    return b"".join([_text_line(*one, colour=colour) for one in noted])


def _text_line(event: Event, facts: Mapping[str, object], at: datetime, *, colour: bool) -> bytes:
    """Time, level, the sentence, then the facts it does not mention; a traceback on lines of its own."""
    trace = str(facts.get("traceback", ""))
    shown = _Shown({name: value for name, value in facts.items() if name != "traceback"})
    sentence = event.text.format_map(shown)
    others = " ".join(f"{name}={value}" for name, value in shown.items() if name not in shown.used)
    before, after = (_COLOURS[event.level_name], _PLAIN) if colour else ("", "")
    dim = _COLOURS["debug"] if colour else ""
    clock = at.astimezone().strftime("%H:%M:%S.%f")[:-3]
    line = (
        f"{dim}{clock}{after} {before}{event.level_name:7}{after} {sentence}  {dim}{others}{after}".rstrip()
    )
    traced = "".join(f"\n    {visible(row)}" for row in trace.split("\n") if row)
    return f"{line}{traced}\n".encode("utf-8", "backslashreplace")


def visible(text: str) -> str:
    """Escape everything that does not print: controls, line ends, and what turns the reading direction."""
    if text.isprintable():
        return text
    return "".join([c if c.isprintable() else escaped(c) for c in text])


_log = _Log()


def write_behind(loop: asyncio.AbstractEventLoop | None) -> None:
    """Write the lines noted in one turn of `loop`, which runs in this thread, together; None ends it."""
    _log.write_behind(loop.call_soon if loop is not None else None)


def configure(settings: LogSettings, *, descriptor: int = 2, worker: int | None = None) -> None:
    """Apply the settings to this process; may be called again on reload. `worker` is added to every line."""
    for event in Event.declared:
        chosen = settings.levels.get(event.name) or settings.levels.get(event.group) or settings.level
        event.written = event.level >= Level[chosen.upper()]
    terminal = os.isatty(descriptor)
    _log.descriptor = descriptor
    _log.worker = worker
    if settings.format == "text" or (settings.format == "auto" and terminal):
        colour = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        _log.format = partial(_text_lines, colour=colour)
    else:
        _log.format = _json_lines
