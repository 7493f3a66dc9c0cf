"""Turn envelopes, traces, results and details into the blobs that the store keeps, and back.

Text from outside is kept as octets, so that lone surrogates (octets that were not UTF-8) survive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import astuple

from pillarbox.mail.catalogue import CAUSES
from pillarbox.mail.envelope import (
    NO_TERMS,
    Body,
    ByMode,
    Deadline,
    Envelope,
    Notify,
    Recipient,
    Ret,
    Terms,
    ValidSince,
)
from pillarbox.mail.reply import Origin, Reply, Result, Stage
from pillarbox.queue.spool import Trace

if TYPE_CHECKING:
    from collections.abc import Callable

_pack = msgspec.msgpack.Encoder().encode


class _Recipient(msgspec.Struct, array_like=True):
    """A recipient as it is kept. What was added later stands at the end, and old records lack it."""

    address: bytes
    notify: int
    orcpt: bytes
    original: bytes
    valid_since: tuple[float, bool] | None = None


class _Terms(msgspec.Struct, array_like=True):
    by: tuple[float, str, bool] | None
    hold_until: float
    priority: int
    require_tls: bool


class _Envelope(msgspec.Struct, array_like=True):
    """An envelope as it is kept; as above."""

    sender: bytes
    recipients: list[_Recipient]
    body: Body
    smtputf8: bool
    ret: Ret | None
    envid: bytes
    terms: _Terms | None = None


class _Result(msgspec.Struct, array_like=True):
    """A result as it is kept; as above."""

    code: int
    status: str
    lines: list[bytes]
    cause: str
    stage: str
    origin: str
    host: bytes
    tls: str = ""


_NOTIFY = {number: Notify(number) for number in range(16)}  # to look one up costs less than to make it
_envelope = msgspec.msgpack.Decoder(_Envelope)
_trace = msgspec.msgpack.Decoder(list[bytes])
_result = msgspec.msgpack.Decoder(_Result)
_detail = msgspec.msgpack.Decoder(dict[str, object])


class DamagedError(ValueError):
    """A blob of the store cannot be read."""


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "surrogateescape")


def pack_envelope(envelope: Envelope) -> bytes:
    """The envelope as a blob."""
    try:
        return _pack_envelope(envelope, str.encode)  # as nearly all allow: it costs half as much
    except UnicodeEncodeError:
        return _pack_envelope(envelope, _octets)


def _pack_envelope(envelope: Envelope, octets: Callable[[str], bytes]) -> bytes:
    recipients = [
        (octets(r.address), r.notify, octets(r.orcpt), octets(r.original))
        if r.valid_since is None
        else _pack_checked(r, r.valid_since)
        for r in envelope.recipients
    ]
    record = (
        octets(envelope.sender),
        recipients,
        envelope.body,
        envelope.smtputf8,
        envelope.ret,
        octets(envelope.envid),
    )
    terms = envelope.terms
    if terms is NO_TERMS:
        return _pack(record)
    by = terms.by and (terms.by.at, terms.by.mode.value, terms.by.trace)
    return _pack((*record, (by, terms.hold_until, terms.priority, terms.require_tls)))


def _pack_checked(recipient: Recipient, valid: ValidSince) -> _Recipient:
    return _Recipient(
        _octets(recipient.address),
        recipient.notify.value,
        _octets(recipient.orcpt),
        _octets(recipient.original),
        (valid.at, valid.refuse),
    )


def unpack_envelope(blob: bytes) -> Envelope:
    """Read what `pack_envelope` wrote. Raises DamagedError."""
    try:
        kept = _envelope.decode(blob)
        return Envelope(
            _text(kept.sender),
            tuple(
                Recipient(
                    _text(one.address),
                    _NOTIFY[one.notify],
                    _text(one.orcpt),
                    _text(one.original),
                    None if one.valid_since is None else ValidSince(*one.valid_since),
                )
                for one in kept.recipients
            ),
            kept.body,
            kept.smtputf8,
            kept.ret,
            _text(kept.envid),
            NO_TERMS if kept.terms is None else _terms(kept.terms),
        )
    except (msgspec.MsgspecError, LookupError, TypeError, ValueError) as error:
        msg = f"envelope not readable: {error}"
        raise DamagedError(msg) from error


def _terms(kept: _Terms) -> Terms:
    by = None if kept.by is None else Deadline(kept.by[0], ByMode(kept.by[1]), kept.by[2])
    return Terms(by, kept.hold_until, kept.priority, kept.require_tls)


def pack_trace(trace: Trace) -> bytes:
    """The trace as a blob."""
    known: tuple[str, ...] = astuple(trace)
    if not trace.forwarded:  # an older version reads what it knows of
        known = known[:7] if trace.origin or trace.warned else known[:5]
    try:
        return _pack(tuple(map(str.encode, known)))
    except UnicodeEncodeError:
        return _pack(tuple(map(_octets, known)))


def unpack_trace(blob: bytes) -> Trace:
    """Read what `pack_trace` wrote. Raises DamagedError."""
    try:
        return Trace(*map(_text, _trace.decode(blob)))
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        msg = f"trace not readable: {error}"
        raise DamagedError(msg) from error


def pack_result(result: Result) -> bytes:
    """The result of an attempt as a blob."""
    reply = result.reply
    cause = reply.cause.id if reply.cause is not None else ""
    lines = [_octets(line) for line in reply.lines]
    kept = (
        reply.code,
        reply.status,
        lines,
        cause,
        result.stage.value,
        result.origin.value,
        _octets(result.host),
    )
    return _pack((*kept, result.tls) if result.tls else kept)


def unpack_result(blob: bytes) -> Result:
    """Read what `pack_result` wrote; a cause that no longer exists is left out. Raises DamagedError."""
    try:
        kept = _result.decode(blob)
        reply = Reply(kept.code, kept.status, tuple(map(_text, kept.lines)), CAUSES.get(kept.cause))
        return Result(reply, Stage(kept.stage), Origin(kept.origin), _text(kept.host), tls=kept.tls)
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        msg = f"result not readable: {error}"
        raise DamagedError(msg) from error


def pack_detail(detail: dict[str, object]) -> bytes:
    """The detail of an event as a blob; only plain values."""
    return _pack(detail)


def unpack_detail(blob: bytes) -> dict[str, object]:
    """Read what `pack_detail` wrote. Raises DamagedError."""
    try:
        return _detail.decode(blob)
    except (msgspec.MsgspecError, ValueError) as error:
        msg = f"event not readable: {error}"
        raise DamagedError(msg) from error
