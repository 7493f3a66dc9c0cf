"""The decision table, row for row: stage, reply and facts -> what the attempt does, what the queue does, scope, pace."""

import pytest

from pillarbox.mail.catalogue import delivery, transport
from pillarbox.mail.reply import Reply, Stage, parse_reply
from pillarbox.queue.decisions import ROWS, Action, Fact, Pace, Scope, Step, diagnose, find

T, A, S, W, P, F = Stage, Action, Step, Scope, Pace, Fact
NO = Fact.NOTHING


def own(cause, **fields) -> Reply:
    return cause.reply(**{"host": "mx.test", "domain": "x.test", "detail": "", **fields})


# fmt: off
# (what the case is, stage, reply, facts, action, step, scope, pace)
TABLE = [
    # --- DNS
    ("no such domain", T.DNS, own(delivery.NO_DOMAIN), NO, A.NEXT_HOST, S.BOUNCE, W.DESTINATION, P.NORMAL),
    ("null MX", T.DNS, own(delivery.NULL_MX), NO, A.NEXT_HOST, S.BOUNCE, W.DESTINATION, P.NORMAL),
    ("no answer", T.DNS, own(delivery.DNS_FAILED), NO, A.NEXT_HOST, S.RETRY, W.DESTINATION, P.NORMAL),
    # --- connect
    ("refused", T.CONNECT, own(delivery.CONNECT_FAILED), NO, A.NEXT_HOST, S.RETRY, W.HOST, P.NORMAL),
    # --- greeting
    ("own name", T.GREETING, own(delivery.LOOP_TO_SELF), NO, A.BOUNCE, S.BOUNCE, W.DESTINATION, P.NORMAL),
    ("421", T.GREETING, "421 busy", NO, A.NEXT_HOST, S.RETRY, W.HOST, P.NORMAL),
    ("4xx", T.GREETING, "450 later", NO, A.NEXT_HOST, S.RETRY, W.HOST, P.NORMAL),
    ("lost", T.GREETING, own(delivery.CONNECTION_LOST), NO, A.NEXT_HOST, S.RETRY, W.HOST, P.NORMAL),
    ("421 reputation", T.GREETING, "421 4.7.1 blocked using zen.spamhaus.org", NO, A.NEXT_HOST, S.RETRY, W.DESTINATION, P.CAUSE),
    ("554", T.GREETING, "554 no service", NO, A.NEXT_HOST, S.BOUNCE, W.HOST, P.NORMAL),
    ("550", T.GREETING, "550 not you", NO, A.NEXT_HOST, S.BOUNCE, W.HOST, P.NORMAL),
    ("554 block list", T.GREETING, "554 blocked using zen.spamhaus.org", NO, A.NEXT_HOST, S.BOUNCE, W.DESTINATION, P.NORMAL),
    ("521", T.GREETING, "521 takes no mail", NO, A.NEXT_HOST, S.BOUNCE, W.HOST, P.NORMAL),
    ("521 5.3.2", T.GREETING, "521 5.3.2 takes no mail", NO, A.NEXT_HOST, S.BOUNCE, W.HOST, P.NORMAL),
    ("521 of a block list", T.GREETING, "521 5.7.1 blocked using bl.spamcop.net", NO, A.NEXT_HOST, S.BOUNCE, W.DESTINATION, P.NORMAL),
    # --- EHLO
    ("unknown verb", T.HELLO, "500 what", F.EXTENDED, A.HELO, S.BOUNCE, W.HOST, P.NORMAL),
    ("bad name", T.HELLO, "501 your name?", F.EXTENDED, A.HELO, S.BOUNCE, W.HOST, P.NORMAL),
    ("not implemented", T.HELLO, "502 no", F.EXTENDED, A.HELO, S.BOUNCE, W.HOST, P.NORMAL),
    ("no such name", T.HELLO, "504 no", F.EXTENDED, A.HELO, S.BOUNCE, W.HOST, P.NORMAL),
    ("not you", T.HELLO, "550 no", F.EXTENDED, A.HELO, S.BOUNCE, W.HOST, P.NORMAL),
    ("421 is no reason for HELO", T.HELLO, "421 no", F.EXTENDED, A.NEXT_HOST, S.RETRY, W.HOST, P.NORMAL),
    ("nor is another 5xx", T.HELLO, "554 no", F.EXTENDED, A.NEXT_HOST, S.BOUNCE, W.HOST, P.NORMAL),
    ("HELO refused", T.HELLO, "550 no", NO, A.NEXT_HOST, S.BOUNCE, W.HOST, P.NORMAL),
    ("HELO 4xx", T.HELLO, "450 later", NO, A.NEXT_HOST, S.RETRY, W.HOST, P.NORMAL),
    ("HELO offers no TLS", T.HELLO, "502 no", F.EXTENDED | F.TLS_REQUIRED, A.NEXT_HOST, S.RETRY, W.HOST, P.NORMAL),
    ("EHLO after TLS", T.HELLO, "554 no", F.TLS_REQUIRED, A.NEXT_HOST, S.RETRY, W.HOST, P.NORMAL),
    # --- STARTTLS, handshake
    ("454", T.STARTTLS, "454 4.7.0 not now", NO, A.IN_CLEAR, S.RETRY, W.HOST, P.NORMAL),
    ("5xx", T.STARTTLS, "502 5.5.1 no", NO, A.IN_CLEAR, S.RETRY, W.HOST, P.NORMAL),
    ("421", T.STARTTLS, "421 bye", NO, A.NEXT_HOST, S.RETRY, W.HOST, P.NORMAL),
    ("454, required", T.STARTTLS, "454 4.7.0 no", F.TLS_REQUIRED, A.NEXT_HOST, S.RETRY, W.HOST, P.NORMAL),
    ("not offered, required", T.STARTTLS, own(delivery.TLS_NOT_OFFERED), F.TLS_REQUIRED, A.NEXT_HOST, S.RETRY, W.HOST, P.NORMAL),
    ("handshake", T.TLS, own(delivery.TLS_FAILED), NO, A.RECONNECT, S.RETRY, W.HOST, P.NORMAL),
    ("handshake, required", T.TLS, own(delivery.TLS_FAILED), F.TLS_REQUIRED, A.NEXT_HOST, S.RETRY, W.HOST, P.NORMAL),
    ("handshake, of a message that demands it", T.TLS, own(transport.NEEDS_ENCRYPTION), NO, A.NEXT_HOST, S.BOUNCE, W.HOST, P.NORMAL),
    # --- AUTH
    ("454", T.AUTH, "454 4.7.0 temporary failure", NO, A.NEXT_HOST, S.RETRY, W.RELAY, P.NORMAL),
    ("454 too often", T.AUTH, "454 4.7.0 Too many login attempts, please try again later.", NO, A.NEXT_HOST, S.RETRY, W.RELAY, P.CAUSE),
    ("421", T.AUTH, "421 4.3.2 bye", NO, A.NEXT_HOST, S.RETRY, W.RELAY, P.NORMAL),
    ("535", T.AUTH, "535 5.7.8 wrong", NO, A.OTHER_LOGIN, S.RETRY, W.RELAY, P.NORMAL),
    ("534", T.AUTH, "534 5.7.9 too weak", NO, A.OTHER_LOGIN, S.RETRY, W.RELAY, P.NORMAL),
    ("525", T.AUTH, "525 5.7.13 disabled", NO, A.OTHER_LOGIN, S.RETRY, W.RELAY, P.NORMAL),
    ("538", T.AUTH, "538 5.7.11 encrypt", NO, A.OTHER_LOGIN, S.RETRY, W.RELAY, P.NORMAL),
    ("504", T.AUTH, "504 5.5.4 mechanism", NO, A.OTHER_LOGIN, S.RETRY, W.RELAY, P.NORMAL),
    ("501", T.AUTH, "501 5.5.2 base64", NO, A.OTHER_LOGIN, S.RETRY, W.RELAY, P.NORMAL),
    ("500 5.5.6", T.AUTH, "500 5.5.6 too long", NO, A.OTHER_LOGIN, S.RETRY, W.RELAY, P.NORMAL),
    ("432", T.AUTH, "432 4.7.12 log in with PLAIN once", NO, A.OTHER_LOGIN, S.RETRY, W.RELAY, P.NORMAL),
    ("no mechanism", T.AUTH, own(delivery.LOGIN_NOT_POSSIBLE), NO, A.NEXT_HOST, S.RETRY, W.RELAY, P.NORMAL),
    # --- MAIL
    ("421", T.MAIL, "421 4.3.2 bye", NO, A.NEXT_HOST, S.RETRY, W.HOST, P.NORMAL),
    ("421 too many", T.MAIL, "421 4.7.0 Too many messages from you, rate limit exceeded", NO, A.NEXT_HOST, S.RETRY, W.DESTINATION, P.CAUSE),
    ("421 at RSET", T.RSET, "421 4.4.2 timeout", NO, A.NEXT_HOST, S.RETRY, W.HOST, P.NORMAL),
    ("4xx", T.MAIL, "451 4.3.0 later", NO, A.NEXT_HOST, S.RETRY, W.MESSAGE, P.NORMAL),
    ("452 4.3.1", T.MAIL, "452 4.3.1 no space", NO, A.NEXT_HOST, S.RETRY, W.HOST, P.NORMAL),
    ("lost", T.MAIL, own(delivery.CONNECTION_LOST), NO, A.NEXT_HOST, S.RETRY, W.HOST, P.NORMAL),
    ("552", T.MAIL, "552 5.3.4 too big", NO, A.LARGER_HOST, S.BOUNCE, W.MESSAGE, P.NORMAL),
    ("5.3.4 with another code", T.MAIL, "554 5.3.4 too big", NO, A.LARGER_HOST, S.BOUNCE, W.MESSAGE, P.NORMAL),
    ("555", T.MAIL, "555 5.5.4 SIZE?", F.HINTS, A.STRIP, S.RETRY, W.MESSAGE, P.NORMAL),
    ("455", T.MAIL, "455 4.5.4 SIZE?", F.HINTS, A.STRIP, S.RETRY, W.MESSAGE, P.NORMAL),
    ("555, nothing to leave out", T.MAIL, "555 5.5.4 BODY?", NO, A.BOUNCE, S.BOUNCE, W.MESSAGE, P.NORMAL),
    ("455, nothing to leave out", T.MAIL, "455 4.5.4 BODY?", NO, A.RETRY, S.RETRY, W.MESSAGE, P.NORMAL),
    ("530", T.MAIL, "530 5.7.0 log in", NO, A.NEXT_HOST, S.RETRY, W.RELAY, P.NORMAL),
    ("530, TLS was left out", T.MAIL, "530 5.7.0 Must issue a STARTTLS command first", F.IN_CLEAR, A.ENCRYPT, S.RETRY, W.HOST, P.NORMAL),
    ("sender refused", T.MAIL, "550 5.1.8 no such domain", NO, A.NEXT_HOST, S.BOUNCE, W.MESSAGE, P.NORMAL),
    ("sender malformed", T.MAIL, "553 5.1.7 syntax", NO, A.NEXT_HOST, S.BOUNCE, W.MESSAGE, P.NORMAL),
    ("policy", T.MAIL, "550 5.7.1 refused", NO, A.NEXT_HOST, S.BOUNCE, W.MESSAGE, P.NORMAL),
    ("no PTR", T.MAIL, "550 5.7.25 no PTR", NO, A.NEXT_HOST, S.BOUNCE, W.MESSAGE, P.NORMAL),
    ("no PTR for IPv6", T.MAIL, "550 5.7.25 no PTR", F.OTHER_FAMILY_LEFT, A.OTHER_FAMILY, S.BOUNCE, W.MESSAGE, P.NORMAL),
    ("reputation", T.MAIL, "550 5.7.1 blocked using bl.spamcop.net", NO, A.NEXT_HOST, S.BOUNCE, W.DESTINATION, P.CAUSE),
    ("reputation, 4xx", T.MAIL, "451 4.7.1 listed at zen.spamhaus.org", NO, A.NEXT_HOST, S.RETRY, W.DESTINATION, P.CAUSE),
    ("503", T.MAIL, "503 5.5.1 sequence", NO, A.RECONNECT, S.BOUNCE, W.MESSAGE, P.NORMAL),
    ("503 again", T.MAIL, "503 5.5.1 sequence", F.RECONNECTED, A.NEXT_HOST, S.BOUNCE, W.MESSAGE, P.NORMAL),
    ("500", T.MAIL, "500 5.5.2 what", NO, A.RECONNECT, S.BOUNCE, W.MESSAGE, P.NORMAL),
    # --- RCPT
    ("250", T.RCPT, "250 2.1.5 ok", NO, A.OK, S.DELIVERED, W.RECIPIENT, P.NORMAL),
    ("251", T.RCPT, "251 will forward to <x@y.test>", NO, A.OK, S.DELIVERED, W.RECIPIENT, P.NORMAL),
    ("450", T.RCPT, "450 4.2.0 locked", NO, A.RETRY, S.RETRY, W.RECIPIENT, P.CAUSE),
    ("451", T.RCPT, "451 4.3.0 trouble", NO, A.RETRY, S.RETRY, W.RECIPIENT, P.CAUSE),
    ("4.1.1 pending", T.RCPT, "450 4.1.1 unverified address: Address verification in progress", NO, A.RETRY, S.RETRY, W.RECIPIENT, P.CAUSE),
    ("4.7.1", T.RCPT, "450 4.7.1 wait", NO, A.RETRY, S.RETRY, W.RECIPIENT, P.GREYLIST),
    ("greylist", T.RCPT, "450 Greylisted, come later", NO, A.RETRY, S.RETRY, W.RECIPIENT, P.GREYLIST),
    ("452 4.5.3", T.RCPT, "452 4.5.3 too many", F.ACCEPTED, A.SPLIT, S.RETRY, W.RECIPIENT, P.NORMAL),
    ("451 4.5.3", T.RCPT, "451 4.5.3 too many domains", F.ACCEPTED, A.SPLIT, S.RETRY, W.RECIPIENT, P.NORMAL),
    ("452 4.5.3, first", T.RCPT, "452 4.5.3 too many", NO, A.RETRY, S.RETRY, W.RECIPIENT, P.NORMAL),
    ("bare 452", T.RCPT, "452 too many", F.ACCEPTED, A.SPLIT, S.RETRY, W.RECIPIENT, P.NORMAL),
    ("bare 552", T.RCPT, "552 too many", F.ACCEPTED, A.SPLIT, S.RETRY, W.RECIPIENT, P.NORMAL),
    ("bare 552, first", T.RCPT, "552 no", NO, A.RETRY, S.BOUNCE, W.RECIPIENT, P.NORMAL),
    ("452 4.3.1", T.RCPT, "452 4.3.1 no space", NO, A.NEXT_HOST, S.RETRY, W.HOST, P.NORMAL),
    ("452 4.2.2", T.RCPT, "452 4.2.2 full", F.ACCEPTED, A.RETRY, S.RETRY, W.RECIPIENT, P.SLOW),
    ("552 5.2.2", T.RCPT, "552 5.2.2 full", F.ACCEPTED, A.BOUNCE, S.BOUNCE, W.RECIPIENT, P.NORMAL),
    ("550 5.1.1", T.RCPT, "550 5.1.1 unknown", NO, A.BOUNCE, S.BOUNCE, W.RECIPIENT, P.NORMAL),
    ("550 5.2.1", T.RCPT, "550 5.2.1 disabled", NO, A.BOUNCE, S.BOUNCE, W.RECIPIENT, P.NORMAL),
    ("551", T.RCPT, "551 5.1.6 try <x@y.test>", NO, A.BOUNCE, S.BOUNCE, W.RECIPIENT, P.NORMAL),
    ("553 5.1.3", T.RCPT, "553 5.1.3 syntax", NO, A.BOUNCE, S.BOUNCE, W.RECIPIENT, P.NORMAL),
    ("556", T.RCPT, "556 5.1.10 no mail", NO, A.BOUNCE, S.BOUNCE, W.RECIPIENT, P.NORMAL),
    ("501 5.1.3", T.RCPT, "501 5.1.3 syntax", F.HINTS, A.BOUNCE, S.BOUNCE, W.RECIPIENT, P.NORMAL),
    ("501 5.5.4", T.RCPT, "501 5.5.4 NOTIFY?", F.HINTS, A.STRIP, S.RETRY, W.MESSAGE, P.NORMAL),
    ("5.7.1", T.RCPT, "550 5.7.1 policy", NO, A.BOUNCE, S.BOUNCE, W.RECIPIENT, P.NORMAL),
    ("5.7.1 by IPv6", T.RCPT, "550 5.7.1 policy", F.OTHER_FAMILY_LEFT, A.OTHER_FAMILY, S.BOUNCE, W.MESSAGE, P.NORMAL),
    ("456", T.RCPT, "456 try IPv4", F.OTHER_FAMILY_LEFT, A.OTHER_FAMILY, S.RETRY, W.MESSAGE, P.NORMAL),
    ("SPF", T.RCPT, "550 5.7.23 SPF failed", NO, A.BOUNCE, S.BOUNCE, W.MESSAGE, P.NORMAL),
    ("reputation", T.RCPT, "554 5.7.1 blocked using dnsbl.test", NO, A.RETRY, S.BOUNCE, W.DESTINATION, P.CAUSE),
    ("reputation, 4xx", T.RCPT, "450 4.7.1 blocked using zen.spamhaus.org", NO, A.RETRY, S.RETRY, W.DESTINATION, P.CAUSE),
    ("the receiver's resolver", T.RCPT, "554 5.7.1 zen.spamhaus.org: Error: open resolver", NO, A.NEXT_HOST, S.RETRY, W.HOST, P.CAUSE),
    ("rate", T.RCPT, "450 4.7.1 Error: too much mail from 192.0.2.1", NO, A.RETRY, S.RETRY, W.DESTINATION, P.CAUSE),
    ("once more", T.RCPT, "550 5.4.1 Recipient address rejected: Access denied. [x.prod.protection.outlook.com]", NO, A.RETRY, S.BOUNCE, W.RECIPIENT, P.CAUSE),
    ("530", T.RCPT, "530 5.7.0 log in first", NO, A.NEXT_HOST, S.RETRY, W.RELAY, P.NORMAL),
    ("421", T.RCPT, "421 bye", F.ACCEPTED, A.NEXT_HOST, S.RETRY, W.HOST, P.NORMAL),
    # --- DATA
    ("503", T.DATA, "503 5.5.1 no recipients", NO, A.RECONNECT, S.BOUNCE, W.MESSAGE, P.NORMAL),
    ("554 5.5.1", T.DATA, "554 5.5.1 no recipients", NO, A.RECONNECT, S.BOUNCE, W.MESSAGE, P.NORMAL),
    ("4xx", T.DATA, "451 4.3.0 later", NO, A.RETRY, S.RETRY, W.RECIPIENT, P.CAUSE),
    ("5xx", T.DATA, "554 5.6.0 no", NO, A.BOUNCE, S.BOUNCE, W.MESSAGE, P.NORMAL),
    # --- the end of the message
    ("250", T.BODY, "250 2.0.0 queued", NO, A.OK, S.DELIVERED, W.RECIPIENT, P.NORMAL),
    ("254 4.7.1", T.BODY, "254 4.7.1 suppressed", NO, A.OK, S.DELIVERED, W.RECIPIENT, P.NORMAL),
    ("421", T.BODY, "421 bye", NO, A.RETRY, S.RETRY, W.RECIPIENT, P.CAUSE),
    ("4xx", T.BODY, "451 4.3.0 later", NO, A.RETRY, S.RETRY, W.RECIPIENT, P.CAUSE),
    ("lost while sending", T.BODY, own(delivery.CONNECTION_LOST), NO, A.RETRY, S.RETRY, W.MESSAGE, P.NORMAL),
    ("greylist", T.BODY, "451 4.7.1 greylisted", NO, A.RETRY, S.RETRY, W.RECIPIENT, P.GREYLIST),
    ("full", T.BODY, "452 4.2.2 full", NO, A.RETRY, S.RETRY, W.RECIPIENT, P.SLOW),
    ("spam", T.BODY, "550 5.7.1 This message looks like spam", F.OTHER_FAMILY_LEFT, A.BOUNCE, S.BOUNCE, W.MESSAGE, P.NORMAL),
    ("DMARC", T.BODY, "550 5.7.26 rejected by DMARC policy", NO, A.BOUNCE, S.BOUNCE, W.MESSAGE, P.NORMAL),
    ("DMARC, 4xx", T.BODY, "451 4.7.26 DMARC: temporary DNS failure", NO, A.RETRY, S.RETRY, W.MESSAGE, P.NORMAL),
    ("size", T.BODY, "552 5.3.4 too big", NO, A.BOUNCE, S.BOUNCE, W.MESSAGE, P.NORMAL),
    ("bad mailbox, alone", T.BODY, "554 delivery error: dd This user doesn't have a yahoo.com account (x@yahoo.com)", NO, A.BOUNCE, S.BOUNCE, W.MESSAGE, P.NORMAL),
    ("bad mailbox, one of many", T.BODY, "554 delivery error: dd This user doesn't have a yahoo.com account (x@yahoo.com)", F.ONE_NAMED, A.SINGLY, S.BOUNCE, W.RECIPIENT, P.NORMAL),
    ("IPv6 without PTR", T.BODY, "550 5.7.1 IPv6 needs a PTR record", F.OTHER_FAMILY_LEFT, A.OTHER_FAMILY, S.BOUNCE, W.MESSAGE, P.NORMAL),
    ("in doubt", T.BODY, own(delivery.IN_DOUBT), NO, A.RETRY, S.RETRY, W.HOST, P.NORMAL),
    ("too few", T.BODY, own(delivery.TOO_FEW_REPLIES), NO, A.RETRY, S.RETRY, W.HOST, P.NORMAL),
    # --- anything
    ("broken protocol", T.RCPT, own(delivery.PROTOCOL), NO, A.NEXT_HOST, S.RETRY, W.HOST, P.NORMAL),
    ("broken protocol at the end", T.BODY, own(delivery.PROTOCOL), NO, A.RETRY, S.RETRY, W.HOST, P.NORMAL),
    ("outside the grammar", T.RCPT, "571 5.7.1 no", NO, A.BOUNCE, S.BOUNCE, W.RECIPIENT, P.NORMAL),
    ("unknown 4xx", T.RCPT, "499 hm", NO, A.RETRY, S.RETRY, W.RECIPIENT, P.CAUSE),
    ("words against class", T.RCPT, "451 Open relay not allowed", NO, A.RETRY, S.BOUNCE, W.MESSAGE, P.NORMAL),
    ("words against class", T.RCPT, "550 5.2.121 The recipient has exceeded their limit for the number of messages per hour [x.prod.outlook.com]", NO, A.RETRY, S.BOUNCE, W.RECIPIENT, P.CAUSE),
    ("words against class", T.RCPT, "421 4.7.0 [TSS04] Messages from 192.0.2.1 permanently deferred; Retrying will NOT succeed", NO, A.RETRY, S.BOUNCE, W.DESTINATION, P.NORMAL),
    ("words against class", T.GREETING, "421 4.7.0 [TS03] permanently deferred; Retrying will NOT succeed", NO, A.NEXT_HOST, S.BOUNCE, W.DESTINATION, P.NORMAL),
    ("words against class", T.MAIL, "550 5.4.5 Daily SMTP relay sending limit exceeded for user. - gsmtp", NO, A.NEXT_HOST, S.BOUNCE, W.MESSAGE, P.CAUSE),
    ("4.7.1 of no known kind", T.RCPT, "450 4.7.1 policy, try later", NO, A.RETRY, S.RETRY, W.RECIPIENT, P.GREYLIST),
    ("local 4xx", T.LOCAL, own(delivery.MAILBOX_FAILED), NO, A.RETRY, S.RETRY, W.RECIPIENT, P.NORMAL),
    ("local 5xx", T.LOCAL, own(delivery.BOUNCED_BY_OPERATOR), NO, A.BOUNCE, S.BOUNCE, W.RECIPIENT, P.NORMAL),
    ("3xx out of place", T.LOCAL, "354 what", NO, A.RETRY, S.RETRY, W.HOST, P.NORMAL),
]
# fmt: on


def said(text: str | Reply) -> Reply:
    return text if isinstance(text, Reply) else parse_reply([line.encode() for line in text.split("\n")])


@pytest.mark.parametrize(
    ("stage", "reply", "facts", "decided"),
    [
        pytest.param(*row[1:4], row[4:], id=f"{row[1].value}-{row[0]}-{number}")
        for number, row in enumerate(TABLE)
    ],
)
def test_each_reply_has_its_row(stage, reply, facts, decided):
    row = find(stage, said(reply), facts, "mx.test")
    assert (row.action, row.step, row.scope, row.pace) == decided, diagnose(stage, said(reply), "mx.test")


def test_the_table_reaches_every_row():
    reached = [find(stage, said(reply), facts) for _, stage, reply, facts, *_ in TABLE]
    missed = [row for row in ROWS if not any(row is one for one in reached)]
    assert not missed


def test_every_stage_and_code_has_a_row():
    for stage in Stage:
        for code in range(200, 600):
            assert find(stage, Reply(code, "", ("",)), Fact.NOTHING) in ROWS
