import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.diagnose.causes import Retry, Suppress
from pillarbox.diagnose.classify import classify
from pillarbox.diagnose.dialects import book
from pillarbox.mail.reply import Reply, Stage, parse_reply


def heard(text, **about):
    if not text[:3].isdigit():  # words of a bounce, without a code
        return classify(Reply(0, "", (text,)), **about)
    return classify(parse_reply([line.encode() for line in text.split("\n")]), **about)


DATA = Path(__file__).parents[1] / "data"
SAMPLES = [(pattern, sample) for pattern in book().patterns for sample in pattern.samples]


@pytest.mark.parametrize(("pattern", "sample"), SAMPLES, ids=[pattern.id for pattern, _ in SAMPLES])
def test_each_sample_is_known_by_its_own_pattern(pattern, sample):
    hosts = book().dialects[pattern.dialect].hosts
    assert heard(sample, host=f"mx1.{hosts[0]}" if hosts else "").pattern == pattern.id


@pytest.mark.parametrize(
    ("pattern", "sample"),
    [(pattern, sample) for pattern, sample in SAMPLES if not pattern.own],
    ids=[pattern.id for pattern, _ in SAMPLES if not pattern.own],
)
def test_words_that_only_one_says_are_known_without_the_name_of_the_host(pattern, sample):
    assert heard(sample).pattern == pattern.id


def test_every_pattern_and_default_has_a_cause_a_source_and_a_sample():
    for pattern in book().patterns:
        assert pattern.source, pattern.id
        assert pattern.samples, pattern.id
    assert len({pattern.id for pattern in book().patterns}) == len(book().patterns)


@pytest.mark.parametrize(
    ("text", "stage", "cause", "retry"),
    [
        # words against class: the words tell what to do
        ("421 4.7.1 [TS03] All messages from 192.0.2.1 will be permanently deferred; Retrying will NOT succeed.", Stage.MAIL, "client.poor_reputation", Retry.NO),
        ("451 Open relay not allowed", Stage.RCPT, "route.relay_denied", Retry.NO),
        ("550 too many messages this hour", Stage.RCPT, "account.limit", Retry.LATER),
        # the code's class counts for what happens next, the status only tells the cause
        ("421 5.7.32 Your email is not aligned with either the authenticated SPF or DKIM domain - gsmtp", Stage.BODY, "authenticity.dmarc", Retry.SCHEDULE),
        ("554 4.4.7 Message expired: unable to deliver in 840 minutes. Amazon SES", Stage.BODY, "route.expired", Retry.NO),
        ("550 4.4.7 QUEUE.Expired; message expired", Stage.BODY, "route.expired", Retry.NO),
        # the receiver's own look-up was refused; the sender is not listed
        ("554 5.7.1 Client host [192.0.2.1] blocked using zen.spamhaus.org; Error: open resolver", Stage.RCPT, "system.resolver_refused", Retry.SCHEDULE),
        # too many recipients is no fault of the recipient
        ("452 4.5.3 Too many recipients", Stage.RCPT, "protocol.too_many_recipients", Retry.SPLIT),
        ("552 Too many recipients", Stage.RCPT, "protocol.too_many_recipients", Retry.SPLIT),
        ("450 4.1.1 <bob@example.com>: Recipient address rejected: unverified address: in progress", Stage.RCPT, "mailbox.unverified", Retry.SCHEDULE),
        ("454 4.7.0 Temporary authentication failure", Stage.AUTH, "login.unavailable", Retry.SCHEDULE),
        ("452 4.2.2 Mailbox full", Stage.RCPT, "mailbox.full", Retry.SLOWLY),
        ("552 5.2.2 Mailbox full", Stage.RCPT, "mailbox.full", Retry.NO),
        ("552", Stage.RCPT, "unknown", Retry.NO),
        ("599 zzzz", None, "unknown", Retry.NO),
        ("499 zzzz", None, "unknown", Retry.SCHEDULE),
        ("250 2.1.5 Ok", Stage.RCPT, "accepted", Retry.NO),
        ("251 User not local; will forward to <bob@example.net>", Stage.RCPT, "accepted", Retry.NO),
        ("354 go ahead", Stage.DATA, "accepted", Retry.NO),
    ],
)  # fmt: skip
def test_what_a_queue_should_do(text, stage, cause, retry):
    verdict = heard(text, stage=stage)
    assert (verdict.cause.id, verdict.retry) == (cause, retry)


@pytest.mark.parametrize(
    ("text", "host", "suppress"),
    [
        ("550 5.1.1 <bob@example.com>: Recipient address rejected: User unknown in virtual mailbox table", "", Suppress.ADDRESS),
        ("550 5.1.1 zzzz", "", Suppress.ADDRESS),
        ("550 No such user here", "", Suppress.REPEATED),  # words alone: only if it happens again
        ("550 5.7.1 No such user!", "mx.yandex.ru", Suppress.ADDRESS),
        ("550 5.5.0 Requested action not taken: mailbox unavailable", "outlook-com.olc.protection.outlook.com", Suppress.ADDRESS),
        ("450 4.1.1 <bob@example.com>: Recipient address rejected: User unknown", "", Suppress.NEVER),
        ("450 4.1.1 unverified address", "", Suppress.NEVER),
        ("421 5.1.1 No such user", "", Suppress.NEVER),
        ("550 5.7.1 Rejected", "", Suppress.NEVER),
        ("550 Rejected", "", Suppress.NEVER),
        ("550 5.7.1 Client host [192.0.2.1] blocked using zen.spamhaus.org", "", Suppress.NEVER),
        ("550 5.7.26 Unauthenticated email is not accepted due to domain's DMARC policy. - gsmtp", "", Suppress.NEVER),
        ("550 5.2.1 receiving mail at a rate that prevents additional messages from being delivered", "aspmx.l.google.com", Suppress.NEVER),
        ("550 5.2.1 zzzz", "aspmx.l.google.com", Suppress.REPEATED),  # Gmail says 5.2.1 for a rate as well
        ("550 5.1.10 zzzz", "example-com.mail.protection.outlook.com", Suppress.ADDRESS),
        ("550 5.1.10 zzzz", "mx.example.com", Suppress.DOMAIN),
        ("550 5.1.6 zzzz", "example-com.mail.protection.outlook.com", Suppress.NEVER),
        ("552 5.2.2 Mailbox full", "", Suppress.REPEATED),
        ("550 5.4.1 All recipient addresses rejected : Access denied", "x.mail.protection.outlook.com", Suppress.NEVER),
    ],
)  # fmt: skip
def test_only_the_address_itself_stops_mail_to_it(text, host, suppress):
    assert heard(text, stage=Stage.RCPT, host=host).suppress is suppress


def test_before_a_recipient_is_named_no_reply_is_about_one():
    verdict = heard("550 5.1.1 User unknown", stage=Stage.MAIL)
    assert verdict.cause.id == "sender.refused"
    assert not verdict.hard
    assert verdict.suppress is Suppress.NEVER


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [
        ("451 4.7.1 Greylisted, try again in 300 seconds", 300),
        ("451 4.7.1 Greylisted, try again in 5 minutes", 300),
        ("451 4.7.1 Greylisted for 2 hours", 7200),
        ("451 4.7.1 Greylisted, please wait 1 s", 60),
        ("451 4.7.1 Greylisted, in 99999 hours", 86400),
        ("451 4.7.1 Greylisted", 300),
    ],
)
def test_the_time_that_a_host_asks_for(text, wait_s):
    verdict = heard(text)
    assert (verdict.retry, verdict.wait_s) == (Retry.SOON, wait_s)


def test_the_same_number_means_what_its_speaker_means():
    for status, registry, host, theirs in (
        ("5.1.10", "domain.no_mail", "x.mail.protection.outlook.com", "mailbox.unknown"),
        ("5.7.27", "sender.no_mail", "aspmx.l.google.com", "authenticity.spf"),
        ("5.7.29", "authenticity.arc", "aspmx.l.google.com", "tls.required"),
        ("5.7.30", "tls.requiretls", "aspmx.l.google.com", "authenticity.dkim"),
        ("4.7.23", "authenticity.spf", "aspmx.l.google.com", "client.no_ptr"),
        ("5.1.8", "sender.domain_unknown", "x.mail.protection.outlook.com", "account.blocked"),
    ):
        text = f"{status[0]}50 {status} zzzz"
        assert heard(text).cause.id == registry
        assert heard(text, host=host).cause.id == theirs


@given(st.binary(max_size=300), st.sampled_from([None, *Stage]), st.text(max_size=60))
@settings(deadline=None)
def test_whatever_a_host_says_there_is_a_verdict(octets, stage, host):
    verdict = classify(parse_reply([b"550 " + octets]), stage=stage, host=host)
    assert verdict.cause.meaning


WORDS = sorted({word for pattern in book().patterns for text in pattern.written for word in text.split()})


@given(
    st.lists(st.sampled_from(WORDS), max_size=40), st.sampled_from(["", "5.1.1", "4.7.1", "5.7.26", "9.9.9"])
)
@settings(deadline=None)
def test_no_mixture_of_known_words_is_too_much(words, status):
    classify(Reply(550, status, (" ".join(words),)))


@pytest.mark.parametrize("reply", [Reply(0, "", ()), Reply(0, "x", ("",)), Reply(550, "5.1", ("a",)), Reply(999, "9.9.9", ("",)), Reply(550, "5.9999.1", ("\0",))])  # fmt: skip
def test_no_oddity_of_a_reply_is_too_much(reply):
    assert classify(reply).cause.id in {"unknown", "mailbox.refused"}


def steps(text):
    """How many lines of Python the classifier runs for a text."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        count += 1
        return trace

    reply = Reply(550, "", (text,))
    classify(reply)
    sys.settrace(trace)
    try:
        classify(reply)
    finally:
        sys.settrace(None)
    return count


@pytest.mark.parametrize(
    "unit", ["mailbox ", "user does not ", "in 1 ", "a", "550-5.1.1 ", "x1 ", *WORDS[::97]]
)
def test_work_grows_no_faster_than_the_text_and_stops_at_8_kib(unit):
    short, long, longest = (steps((unit * 40000)[:size]) for size in (4096, 8192, 100_000))
    assert long <= 2 * short + 100
    assert longest <= long + 100


RECEIVERS = [line.split("|") for line in (DATA / "receivers.txt").read_text().splitlines() if line[0] != "#"]
SUPPRESSES = {"A": Suppress.ADDRESS, "A?": Suppress.REPEATED, "-": Suppress.NEVER}


@pytest.mark.parametrize(("dialect", "text", "category", "suppress"), RECEIVERS)
def test_what_receivers_really_answer(dialect, text, category, suppress):
    host = f"mx1.{book().dialects[dialect].hosts[0]}" if dialect else "mx1.two.example"
    verdict = heard(text, stage=Stage.RCPT if category != "LOGIN" else Stage.AUTH, host=host)
    assert verdict.cause.category.name == category
    assert verdict.suppress is SUPPRESSES[suppress]
