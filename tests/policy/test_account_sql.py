"""Accounts in a real PostgreSQL: logins by what it holds, and what happens when it is gone."""

import asyncio
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from pillarbox.config import parse
from pillarbox.mail.catalogue import auth
from pillarbox.policy.accounts import Accounts, AuthSettings, Peer, SqlSettings
from pillarbox.policy.asked_names import AskedNames
from pillarbox.policy.domains import DomainSettings
from pillarbox.policy.passwords import hash_password, scram_keys
from pillarbox.service import Service
from pillarbox.smtp.events import Login, SecretWanted
from pillarbox.smtp.scram import format_keys

asyncpg = pytest.importorskip("asyncpg")
SqlAccounts = pytest.importorskip("pillarbox.policy.account_sql").SqlAccounts

pytestmark = [pytest.mark.interop, pytest.mark.xdist_group("postgres")]
PEER = Peer("192.0.2.1")
QUERY = "SELECT password, scram, senders, enabled FROM users WHERE name = $1"


def program(name):
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(found[-1]) if found else pytest.skip("PostgreSQL is not installed"))


class Database:
    """A server of its own, on a socket in a folder of its own."""

    def __init__(self, folder):
        self.folder = folder
        self.url = f"postgresql://postgres@/postgres?host={folder}"

    def run(self, *command):
        user = (
            ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups") if os.geteuid() == 0 else ()
        )
        subprocess.run([*user, *command], check=True, stdout=subprocess.DEVNULL, timeout=50)

    def start(self):
        options = f"-k {self.folder} -c listen_addresses='' -c fsync=off"
        log = f"{self.folder}/log"
        self.run(program("pg_ctl"), "-D", f"{self.folder}/db", "-o", options, "-l", log, "-w", "start")

    def stop(self):
        self.run(program("pg_ctl"), "-D", f"{self.folder}/db", "-m", "immediate", "-w", "stop")


@pytest.fixture(scope="module")
def database():
    with tempfile.TemporaryDirectory() as folder:
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres")
        opened = Database(folder)
        opened.run(program("initdb"), "-D", f"{folder}/db", "-U", "postgres", "-A", "trust", "--no-sync")
        opened.start()
        yield opened
        opened.stop()


@pytest.fixture
async def accounts(database):
    connection = await asyncpg.connect(database.url)
    await connection.execute(
        "DROP TABLE IF EXISTS users; CREATE TABLE users (name text, password text, scram text, senders text, enabled bool)"
    )
    keys = format_keys("SCRAM-SHA-256", scram_keys("SCRAM-SHA-256", "wonderland"))
    await connection.executemany(
        "INSERT INTO users VALUES ($1, $2, $3, $4, $5)",
        [
            ("alice", hash_password("wonderland"), keys, "alice@example.org @Wonder.example", True),
            ("dora", hash_password("doors"), None, None, False),
            ("broken", "", "no keys", None, True),
        ],
    )
    await connection.close()
    made = Accounts([SqlAccounts(SqlSettings(url=database.url, query=QUERY))], AuthSettings())
    yield made
    await made.close()


def login(accounts, user, password):
    return accounts.login(Login("PLAIN", "", user, password), PEER)


async def test_a_login_by_what_the_database_holds(accounts):
    assert "SCRAM-SHA-256" in accounts.mechanisms()
    found = await login(accounts, "Alice", "wonderland")
    assert (found.name, found.senders) == ("alice", ("alice@example.org", "@wonder.example"))
    assert (await login(accounts, "alice", "x")).cause is auth.BAD_CREDENTIALS
    assert (await login(accounts, "zoe' OR 1=1 --", "x")).cause is auth.BAD_CREDENTIALS
    assert (await login(accounts, "dora", "doors")).cause is auth.BAD_CREDENTIALS
    assert (await accounts.secret(SecretWanted("SCRAM-SHA-256", "alice"), PEER)).iterations
    assert (await login(accounts, "broken", "x")).cause is auth.BACKEND_DOWN


@pytest.fixture
async def mailboxes(database, open_office):
    """An office whose mailboxes and aliases are in the database, and what asks it."""
    connection = await asyncpg.connect(database.url)
    await connection.execute(
        "DROP TABLE IF EXISTS box; CREATE TABLE box (address text, forward text); INSERT INTO box VALUES "
        "('ann@example.org', NULL), ('sales@example.org', 'ann jo@elsewhere.example'), ('bad@example.org', 'pipe:x')"
    )
    await connection.close()
    settings = SqlSettings(url=database.url, mailbox_query="SELECT forward FROM box WHERE address = $1")
    asked = SqlAccounts(settings)
    domain = DomainSettings(deliver="hold", users_from=("sql",), aliases={"info": "sales"})
    names = AskedNames("sql", asked.mailbox)
    yield await open_office(domains={"example.org": domain}, asked={"sql": names}, vrfy="open")
    await asked.close()


async def test_a_server_by_its_configuration(mailboxes, database, dial, tmp_path):
    text = f"""
hostname = "mx.example.org"
data = "{tmp_path}"
[[listen]]
address = "127.0.0.1:0"
[sql_accounts]
url = "{database.url}"
query = ""
mailbox_query = "SELECT forward FROM box WHERE address = $1"
[domain."example.org"]
deliver = "hold"
users_from = ["sql"]
"""
    service = Service(parse(text, "pillarbox.toml"))
    await service.start()
    caller = await dial(service.addresses[0][1])
    await caller.reply()
    assert b"AUTH" not in await caller.ask(b"EHLO client.example")
    await caller.ask(b"MAIL FROM:<a@sender.example>")
    assert await rcpt(caller, b"eve@example.org", b"ann@example.org") == [b"550 5.1.1", b"250 2.1.5"]
    await caller.close()
    await service.stop()


async def rcpt(caller, *recipients):
    return [(await caller.ask(b"RCPT TO:<%s>" % one))[:9] for one in recipients]


async def test_mailboxes_in_the_database(mailboxes, dial, refuses_strangers_at_the_door):
    unknown = (b"eve@example.org", b"eve+tag@example.org", b"x'OR'1'='1@example.org")
    await refuses_strangers_at_the_door(mailboxes, b"ann@example.org", *unknown)
    caller = await dial(mailboxes.port)
    await caller.reply()
    await caller.ask(b"EHLO client.example")
    assert (await caller.ask(b"VRFY eve@example.org"))[:9] == b"550 5.1.1"
    assert (await caller.ask(b"VRFY ann"))[:9] == b"250 2.1.5"
    await caller.ask(b"MAIL FROM:<a@sender.example>")
    names = (b"Ann+tag@example.org", b"info@example.org", b"postmaster@example.org", b"bad@example.org")
    assert await rcpt(caller, *names) == [b"250 2.1.5"] * 3 + [b"451 4.3.5"]
    await caller.ask(b"DATA")
    await caller.ask(b"Subject: x\r\n\r\nx\r\n.")
    taken = {one.address for one in mailboxes.queued[-1].envelope.recipients}
    assert taken == {
        "Ann+tag@example.org",
        "ann@example.org",
        "jo@elsewhere.example",
        "postmaster@example.org",
    }


async def test_E451_2_while_the_database_is_gone_names_are_put_off(mailboxes, database, dial):
    caller = await dial(mailboxes.port)
    await caller.reply()
    await caller.ask(b"EHLO client.example")
    await caller.ask(b"MAIL FROM:<a@sender.example>")
    database.stop()
    names = (b"ann@example.org", b"eve@example.org", b"postmaster@example.org")
    assert await rcpt(caller, *names) == [b"451 4.4.3", b"451 4.4.3", b"250 2.1.5"]
    database.start()
    async with asyncio.timeout(20):
        while await rcpt(caller, b"ann@example.org") != [b"250 2.1.5"]:
            await asyncio.sleep(0.05)
    assert await rcpt(caller, b"eve@example.org") == [b"550 5.1.1"]


async def test_a_database_that_is_gone_says_nothing_about_the_password(accounts, database):
    assert (await login(accounts, "alice", "wonderland")).name == "alice"
    database.stop()
    assert (await login(accounts, "alice", "wonderland")).cause is auth.BACKEND_DOWN
    database.start()
    assert (await login(accounts, "alice", "wonderland")).name == "alice"
