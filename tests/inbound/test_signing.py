"""Outgoing mail is signed on its way in: by the keys of the domain in From, and only if it is ours."""

from __future__ import annotations

import time
from base64 import b64encode

import dkim as oracle
import pytest

from pillarbox.mail.envelope import Envelope, Recipient
from pillarbox.policy.rules import Role
from pillarbox.policy.signing import SigningError, SigningKeys, activate, make_keys, stored_keys

LOGIN = b64encode(b"\0alice@example.org\0wonderland")
NOW = 1_790_000_000.0
MESSAGE = (
    b"From: Alice <alice@example.org>\r\nTo: bob@example.org\r\nSubject: hello  there\r\n\r\nHello  Bob \r\n"
)


@pytest.fixture
def folder(tmp_path):
    make_keys(tmp_path / "dkim", "example.org", now=NOW)
    return tmp_path / "dkim"


@pytest.fixture
def post(open_office, dial, folder):
    async def post(message=MESSAGE, *, body=b"", **options):
        options = {"role": Role.RELAY, "relay": ("127.0.0.0/8",)} | options
        office = await open_office(keys=SigningKeys(folder), **options)
        caller = await dial(office.port)
        await caller.reply()
        await caller.ask(b"EHLO client.test")
        if office.options.login:
            assert (await caller.ask(b"AUTH PLAIN " + LOGIN)).startswith(b"235")
        await caller.ask(b"MAIL FROM:<alice@example.org>")
        await caller.ask(b"RCPT TO:<bob@example.org>")
        await caller.ask(b"DATA")
        await caller.send(message + body)
        assert (await caller.ask(b".")).startswith(b"250")
        data, _ = await office.stored()
        return data

    return post


def published(folder):
    """What a resolver would find if the printed records were in the zone."""
    records = {one.name: one.record.encode() for one in stored_keys(folder)}
    return lambda name, timeout=5: records.get(name.decode().rstrip("."))


def passes(data, folder):
    found = oracle.DKIM(data)
    count = data.partition(b"\r\n\r\n")[0].count(b"DKIM-Signature:")
    return [found.verify(number, dnsfunc=published(folder)) for number in range(count)]


@pytest.mark.parametrize("body", [b"", b"a line of text  \r\n" * 20_000], ids=["small", "in a file"])
async def test_both_signatures_hold_for_dkimpy(post, folder, body):
    data = await post(body=body)
    assert data.startswith(b"DKIM-Signature: v=1; a=ed25519-sha256;")
    assert passes(data, folder) == [True, True]


async def test_fields_that_the_server_adds_for_users_are_signed_too(post, folder):
    data = await post(role=Role.SUBMISSION, relay=(), login=True, login_in_clear=True)
    assert b"\r\nMessage-ID: <" in data
    assert passes(data, folder) == [True, True]
    assert passes(data.replace(b"\r\nMessage-ID: <", b"\r\nMessage-ID: <x"), folder) == [False, False]


async def test_a_field_that_is_changed_breaks_them(post, folder):
    data = await post()
    assert passes(data.replace(b"Subject: hello", b"Subject: hullo"), folder) == [False, False]


async def test_a_subdomain_is_signed_by_the_domain_above(post, folder):
    data = await post(MESSAGE.replace(b"alice@example.org", b"alice@mail.example.org", 1))
    assert b" d=example.org;" in data
    assert passes(data, folder) == [True, True]


@pytest.mark.parametrize(
    "author", [b"alice@example.net", b"alice@example.org, eve@example.net", b"alice@org", b"nobody"]
)
async def test_mail_of_other_authors_is_not_signed(post, author):
    data = await post(MESSAGE.replace(b"alice@example.org", author, 1))
    assert b"DKIM-Signature" not in data


async def test_delivery_reports_of_ours_are_signed(open_office, folder):
    office = await open_office(keys=SigningKeys(folder))
    report = b"From: MAILER-DAEMON@mx.example.org\r\nSubject: not delivered\r\n\r\nSorry.\r\n"
    envelope = Envelope("", (Recipient("alice@example.org"),))
    draft, entry = office.door.prepare_report(envelope, report, time.time())
    assert passes(entry.prefix + draft.inline(), folder) == [True, True]
    draft.discard()


async def test_mail_of_strangers_is_not_signed(post):
    assert b"DKIM-Signature" not in await post(role=Role.MX, relay=())


def test_keys_are_for_the_service_alone(folder):
    files = sorted(folder.glob("*/*.key"))
    assert [file.stat().st_mode & 0o777 for file in files] == [0o600, 0o600]
    assert folder.stat().st_mode & 0o077 == 0
    files[0].chmod(0o640)
    with pytest.raises(SigningError, match="others may read this key"):
        SigningKeys(folder)


def test_a_file_that_is_no_key_is_named(folder):
    file = next(folder.glob("*/*.key"))
    file.write_bytes(b"nonsense")
    with pytest.raises(SigningError, match=str(file)):
        SigningKeys(folder)


@pytest.mark.parametrize(
    "domain", ["", "org", "../example.org", "a/b.org", "example..org", "x" * 70 + ".org"]
)
def test_keys_are_made_for_domains_only(tmp_path, domain):
    with pytest.raises(SigningError):
        make_keys(tmp_path, domain, now=time.time())


def test_new_keys_wait_until_they_are_activated(folder):
    before = SigningKeys(folder).for_authors(["a@example.org"])
    new = make_keys(folder, "example.org", now=NOW)
    assert {one.state for one in new} == {"waits"}
    assert [one.selector for one in SigningKeys(folder).for_authors(["a@example.org"])] == [
        one.selector for one in before
    ]
    signing, retired = activate(folder, "example.org")
    assert {one.selector for one in signing} == {one.selector for one in new}
    assert {one.selector for one in retired} == {one.selector for one in before}
    now = SigningKeys(folder).for_authors(["a@example.org"])
    assert {one.selector for one in now} == {one.selector for one in new}
    with pytest.raises(SigningError, match="waits"):
        activate(folder, "example.org")
