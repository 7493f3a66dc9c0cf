"""Make the TLS contexts of the listeners, and renew their certificates while they are in use.

What a session may do without TLS is the business of `smtp.server`; connections to other hosts make their own contexts.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from pillarbox.mail.units import Settings

if TYPE_CHECKING:
    from pathlib import Path


class TlsSettings(Settings, frozen=True):
    """The certificate of the listeners; without it none offers TLS."""

    certificate: str = ""
    """File with the certificate chain in PEM."""
    key: str = ""
    """File with the private key in PEM."""


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """A context for listeners: TLS 1.2 and later. Raises OSError or ssl.SSLError if the files do not fit."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.load_cert_chain(certificate, key)
    return context
