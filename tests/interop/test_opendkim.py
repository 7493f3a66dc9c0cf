"""OpenDKIM takes what we sign, and we take what it signs; keys come from a file, so that no name server is asked."""

from __future__ import annotations

import re
import shutil
import subprocess
import time

import pytest

from pillarbox.mailauth import dkim, keys
from pillarbox.mailauth.dns import Answer, Query

OPENDKIM = shutil.which("opendkim", path="/usr/sbin:/usr/bin")
pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(OPENDKIM is None, reason="OpenDKIM is not installed"),
]
MESSAGE = (
    b"From: Alice <alice@example.org>\r\nTo: bob@example.net\r\nSubject:  two   words\r\n\tand more\r\n"
    b"Date: Mon, 1 Jan 2024 00:00:00 +0000\r\nMessage-ID: <1@example.org>\r\n\r\nHello  Bob\t\r\n\r\nsee you \r\n\r\n\r\n"
)
KEYS = {"rsa": keys.new_key("rsa"), "ed": keys.new_key("ed25519")}
RECORDS = {f"{selector}._domainkey.example.org": keys.format_record(key) for selector, key in KEYS.items()}


@pytest.fixture
def opendkim(tmp_path):
    """Let OpenDKIM work on one message: the header fields that it would put in front."""

    def run(message, *settings):
        published = tmp_path / "keys"
        published.write_text("".join(f"{name} {record}\n" for name, record in RECORDS.items()))
        config = tmp_path / "opendkim.conf"
        config.write_text("\n".join(["SoftwareHeader no", "UserID root", *settings]) + "\n")
        file = tmp_path / "message"
        file.write_bytes(message)
        done = subprocess.run(
            [OPENDKIM, "-x", config, "-vv", "-t", file],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        return re.findall(r"INSHEADER: idx=\d+ hname='([^']*)' hvalue='([^']*)'", done.stdout)

    return run


@pytest.mark.parametrize("selector", ["rsa", "ed"])
def test_it_takes_what_we_sign(opendkim, tmp_path, selector):
    header, body_hash = dkim.message_hash(MESSAGE)
    signers = [dkim.Signer("example.org", selector, KEYS[selector])]
    message = dkim.sign(header, body_hash, signers, now=time.time()) + MESSAGE
    verify = ("Mode v", f"TestPublicKeys {tmp_path}/keys")
    ((name, said),) = opendkim(message, *verify)
    assert name == "Authentication-Results"
    assert "dkim=pass" in said
    ((_, said),) = opendkim(message.replace(b"Hello", b"Hallo"), *verify)
    assert "dkim=fail" in said


@pytest.mark.parametrize("forms", ["relaxed/relaxed", "relaxed/simple", "simple/simple", "simple/relaxed"])
def test_we_take_what_it_signs(opendkim, tmp_path, forms):
    plain = MESSAGE.replace(
        b":  two   words\r\n\tand", b": two   words and"
    )  # its test mode drops a second space
    file = tmp_path / "key.pem"
    file.write_bytes(keys.format_key(KEYS["rsa"]))
    file.chmod(0o600)
    settings = (
        "Mode s", "Domain example.org", "Selector rsa", f"KeyFile {file}", f"Canonicalization {forms}",
        "SignatureAlgorithm rsa-sha256", "OversignHeaders From", "RequireSafeKeys no",
    )  # fmt: skip
    ((name, value),) = opendkim(plain, *settings)
    field = f"{name}: {value}".replace("\n", "\r\n").encode()
    for message, result in ((plain, "pass"), (plain.replace(b"Hello", b"Hallo"), "fail")):
        section, _, body = message.partition(b"\r\n\r\n")
        header = dkim.Header(field + b"\r\n" + section)
        (signature,) = dkim.signatures(header)
        bodies = dkim.body_hashes([signature])
        bodies[signature.body].update(body)
        plan = dkim.verify(signature, header, bodies, now=time.time())
        assert follow(plan).result == result


def follow(plan):
    try:
        query: Query = next(plan)
        while True:
            query = plan.send(Answer((RECORDS[query.name],)))
    except StopIteration as done:
        return done.value
