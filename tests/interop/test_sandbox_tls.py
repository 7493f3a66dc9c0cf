"""The sandbox as a newcomer starts it: without a file, on its own ports, with TLS by a certificate of its own making."""

from __future__ import annotations

import os
import signal
import smtplib
import ssl
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("own_network")]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """The data folder of a sandbox that was started for the first time."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PILLARBOX")}
    process = subprocess.Popen(
        [sys.executable, "-m", "pillarbox", "serve"],
        env=environment | {"XDG_STATE_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        said = "".join(iter(process.stdout.readline, "End with Ctrl-C.\n"))
        assert "STARTTLS   127.0.0.1:1587\n" in said
        assert "TLS        127.0.0.1:1465\n" in said
        yield tmp_path / "pillarbox/sandbox"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_the_first_client_that_asks_for_tls_gets_a_certificate_that_can_be_trusted(folder: Path) -> None:
    file = folder / "self-signed.pem"
    with smtplib.SMTP("localhost", 1025, timeout=20) as client:
        client.ehlo()
        assert not client.has_extn("starttls")
    assert not file.exists(), "it is not made before it is asked for"
    with (
        smtplib.SMTP("localhost", 1587, timeout=20) as client,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        client.starttls(context=ssl.create_default_context())
    assert file.stat().st_mode & 0o777 == 0o600
    trust = ssl.create_default_context(cafile=file)
    with smtplib.SMTP("localhost", 1587, timeout=20) as client:
        client.starttls(context=trust)
        client.sendmail("a@sender.example", ["b@example.org"], "Subject: x\n\nx\n")
    with smtplib.SMTP_SSL("127.0.0.1", 1465, timeout=20, context=trust) as client:
        client.sendmail("a@sender.example", ["b@example.org"], "Subject: x\n\nx\n")
