"""What becomes of a recipient after a reply: the traps, the times, and the reports."""

import pytest

from pillarbox.mail.catalogue import delivery
from pillarbox.mail.envelope import Notify
from pillarbox.mail.reply import Origin, Reply, Result, Stage, parse_reply
from pillarbox.queue.decisions import Action, Fact, action
from pillarbox.queue.outcome import History, Report, Verdict, settle
from pillarbox.queue.schedule import RetrySettings, left_alone
from pillarbox.queue.spool import State

RETRY = RetrySettings()
DAY = 86400.0
HOUR = 3600.0


def said(text: str) -> Reply:
    return parse_reply([line.encode() for line in text.split("\n")])


def history(**changes) -> History:
    values = {"attempts": 0, "received_at": 0.0, "delay_notified": False, "sender": "a@b.test"}
    return History(**{**values, "notify": Notify.UNSAID, **changes})


def verdict(stage: Stage, text: str, *, now: float = 60.0, **changes) -> Verdict:
    return settle(Result(said(text), stage, Origin.PEER, "mx.test"), history(**changes), RETRY, now)


# --- the traps


def test_T1_a_552_without_status_splits_only_behind_an_accepted_recipient():
    assert action(Stage.RCPT, said("552 too many"), Fact.ACCEPTED) is Action.SPLIT
    assert action(Stage.RCPT, said("552 too many"), Fact.NOTHING) is Action.RETRY
    assert [verdict(Stage.RCPT, "552 x", attempts=number).state for number in range(2)] == [
        State.QUEUED,
        State.FAILED,
    ]
    assert action(Stage.RCPT, said("552 5.2.2 full"), Fact.ACCEPTED) is Action.BOUNCE
    assert action(Stage.RCPT, said("552 5.5.3 too many"), Fact.ACCEPTED) is Action.SPLIT


@pytest.mark.parametrize(
    "text", ["452 4.2.2 full", "452 4.5.3 many", "452 x", "452 4.3.1 x", "452 4.1.1 over quota"]
)
@pytest.mark.parametrize("stage", [Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.BODY])
def test_T2_a_452_never_bounces(stage, text):
    for attempts in range(30):
        assert verdict(stage, text, attempts=attempts, now=4 * DAY).state is State.QUEUED


def test_T3_a_block_list_hit_asks_for_a_pause_and_an_alarm_and_nothing_against_the_recipient():
    found = verdict(Stage.RCPT, "550 5.7.1 blocked using zen.spamhaus.org")
    assert (found.state, found.suspend_s) == (State.QUEUED, 2 * HOUR)
    assert "zen.spamhaus.org" in found.alarm


@pytest.mark.parametrize(
    "stage", [Stage.GREETING, Stage.HELLO, Stage.AUTH, Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.BODY]
)
def test_T4_a_421_is_retried_at_every_stage(stage):
    assert verdict(stage, "421 4.3.2 closing").state is State.QUEUED


def test_T7_an_outcome_in_doubt_is_retried_and_marked():
    result = Result(delivery.IN_DOUBT.reply(host="mx.test"), Stage.BODY, Origin.LOCAL, "mx.test")
    found = settle(result, history(), RETRY, 60.0)
    assert found.maybe_duplicate
    assert found.state is State.QUEUED
    few = Result(delivery.TOO_FEW_REPLIES.reply(host="mx.test"), Stage.BODY, Origin.LOCAL, "mx.test")
    assert settle(few, history(), RETRY, 60.0).maybe_duplicate
    assert not verdict(Stage.BODY, "451 4.4.2 their own trouble").maybe_duplicate


@pytest.mark.parametrize("text", ["421 5.7.32 x", "450 5.1.1 x", "451 5.7.1 Open relay"])
def test_T10_the_basic_code_wins_against_a_status_of_another_class(text):
    assert verdict(Stage.RCPT, text).state is State.QUEUED
    assert verdict(Stage.BODY, text).state is State.QUEUED
    assert verdict(Stage.RCPT, "550 4.4.7 x").state is State.FAILED


def test_T12_a_wrong_password_holds_the_relay_and_bounces_nothing():
    found = verdict(Stage.AUTH, "535 5.7.8 no", attempts=9)
    assert found.state is State.QUEUED
    assert found.suspend_s == 600
    assert found.alarm
    later = verdict(Stage.AUTH, "454 4.7.0 too many logins")
    assert (later.suspend_s, later.alarm) == (0, "")


@pytest.mark.parametrize("text", ["550 5.1.1 unknown", "451 4.3.0 later"])
def test_T18_nobody_is_told_about_a_report_of_ours(text):
    for now in (60.0, 5 * HOUR, 6 * DAY):
        found = verdict(Stage.RCPT, text, sender="", notify=Notify.FAILURE | Notify.DELAY, now=now)
        assert found.report is Report.NONE


# --- times


def test_the_wait_doubles_from_five_minutes_to_four_hours():
    waits = [verdict(Stage.RCPT, "450 4.2.0 x", attempts=number).due - 60.0 for number in range(9)]
    assert waits == [300, 600, 1200, 2400, 4800, 9600, 14400, 14400, 14400]


def test_every_step_is_a_setting():
    retry = RetrySettings(first_s=10.0, factor=3.0, max_s=50.0, give_up_s=1000.0, delay_notice_s=20.0)
    result = Result(said("450 x"), Stage.RCPT, Origin.PEER)
    waits = [settle(result, history(attempts=number), retry, 0.0).due for number in range(4)]
    assert waits == [10, 30, 50, 50]
    assert settle(result, history(), retry, 20.0).report is Report.DELAY
    assert settle(result, history(), retry, 1000.0).state is State.FAILED


def test_after_five_days_the_last_real_reply_is_reported():
    found = verdict(Stage.RCPT, "450 4.2.0 locked", attempts=30, now=5 * DAY)
    assert (found.state, found.report) == (State.FAILED, Report.FAILURE)
    assert str(found.result.reply) == "450 4.2.0 locked"


def test_the_last_attempt_comes_when_the_time_is_up():
    assert verdict(Stage.RCPT, "450 4.2.0 x", attempts=30, now=5 * DAY - HOUR).due == 5 * DAY


def test_the_sender_hears_of_a_delay_once_after_four_hours():
    assert verdict(Stage.RCPT, "450 x", now=4 * HOUR - 1).report is Report.NONE
    first = verdict(Stage.RCPT, "450 x", now=4 * HOUR)
    assert (first.report, first.delay_notified) == (Report.DELAY, True)
    again = verdict(Stage.RCPT, "450 x", now=9 * HOUR, delay_notified=True)
    assert (again.report, again.delay_notified) == (Report.NONE, True)


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [
        ("450 4.7.1 Greylisted", 360),
        ("450 4.2.0 Greylisting in action, try again in 300 seconds", 300),
        ("451 4.7.1 Please retry in 10 minutes", 600),
        ("450 graylist: try again in 5 seconds", 60),
        ("450 4.7.1 try again in 99999 hours", 3600),
    ],
)
def test_a_greylisting_host_is_tried_again_when_it_asks_for_it(text, wait_s):
    assert verdict(Stage.RCPT, text).due == 60.0 + wait_s
    assert verdict(Stage.RCPT, text, attempts=1).due == 60.0 + 600


def test_a_full_mailbox_is_tried_again_in_long_steps():
    assert verdict(Stage.RCPT, "452 4.2.2 full").due == 60.0 + 4 * HOUR


@pytest.mark.parametrize(
    ("until", "now", "due"),
    [
        (600.0, 60.0, 600.0),  # never before others may be tried
        (61.0, 60.0, 360.0),  # nor at once all of them
        (2 * HOUR, 2 * HOUR - 1, 4 * HOUR - 2),  # the older, the less often
        (5 * DAY + 2 * HOUR, 5 * DAY - HOUR, 5 * DAY),
    ],
)
def test_what_is_put_off_waits_for_its_destination(until, now, due):
    result = left_alone(
        "mx.test", Result(said("451 4.4.1 refused"), Stage.CONNECT, Origin.LOCAL), until - now, now
    )
    found = settle(result, history(), RetrySettings(), now)
    assert (found.state, found.due) == (State.QUEUED, due)


def test_what_is_put_off_is_given_up_only_for_its_age():
    blocked = Result(said("554 5.7.1 blocked using dnsbl.test"), Stage.RCPT, Origin.PEER)
    result = left_alone("mx.test", blocked, 7200.0, 60.0)
    found = settle(result, history(attempts=9), RetrySettings(), 60.0)
    assert (found.state, found.suspend_s, found.alarm) == (State.QUEUED, 0.0, "")
    old = settle(result, history(), RetrySettings(), 5 * DAY)
    assert (old.state, old.report) == (State.FAILED, Report.FAILURE)


@pytest.mark.parametrize("text", ["554 no service here", "554 5.7.1 blocked using x"])
def test_a_host_that_refuses_this_server_is_tried_three_times_in_all(text):
    states = [verdict(Stage.GREETING, text, attempts=number).state for number in range(3)]
    assert states == [State.QUEUED, State.QUEUED, State.FAILED]


# --- reports


@pytest.mark.parametrize(
    ("notify", "report"),
    [
        (Notify.UNSAID, Report.FAILURE),
        (Notify.NEVER, Report.NONE),
        (Notify.SUCCESS, Report.NONE),
        (Notify.FAILURE, Report.FAILURE),
        (Notify.DELAY, Report.NONE),
    ],
)
def test_a_failure_is_reported_to_those_who_want_it(notify, report):
    assert verdict(Stage.RCPT, "550 5.1.1 x", notify=notify).report is report


@pytest.mark.parametrize(
    ("notify", "report"),
    [
        (Notify.UNSAID, Report.DELAY),
        (Notify.NEVER, Report.NONE),
        (Notify.FAILURE, Report.NONE),
        (Notify.DELAY, Report.DELAY),
    ],
)
def test_a_delay_is_reported_to_those_who_want_it(notify, report):
    assert verdict(Stage.RCPT, "450 x", notify=notify, now=5 * HOUR).report is report


@pytest.mark.parametrize(
    ("result", "report"),
    [
        (Result(said("250 ok"), Stage.BODY, Origin.PEER, "mx.test"), Report.RELAYED),
        (Result(said("250 ok"), Stage.BODY, Origin.PEER, "mx.test", reports=True), Report.NONE),
        (Result(said("250 ok"), Stage.LOCAL, Origin.PEER, "lmtp.test"), Report.SUCCESS),
        (Result(delivery.DELIVERED.reply(detail="x"), Stage.LOCAL, Origin.LOCAL), Report.SUCCESS),
        (Result(delivery.FORWARDED.reply(detail="x"), Stage.LOCAL, Origin.LOCAL), Report.NONE),
    ],
)
def test_success_is_reported_by_whoever_has_the_duty(result, report):
    assert settle(result, history(notify=Notify.SUCCESS), RETRY, 1.0).report is report
    assert settle(result, history(), RETRY, 1.0).report is Report.NONE
    assert settle(result, history(notify=Notify.SUCCESS, sender=""), RETRY, 1.0).report is Report.NONE
