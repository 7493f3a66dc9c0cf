"""Log lines that parse whatever a peer sent, and counters that agree with them."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox import observe
from pillarbox.observe import LogSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True, scope="module")
def _counting() -> None:
    observe.start_counting()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    log = Log(tmp_path / "log")
    yield log
    observe.configure(LogSettings(level="warning"))
    log.close()


class Log:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def configure(self, *, worker: int | None = None, **settings: object) -> None:
        observe.configure(msgspec.convert(settings, LogSettings), descriptor=self._descriptor, worker=worker)

    @property
    def raw(self) -> bytes:
        return self._path.read_bytes()

    @property
    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.raw.split(b"\n")[:-1]]

    def close(self) -> None:
        os.close(self._descriptor)


def test_away_from_a_terminal_an_event_is_one_json_object(log: Log) -> None:
    log.configure()
    observe.MESSAGE_RECEIVED.note(
        message="01", session="s1", cause="content.queued", octets=12, login="", helo=None
    )
    (line,) = log.lines
    assert str(line.pop("at")).endswith("Z")
    assert line == {
        "level": "info", "event": "message.received", "message": "01", "session": "s1", "cause": "content.queued",
        "octets": 12,
    }  # fmt: skip


HOSTILE = 'a\r\nb\x00\x1b[31m\x9b31m\u2028\u2029\x85\u202e"\\\udc80{event}%s\x7f'


@pytest.mark.parametrize("form", ["json", "text"])
def test_hostile_text_cannot_make_a_second_line_or_steer_a_terminal(log: Log, form: str) -> None:
    log.configure(format=form)
    observe.MESSAGE_RECEIVED.note(message="01", sender=HOSTILE, helo=HOSTILE.encode("utf-8", "surrogatepass"))
    text = log.raw.decode("utf-8")
    assert text.endswith("\n")
    assert text[:-1].splitlines() == [text[:-1]]
    assert text[:-1].isprintable()
    assert not set(text) & set("\x1b\x9b\x00\r\u202e")


@given(st.text(st.characters(codec=None), max_size=60), st.binary(max_size=60))
def test_every_line_parses_and_keeps_the_text(text: str, octets: bytes) -> None:
    read, write = os.pipe()
    try:
        observe.configure(LogSettings(format="json"), descriptor=write)
        observe.ALARM.note(problem=text or "x", octets=octets)
        line = os.read(read, 65536)
    finally:
        observe.configure(LogSettings(level="warning"))
        os.close(read)
        os.close(write)
    assert line.count(b"\n") == 1
    assert json.loads(line)["problem"] == (text or "x")


@pytest.mark.parametrize("odd", ["\xe4", "\udc80", "y" * 5000])
async def test_a_line_is_the_same_whatever_else_is_noted_in_the_same_turn(log: Log, odd: str) -> None:
    log.configure()
    long = "x" * 3000  # the line is not too long, so it is kept whole
    for senders in ([long], [odd], [long, odd, long]):
        observe.write_behind(asyncio.get_running_loop())
        for sender in senders:
            observe.MESSAGE_RECEIVED.note(sender=sender)
        observe.write_behind(None)
    alone, strange, *together = [{**line, "at": ""} for line in log.lines]
    assert alone["sender"] == long
    assert together == [alone, strange, alone]


def test_a_line_beyond_ascii_is_written_like_the_others(log: Log) -> None:
    log.configure()
    due = observe.moment(1_764_000_000.5)
    for sender in ("gross@example.org", "größe@example.org"):
        observe.DELIVERY_DEFERRED.note(message="01", sender=sender, reply='451 "later"', due=due)
    plain, wide = log.raw.decode().splitlines()
    at = len('{"at":"2026-11-27T13:42:04.823156Z"')
    assert wide[at:] == plain[at:].replace("gross", "größe")
    assert wide.startswith('{"at":"20')
    assert '"due":"2025-11-24T16:00:00.500000Z"' in wide


def test_a_huge_fact_is_cut(log: Log) -> None:
    log.configure()
    observe.MESSAGE_RECEIVED.note(message="01", sender="x" * 1_000_000)
    assert len(log.raw) < 3000


def test_a_terminal_gets_coloured_sentences_with_the_other_facts_behind() -> None:
    master, slave = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {
        "TERM": "xterm"
    }
    code = (
        "from pillarbox import observe\n"
        "observe.configure(observe.LogSettings())\n"
        "observe.MESSAGE_RECEIVED.note(message='01AB', sender='a@b.example', octets=3)"
    )
    subprocess.run([sys.executable, "-c", code], stderr=slave, check=True, env=environment)
    os.close(slave)
    shown = os.read(master, 4096).decode()
    os.close(master)
    assert "\x1b[32minfo" in shown
    assert "01AB received from <a@b.example>" in shown
    assert "octets=3" in shown


def test_levels_are_chosen_for_all_a_group_or_one_event(log: Log) -> None:
    log.configure(level="warning", levels={"session": "debug", "delivery.ok": "info"})
    for event in (
        observe.SESSION_OPENED,
        observe.DELIVERY_OK,
        observe.DELIVERY_DEFERRED,
        observe.MESSAGE_RECEIVED,
    ):
        event.note()
    assert [line["event"] for line in log.lines] == ["session.opened", "delivery.ok"]


def test_a_level_for_an_unknown_group_is_refused() -> None:
    with pytest.raises(ValueError, match=r'levels\."sesion": no event'):
        LogSettings(levels={"sesion": "debug"})


def test_the_worker_stands_in_every_line(log: Log) -> None:
    log.configure(worker=3)
    observe.MESSAGE_RECEIVED.note(message="01")
    assert log.lines[0]["worker"] == 3


def test_an_incident_is_logged_with_its_traceback_and_the_id_that_the_peer_sees(log: Log) -> None:
    log.configure()
    try:
        dict[str, str]()["missing"]
    except KeyError as error:
        incident = observe.report_incident(error, session="s1")
    (line,) = log.lines
    assert line["incident"] == incident
    assert "KeyError: 'missing'" in str(line["traceback"])
    assert line["session"] == "s1"


def test_a_log_that_cannot_be_written_does_not_stop_the_work() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    observe.configure(LogSettings(), descriptor=full)
    before = sample("pillarbox_log_lines_lost_total")
    observe.MESSAGE_RECEIVED.note(message="01")
    observe.configure(LogSettings(level="warning"))
    os.close(full)
    assert sample("pillarbox_log_lines_lost_total") == before + 1


def sample(name: str) -> float:
    """The value of one line of the exposition, 0 if it is not there."""
    for line in observe.exposition().decode().split("\n"):
        if line.startswith(name + " "):
            return float(line.rpartition(" ")[2])
    return 0.0


def test_events_are_counted_by_their_labels_even_when_not_written() -> None:
    name = 'pillarbox_reply_refused_total{cause="test.one",stage="rcpt"}'
    before = sample(name)
    observe.REPLY_REFUSED.note(cause="test.one", stage="rcpt", client="192.0.2.1")
    observe.REPLY_REFUSED.note(cause="test.one", stage="rcpt", client="192.0.2.2")
    assert sample(name) == before + 2


def test_a_peer_cannot_grow_the_metrics_without_bound() -> None:
    for number in range(observe.MAX_LABEL_SETS + 50):
        observe.HOOK_FAILED.note(hook=f"h{number}\n")
    text = observe.exposition().decode()
    assert text.count("pillarbox_hook_failed_total{") <= observe.MAX_LABEL_SETS + 1
    assert sample('pillarbox_hook_failed_total{hook="other"}') >= 50


def test_gauges_and_timings_are_exposed() -> None:
    observe.SESSIONS_OPEN.set(3)
    observe.QUEUE_RECIPIENTS.set(7, "held")
    observe.COMMIT_SECONDS.record(0.004)
    assert sample("pillarbox_sessions_open") == 3
    assert sample('pillarbox_queue_recipients{state="held"}') == 7
    assert sample('pillarbox_commit_seconds_bucket{le="0.005"}') >= 1


def test_where_nobody_reads_metrics_nothing_is_counted_and_the_library_is_not_loaded() -> None:
    code = """if True:
        import sys
        from pillarbox import observe
        observe.MESSAGE_RECEIVED.note(protocol="ESMTP")
        observe.SESSIONS_OPEN.set(5)
        observe.COMMIT_SECONDS.record(0.1)
        assert "prometheus_client" not in sys.modules
        observe.start_counting()
        observe.MESSAGE_RECEIVED.note(protocol="ESMTP")
        sys.stdout.write(observe.exposition().decode())
    """
    text = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert 'pillarbox_message_received_total{protocol="ESMTP"} 1.0' in text
    assert "pillarbox_sessions_open 0.0" in text
    assert "pillarbox_commit_seconds_count 0.0" in text


def test_workers_that_share_metrics_are_counted_together(tmp_path: Path) -> None:
    left = tmp_path / "metrics" / "999999999"
    left.mkdir(parents=True)
    (left / "counter_1.db").write_bytes(b"left behind by a process that was killed")
    running = tmp_path / "metrics" / str(os.getpid())
    running.mkdir()
    code = """if True:
        import os, sys
        from pathlib import Path
        from pillarbox import observe
        observe.share_metrics(Path(sys.argv[1]))
        for _ in range(2):
            pid = os.fork()
            if pid == 0:
                observe.MESSAGE_RECEIVED.note(protocol="ESMTP")
                observe.SESSIONS_OPEN.set(5)
                observe.QUEUE_RECIPIENTS.set(7, "held")
                os._exit(0)
            os.waitpid(pid, 0)
        observe.forget_worker(pid)
        sys.stdout.write(observe.exposition().decode())
    """
    command = [sys.executable, "-c", code, str(tmp_path / "metrics")]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert 'pillarbox_message_received_total{protocol="ESMTP"} 2.0' in text
    assert "pillarbox_sessions_open 5.0" in text  # the other one's connections ended with it
    assert 'pillarbox_queue_recipients{state="held"} 7.0' in text  # both see the same queue
    assert not left.exists()
    assert running.exists(), "another server that runs keeps its own"
