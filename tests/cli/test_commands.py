"""The commands about the queue, and those that explain, as real processes against a real server."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


def send(sandbox, *arguments: str):
    return sandbox.run("send", "--server", sandbox.address, *arguments)


def test_the_sandbox_says_what_to_try_next_and_that_works(sandbox, pillarbox) -> None:
    for command in re.findall(r"^  pillarbox (.+)$", sandbox.welcome, re.MULTILINE):
        assert pillarbox(*command.split()).status == 0, command


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
    assert "| Subject: A test from Pillarbox" in shown
    assert sandbox.queue("show", queue_id.lower(), "--message").out.endswith("This is a test.\r\n")
    traced = pillarbox("trace", queue_id, "--data", sandbox.data)
    assert "received" in traced.out
    assert (
        pillarbox("trace", queue_id, "--data", sandbox.data, "--json").json["steps"][0]["kind"] == "received"
    )


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
    assert removed.json == {"verb": "remove", "messages": 1, "recipients": 1}
    assert sandbox.messages("--recipient", "gone@remove.example") == []
    traced = pillarbox("trace", message["id"], "--data", sandbox.data, "--json").json
    assert [step["kind"] for step in traced["steps"]] == ["received", "removed"]
    assert sandbox.queue("show", message["id"], "--message").status == 66


def test_verbs_want_to_know_which_messages(sandbox) -> None:
    for verb in ("hold", "release", "retry", "bounce", "remove"):
        ran = sandbox.queue(verb)
        assert ran.status == 64
        assert "--all means all of them" in ran.err
    assert sandbox.queue("retry", "--sender", "nobody@no.example").out == "No message fits.\n"


def test_a_suspended_destination_is_resumed(sandbox) -> None:
    assert sandbox.queue("suspend", "mx:a.example", "--json").json["suspended"] == ["mx:a.example"]
    for chosen in ((), ("--recipient", "nobody@no.example")):
        assert "Nothing is sent to mx:a.example until" in sandbox.queue("list", *chosen).out
    assert sandbox.queue("resume", "mx:a.example", "--json").json["suspended"] == []
    assert "Nothing is sent" not in sandbox.queue("list").out
    ran = sandbox.queue("suspend", "a.example")
    assert ran.status == 64
    assert 'such as "mx:example.org"' in ran.err


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
    assert pillarbox("queue", "list", HOME=str(tmp_path)).status == 66


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


def test_a_password_becomes_a_hash_that_the_configuration_takes(pillarbox) -> None:
    ran = pillarbox("user", "hash", "--password-file", "-", input="secret\n")
    assert ran.out.startswith("$argon2id$")


def test_help_names_every_command(pillarbox) -> None:
    out = pillarbox("--help").out
    for command in ("serve", "send", "sendmail", "queue", "trace", "explain", "check-config"):
        assert f"\n  {command} " in out
