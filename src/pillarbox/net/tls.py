"""Make the TLS contexts of the listeners, and renew their certificates while they are in use.

What a session may do without TLS is the business of `smtp.server`; connections to other hosts make their own contexts.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from pillarbox.mail.units import Settings

if TYPE_CHECKING:
    from collections.abc import Callable


class TlsSettings(Settings, frozen=True):
    """The certificate of the listeners; without it none offers TLS."""

    certificate: str = ""
    """File with the certificate chain in PEM."""
    key: str = ""
    """File with the private key in PEM."""


def server_context(settings: TlsSettings) -> ssl.SSLContext | None:
    """A context for listeners: TLS 1.2 and later; None if there is no certificate.

    Raises ValueError, which names the file that can't be used.
    """
    if not settings.certificate:
        return None
    context = _new_context()
    for key, file in ("certificate", settings.certificate), ("key", settings.key):
        try:
            Path(file).read_bytes()
        except OSError as error:
            raise ValueError(f"tls.{key}: {file} cannot be read: {error.strerror}") from error
    try:
        context.load_cert_chain(settings.certificate, settings.key)
    except (OSError, ssl.SSLError) as error:
        problem = f"{settings.certificate} and {settings.key} cannot be used together: {error}"
        raise ValueError(f"tls: {problem}") from error
    return context


def renewable_context(current: Callable[[], ssl.SSLContext | None]) -> ssl.SSLContext:
    """A context for a listener that begins with TLS: each handshake takes its certificate from the `current` context.

    A new chain is not loaded into the old context: it would keep the old one beside it if their keys are of two kinds.
    """
    context = _new_context()

    def choose(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        chosen = current()
        if chosen is not None:
            connection.context = chosen

    context.sni_callback = choose  # it is called for clients that name no host, too
    return context


def _new_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    return context
