"""Addresses of senders that name the copy of a message."""

import pytest

from pillarbox.mail.address import parse_address
from pillarbox.mail.verp import parse_verp, verp_address

ID = "0123456789ABC"


@pytest.mark.parametrize("sender", ["me@here.test", "me+list@here.test", "o'hara=x@sub.here.test"])
def test_a_tagged_address_tells_sender_message_and_recipient(sender):
    tagged = verp_address(sender, ID, 17)
    assert parse_verp(tagged) == (sender, ID, 17)
    assert str(parse_address(tagged)) == tagged


@pytest.mark.parametrize("sender", ["", "x" * 60 + "@here.test", '"quoted part"@here.test'])
def test_where_no_tag_fits_the_address_stays_as_it_is(sender):
    assert verp_address(sender, ID, 1) == sender


@pytest.mark.parametrize(
    "address",
    ["", "me@here.test", "me+return=short=1@x", "me+return=0123456789ABC=@x", "return=0123456789ABC=1@x"],
)
def test_other_addresses_tell_nothing(address):
    assert parse_verp(address) is None
