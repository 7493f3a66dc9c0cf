"""What the NOTIFY parameter asks for."""

from __future__ import annotations

import pytest

from pillarbox.mail.envelope import Body, Envelope, Notify, Recipient


@pytest.mark.parametrize(
    ("notify", "failure", "delay", "success"),
    [
        (Notify.UNSAID, True, True, False),
        (Notify.NEVER, False, False, False),
        (Notify.SUCCESS, False, False, True),
        (Notify.FAILURE, True, False, False),
        (Notify.DELAY, False, True, False),
        (Notify.SUCCESS | Notify.FAILURE | Notify.DELAY, True, True, True),
    ],
)
def test_what_a_sender_wants_to_hear(notify, failure, delay, success):
    assert (notify.wants_failure, notify.wants_delay, notify.wants_success) == (failure, delay, success)


def test_defaults_are_those_of_a_plain_transaction():
    envelope = Envelope("alice@example.org", (Recipient("bob@example.org"),))
    assert envelope.body is Body.SEVEN_BIT
    assert envelope.ret is None
    assert not envelope.smtputf8
    assert envelope.recipients[0].notify is Notify.UNSAID
