"""Decide whether a host can carry a message as it is, given what the host offers, and with what envelope.

Nothing is converted: what a host can't carry goes to the next host, or back (RFC 6152 3, RFC 3030 3, RFC 6531 3.2).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from pillarbox.mail.address import AddressError, parse_address
from pillarbox.mail.catalogue import delivery, transport
from pillarbox.mail.envelope import Body, ByMode
from pillarbox.mail.message import scan_head
from pillarbox.mail.since import field_for, known_since

if TYPE_CHECKING:
    from pillarbox.mail.envelope import Envelope, Recipient, Terms
    from pillarbox.mail.reply import Reply
    from pillarbox.queue.spool import Content
    from pillarbox.relay.session import Session
    from pillarbox.smtp.replies import Extensions

_MAX_LINE_OCTETS = 998  # RFC 5321 4.5.3.1.6, without CRLF
_LONG_LINE = re.compile(rb"[^\n]{%d}" % (_MAX_LINE_OCTETS + 2))


def fit(
    envelope: Envelope, content: Content, extensions: Extensions, host: str, *, too_small: int = 0
) -> Envelope | Reply:
    """The envelope to use with this host, or why it can't carry the message. Raises OSError if it can't be read.

    `too_small` is a limit of size that another host announced, which was not enough for it.
    """
    if 0 < extensions.max_octets < max(content.octets, too_small + 1 if too_small else 0):
        return delivery.OVER_PEER_SIZE.reply(size=content.octets, limit=extensions.max_octets, host=host)
    if envelope.body is not Body.SEVEN_BIT:
        body = _fit_body(envelope.body, content, extensions)
        if not isinstance(body, Body):
            return delivery.NEEDS_CONVERSION.reply(host=host, extension=body)
        if body is not envelope.body:
            envelope = replace(envelope, body=body)
    if envelope.smtputf8 and "SMTPUTF8" not in extensions:
        ascii_envelope = _without_utf8(envelope)
        if ascii_envelope is None or not _header_is_ascii(content):
            return delivery.NEEDS_SMTPUTF8.reply(host=host)
        return ascii_envelope
    return envelope


def keep_terms(terms: Terms, session: Session, now: float) -> Reply | None:
    """Why a host can't be given a message on these terms at this Unix time, if so."""
    host, extensions = session.hop.name, session.extensions
    if terms.require_tls and not session.keeps_tls:
        return transport.NEEDS_ENCRYPTION.reply(host=host, detail="its certificate was not checked")
    if terms.require_tls and "REQUIRETLS" not in extensions:
        return delivery.NEEDS_REQUIRETLS.reply(host=host, detail="it does not offer REQUIRETLS")
    by = terms.by
    if by is not None and by.mode is ByMode.RETURN:
        left_s = round(by.at - now)
        if left_s <= 0:
            return delivery.TOO_LATE.reply()
        if "DELIVERBY" not in extensions or left_s < extensions.min_by_s:
            return delivery.NEEDS_DELIVERBY.reply(host=host)
    return None


def tunnel(content: Content, recipient: Recipient) -> Content:
    """The message for one recipient with a field that says since when the sender knows the address (RFC 7293 5).

    The hosts behind one without RRVS may heed it. Raises OSError if the message can't be read.
    """
    valid, address = recipient.valid_since, recipient.address
    if valid is None or address.lower() in known_since(scan_head(content.head())):
        return content
    field = field_for(address if needs_smtputf8(address) else ascii_address(address), valid.at)
    return msgspec.structs.replace(content, prefix=field + content.prefix)


def _fit_body(body: Body, content: Content, extensions: Extensions) -> Body | str:
    """The BODY to declare, or the extension without which the host can't carry such octets."""
    if body is Body.BINARY and not ("BINARYMIME" in extensions and "CHUNKING" in extensions):
        if not _is_text(content):
            return "CHUNKING" if "BINARYMIME" in extensions else "BINARYMIME"
        body = Body.EIGHT_BIT
    if body is Body.EIGHT_BIT and "8BITMIME" not in extensions:
        return Body.SEVEN_BIT if all(piece.isascii() for piece in content.chunks()) else "8BITMIME"
    return body


def _is_text(content: Content) -> bool:
    """Whether the octets could go by DATA unchanged: lines of fair length that end in CRLF, no NUL."""
    rest = b""  # the line that is still open
    for piece in content.chunks():
        text = rest + piece
        if b"\0" in text or _LONG_LINE.search(text):
            return False
        end = text.rfind(b"\n") + 1
        whole, rest = text[:end], text[end:]
        ends = whole.count(b"\n")
        if ends != whole.count(b"\r\n") or ends != whole.count(b"\r"):
            return False
    return b"\r" not in rest


def _without_utf8(envelope: Envelope) -> Envelope | None:
    """The envelope in ASCII, internationalised domains as A-labels; None if a local part needs more."""
    try:
        return replace(
            envelope,
            smtputf8=False,
            sender=ascii_address(envelope.sender),
            recipients=tuple(replace(one, address=ascii_address(one.address)) for one in envelope.recipients),
        )
    except (AddressError, UnicodeError):
        return None


def ascii_address(text: str) -> str:
    """The address with its domain in A-labels. Raises AddressError or UnicodeError if that does not make it ASCII."""
    if text.isascii():
        return text
    address = parse_address(text)
    written = str(replace(address, domain=address.dns_domain))
    written.encode("ascii")
    return written


def needs_smtputf8(address: str) -> bool:
    """Whether only a host with SMTPUTF8 can be given this address."""
    try:
        ascii_address(address)
    except (AddressError, UnicodeError):
        return True
    return False


def _header_is_ascii(content: Content) -> bool:
    """Whether the header section, as far as it is worth a look, is free of raw UTF-8."""
    return content.head().partition(b"\r\n\r\n")[0].isascii()
