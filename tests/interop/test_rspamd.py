"""rspamd takes what we sign and seal, and we take what it signs; its DNS is a name server of the test's own."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import time
import urllib.request

import pytest

from pillarbox.mailauth import arc, dkim, keys
from pillarbox.mailauth.dns import Answer
from pillarbox.mailauth.results import Finding

RSPAMD = shutil.which("rspamd", path="/usr/bin:/usr/sbin")
pytestmark = [
    pytest.mark.interop,
    pytest.mark.xdist_group("rspamd"),
    pytest.mark.skipif(RSPAMD is None, reason="rspamd is not installed"),
]
MESSAGE = (
    b"From: Alice <alice@example.org>\r\nTo: bob@example.net\r\nSubject:  two   words\r\n\tand more\r\n"
    b"Date: Mon, 1 Jan 2024 00:00:00 +0000\r\nMessage-ID: <1@example.org>\r\n\r\nHello  Bob\t\r\n\r\nsee you \r\n\r\n\r\n"
)
KEYS = {"rsa": keys.new_key("rsa"), "ed": keys.new_key("ed25519")}
RECORDS = {f"{selector}._domainkey.example.org": keys.format_record(key) for selector, key in KEYS.items()}
# What it needs for these checks alone: with all its rules and lists it takes half a minute to start.
CONFIG = """
options {{
  filters = "dkim";
  pidfile = "{folder}/pid";
  tempdir = "{folder}";
  control_socket = "{folder}/control mode=0600";
  hs_cache_dir = "{folder}";
  dns {{ nameserver = ["127.0.0.1:{dns}"]; timeout = 5s; retransmits = 1; }}
  url_tld = "{folder}/suffixes";
  local_addrs = [];
}}
logging {{ type = "console"; level = "info"; }}
worker "normal" {{ bind_socket = "127.0.0.1:{port}"; count = 1; }}
modules {{ path = "/usr/share/rspamd/plugins/arc.lua"; path = "/usr/share/rspamd/plugins/dkim_signing.lua"; }}
dkim {{ trusted_only = false; }}
arc {{ sign_inbound = false; selector = "rsa"; path = "{folder}/rsa.key"; }}
"""
SIGNING = """
dkim_signing {{
  sign_authenticated = true;
  sign_local = true;
  allow_hdrfrom_mismatch = true;
  allow_username_mismatch = true;
  use_esld = false;
  domain {{ example.org {{ selector = "rsa"; path = "{folder}/rsa.key"; }} }}
}}
"""


@pytest.fixture
async def rspamd(serve_dns, tmp_path):
    """Ask rspamd about a message: its answer as JSON."""
    zone = {f"{name}. TXT": [(f"{name}.", 300, "IN", "TXT", quoted(text))] for name, text in RECORDS.items()}
    names = await serve_dns(zone)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    (tmp_path / "rsa.key").write_bytes(keys.format_key(KEYS["rsa"]))
    (tmp_path / "suffixes").write_text("org\nnet\n")
    config = tmp_path / "rspamd.conf"
    config.write_text(
        CONFIG.format(folder=tmp_path, dns=names.port, port=port) + SIGNING.format(folder=tmp_path)
    )
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([RSPAMD, "-f", "-i", "-c", config], stdout=log, stderr=log)
    try:
        async with asyncio.timeout(20):
            while not await asyncio.to_thread(is_up, port):
                assert process.poll() is None, (tmp_path / "log").read_text()
                await asyncio.sleep(0.1)
        yield lambda message, **fields: asyncio.to_thread(ask, port, message, fields)
    finally:
        process.terminate()
        process.wait(20)
        print((tmp_path / "log").read_text()[-6000:])  # pytest shows it if the test failed


def quoted(text):
    return " ".join(f'"{text[at : at + 200]}"' for at in range(0, len(text), 200))


def is_up(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def ask(port, message, fields):
    headers = {
        "IP": "192.0.2.1",
        "From": "alice@example.org",
        "Rcpt": "bob@example.net",
        "Helo": "a.example.org",
        **fields,
    }
    request = urllib.request.Request(f"http://127.0.0.1:{port}/checkv2", data=message, headers=headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def symbols(answer):
    return set(answer["symbols"])


async def test_it_takes_what_we_sign_and_no_longer_if_touched(rspamd):
    header, body_hash = dkim.message_hash(MESSAGE)
    signers = [dkim.Signer("example.org", selector, key) for selector, key in KEYS.items()]
    signed = dkim.sign(header, body_hash, signers, now=time.time()) + MESSAGE
    answer = await rspamd(signed)
    assert "R_DKIM_ALLOW" in symbols(answer), answer
    assert sorted(answer["symbols"]["R_DKIM_ALLOW"]["options"]) == ["example.org:s=ed", "example.org:s=rsa"]
    assert "R_DKIM_REJECT" in symbols(await rspamd(signed.replace(b"Hello", b"Hallo")))


async def test_it_takes_our_seals(rspamd):
    header, body_hash = dkim.message_hash(MESSAGE)
    signer = dkim.Signer("example.org", "rsa", KEYS["rsa"])
    found = [Finding("dkim", "pass", (("header.d", "example.org"),))]
    sealed = MESSAGE
    for chain in ("none", "pass"):
        header, body_hash = dkim.message_hash(sealed)
        sealed = (
            arc.seal(
                header,
                body_hash,
                signer,
                server="mx.example.org",
                findings=found,
                chain=chain,
                now=time.time(),
            )
            + sealed
        )
    assert "ARC_ALLOW" in symbols(await rspamd(sealed))
    assert not {"ARC_ALLOW"} & symbols(await rspamd(sealed.replace(b"Hello", b"Hallo")))


async def test_we_take_what_it_signs(rspamd):
    answer = await rspamd(MESSAGE, User="alice@example.org")
    signed = field_of("DKIM-Signature", answer["dkim-signature"]) + MESSAGE
    for message, result in ((signed, "pass"), (signed.replace(b"Hello", b"Hallo"), "fail")):
        header, bodies = prepared(message, dkim.signatures)
        (signature,) = dkim.signatures(header)
        assert follow(dkim.verify(signature, header, bodies, now=time.time())).result == result


async def test_we_take_its_seals(rspamd):
    answer = await rspamd(MESSAGE, User="alice@example.org")
    added = answer["milter"]["add_headers"]
    sealed = MESSAGE
    for name in ("ARC-Authentication-Results", "ARC-Message-Signature", "ARC-Seal"):
        sealed = field_of(name, added[name]["value"]) + sealed
    for message, result in ((sealed, "pass"), (sealed.replace(b"Hello", b"Hallo"), "fail")):
        header, bodies = prepared(message, lambda header: arc.parse_chain(header).bodies)
        chain = arc.parse_chain(header)
        verdict = follow(arc.verify(chain, header, bodies, now=time.time()))
        assert (verdict.result, verdict.sealers) == (result, ("example.org",)), verdict


def field_of(name, value):
    return f"{name}: {value}\r\n".replace("\r\n", "\n").replace("\n", "\r\n").encode()


def prepared(message, signatures):
    """The header of a message, and the hashes of its body that signatures need."""
    section, _, body = message.partition(b"\r\n\r\n")
    header = dkim.Header(section)
    bodies = dkim.body_hashes(signatures(header))
    for one in bodies.values():
        one.update(body)
    return header, bodies


def follow(plan):
    try:
        query = next(plan)
        while True:
            query = plan.send(Answer((RECORDS[query.name],)))
    except StopIteration as done:
        return done.value
