"""Logins over sockets, where a written dialogue is not enough: certificates, crowds, accounts that are closed."""

import asyncio
import base64
from hashlib import sha256

import pytest

from pillarbox.mail.units import Seconds
from pillarbox.policy.account import Account
from pillarbox.policy.account_store import AccountStore, StoredAccounts
from pillarbox.policy.accounts import AuthSettings
from pillarbox.policy.passwords import hash_password
from pillarbox.smtp.profile import Limits
from pillarbox.smtp.scram import ScramClient

SECURE = {"tls": "implicit", "login": True}


def plain(user, password, authorize_as=""):
    return b"AUTH PLAIN " + base64.b64encode(f"{authorize_as}\0{user}\0{password}".encode())


async def scram(caller, user, password, mechanism="SCRAM-SHA-256", end_point=b""):
    """Log in by SCRAM; the last reply."""
    client = ScramClient(mechanism, user, password, b"nonce", end_point)
    reply = await caller.ask(f"AUTH {mechanism} ".encode() + base64.b64encode(client.initial))
    while reply[:3] == b"334":
        reply = await caller.ask(base64.b64encode(client.step(base64.b64decode(reply[4:]))) or b"=")
    return reply


async def test_E235_3_external_from_a_verified_certificate(open_office, begin, certificates):
    office = await open_office(**SECURE, mechanisms="EXTERNAL PLAIN")
    alice = certificates.client_of("alice@example.org")
    caller, reply = await begin(office, tls=alice)
    assert b"AUTH EXTERNAL PLAIN" in reply
    assert (await caller.ask(b"AUTH EXTERNAL"))[:4] == b"334 "
    assert (await caller.ask(b"="))[:9] == b"235 2.7.0"
    assert (await caller.ask(b"MAIL FROM:<bob@example.org>"))[:9] == b"553 5.7.1"
    caller, reply = await begin(office, b"AUTH EXTERNAL =", tls=alice)
    assert reply[:3] == b"235"
    caller, reply = await begin(office, b"AUTH EXTERNAL " + base64.b64encode(b"bob@example.org"), tls=alice)
    assert reply[:9] == b"535 5.7.8"


@pytest.mark.parametrize("name", ["zoe@example.org", "dora@example.org"])
async def test_a_certificate_of_nobody_who_may_log_in(open_office, begin, certificates, name):
    office = await open_office(**SECURE, mechanisms="EXTERNAL PLAIN")
    _, reply = await begin(office, b"AUTH EXTERNAL =", tls=certificates.client_of(name))
    assert reply[:9] == b"535 5.7.8"


async def test_without_a_certificate_of_a_person_external_is_not_offered(open_office, begin, certificates):
    office = await open_office(tls="offered", login=True, mechanisms="EXTERNAL PLAIN")
    for context in certificates.client, certificates.client_of("host.example.org"):
        caller, _ = await begin(office, b"STARTTLS")
        await caller.upgrade(context)
        assert b"AUTH PLAIN\r\n" in await caller.ask(b"EHLO client.example")
        assert (await caller.ask(b"AUTH EXTERNAL ="))[:9] == b"504 5.5.4"


@pytest.mark.parametrize("tls", ["implicit", "offered"])
async def test_scram_bound_to_the_certificate(open_office, begin, certificates, tls):
    office = await open_office(tls=tls, login=True, mechanisms="SCRAM-SHA-256-PLUS PLAIN")
    context = certificates.client if tls == "implicit" else None
    caller, reply = await begin(office, tls=context)
    if context is None:
        await caller.ask(b"STARTTLS")
        await caller.upgrade(certificates.client)
        reply = await caller.ask(b"EHLO client.example")
    assert b"AUTH SCRAM-SHA-256-PLUS PLAIN" in reply
    shown = caller.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    end_point = sha256(shown).digest()
    wrong = await scram(caller, "alice@example.org", "wonderland", "SCRAM-SHA-256-PLUS", b"of somebody else")
    assert wrong[:9] == b"535 5.7.8"
    assert (await scram(caller, "alice@example.org", "wonderland", "SCRAM-SHA-256-PLUS", end_point))[
        :3
    ] == b"235"


async def test_E454_1_too_many_handshakes(open_office, begin, certificates, until):
    office = await open_office(tls="offered", max_handshakes=1)
    first, reply = await begin(office, b"STARTTLS")
    assert reply[:3] == b"220"  # and now the client does not shake hands
    second, reply = await begin(office, b"STARTTLS")
    assert reply[:9] == b"454 4.7.0"
    assert (await second.ask(b"NOOP"))[:3] == b"250"
    first.cut()
    await until(lambda: not office.desk.handshakes.full)
    assert (await second.ask(b"STARTTLS"))[:3] == b"220"
    await second.upgrade(certificates.client)
    assert (await second.ask(b"EHLO client.example"))[:3] == b"250"


async def test_one_address_cannot_have_all_handshakes(open_office, begin, certificates):
    """Who says STARTTLS and nothing more holds its place for long; others still get theirs."""
    office = await open_office(tls="offered", max_handshakes=8)
    for _ in range(2):
        _, reply = await begin(office, b"STARTTLS")
        assert reply[:3] == b"220"
    _, reply = await begin(office, b"STARTTLS")
    assert reply[:9] == b"454 4.7.0"
    reader, writer = await asyncio.open_connection("127.0.0.1", office.port, local_addr=("127.0.0.2", 0))
    for line, code in ((b"EHLO client.example\r\n", b"220"), (b"STARTTLS\r\n", b"250"), (b"", b"220")):
        while (reply := await asyncio.wait_for(reader.readline(), 20))[3:4] == b"-":
            pass
        assert reply[:3] == code
        writer.write(line)
    await writer.start_tls(certificates.client, server_hostname="mx.example.org")
    writer.close()


async def test_E454_2_a_damaged_file_of_accounts_says_nothing_about_the_password(
    open_office, begin, certificates, tmp_path, noted
):
    (tmp_path / "accounts.db").write_bytes(b"no database" * 1000)
    sources = (StoredAccounts(tmp_path / "accounts.db", ("SCRAM-SHA-256",)),)
    office = await open_office(
        **SECURE, mechanisms="SCRAM-SHA-256 PLAIN", auth=AuthSettings(), sources=sources
    )
    caller, _ = await begin(office, tls=certificates.client)
    assert (await caller.ask(plain("kept.there@example.org", "x")))[:9] == b"454 4.7.0"
    assert (await scram(caller, "kept.there@example.org", "x"))[:9] == b"454 4.7.0"
    assert (await caller.ask(plain("alice@example.org", "wonderland")))[:9] == b"235 2.7.0"
    assert {name for name, _ in noted} >= {"accounts.down", "login.failed"}


async def test_E432_1_scram_has_to_wait_for_a_login_that_shows_the_password(
    open_office, begin, certificates, tmp_path
):
    store = AccountStore(tmp_path / "accounts.db")
    store.add(Account("moved@example.org", hash_password("wonderland")))
    store.close()
    mechanisms = ("SCRAM-SHA-256", "PLAIN")
    sources = (StoredAccounts(tmp_path / "accounts.db", mechanisms),)
    office = await open_office(
        **SECURE, mechanisms="SCRAM-SHA-256 PLAIN", auth=AuthSettings(), sources=sources
    )
    caller, _ = await begin(office, tls=certificates.client)
    assert (await scram(caller, "moved@example.org", "wonderland"))[:10] == b"432 4.7.12"
    assert (await caller.ask(plain("moved@example.org", "wonderland")))[:9] == b"235 2.7.0"
    caller, _ = await begin(office, tls=certificates.client)
    assert (await scram(caller, "moved@example.org", "wonderland"))[:9] == b"235 2.7.0"


async def test_E454_3_too_many_logins_at_once(open_office, begin, certificates):
    office = await open_office(**SECURE, auth=AuthSettings(max_waiting=1))
    callers = [(await begin(office, tls=certificates.client))[0] for _ in range(4)]
    # nobody's password is checked as slowly as a real one: the others come meanwhile
    replies = await asyncio.gather(*(caller.ask(plain("zoe@example.org", "x")) for caller in callers))
    assert {reply[:9] for reply in replies} == {b"535 5.7.8", b"454 4.7.0"}


async def test_E454_4_too_many_failures_put_the_next_login_off(open_office, begin, certificates):
    settings = AuthSettings(trusted_networks=(), max_delay_s=Seconds(0))
    office = await open_office(**SECURE, auth=settings, limits=Limits(login_failures=99))
    caller, _ = await begin(office, tls=certificates.client)
    for _ in range(5):
        assert (await caller.ask(plain("alice@example.org", "x")))[:9] == b"535 5.7.8"
    assert (await caller.ask(plain("alice@example.org", "wonderland")))[:9] == b"454 4.7.0"
    assert (await scram_refused(open_office, begin, certificates, settings))[:9] == b"454 4.7.0"


async def scram_refused(open_office, begin, certificates, settings):
    office = await open_office(
        **SECURE, auth=settings, mechanisms="SCRAM-SHA-256", limits=Limits(login_failures=99)
    )
    caller, _ = await begin(office, tls=certificates.client)
    for _ in range(5):
        assert (await scram(caller, "alice@example.org", "wrong"))[:9] == b"535 5.7.8"
    return await scram(caller, "alice@example.org", "wonderland")


async def test_E525_1_a_disabled_account_is_told_of_to_who_knows_its_password(
    open_office, begin, certificates
):
    office = await open_office(
        **SECURE, mechanisms="SCRAM-SHA-256 PLAIN", auth=AuthSettings(disclose_state=True)
    )
    caller, _ = await begin(office, tls=certificates.client)
    assert (await caller.ask(plain("dora@example.org", "doors")))[:10] == b"525 5.7.13"
    assert (await scram(caller, "dora@example.org", "doors"))[:10] == b"525 5.7.13"
    caller, _ = await begin(office, tls=certificates.client)
    assert (await caller.ask(plain("dora@example.org", "x")))[:9] == b"535 5.7.8"


async def test_by_default_a_disabled_account_looks_like_none(open_office, begin, certificates):
    office = await open_office(**SECURE, mechanisms="SCRAM-SHA-256 PLAIN", limits=Limits(login_failures=99))
    caller, _ = await begin(office, tls=certificates.client)
    assert (await caller.ask(plain("dora@example.org", "doors")))[:9] == b"535 5.7.8"
    assert (await scram(caller, "dora@example.org", "doors"))[:9] == b"535 5.7.8"


async def test_each_failure_is_noted(open_office, begin, certificates, noted):
    office = await open_office(**SECURE, mechanisms="SCRAM-SHA-256 PLAIN")
    caller, _ = await begin(office, plain("alice@example.org", "wrong"), tls=certificates.client)
    await scram(caller, "bob@example.org", "wrong")
    failures = [facts for name, facts in noted if name == "login.failed"]
    assert [(one["login"], one["mechanism"], one["cause"]) for one in failures] == [
        ("alice@example.org", "PLAIN", "auth.bad_credentials"),
        ("bob@example.org", "SCRAM-SHA-256", "auth.bad_credentials"),
    ]
    assert not any("wrong" in str(facts) for facts in failures)


async def test_a_flood_of_logins_holds_nobody_up(open_office, begin, certificates):
    """By the order of what happens: a whole message is taken while most of the flood still waits."""
    office = await open_office(**SECURE, auth=AuthSettings())
    flood = [(await begin(office, tls=certificates.client))[0] for _ in range(8)]
    caller, _ = await begin(office, plain("bob@example.org", "builder"), tls=certificates.client)
    office.accounts._passwords._costs.clear()  # so that nobody's password costs as much as a real one, not as those of the tests
    waiting = [asyncio.create_task(one.ask(plain("zoe@example.org", "x"))) for one in flood]
    await asyncio.sleep(0)
    for line in (
        b"MAIL FROM:<bob@example.org>",
        b"RCPT TO:<alice@example.org>",
        b"DATA",
        b"Subject: x\r\n\r\nx\r\n.",
    ):
        assert (await caller.ask(line))[:1] in {b"2", b"3"}
    assert sum(task.done() for task in waiting) < 4
    assert {reply[:3] for reply in await asyncio.gather(*waiting)} == {b"535"}


@pytest.mark.parametrize(
    ("author", "reply"),
    [
        (b"From: Alice <alice@example.org>\r\n", b"250"),
        (b"From: anything@wonder.example\r\n", b"250"),
        (b"", b"250"),  # what is left out is added, and is the sender's
        (b"From: Bob <bob@example.org>\r\n", b"550 5.7.1"),
        (b"From: alice@example.org, bob@example.org\r\n", b"550 5.7.1"),
        (b"From: alice@example.org\r\nFrom: bob@example.org\r\n", b"550 5.7.1"),
        (b"From: undisclosed:;\r\n", b"550 5.7.1"),
    ],
)
async def test_E550_21_whom_an_account_may_name_as_the_author(
    open_office, begin, certificates, author, reply
):
    office = await open_office(**SECURE)
    caller, _ = await begin(office, plain("alice@example.org", "wonderland"), tls=certificates.client)
    for line in b"MAIL FROM:<alice@example.org>", b"RCPT TO:<bob@example.org>", b"DATA":
        await caller.ask(line)
    assert (await caller.ask(author + b"Subject: x\r\n\r\nx\r\n.")).startswith(reply)
