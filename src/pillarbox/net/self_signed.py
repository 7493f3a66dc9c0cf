"""Make a certificate that nobody vouches for, for the sandbox and for tests."""

from __future__ import annotations

import contextlib
import ipaddress
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from pillarbox.net.private_files import write_private

if TYPE_CHECKING:
    from pathlib import Path

FILE = "self-signed.pem"  # in the data folder
_LASTS = timedelta(days=397)  # what clients take longest
_LEFT_S = 30 * 86_400.0  # when a new one is made


def make_self_signed(folder: Path, hostname: str) -> None:
    """Write a certificate with its key into the data folder, unless a good one is there. Raises OSError."""
    from cryptography import x509  # noqa: PLC0415 - it costs start-up time
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415 - the same
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - the same
    from cryptography.x509.oid import ExtendedKeyUsageOID  # noqa: PLC0415 - the same

    file = folder / FILE
    with contextlib.suppress(OSError, ValueError):
        read = x509.load_pem_x509_certificate(file.read_bytes())
        if read.not_valid_after_utc.timestamp() - time.time() > _LEFT_S:
            return
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, hostname)])
    now = datetime.now(UTC)
    names = [x509.DNSName(one) for one in dict.fromkeys((hostname, "localhost"))]
    addresses = [x509.IPAddress(ipaddress.ip_address(one)) for one in ("127.0.0.1", "::1")]
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + _LASTS)
        .add_extension(x509.SubjectAlternativeName([*names, *addresses]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    octets = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_private(file, octets + made.public_bytes(serialization.Encoding.PEM))
