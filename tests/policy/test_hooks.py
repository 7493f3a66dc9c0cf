"""Hooks: the first opinion wins, and whatever else a plugin does puts the mail off."""

import asyncio
import threading
from types import SimpleNamespace

import pytest

from pillarbox import observe
from pillarbox.mail.catalogue import content, envelope
from pillarbox.policy.hooks import HOOKS, Hooks, Plugin


def plugin(**hooks):
    return SimpleNamespace(**hooks)


@pytest.fixture(autouse=True)
def noted(monkeypatch):
    events = []
    monkeypatch.setattr(observe._log, "write", lambda event, facts: events.append((event.name, dict(facts))))
    return events


async def test_without_plugins_nobody_is_asked():
    hooks = Hooks()
    assert not hooks.wanted
    assert await hooks.decide("decide_mail", None, None) is None


async def test_the_first_opinion_wins_and_the_others_are_not_asked():
    asked = []
    refusal = envelope.REFUSED_BY_HOOK.reply()

    async def first(*_about):
        asked.append("first")

    def second(*_about):
        asked.append("second")
        return refusal

    hooks = Hooks(
        [plugin(decide_mail=first), plugin(), plugin(decide_mail=second), plugin(decide_mail=asked.append)]
    )
    assert "decide_mail" in hooks.wanted
    assert "decide_rcpt" not in hooks.wanted
    assert await hooks.decide("decide_mail", "client", "sender") is refusal
    assert asked == ["first", "second"]


async def test_a_plain_function_does_not_stop_the_loop_and_runs_elsewhere():
    release, threads = threading.Event(), []

    def hook(*_about):
        threads.append(threading.current_thread())
        assert release.wait(20)

    asking = asyncio.create_task(Hooks([plugin(decide_mail=hook)]).decide("decide_mail", None, None))
    while not threads:
        await asyncio.sleep(0.001)
    release.set()
    assert await asking is None
    assert threads[0] is not threading.main_thread()


async def test_hooks_that_hang_do_not_take_the_threads_of_others():
    release = threading.Event()
    hooks = Hooks([plugin(decide_mail=lambda *_about: release.wait(20) and None)], limit_s=0.05)
    try:
        asked = [hooks.decide("decide_mail", None, None) for _ in range(40)]
        replies = await asyncio.gather(*asked)
        assert {reply.cause for reply in replies} == {envelope.HOOK_FAILED}
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "free"), 20) == "free"
    finally:
        release.set()


def leave(*_about):
    raise SystemExit


async def leave_later(*_about):
    raise SystemExit


async def never(*_about):
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    "hook",
    [
        leave,
        leave_later,
        never,
        lambda: None,
        lambda *_about: "no",
        lambda *_about: 550,
        lambda *_about: False,
        lambda *_about: content.START_DATA.reply(),
        lambda *_about: envelope.REFUSED_BY_HOOK,
    ],
)
async def test_any_other_behaviour_is_a_failure(hook, noted):
    reply = await Hooks([plugin(decide_mail=hook)], limit_s=0.05).decide("decide_mail", None, None)
    assert reply.cause is envelope.HOOK_FAILED
    ((name, facts),) = noted
    assert name == "hook.failed"
    assert facts["incident"] in reply.text
    assert facts["error"]
    assert "Traceback" in facts["traceback"]


async def test_being_notified_changes_nothing(noted):
    heard = []
    hooks = Hooks([plugin(notify_received=leave), plugin(notify_received=lambda *about: heard.append(about))])
    assert await hooks.notify("notify_received", "ID", "message") is None
    assert heard == [("ID", "message")]
    assert [name for name, _ in noted] == ["hook.failed"]


async def test_closing_waits_for_the_hooks_that_work_but_not_for_ever():
    release, done = threading.Event(), []

    def slow(*_about):
        assert release.wait(20)
        done.append("slow")

    async def later(*_about):
        await asyncio.to_thread(release.wait, 20)
        done.append("later")

    hooks = Hooks([plugin(decide_mail=slow, notify_received=later)])
    told = asyncio.create_task(hooks.notify("notify_received", "ID", "message"))
    asked = asyncio.create_task(hooks.decide("decide_mail", None, None))
    await asyncio.sleep(0)
    await hooks.close(0.01)
    assert done == []
    closing = asyncio.create_task(hooks.close(20))
    await asyncio.sleep(0)
    release.set()
    await closing
    assert sorted(done) == ["later", "slow"]
    assert await asked is None
    await told


async def test_a_hook_that_is_asked_after_the_end_puts_the_mail_off():
    hooks = Hooks([plugin(decide_mail=lambda *_about: None)])
    await hooks.close(0)
    reply = await hooks.decide("decide_mail", None, None)
    assert reply.cause is envelope.HOOK_FAILED


def test_the_model_of_a_plugin_has_no_opinion():
    model = Plugin()
    assert model.decide_connect(None) is None
    assert model.decide_mail(None, None) is None
    assert model.decide_rcpt(None, None, None) is None
    assert model.decide_message(None) is None
    assert model.notify_received("", None) is None
    assert model.decide_hello(None) is None
    assert model.decide_client(None, None, None) is None
    stages = ("connect", "hello", "mail", "client", "rcpt", "message")
    assert set(HOOKS) == {"notify_received", *(f"decide_{stage}" for stage in stages)}


async def test_a_hook_that_fails_may_count_as_one_without_an_opinion(noted):
    refusal = envelope.REFUSED_BY_HOOK.reply()
    plugins = [plugin(decide_mail=leave), plugin(decide_mail=lambda *_about: refusal)]
    hooks = Hooks(plugins, on_error="accept")
    assert await hooks.decide("decide_mail", None, None) is refusal
    assert [name for name, _ in noted] == ["hook.failed"]
