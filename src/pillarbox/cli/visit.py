"""Visit one mail exchanger as a stranger would: greeting, EHLO, STARTTLS, its certificate, and goodbye; or fetch a policy.

What follows from it is judged in `diagnose.domain_hosts`.
"""

from __future__ import annotations

import contextlib
import http.client
import ssl
from http import HTTPStatus
from typing import TYPE_CHECKING

from msgspec.structs import replace

from pillarbox.cli.dialogue import Dialogue, connect
from pillarbox.diagnose.domain_hosts import Visit
from pillarbox.mailauth.mta_sts import MAX_POLICY_OCTETS, PolicyError, parse_policy
from pillarbox.net.tls import peer_chain
from pillarbox.smtp.replies import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillarbox.mailauth.mta_sts import StsPolicy


def visit(host: str, address: str, port: int, *, helo: str, limit_s: float, ca_file: str = "") -> Visit:
    """See what a host says; if its certificate proves nothing, a second time without asking for proof."""
    found = _visit(Visit(host, address), port, helo, limit_s, lambda: _context(ca_file))
    if not found.untrusted:
        return found
    seen = _visit(Visit(host, address), port, helo, limit_s, _credulous)
    return replace(seen, untrusted=found.untrusted)


def _visit(
    known: Visit, port: int, helo: str, limit_s: float, context: Callable[[], ssl.SSLContext]
) -> Visit:
    try:
        dialogue = Dialogue(connect(known.address, port, limit_s))
    except OSError as error:
        return replace(known, problem=_words(error))
    with contextlib.closing(dialogue):
        try:
            return _converse(known, dialogue, helo, context())
        except (OSError, ProtocolError) as error:
            return replace(known, problem=_words(error))


def _converse(known: Visit, dialogue: Dialogue, helo: str, context: ssl.SSLContext) -> Visit:
    greeting = dialogue.replies()[0]
    if not greeting.positive:
        return replace(known, refused=str(greeting))
    reply, extensions = dialogue.hello(helo)
    if not reply.positive:
        return replace(known, refused=str(reply))
    known = replace(known, extensions=frozenset(extensions.keywords))
    if "STARTTLS" not in extensions:
        dialogue.quit()
        return known
    try:
        reply = dialogue.start_tls(context, known.host)
    except ssl.SSLCertVerificationError as error:
        return replace(known, untrusted=error.verify_message or _words(error))
    except (OSError, ProtocolError) as error:
        return replace(known, handshake=_words(error))
    if not reply.positive:
        return replace(known, handshake=str(reply))
    found = _encrypted(known, dialogue)
    dialogue.quit()
    return found


def _encrypted(known: Visit, dialogue: Dialogue) -> Visit:
    sock = dialogue.sock
    assert isinstance(sock, ssl.SSLSocket)  # the handshake is done
    said = sock.getpeercert()
    ends_at = ssl.cert_time_to_seconds(str(said["notAfter"])) if said else 0.0
    return replace(
        known, encrypts=True, version=sock.version() or "", ends_at=ends_at, chain=tuple(peer_chain(sock))
    )


def fetch_policy(domain: str, address: str, port: int, *, limit_s: float, ca_file: str = "") -> StsPolicy:
    """The MTA-STS policy that a domain's host serves (RFC 8461 3.3). Raises PolicyError, which says what is wrong."""
    host = f"mta-sts.{domain}"
    connection = http.client.HTTPSConnection(host, port, timeout=limit_s, context=_context(ca_file))
    try:
        plain = connect(address, port, limit_s)
        connection.sock = _context(ca_file).wrap_socket(plain, server_hostname=host)
        connection.request("GET", "/.well-known/mta-sts.txt", headers={"Connection": "close"})
        response = connection.getresponse()
        octets = response.read(MAX_POLICY_OCTETS + 1)
    except (OSError, http.client.HTTPException) as error:
        words = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else _words(error)
        raise PolicyError(f"{host} [{address}]: {words}") from error
    finally:
        connection.close()
    if response.status != HTTPStatus.OK:
        raise PolicyError(f"{host} answers {response.status} {response.reason}")
    return parse_policy(octets)


def _context(ca_file: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca_file or None)


def _credulous() -> ssl.SSLContext:
    """What most senders do: encrypt, whoever it is."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).lower().replace("_", " ")
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
