"""Turn envelopes, traces, results and details into the blobs that the store keeps, and back.

Text from outside that has lone surrogates (octets that were not UTF-8) is kept as octets, so that they survive.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import astuple

from pillarbox.mail.catalogue import CAUSES
from pillarbox.mail.envelope import (
    NO_TERMS,
    Body,
    Envelope,
    Notify,
    Recipient,
    Ret,
    Terms,
    ValidSince,
)
from pillarbox.mail.reply import Origin, Reply, Result, Stage
from pillarbox.queue.spool import Trace

_pack = msgspec.msgpack.Encoder().encode
_Text = Any  # text or octets, which `_text` sees to: the decoder knows no such union


class _Recipient(msgspec.Struct, array_like=True):
    """A recipient as it is kept."""

    address: _Text
    notify: int
    orcpt: _Text
    original: _Text
    valid_since: ValidSince | None = None


class _Envelope(msgspec.Struct, array_like=True):
    """An envelope as it is kept."""

    sender: _Text
    recipients: list[_Recipient]
    body: Body
    smtputf8: bool
    ret: Ret | None
    envid: _Text
    terms: Terms = NO_TERMS


class _Result(msgspec.Struct, array_like=True):
    """A result as it is kept. What was added later stands at the end, and old records lack it."""

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
_trace = msgspec.msgpack.Decoder(list[_Text])
_result = msgspec.msgpack.Decoder(_Result)
_detail = msgspec.msgpack.Decoder(dict[str, object])


class DamagedError(ValueError):
    """A blob of the store cannot be read."""


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(kept: object) -> str:
    if isinstance(kept, bytes):
        return kept.decode("utf-8", "surrogateescape")
    if not isinstance(kept, str):
        raise TypeError("neither text nor octets")
    return kept


def pack_envelope(envelope: Envelope) -> bytes:
    """The envelope as a blob."""
    try:
        return _pack(envelope)
    except UnicodeEncodeError:
        return _pack(_in_octets(envelope))


def _in_octets(envelope: Envelope) -> _Envelope:
    return _Envelope(
        _octets(envelope.sender),
        [
            _Recipient(_octets(r.address), r.notify, _octets(r.orcpt), _octets(r.original), r.valid_since)
            for r in envelope.recipients
        ],
        envelope.body,
        envelope.smtputf8,
        envelope.ret,
        _octets(envelope.envid),
        envelope.terms,
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
                    one.valid_since,
                )
                for one in kept.recipients
            ),
            kept.body,
            kept.smtputf8,
            kept.ret,
            _text(kept.envid),
            NO_TERMS if kept.terms == NO_TERMS else kept.terms,
        )
    except (msgspec.MsgspecError, LookupError, TypeError, ValueError) as error:
        msg = f"envelope not readable: {error}"
        raise DamagedError(msg) from error


def pack_trace(trace: Trace) -> bytes:
    """The trace as a blob."""
    try:
        return _pack(trace)
    except UnicodeEncodeError:
        return _pack(tuple(map(_octets, astuple(trace))))


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
