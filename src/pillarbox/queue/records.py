"""Turn envelopes, traces, results and details into the blobs that the store keeps, and back.

Text from outside is kept as octets, so that lone surrogates (octets that were not UTF-8) survive.
"""

from __future__ import annotations

import msgspec

from pillarbox.mail.catalogue import CAUSES
from pillarbox.mail.envelope import Body, Envelope, Notify, Recipient, Ret
from pillarbox.mail.reply import Origin, Reply, Result, Stage
from pillarbox.queue.spool import Trace

_pack = msgspec.msgpack.Encoder().encode
_Recipients = list[tuple[bytes, int, bytes, bytes]]
_envelope = msgspec.msgpack.Decoder(tuple[bytes, _Recipients, str, bool, str | None, bytes])
_trace = msgspec.msgpack.Decoder(list[bytes])
_result = msgspec.msgpack.Decoder(tuple[int, str, list[bytes], str, str, str, bytes])
_detail = msgspec.msgpack.Decoder(dict[str, object])


class DamagedError(ValueError):
    """A blob of the store cannot be read."""


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "surrogateescape")


def pack_envelope(envelope: Envelope) -> bytes:
    """The envelope as a blob."""
    recipients = [
        (_octets(r.address), r.notify.value, _octets(r.orcpt), _octets(r.original))
        for r in envelope.recipients
    ]
    return _pack(
        (
            _octets(envelope.sender),
            recipients,
            envelope.body.value,
            envelope.smtputf8,
            envelope.ret,
            _octets(envelope.envid),
        )
    )


def unpack_envelope(blob: bytes) -> Envelope:
    """Read what `pack_envelope` wrote. Raises DamagedError."""
    try:
        sender, recipients, body, smtputf8, ret, envid = _envelope.decode(blob)
        return Envelope(
            _text(sender),
            tuple(
                Recipient(_text(address), Notify(notify), _text(orcpt), _text(original))
                for address, notify, orcpt, original in recipients
            ),
            Body(body),
            smtputf8,
            None if ret is None else Ret(ret),
            _text(envid),
        )
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        msg = f"envelope not readable: {error}"
        raise DamagedError(msg) from error


def pack_trace(trace: Trace) -> bytes:
    """The trace as a blob."""
    known = (trace.session, trace.client, trace.helo, trace.protocol, trace.login)
    return _pack(tuple(map(_octets, (*known, trace.warned) if trace.warned else known)))


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
    return _pack(
        (
            reply.code,
            reply.status,
            lines,
            cause,
            result.stage.value,
            result.origin.value,
            _octets(result.host),
        )
    )


def unpack_result(blob: bytes) -> Result:
    """Read what `pack_result` wrote; a cause that no longer exists is left out. Raises DamagedError."""
    try:
        code, status, lines, cause, stage, origin, host = _result.decode(blob)
        reply = Reply(code, status, tuple(map(_text, lines)), CAUSES.get(cause))
        return Result(reply, Stage(stage), Origin(origin), _text(host))
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
