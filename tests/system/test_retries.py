"""What becomes of mail that cannot be delivered at once: retries, doubt, and what an operator does about it."""

from __future__ import annotations

from datetime import datetime

import pytest

from pillarbox.testing import Drop, Late, ScriptedPeer


def configuration(tmp_path, port, retry='first = "50ms"\nmax = "200ms"', extra=""):
    return f"""
[limits]
min_free = 0
[queue.retry]
{retry}
[[listen]]
address = "127.0.0.1:0"
[[route]]
match = "*"
via = "smtp://127.0.0.1:{port}"
[domain."sender.example"]
deliver = "maildir:{tmp_path}/mail/{{user}}"
{extra}"""


SLOW = 'first = "1h"\nmax = "4h"'


def kinds(server, sent):
    """The steps of a message's history, in order, without those of other recipients."""
    return [step["kind"] for step in server.command("trace", sent.id)["steps"]]


# --- by itself


async def test_a_host_that_is_busy_gets_the_message_later(serve, send, tmp_path):
    script = {"MAIL": ["451 4.3.2 busy", "250 2.1.0 ok"], "RCPT": ["450 4.2.1 locked", "250 2.1.5 ok"]}
    async with ScriptedPeer(script | {".": ["451 4.3.0 no", "250 2.0.0 kept"]}, extensions=()) as peer:
        server = await serve(configuration(tmp_path, peer.port))
        sent = await send(server.port, "x@far.example")
        done = await server.reached("delivered", sent.id)
        assert len(set(peer.messages)) == 1
    assert (done["attempts"], done["reply"]) == (4, "250 2.0.0 kept")
    timeline = server.command("trace", sent.id)
    assert [step["kind"] for step in timeline["steps"]] == ["received", *["deferred"] * 3, "delivered"]
    replies = ["451 4.3.2 busy", "450 4.2.1 locked", "451 4.3.0 no", "250 2.0.0 kept"]
    assert [step["reply"] for step in timeline["steps"][1:]] == replies
    assert [step["stage"] for step in timeline["steps"][1:]] == ["mail", "rcpt", "body", "body"]
    assert timeline["steps"][1]["explanation"]["known"]


async def test_a_host_that_is_left_alone_is_not_told_to_have_answered(serve, send, tmp_path):
    async with ScriptedPeer({"connect": [Drop("421 busy"), Drop("421 busy"), "220 peer.test"]}) as peer:
        rest = '[relay]\ndead = "400ms"\n'
        server = await serve(configuration(tmp_path, peer.port, 'first = "50ms"\nmax = "2s"', rest))
        sent = await send(server.port, "x@far.example")
        done = await server.reached("delivered", sent.id)
        assert (done["attempts"], len(peer.visits)) == (3, 3)
    assert kinds(server, sent) == ["received", "deferred", "deferred", "delivered"]


async def test_the_waits_grow(serve, send, tmp_path):
    async with ScriptedPeer({"RCPT": "451 4.3.0 no"}) as peer:
        server = await serve(configuration(tmp_path, peer.port, 'first = "200ms"\nfactor = 3.0\nmax = "1h"'))
        sent = await send(server.port, "x@far.example")
        steps = await server.until(
            lambda: (found := server.command("trace", sent.id)["steps"])[3:] and found[1:4]
        )
        events = server.events("delivery.deferred", message=sent.id)
    waits = [step["due"] - at(event) for step, event in zip(steps, events, strict=False)]
    assert waits == pytest.approx([0.2, 0.6, 1.8], abs=0.19)


def at(event):
    return datetime.fromisoformat(event["at"]).timestamp()


async def test_only_those_who_were_refused_for_now_are_tried_again(serve, send, tmp_path):
    async with ScriptedPeer({"RCPT": ["250 ok", "450 4.2.1 locked", "250 ok", "250 ok"]}) as peer:
        server = await serve(configuration(tmp_path, peer.port))
        sent = await send(server.port, *(f"u{number}@far.example" for number in range(3)))
        for number in range(3):
            await server.reached("delivered", sent.id, number)
        asked = [command.split("<")[1].split("@")[0] for command in peer.commands if "RCPT" in command]
        assert asked == ["u0", "u1", "u2", "u1"]
        assert len(peer.messages) == 2


async def test_a_connection_lost_behind_the_final_dot_leaves_the_message_in_doubt(serve, send, tmp_path):
    async with ScriptedPeer({".": [Drop(), Drop(reset=True), "250 2.0.0 kept"]}) as peer:
        server = await serve(configuration(tmp_path, peer.port, SLOW))
        sent = await send(server.port, "x@far.example")
        waiting = await server.reached("queued", sent.id)
        assert (waiting["cause"], waiting["stage"]) == ("delivery.in_doubt", "body")
        assert waiting["host"] == f"[127.0.0.1]:{peer.port}"
        assert "the message may have arrived" in waiting["reply"]
        (listed,) = server.queue()
        assert listed["recipients"][0]["cause"] == "delivery.in_doubt"
        assert await server.logged("delivery.in_doubt", message=sent.id)
        (step,) = [step for step in server.command("trace", sent.id)["steps"] if step["kind"] == "deferred"]
        assert step["explanation"]["advice"] == "If the message arrives twice, this is the reason."
        for attempts in (2, 3):
            server.command("queue", "retry", sent.id)
            await server.until(lambda attempts=attempts: server.recipient(sent.id)["attempts"] == attempts)
        assert server.recipient(sent.id)["state"] == "delivered"
        assert len(peer.messages) == 3
        assert len(set(peer.messages)) == 1, (
            "the same octets, so that the host can see that they are the same"
        )


async def test_a_connection_lost_before_the_final_dot_leaves_no_doubt(serve, send, tmp_path):
    async with ScriptedPeer({"DATA": [Drop("354 go on"), "354 go on"]}) as peer:
        server = await serve(configuration(tmp_path, peer.port))
        sent = await send(server.port, "x@far.example", message=b"From: x\r\n\r\n" + b"x" * 70 + b"\r\n")
        await server.reached("delivered", sent.id)
        assert len(peer.messages) == 1


# --- what operators do


async def test_retry_tries_at_once_a_host_that_has_come_back(serve, send, free_port, tmp_path):
    port = free_port()
    server = await serve(configuration(tmp_path, port, SLOW))
    sent = [await send(server.port, f"u{number}@far.example") for number in range(5)]
    heard = [await server.reached("queued", one.id) for one in sent]
    assert heard[0]["cause"] == "delivery.connect_failed"
    assert {one["cause"] for one in heard} <= {"delivery.connect_failed", "delivery.left_alone"}
    assert [one["id"] for one in server.queue("--destination", f"smtp://127.0.0.1:{port}")]
    async with ScriptedPeer(port=port) as peer:
        retried = server.command("queue", "retry", "--all")
        assert (retried["messages"], retried["recipients"]) == (5, 5)
        for one in sent:
            await server.reached("delivered", one.id)
        assert len(peer.messages) == 5
    assert server.queue() == []


async def test_held_mail_waits_until_it_is_released(serve, send, tmp_path):
    async with ScriptedPeer({"RCPT": ["451 4.3.0 not yet", "250 2.1.5 ok"]}) as peer:
        server = await serve(configuration(tmp_path, peer.port, SLOW))
        sent = await send(server.port, "x@far.example")
        await server.reached("queued", sent.id)
        assert server.command("queue", "hold", sent.id)["recipients"] == 1
        assert server.queue("--state", "held")[0]["id"] == sent.id
        assert server.command("queue", "retry", sent.id)["recipients"] == 0, "what is held is not retried"
        assert server.command("queue", "release", sent.id)["recipients"] == 1
        await server.reached("delivered", sent.id)
        assert kinds(server, sent) == ["received", "deferred", "held", "released", "delivered"]


async def test_removed_mail_is_gone_and_nobody_is_told(serve, send, mailbox, tmp_path):
    async with ScriptedPeer({"RCPT": ["451 4.3.0 not yet"]}) as peer:
        server = await serve(configuration(tmp_path, peer.port, SLOW))
        sent = await send(server.port, "x@far.example", "y@far.example")
        await server.reached("queued", sent.id, 1)
        assert server.command("queue", "remove", "--recipient", "@far.example")["messages"] == 1
        assert server.recipient(sent.id)["state"] == "removed"
        assert server.queue() == []
        mail = await send(server.port, "a@sender.example")
        await server.reached("delivered", mail.id)
        assert len(mailbox("a").files) == 1
        assert len([command for command in peer.commands if command.startswith("RCPT")]) == 2


@pytest.mark.parametrize(("verb", "state"), [("remove", "removed"), ("bounce", "failed"), ("hold", "held")])
async def test_what_an_operator_does_with_one_recipient_concerns_no_other(serve, send, tmp_path, verb, state):
    async with ScriptedPeer({"RCPT": ["451 4.3.0 not yet"] * 3 + ["250 2.1.5 ok"]}) as peer:
        server = await serve(configuration(tmp_path, peer.port, SLOW))
        sent = await send(server.port, "x@far.example", "y@far.example", "z@far.example")
        for number in range(3):
            await server.reached("queued", sent.id, number)
        done = server.command("queue", verb, "--recipient", "Y@far.example")
        assert (done["messages"], done["recipients"], done["others"]) == (1, 1, 2)
        server.command("queue", "retry", sent.id)
        for number, becomes in enumerate(("delivered", state, "delivered")):
            await server.reached(becomes, sent.id, number)
        asked = [command for command in peer.commands if command.startswith("RCPT")]
        assert [command.split("<")[1][0] for command in asked] == ["x", "y", "z", "x", "z"]


@pytest.mark.parametrize("first", ["", "hold"])
async def test_bounced_mail_goes_back_with_a_report(serve, send, mailbox, tmp_path, first):
    async with ScriptedPeer({"RCPT": "451 4.3.0 not yet"}) as peer:
        server = await serve(configuration(tmp_path, peer.port, SLOW))
        sent = await send(server.port, "x@far.example")
        await server.reached("queued", sent.id)
        if first:
            server.command("queue", first, sent.id)
        server.command("queue", "bounce", "--sender", "a@sender.example")
        failed = await server.reached("failed", sent.id)
        assert failed["cause"] == "delivery.bounced_by_operator"
        assert failed["attempts"] == 1, "nobody was asked again"
        (report,) = await mailbox("a").filled()
        assert "The operator sent the message back." in " ".join(report.get_body().get_content().split())
        assert kinds(server, sent)[-3:] == ["bounced", "failed", "reported"]
        await server.until(lambda: server.queue() == [])


async def test_a_suspended_destination_gets_nothing_until_it_is_resumed(serve, send, tmp_path):
    async with ScriptedPeer() as peer, ScriptedPeer({"RCPT": ["451 4.3.0 no", "250 2.1.5 ok"]}) as other:
        text = configuration(tmp_path, peer.port, SLOW).replace('match = "*"', 'match = "far.example"')
        server = await serve(f'{text}\n[[route]]\nmatch = "*"\nvia = "smtp://127.0.0.1:{other.port}"\n')
        seen = await send(server.port, "y@else.example")
        await server.reached("queued", seen.id)
        name = f"smtp://127.0.0.1:{peer.port}"
        assert server.command("queue", "suspend", name)["suspended"] == [name]
        server.command("queue", "retry", seen.id)
        await server.reached("delivered", seen.id)  # the worker has seen this verb, and so the one before
        sent = await send(server.port, "x@far.example", "y@else.example")
        await server.reached("delivered", sent.id, 1)
        waiting = await server.reached("queued", sent.id)
        assert (peer.visits, waiting["attempts"]) == ([], 0)
        assert server.command("queue", "resume", name)["suspended"] == []
        await server.reached("delivered", sent.id)
        assert len(peer.messages) == 1


# --- while an attempt is under way


@pytest.mark.parametrize(
    ("verb", "answer", "state"),
    [
        ("hold", "451 4.3.0 no", "held"),
        ("hold", "250 2.0.0 kept", "delivered"),
        ("remove", "451 4.3.0 no", "removed"),
        ("remove", "250 2.0.0 kept", "removed"),
        ("bounce", "451 4.3.0 no", "failed"),
    ],
)
async def test_a_verb_during_an_attempt_is_obeyed_when_the_attempt_ends(
    serve, send, tmp_path, verb, answer, state
):
    async with ScriptedPeer({".": Late(0.3, answer)}) as peer:
        server = await serve(configuration(tmp_path, peer.port, SLOW))
        sent = await send(server.port, "x@far.example")
        await peer.until(lambda: peer.messages)
        assert server.recipient(sent.id)["active"]
        assert server.command("queue", verb, sent.id)["recipients"] == 1
        ends = ("delivery.ok", "delivery.deferred")
        await server.until(lambda: any(server.events(end, message=sent.id) for end in ends))
        await server.reached(state, sent.id)
        listed = [one["id"] for one in server.queue() if one["sender"]]
        assert listed == ([sent.id] if state == "held" else [])
        assert len(peer.messages) == 1
