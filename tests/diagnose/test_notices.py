"""Notices in the forms of many servers, written for these tests after what those servers say."""

import sys

import pytest

from pillarbox.diagnose.bounce import BounceKind, read_bounce
from pillarbox.mail.reply import Stage

RETURNED = "Return-Path: <me@here.example>\nReceived: from here.example by mx\nMessage-ID: <1@here.example>\nFrom: me@here.example\nTo: bob@two.example\nSubject: hello\n\nHello.\n"
BOB = "bob@two.example"


def notice(text, subject="Undelivered mail", sender="MAILER-DAEMON@one.example", returned="\n\n" + RETURNED):
    head = f"From: {sender}\nTo: me@here.example\nSubject: {subject}\nReturn-Path: <>\n\n"
    return read_bounce((head + text + returned).encode())


FORMS = {
    "qmail": (
        "Hi. This is the qmail-send program at one.example.\nI'm afraid I wasn't able to deliver your message to the following addresses.\nThis is a permanent error; I've given up. Sorry it didn't work out.\n\n<bob@two.example>:\n192.0.2.1 does not like recipient.\nRemote host said: 550 5.1.1 <bob@two.example>: User unknown\nGiving up on 192.0.2.1.\n\n--- Below this line is a copy of the message.",
        "mailbox.unknown",
    ),
    "exim": (
        "This message was created automatically by mail delivery software.\n\nA message that you sent could not be delivered to one or more of its\nrecipients. This is a permanent error. The following address(es) failed:\n\n  bob@two.example\n    host mx.two.example [192.0.2.1]\n    SMTP error from remote mail server after RCPT TO:<bob@two.example>:\n    552 5.2.2 mailbox over quota\n\n------ This is a copy of the message, including all the headers. ------",
        "mailbox.full",
    ),
    "postfix": (
        "This is the mail system at host one.example.\n\nI'm sorry to have to inform you that your message could not\nbe delivered to one or more recipients.\n\nFor further assistance, please send mail to postmaster.\n\n                   The mail system\n\n<bob@two.example>: host mx.two.example[192.0.2.1] said: 554 5.7.1 Service\n    unavailable; Client host [192.0.2.9] blocked using zen.spamhaus.org (in\n    reply to RCPT TO command)",
        "client.blocklisted",
    ),
    "exchange 2003": (
        "Your message did not reach some or all of the intended recipients.\n\n      Subject: hello\n      Sent: 4/29/2010 9:19 AM\n\nThe following recipient(s) could not be reached:\n\n      bob@two.example on 4/29/2010 9:19 AM\n            The e-mail account does not exist at the organization this message was sent to.\n            <mx.two.example #5.1.1>",
        "mailbox.unknown",
    ),
    "exchange online": (
        "Delivery has failed to these recipients or groups:\n\nbob@two.example\nThe email address you entered couldn't be found.\n\nDiagnostic information for administrators:\n\nGenerating server: X.eurprd01.prod.outlook.com\n\nbob@two.example\nRemote Server returned '550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient bob@two.example not found by SMTP address lookup'\n\nOriginal message headers:",
        "mailbox.unknown",
    ),
    "sendmail": (
        "The original message was received at Thu, 29 Apr 2010 23:34:45 +0900\nfrom here.example [192.0.2.9]\n\n   ----- The following addresses had permanent fatal errors -----\n<bob@two.example>\n    (reason: 550 5.2.1 Mailbox disabled)\n\n   ----- Transcript of session follows -----\n... while talking to mx.two.example.:\n>>> RCPT To:<bob@two.example>\n<<< 550 5.2.1 Mailbox disabled\n550 5.1.1 <bob@two.example>... User unknown",
        "mailbox.disabled",
    ),
    "courier": (
        "This is a delivery status notification from one.example.\n\nUNDELIVERABLE MAIL\n\nYour message to the following recipients cannot be delivered:\n\n<bob@two.example>:\n    mx.two.example [192.0.2.1]:\n>>> RCPT TO:<bob@two.example>\n<<< 550 5.1.1 No such user",
        "mailbox.unknown",
    ),
    "domino": (
        "Your message\n\n  Subject: hello\n\nwas not delivered to:\n\n  bob@two.example\n\nbecause:\n\n  User bob (bob@two.example) not listed in Domino Directory\n",
        "mailbox.unknown",
    ),
    "notes": (
        "------- Failure Reasons  --------\n\nUser not listed in public Name & Address Book\nbob@two.example\n\n------- Returned Message --------",
        "mailbox.unknown",
    ),
    "james": (
        "Hi. This is the James mail server at one.example.\nI'm afraid I wasn't able to deliver your message to the following addresses.\nThis is a permanent error; I've given up. Sorry it didn't work out.  Below\nI include the list of recipients and the reason why I was unable to deliver\nyour message.\n\nFailed recipient(s):\nbob@two.example\n\nError message:\n550 5.1.1 Unknown user\n",
        "mailbox.unknown",
    ),
    "mailfoundry": (
        "This is a MIME encapsulated message.\n\nUnable to deliver message to: <bob@two.example>\nDelivery failed for the following reason:\nServer mx.two.example[192.0.2.1] failed with: 550 <bob@two.example> No such user here\n",
        "mailbox.unknown",
    ),
    "mailmarshal": (
        "Your message:\n   From:    me@here.example\n   Subject: hello\nCould not be delivered because of\n\n550 5.1.1 User unknown\n\nThe following recipients were affected: \n    bob@two.example\n\nAdditional Information",
        "mailbox.unknown",
    ),
    "x6": (
        "We had trouble delivering your message. Full details follow:\n\nSubject: 'hello'\nDate: 'Thu, 29 Apr 2012 23:34:45 +0000'\n\n1 error(s):\n\nSMTP Server <mx.two.example> rejected recipient <bob@two.example> (Error following RCPT command). It responded as follows: [550 5.1.1 User unknown]\n",
        "mailbox.unknown",
    ),
    "surfcontrol": (
        "Your message could not be sent.\nA transcript of the attempts to send the message follows.\nThe number of attempts made: 1\nAddressed To: bob@two.example\n\nThu 29 Apr 2010 23:34:45 +0900\nFailed to send to identified host,\nbob@two.example: [192.0.2.5], 550 bob@two.example... No such user\n\n--- Message non-deliverable.",
        "mailbox.unknown",
    ),
    "mcafee": (
        "--- The following addresses had delivery problems ---\n\n<bob@two.example>   (User unknown bob@two.example)\n\n--------------Returned Message",
        "mailbox.unknown",
    ),
    "imail": (
        "User mailbox exceeds allowed size: bob@two.example\n\n\nOriginal message follows.",
        "mailbox.full",
    ),
    "biglobe": (
        "   ----- The following addresses had delivery problems -----\nbob@two.example\n\n   ----- Non-delivered information -----\nThe number of messages in recipient's mailbox exceeded the local limit.\n",
        "mailbox.full",
    ),
    "opensmtpd": (
        "    Hi!\n\n    This is the MAILER-DAEMON, please DO NOT REPLY to this email.\n\n    An error has occurred while attempting to deliver a message for\n    the following list of recipients:\n\nbob@two.example: No MX found for domain\n\n    Below is a copy of the original message:",
        "domain.unknown",
    ),
    "quoted by a person": (
        "See what came back.\n\n> <bob@two.example>:\n> Remote host said: 550 5.1.1 No such user\n>\n> --- Below this line is a copy of the message.",
        "mailbox.unknown",
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_forms_of_many_servers(form):
    text, cause = FORMS[form]
    bounce = notice(text)
    assert bounce.kind is BounceKind.FAILURE
    assert [one.address for one in bounce.recipients] == [BOB]
    assert bounce.recipients[0].verdict.cause.id == cause
    assert bounce.message_id == "<1@here.example>"


def test_a_transcript_alone():
    bounce = notice(">>> RCPT To:<bob@two.example>\n<<< 550 5.1.1 No such user", returned="")
    assert [(one.address, one.stage, one.reply.code) for one in bounce.recipients] == [(BOB, Stage.RCPT, 550)]


def test_a_notice_in_html_alone():
    octets = (
        b"From: postmaster@one.example\nSubject: Undeliverable: hello\nContent-Type: text/html; charset=utf-8\n\n"
        b"<html><body><p>Delivery has failed to these recipients:</p><p><a href='mailto:bob@two.example'>"
        b"bob@two.example</a></p><p>550 5.1.1 User&nbsp;unknown</p></body></html>"
    )
    bounce = read_bounce(octets)
    assert [one.address for one in bounce.recipients] == [BOB]
    assert bounce.recipients[0].verdict.cause.id == "mailbox.unknown"


def test_complaints_and_wishes_are_no_bounces():
    old = (
        b"From: staff@mail.example\nSubject: complaint about message from 192.0.2.1\nContent-Type: multipart/mixed; boundary=b\n\n"
        b"--b\nContent-Type: message/rfc822\n\nX-HmXmrOriginalRecipient: bob@two.example\nMessage-ID: <1@here.example>\n\nhello\n--b--\n"
    )
    standard = (
        b"From: fbl@mail.example\nSubject: FW: hello\nContent-Type: multipart/report; report-type=feedback-report; boundary=b\n\n"
        b"--b\n\nThis is an email abuse report.\n--b\nContent-Type: message/feedback-report\n\nFeedback-Type: opt-out\n"
        b"Original-Rcpt-To: <bob@two.example>\nReporting-MTA: dns; mail.example\n\n--b\nContent-Type: message/rfc822\n\n"
        b"Message-ID: <1@here.example>\n\nhello\n--b--\n"
    )
    for octets, kind in ((old, "abuse"), (standard, "opt-out")):
        bounce = read_bounce(octets)
        assert (bounce.kind, bounce.feedback_type) == (BounceKind.FEEDBACK, kind)
        assert [one.address for one in bounce.recipients] == [BOB]
        assert bounce.message_id == "<1@here.example>"
        assert bounce.recipients[0].verdict.suppress.value == "never"


def test_stage_and_host_are_read_from_the_words():
    bounce = notice(FORMS["postfix"][0])
    (one,) = bounce.recipients
    assert (one.stage, one.remote_mta, one.reply.code) == (Stage.RCPT, "mx.two.example", 554)
    assert bounce.reporting_mta == "one.example"


def test_several_recipients_keep_their_own_reasons():
    text = "<bob@two.example>:\n550 5.1.1 No such user\n\n<ann@three.example>:\n552 5.2.2 Mailbox full\n\n--- Below this line is a copy of the message."
    found = {one.address: one.verdict.cause.id for one in notice(text).recipients}
    assert found == {BOB: "mailbox.unknown", "ann@three.example": "mailbox.full"}


def test_a_delay_notice_speaks_against_nobody():
    text = "A message that you sent has not yet been delivered to one or more of its\nrecipients after more than 24 hours.\n\n  bob@two.example\n    550 5.1.1 No such user\n"
    bounce = notice(text, subject="Warning: message delayed 24 hours")
    assert bounce.kind is BounceKind.DELAY
    assert bounce.recipients[0].verdict.suppress.value == "never"


@pytest.mark.parametrize(
    "text",
    [
        "Dear Bob,\n\nthe parcel could not be delivered to you. Write to ann@three.example.\n",
        "bob@two.example wrote:\n> the user is unknown to me\n",
        "",
    ],
)
def test_what_a_person_writes_is_no_bounce(text):
    octets = f"From: Ann <ann@three.example>\nTo: bob@two.example\nSubject: lunch\n\n{text}".encode()
    assert read_bounce(octets).kind is BounceKind.NONE


def steps(octets):
    """How many lines of Python the reader runs."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        count += 1
        return trace

    sys.settrace(trace)
    try:
        read_bounce(octets)
    finally:
        sys.settrace(None)
    return count


HEAD = b"From: MAILER-DAEMON@one.example\nSubject: failure notice\n"


@pytest.mark.parametrize(
    "unit",
    [
        b"<bob@two.example>:\n550 5.1.1 no\n\n",
        b">>> RCPT To:<bob@two.example>\n<<< 550 no\n",
        b"To: a@b.example\nX: y\n",
        b"Received: x\n\n",
        b"--b\nContent-Type: text/plain\n\nx\n",
        b"550 550 550 said: ",
        b"a@b",
        b"<",
        b"-",
    ],
)
def test_work_grows_no_faster_than_the_message(unit):
    read_bounce(HEAD + b"\n" + unit)  # what is loaded once is loaded
    for head in (HEAD, HEAD + b'Content-Type: multipart/report; boundary="b"\n'):
        short, long = (steps(head + b"\n" + (unit * 20000)[:size]) for size in (8000, 16000))
        assert long <= 2.5 * short + 500
