"""Find all certificates that a configuration speaks of: named files, what an authority issued, what is made for tests.

Reading them is the business of `net.certificates`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pillarbox.net.certificates import Certificates, find_certificates
from pillarbox.net.renewal import chain_file

if TYPE_CHECKING:
    from pillarbox.config.settings import Config


def certificates_of(config: Config) -> Certificates:
    """All certificates of a configuration; none is read yet."""
    acme, data = config.acme, Path(config.data)
    issued = [chain_file(data, kind) for kind in acme.keys] if acme.directory else []
    return find_certificates(config.tls, config.certificates, data, config.hostname, issued)
