"""The commands about the queue, and those that explain, as real processes against a real server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pillarbox.cli.places import own_command
from pillarbox.cli.show import format_due
from pillarbox.cli.trace import _print
from pillarbox.control import Selection, Step, Timeline, spelt
from pillarbox.diagnose.meaning import look_up
from pillarbox.queue.ledger import ListedMessage, ListedRecipient
from pillarbox.queue.spool import State

if TYPE_CHECKING:
    from collections.abc import Callable

COMMAND = [sys.executable, "-m", "pillarbox"]


def on_terminal(command: list[str], columns: int) -> str:
    """What a command shows on a terminal that is so wide."""
    ours, theirs = os.openpty()
    with open(ours, "rb", buffering=0) as shown:  # noqa: PTH123 - a descriptor
        environment = os.environ | {"COLUMNS": str(columns), "NO_COLOR": "1"}
        subprocess.run(command, stdout=theirs, env=environment, check=True, timeout=30)
        os.close(theirs)
        return shown.read(65_536).decode()


def until(condition: Callable[[], bool]) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline


def send(sandbox, *arguments: str):
    return sandbox.run("send", "--server", sandbox.address, *arguments)


def test_the_sandbox_says_what_to_try_next_and_that_works(sandbox) -> None:
    """As it is typed into a shell, which need not find the program by its name."""
    commands = re.findall(r"^  (\S*pillarbox .+)$", sandbox.welcome, re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        newest = sandbox.messages()[-1]["id"] if "ID" in command else ""
        typed = command.replace("ID", newest)
        ran = subprocess.run(typed, shell=True, capture_output=True, text=True, check=False, timeout=30)
        assert ran.returncode == (69 if "explain 550" in command else 0), (command, ran)  # the reply's own
        assert ran.stdout


def test_it_is_called_as_the_shell_finds_it(tmp_path: Path, monkeypatch) -> None:
    for folder in ("near", "found", "other"):
        (tmp_path / folder).mkdir()
        script = tmp_path / folder / "pillarbox"
        script.touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "found"))
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "found/pillarbox")])
    assert own_command() == "pillarbox"
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "near/pillarbox")])
    assert own_command() == "near/pillarbox"
    monkeypatch.chdir(tmp_path / "near")
    assert own_command() == "./pillarbox"
    monkeypatch.setattr(sys, "argv", ["/some/where/pillarbox/__main__.py"])
    monkeypatch.setattr(sys, "executable", "/no such/python")
    assert own_command() == "'/no such/python' -m pillarbox"


def test_a_message_is_followed_from_send_to_trace(sandbox, pillarbox) -> None:
    sent = send(sandbox, "--to", "ann@one.example", "--to", "bob@two.example", "--from", "me@here.example")
    assert sent.status == 0
    queue_id = re.search(r"Queued as (\w{13})", sent.out)[1]  # type: ignore[index]
    (message,) = sandbox.messages("--recipient", "ann@one.example")
    assert message["id"] == queue_id
    assert [one["address"] for one in message["recipients"]] == ["ann@one.example", "bob@two.example"]
    assert {one["state"] for one in message["recipients"]} == {"held"}
    shown = sandbox.queue("show", queue_id, "--headers").out
    assert "from me@here.example" in shown
    assert "     by hold\n" in shown
    assert "| Subject: A test from Pillarbox" in shown
    assert sandbox.queue("show", queue_id.lower(), "--message").out.endswith("This is a test.\r\n")
    traced = pillarbox("trace", queue_id, "--data", sandbox.data)
    assert "received" in traced.out
    assert (
        pillarbox("trace", queue_id, "--data", sandbox.data, "--json").json["steps"][0]["kind"] == "received"
    )


def test_what_happened_to_many_is_told_once(sandbox, pillarbox) -> None:
    to = [f"user{number}@many.example" for number in range(30)]
    send(sandbox, *(f"--to={address}" for address in to), "--from", "<>")
    (message,) = sandbox.messages("--recipient", "@many.example")
    assert sandbox.queue("bounce", message["id"]).out == "30 recipients of 1 message to be given up.\n"
    until(lambda: not sandbox.messages("--recipient", "@many.example"))
    traced = pillarbox("trace", message["id"], "--data", sandbox.data)
    assert len(traced.out.splitlines()) < 25
    alike = ", ".join(to[:8]) + " and 22 more"
    assert f"  to {alike}: failed, 0 attempts\n" in traced.out
    assert f"failed     {alike}\n" in traced.out
    steps = pillarbox("trace", message["id"], "--data", sandbox.data, "--json").json["steps"]
    assert [step["recipient"] for step in steps if step["kind"] == "failed"] == to


def test_an_explanation_is_told_once_however_often_it_was_tried(capsys) -> None:
    explanation = look_up("451 4.3.0 Not now")
    detail = {"reply": "451 4.3.0 Not now", "origin": "peer", "host": "mx.example"}
    steps = tuple(
        Step(1000.0 * attempt, "deferred", f"{name}@x.example", detail | {"due": 1e9 + attempt}, explanation)
        for attempt in range(3)
        for name in ("ann", "bob")
    )
    _print(Timeline(ListedMessage(1, 0.0, 10, None, None, ()), steps))
    told = " ".join(capsys.readouterr().out.split())
    assert told.count("deferred ann@x.example, bob@x.example mx.example said: 451 4.3.0 Not now") == 3
    assert told.count(explanation.meaning) == 1
    assert told.count("next attempt") == 3


def test_where_a_mailbox_begins_in_a_folder_need_not_be_known() -> None:
    way, written = "maildir:/var/mail/./ann", "maildir:/var/mail/ann"
    recipient = ListedRecipient(
        0, "ann@x.example", "", State.QUEUED, active=False, due=0.0, destination=way, attempts=0, result=None
    )
    message = ListedMessage(1, 0.0, 10, None, None, (recipient,))
    assert spelt(way) == written
    for asked in (way, written, "/var/mail/ann"):
        assert Selection(destination=asked).matches(message, 1.0)


def test_a_mistyped_command_is_understood(pillarbox) -> None:
    ran = pillarbox("queu", "list")
    assert ran.status == 64
    assert "No such command 'queu'. Did you mean 'queue'?" in ran.err
    assert "Did you mean" not in pillarbox("fetch").err


def test_what_is_due_is_due_now_however_long_it_waited() -> None:
    assert format_due(0.0, 1000.0) == format_due(1000.5, 1000.0) == "now"
    assert format_due(1060.0, 1000.0) == "in 1m"


def test_messages_are_chosen_by_sender_recipient_and_age(sandbox) -> None:
    send(sandbox, "--to", "x@choose.example", "--from", "<>")
    send(sandbox, "--to", "y@choose.example", "--from", "s@sender.example")
    at_domain = ("--recipient", "@choose.example")
    assert len(sandbox.messages(*at_domain)) == 2
    assert len(sandbox.messages(*at_domain, "--sender", "<>")) == 1
    assert len(sandbox.messages(*at_domain, "--sender", "S@SENDER.example")) == 1
    assert sandbox.messages(*at_domain, "--older-than", "2h") == []
    assert len(sandbox.messages(*at_domain, "--destination", "hold:")) == 2
    assert sandbox.messages(*at_domain, "--state", "queued") == []
    assert len(sandbox.messages(*at_domain, "--limit", "1")) == 1


def test_removed_messages_leave_the_queue_and_keep_their_history(sandbox, pillarbox) -> None:
    send(sandbox, "--to", "gone@remove.example")
    (message,) = sandbox.messages("--recipient", "gone@remove.example")
    removed = sandbox.queue("remove", message["id"], "--json")
    assert removed.json == {"verb": "remove", "messages": 1, "recipients": 1, "others": 0, "held_again": 0}
    assert sandbox.messages("--recipient", "gone@remove.example") == []
    traced = pillarbox("trace", message["id"], "--data", sandbox.data, "--json").json
    assert [step["kind"] for step in traced["steps"]] == ["received", "removed"]
    assert sandbox.queue("show", message["id"], "--message").status == 66


def test_verbs_want_to_know_which_messages(sandbox) -> None:
    for verb in ("hold", "release", "retry", "bounce", "remove"):
        ran = sandbox.queue(verb)
        assert ran.status == 64
        assert "--all means all of them" in ran.err
    ran = sandbox.queue("retry", "--sender", "nobody@no.example")
    assert (ran.status, ran.out) == (1, "No message fits.\n")


def test_a_verb_for_a_recipient_is_about_no_other(sandbox) -> None:
    send(sandbox, "--to", "a@several.example", "--to", "b@several.example", "--to", "c@several.example")
    removed = sandbox.queue("remove", "--recipient", "b@several.example")
    assert removed.out == "1 recipient of 1 message removed. For 2 other recipients nothing changed.\n"
    (message,) = sandbox.messages("--recipient", "a@several.example")
    assert [one["state"] for one in message["recipients"]] == ["held", "removed", "held"]
    again = sandbox.queue("remove", message["id"], "--recipient", "b@several.example")
    assert (again.status, again.out) == (1, "There is nothing to remove in 1 message chosen.\n")
    bounced = sandbox.queue("bounce", message["id"], "--recipient", "c@several.example", "--json").json
    assert (bounced["recipients"], bounced["others"]) == (1, 1)


def test_what_is_held_by_its_route_is_said_to_be_held_again(sandbox) -> None:
    send(sandbox, "--to", "again@held.example")
    ran = sandbox.queue("release", "--recipient", "again@held.example")
    assert ran.out == (
        "1 recipient of 1 message released. 1 recipient will be held again at once, because the route is hold.\n"
    )


def test_the_last_line_of_a_list_counts_what_was_asked_for(sandbox) -> None:
    send(sandbox, "--to", "x@counted.example")
    sandbox.queue("remove", "--recipient", "x@counted.example")
    assert "wait" not in sandbox.queue("list", "--state", "removed", "--recipient", "x@counted.example").out
    send(sandbox, "--to", "y@counted.example")
    shown = sandbox.queue("list", "--state", "held", "--state", "removed", "--recipient", "@counted.example")
    assert [line.split()[4] for line in shown.out.splitlines()[1:3]] == ["held", "removed"]
    assert re.search(r"\d+ recipients? (is|are) held\.$", shown.out)


def test_an_id_stays_whole_on_a_narrow_terminal(sandbox) -> None:
    send(sandbox, "--to", f"{'long' * 12}@narrow.example", "--from", f"{'long' * 12}@narrow.example")
    (message,) = sandbox.messages("--recipient", "@narrow.example")
    command = [*COMMAND, "queue", "list", "--recipient", "@narrow.example", "--data", str(sandbox.data)]
    for columns in (80, 40):
        shown = on_terminal(command, columns)
        assert f"{message['id']} " in shown
        assert len(shown.splitlines()) == 4


def test_a_suspended_destination_is_resumed(sandbox) -> None:
    assert sandbox.queue("suspend", "mx:a.example", "--json").json["suspended"] == ["mx:a.example"]
    for chosen in ((), ("--recipient", "nobody@no.example")):
        assert "Nothing is sent to mx:a.example until" in sandbox.queue("list", *chosen).out
    assert sandbox.queue("resume", "mx:a.example", "--json").json["suspended"] == []
    assert "Nothing is sent" not in sandbox.queue("list").out
    ran = sandbox.queue("resume", "mx:a.example")
    assert (ran.status, ran.out) == (1, "mx:a.example was not suspended.\n")
    send(sandbox, "--to", "some@mail.example")
    ran = sandbox.queue("suspend", "a.example")
    assert ran.status == 64
    assert 'such as "mx:example.org"; there is mail for hold:' in ran.err


def test_unknown_ids_and_stores_are_said_to_be_so(sandbox, tmp_path: Path, pillarbox) -> None:
    assert "no message" in pillarbox("trace", "0000000000001", "--data", sandbox.data).err
    assert "not a queue id" in pillarbox("trace", "what?", "--data", sandbox.data).err
    ran = pillarbox("queue", "list", "--data", tmp_path)
    assert ran.status == 66
    assert "there is no mail store" in ran.err


def test_the_queue_is_listed_when_no_server_runs(sandbox, tmp_path: Path, pillarbox) -> None:
    config = tmp_path / "p.toml"
    config.write_text(f'data = "{sandbox.data}"\n')
    assert pillarbox("queue", "list", "--config", config).status == 0
    assert pillarbox("queue", "list", PILLARBOX_CONFIG=str(config)).status == 0
    for unset in ({}, {"PILLARBOX_CONFIG": ""}):
        ran = pillarbox("queue", "list", HOME=str(tmp_path), **unset)
        assert ran.status == 66
        assert f"no mail store in {tmp_path}" in ran.err


def test_hostile_addresses_do_not_reach_the_terminal(sandbox, pillarbox) -> None:
    send(
        sandbox, "--to", "\N{RIGHT-TO-LEFT OVERRIDE}evil@hostile.example", "--header", "Subject: \x1b[31mred"
    )
    message = sandbox.messages()[0]
    for ran in (
        sandbox.queue("list"),
        sandbox.queue("show", message["id"], "--headers"),
        pillarbox("trace", message["id"], "--data", sandbox.data),
    ):
        assert ran.status == 0
        assert not set(ran.out) & {"\x1b", "\N{RIGHT-TO-LEFT OVERRIDE}"}


@pytest.mark.parametrize("asked", [["550"], ["5.1.1"], ["envelope.relay_denied"], ["E550-1"]])
def test_codes_statuses_and_ids_are_looked_up(asked: list[str], pillarbox) -> None:
    ran = pillarbox("explain", *asked)
    assert ran.status == 0
    assert "what to do" in ran.out
    assert pillarbox("explain", *asked, "--json").json["explanation"]["known"] is True


POSTFIX = (
    "Nov 26 10:00:00 mx postfix/smtp[1234]: {id}: to=<joe@example.net>, relay=mx.example.net[192.0.2.1]:25, delay=0.5, "
    "delays=0.1/0/0.2/0.2, dsn=5.7.1, status=bounced (host mx.example.net[192.0.2.1] said: 550 5.7.1 Blocked "
    "(in reply to MAIL FROM command))"
)
BARE = (
    "220 mx.example.net ESMTP\nEHLO me.example\n250 mx.example.net\nMAIL FROM:<a@b.example>\n550 5.7.1 no\n"
)
BOUNCE = Path(__file__).parents[1] / "data" / "bounces" / "lhost-postfix-01.eml"


@pytest.mark.parametrize(
    ("asked", "heading"),
    [
        (POSTFIX.format(id="4F2A"), "A delivery or refusal, read as: postfix log"),
        (POSTFIX.format(id="4F2A12"), "A delivery or refusal, read as: postfix log"),
        (POSTFIX.partition("status=bounced ")[2], "A delivery or refusal, read as: an error message"),
        (BARE, "A session with mx.example.net, read as: lines without marks"),
        (BOUNCE.read_text(), "A bounce"),
        ("C: EHLO x\nS: 250 mx.example.net\n", "A session, read as: C: and S:"),
        ("", "Not known here"),
    ],
)
def test_a_paste_is_called_what_it_is(asked: str, heading: str, pillarbox) -> None:
    ran = pillarbox("explain", input=asked)
    assert ran.out.splitlines()[0] == heading
    assert "line 0" not in ran.out
    assert "in reply to" not in ran.out


def test_a_file_that_is_not_there_is_said_to_be_so(pillarbox) -> None:
    for name in ("bounce.eml", "mail/bounce", "SESSION.TXT"):
        ran = pillarbox("explain", name)
        assert (ran.status, ran.err) == (66, f"pillarbox: there is no file {name}\n")
    assert pillarbox("explain", "550 5.7.1 see https://help.example/x.txt").status == 69


@pytest.mark.parametrize(
    "asked", [["explain", "550"], ["queue", "list"], ["queue", "list", "--json"], ["--help"]]
)
def test_output_that_cannot_be_written_is_one_line(sandbox, asked: list[str]) -> None:
    environment = os.environ | {"PILLARBOX_CONFIG": ""}
    place = ["--data", str(sandbox.data)] if asked[0] == "queue" else []
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [*COMMAND, *asked, *place],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=environment,
        )
    assert (ran.returncode, ran.stderr) == (74, "pillarbox: cannot write: No space left on device\n")


def test_an_empty_paste_is_said_to_be_so(pillarbox) -> None:
    ran = pillarbox("explain", input="")
    assert (ran.status, "The text is empty." in ran.out) == (65, True)


def test_a_cause_is_told_once(pillarbox) -> None:
    out = pillarbox("explain", "envelope.relay_denied").out
    assert out.count("envelope.relay_denied") == out.count("may not relay") == 1
    assert "setting  policy.relay_networks" in out


def test_a_password_becomes_a_hash_that_the_configuration_takes(pillarbox) -> None:
    ran = pillarbox("user", "hash", "--password-file", "-", input="secret\n")
    assert ran.out.startswith("$argon2id$")


def test_help_names_every_command(pillarbox) -> None:
    out = pillarbox("--help").out
    for command in ("serve", "send", "sendmail", "queue", "trace", "explain", "check-config"):
        assert f"\n  {command} " in out


@pytest.mark.parametrize("group", ["queue", "suppression", "dkim", "user"])
def test_lists_of_commands_are_not_cut_off(group: str, pillarbox) -> None:
    out = pillarbox(group, "--help").out.partition("Commands:")[2]
    assert out
    assert not [line for line in out.splitlines() if line.endswith("...")]


def test_sendmail_tells_about_itself(pillarbox) -> None:
    ran = pillarbox("sendmail", "--help")
    assert (ran.status, "Usage: pillarbox sendmail" in ran.out, ran.err) == (0, True, "")
    assert pillarbox("sendmail").status == 64


@pytest.mark.parametrize(
    ("name", "words"),
    [("arf-02.eml", "complained about it"), ("rfc3834-01.eml", "a program answered it")],
)
def test_what_is_told_of_a_message_that_arrived_is_no_refusal(name: str, words: str, pillarbox) -> None:
    ran = pillarbox("explain", BOUNCE.with_name(name))
    assert (ran.status, words in ran.out) == (0, True)
    assert "refused" not in ran.out
