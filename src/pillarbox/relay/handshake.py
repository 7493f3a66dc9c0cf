"""Encrypt a session with a host and have the host prove who it is, as far as that is demanded.

What is demanded is `relay.demand`'s business; what follows from a failure `relay.session`'s.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import TYPE_CHECKING

import msgspec

from pillarbox.mail.catalogue import delivery, transport
from pillarbox.relay.connection import LinkError, client_context
from pillarbox.relay.demand import Source

if TYPE_CHECKING:
    from pillarbox.mail.reply import Reply
    from pillarbox.relay.connection import Connection
    from pillarbox.relay.demand import Demand
    from pillarbox.relay.plan import Hop

NOT_OFFERED = "starttls-not-supported"
_EXPIRED = (9, 10)  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
_OTHER_HOST = (62, 63, 64)  # X509_V_ERR_HOSTNAME_MISMATCH and its like
_UNTRUSTED = (2, 18, 19, 20, 21)  # no issuer, or one that nobody trusts


class TlsOutcome(msgspec.Struct, frozen=True):
    """What came of the wish to protect a session; `kind` is "" for a success, else the name of RFC 8460 4.3."""

    kind: str
    detail: str = ""


class UnprovenError(LinkError):
    """The session can't be protected as it must be."""

    def __init__(self, reply: Reply, kind: str) -> None:
        """`kind` is what RFC 8460 4.3 calls it."""
        super().__init__(reply)
        self.outcome = TlsOutcome(kind, reply.text)


def refuse(hop: Hop, demand: Demand, kind: str, detail: str) -> UnprovenError:
    """A host that does not meet a demand."""
    if demand.source is Source.DANE:
        reply = transport.DANE_MISMATCH.reply(host=hop.name, detail=detail)
    elif demand.source is Source.STS:
        reply = transport.STS_FAILED.reply(host=hop.name, domain=demand.domain, detail=detail)
    elif kind == NOT_OFFERED:
        reply = delivery.TLS_NOT_OFFERED.reply(host=hop.name)
    else:
        reply = delivery.TLS_FAILED.reply(host=hop.name, detail=detail)
    return UnprovenError(reply, kind)


async def encrypt(connection: Connection, hop: Hop, demand: Demand, *, ca_file: str, limit_s: float) -> None:
    """Do the handshake, and check what the host shows. Raises UnprovenError."""
    context = await context_for(demand, ca_file)
    try:
        await connection.start_tls(context, demand.base or hop.host, limit_s)
    except LinkError as error:
        raise refuse(hop, demand, kind_of(error.__cause__), error.why or error.reply.text) from error
    await check_keys(connection, hop, demand)


async def context_for(demand: Demand, ca_file: str) -> ssl.SSLContext:
    """What to shake hands with; `ca_file` names the authorities that are trusted usually."""
    return await client_context(
        verify=demand.checked, ca_file=demand.ca_file or ca_file, min_version=demand.min_version
    )


async def check_keys(connection: Connection, hop: Hop, demand: Demand) -> None:
    """See that the host shows a certificate that was named before, if any was. Raises UnprovenError."""
    if not demand.tlsa:
        return
    from pillarbox.mailauth.certificates import MismatchError, verify  # noqa: PLC0415 - few hosts need it

    shown = connection.certificates()
    try:
        await asyncio.to_thread(verify, demand.tlsa, shown, demand.names, now=time.time())
    except MismatchError as error:
        connection.close()
        raise refuse(hop, demand, error.kind, str(error)) from error


def kind_of(error: BaseException | None) -> str:
    """What RFC 8460 4.3 calls a handshake that failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _EXPIRED:
            return "certificate-expired"
        if error.verify_code in _OTHER_HOST:
            return "certificate-host-mismatch"
        if error.verify_code in _UNTRUSTED:
            return "certificate-not-trusted"
    return "validation-failure"


def evidence(connection: Connection, demand: Demand) -> str:
    """How a session is protected, and what speaks for its host, for people."""
    parts = [connection.tls_version, demand.evidence]
    if demand.checked or demand.tlsa:
        from pillarbox.mailauth.certificates import names_in  # noqa: PLC0415 - as above

        names = [name for octets in connection.certificates()[:1] for name in names_in(octets)]
        parts.append(f"certificate of {', '.join(names)}" if names else "")
    return "; ".join(filter(None, parts))
