"""Accounts in a real PostgreSQL: logins by what it holds, and what happens when it is gone."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from pillarbox.mail.catalogue import auth
from pillarbox.policy.accounts import Accounts, AuthSettings, Peer, SqlSettings
from pillarbox.policy.passwords import hash_password, scram_keys
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


async def test_a_database_that_is_gone_says_nothing_about_the_password(accounts, database):
    assert (await login(accounts, "alice", "wonderland")).name == "alice"
    database.stop()
    assert (await login(accounts, "alice", "wonderland")).cause is auth.BACKEND_DOWN
    database.start()
    assert (await login(accounts, "alice", "wonderland")).name == "alice"
