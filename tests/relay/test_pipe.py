import asyncio
import os
import time
from pathlib import Path

import pytest

from pillarbox.mail.envelope import Body, Envelope, Recipient
from pillarbox.mail.route import Route, Transport
from pillarbox.mail.units import Seconds
from pillarbox.queue.spool import Content, Pending, Queued, format_id
from pillarbox.relay.local import LocalCouriers, LocalSettings
from pillarbox.relay.pipe import KEPT_OUTPUT_OCTETS, ProgramSettings, UnsafeArgumentError, fill_command, judge

ROUTE = Route(Transport.PIPE, "tool")


def make_queued(*recipients, sender="bob@example.net", body=b"Subject: hi\r\n\r\nbody\r\n", path=None):
    made = tuple(map(Recipient, recipients or ("alice+tag@example.org",)))
    pending = [Pending(0x123456789, number, recipient, ROUTE, 0.0) for number, recipient in enumerate(made)]
    content = Content(b"Received: x\r\n", None if path else body, path, len(body))
    return Queued(0x123456789, Envelope(sender, made, Body.EIGHT_BIT), 1000.0, pending, content)


async def run(command, queued=None, **settings):
    program = ProgramSettings(command=command, **settings)
    couriers = LocalCouriers(LocalSettings(program={"tool": program}), hostname="mx.example.org")
    try:
        results = await couriers(ROUTE).deliver(queued or make_queued())
    finally:
        await couriers.close()
    replies = [result.reply for result in results.values()]
    return replies[0] if len(replies) == 1 else replies


def shell(script, *arguments):
    return ["/bin/sh", "-c", script, "sh", *arguments]


async def test_a_program_gets_the_message_and_its_arguments_unsplit(tmp_path):
    out = tmp_path / "out"
    script = 'for a in "$@"; do echo "<$a>"; done > "$OUT"; env -0 | tr "\\0" "\\n" | cut -d= -f1 | sort >> "$OUT"; cat >> "$OUT"'
    arguments = [
        "{sender}",
        "{recipient}",
        "{user}",
        "{tag}",
        "{domain}",
        "{queue_id}",
        "--to={user}@x",
        "; $(id)",
    ]
    queued = make_queued("a b;$(touch x)+t*g@example.org", sender="")
    reply = await run(shell(script, *arguments), queued, environment={"OUT": str(out)}, folder=str(tmp_path))
    assert reply.cause_id == "delivery.delivered"
    lines = out.read_bytes().split(b"\n")
    assert lines[:8] == [
        b"<>",
        b"<a b;$(touch x)+t*g@example.org>",
        b"<a b;$(touch x)>",
        b"<t*g>",
        b"<example.org>",
        f"<{format_id(0x123456789)}>".encode(),
        b"<--to=a b;$(touch x)@x>",
        b"<; $(id)>",
    ]
    assert set(lines[8 : lines.index(b"Return-Path: <>")]) <= {
        b"LANG",
        b"OUT",
        b"PATH",
        b"PWD",
        b"SHLVL",
        b"_",
        b"OLDPWD",
    }
    assert out.read_bytes().endswith(
        b"Return-Path: <>\nDelivered-To: a b;$(touch x)+t*g@example.org\nReceived: x\nSubject: hi\n\nbody\n"
    )


async def test_it_runs_once_for_each_recipient():
    replies = await run(shell('test "$1" = alice', "{user}"), make_queued("alice@a.example", "bob@b.example"))
    assert [reply.positive for reply in replies] == [True, False]


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (0, "delivered"),
        (1, "program_deferred"),
        (64, "program_deferred"),
        (65, "program_refused"),
        (66, "program_refused"),
        (67, "program_no_user"),
        (68, "program_refused"),
        (69, "program_deferred"),
        (70, "program_deferred"),
        (71, "program_deferred"),
        (72, "program_deferred"),
        (73, "program_deferred"),
        (74, "program_deferred"),
        (75, "program_deferred"),
        (76, "program_refused"),
        (77, "program_not_allowed"),
        (78, "program_deferred"),
        (99, "program_deferred"),
        (127, "program_deferred"),
        (-9, "program_deferred"),
        (255, "program_deferred"),
    ],
)
def test_exit_statuses(status, cause):
    assert judge(status, b"").cause_id == f"delivery.{cause}"


async def test_the_output_is_bounded_and_made_printable():
    reply = await run(shell("printf 'no \\033[31mred\\r\\n550 injected'; exit 65"))
    assert reply.cause_id == "delivery.program_refused"
    assert "no \\x1b[31mred 550 injected" in reply.text
    assert len(reply.lines) == 1
    assert judge(65, "groß\r\n".encode() + b"\xe9").text.endswith(r": groß \xe9")
    assert len(judge(65, ("€" * 3000).encode()).wire) <= 512
    flood = await run(shell("head -c 50000000 /dev/zero | tr '\\0' x; exit 75"))
    assert flood.cause_id == "delivery.program_deferred"
    assert len(flood.text) < KEPT_OUTPUT_OCTETS


async def test_a_signal_is_temporary():
    reply = await run(shell("kill -SEGV $$"))
    assert reply.cause_id == "delivery.program_deferred"
    assert reply.text == "The program has not taken it (ended by signal 11): no output"


async def test_a_program_that_is_missing_or_not_executable_defers(tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("x")
    for command in ([str(tmp_path / "none")], [str(plain)]):
        reply = await run(command)
        assert reply.cause_id == "delivery.program_deferred"
        assert reply.text.startswith("The program has not taken it (it could not be started): ")
    reply = await run(shell("exit 0"), folder=str(tmp_path / "gone"))
    assert reply.cause_id == "delivery.program_deferred"


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_slow_program_is_killed_with_its_children(tmp_path):
    pids = tmp_path / "pids"
    script = 'sleep 600 & echo $! > "$1"; echo $$ >> "$1"; trap "" TERM; sleep 600'
    started = time.monotonic()
    reply = await run(shell(script, str(pids)), limit_s=Seconds(1.0))
    assert reply.cause_id == "delivery.program_timeout"
    assert time.monotonic() - started < 30
    await until(lambda: not any(map(is_alive, pids.read_text().split())))


async def test_a_child_that_lives_on_does_not_hold_the_queue(tmp_path):
    pid = tmp_path / "pid"
    started = time.monotonic()
    reply = await run(shell('sleep 600 & echo $! > "$1"; exit 0', str(pid)))
    os.kill(int(pid.read_text()), 9)
    assert reply.positive
    assert time.monotonic() - started < 60


async def test_a_program_may_leave_the_message_unread(tmp_path):
    body = tmp_path / "body"
    body.write_bytes(b"x" * 5_000_000)
    assert (await run(["/bin/true"], make_queued(path=body))).positive
    assert (await run(["/bin/true"], make_queued(body=b"x" * 1_000_000))).positive
    assert (await run(shell("exec <&-; sleep 0.1; exit 67"), make_queued(path=body))).cause_id == (
        "delivery.program_no_user"
    )


async def test_a_large_message_from_a_file_arrives_whole(tmp_path):
    body = tmp_path / "body"
    body.write_bytes(b"Subject: x\r\n\r\n" + b"0123456789abcde\r\n" * 200_000)
    out = tmp_path / "out"
    assert (await run(shell('cat > "$1"', str(out)), make_queued(path=body))).positive
    assert out.read_bytes().endswith(body.read_bytes().replace(b"\r\n", b"\n"))


@pytest.mark.parametrize("turn_s", [0.0, 0.05])
async def test_a_cancelled_delivery_ends_its_program_and_its_children(tmp_path, turn_s):
    """Also when slow turns of the loop let the program run on before its start is reported."""
    pids = tmp_path / "pids"
    task = asyncio.ensure_future(run(shell('sleep 600 & echo $$ $! > "$1"; wait', str(pids))))
    async with asyncio.timeout(20):
        while not (pids.exists() and pids.read_text()):
            await asyncio.sleep(0)
            time.sleep(turn_s)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    program, child = pids.read_text().split()
    assert not is_alive(program)
    await until(lambda: not is_alive(child))


@pytest.mark.parametrize("recipient", ["-rf@example.org", "--help+x@example.org"])
async def test_an_address_is_never_taken_for_an_option(recipient):
    reply = await run(shell("exit 0", "{user}"), make_queued(recipient))
    assert reply.cause_id == "delivery.program_unsafe"
    assert (
        reply.text
        == "The program was not run: its argument {user} would begin with a hyphen, as an option does"
    )
    assert (await run(shell("exit 0", "--user={user}", "x{user}"), make_queued(recipient))).positive


def test_arguments_that_cannot_be_passed():
    with pytest.raises(UnsafeArgumentError, match="NUL"):
        fill_command(["/x", "a{user}"], {"user": "\0"})
    assert fill_command(["/x", "{user}{tag}"], {"user": "{tag}", "tag": "t"}) == ["/x", "{tag}t"]


@pytest.mark.parametrize(
    "command", [[], ["cat"], ["{user}"], ["/bin/{user}"], ["/bin/x", "{name}"], ["/x", "\0"]]
)
def test_unsafe_commands_are_refused_by_the_configuration(command):
    with pytest.raises(ValueError, match="command"):
        ProgramSettings(command=command)
