"""The accounts in the data folder: what is kept, what a login learns, and what happens when the file is gone."""

import stat

import apsw
import pytest

from pillarbox.mail.catalogue import auth
from pillarbox.policy.account import Account
from pillarbox.policy.account_store import FILE, AccountError, AccountStore, StoredAccounts, with_password
from pillarbox.policy.accounts import Accounts, AuthSettings, Peer
from pillarbox.policy.passwords import hash_password
from pillarbox.smtp.events import Login, Proof, SecretWanted
from pillarbox.smtp.scram import ScramKeys

PEER = Peer("192.0.2.1")
MECHANISMS = ("SCRAM-SHA-256", "PLAIN")


@pytest.fixture
def store(tmp_path):
    opened = AccountStore(tmp_path / FILE)
    yield opened
    opened.close()


@pytest.fixture
async def accounts(tmp_path):
    made = Accounts([StoredAccounts(tmp_path / FILE, MECHANISMS)], AuthSettings(mechanisms=MECHANISMS))
    yield made
    await made.close()


def login(accounts, user, password):
    return accounts.login(Login("PLAIN", "", user, password), PEER)


def test_accounts_are_kept_without_their_passwords(store, tmp_path):
    store.add(with_password(Account("alice", senders=("alice@x", "@y")), "wonderland", MECHANISMS))
    found = store.find("alice")
    assert found.password.startswith("$argon2id$")
    assert set(found.keys) == {"SCRAM-SHA-256"}
    assert found.cram_md5 == ""
    assert found.senders == ("alice@x", "@y")
    assert store.find("bob") is None
    assert b"wonderland" not in (tmp_path / FILE).read_bytes()
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    (listed,) = store.listed()
    assert (listed.name, listed.enabled, listed.mechanisms) == ("alice", True, ("SCRAM-SHA-256",))


def test_the_password_itself_is_kept_only_where_cram_md5_is_wanted():
    assert with_password(Account("a"), "secret", ("CRAM-MD5", "PLAIN")).cram_md5 == "secret"


def test_what_can_not_be_done_is_said(store):
    store.add(Account("alice"))
    for work in (
        lambda: store.add(Account("alice")),
        lambda: store.add_all([Account("bob"), Account("alice")], replace=False),
        lambda: store.set_password(Account("zoe")),
        lambda: store.enable("zoe", enabled=True),
        lambda: store.remove("zoe"),
        lambda: store.app_passwords("zoe"),
        lambda: store.add_app_password("zoe", "phone"),
        lambda: store.remove_app_password("alice", "phone"),
    ):
        with pytest.raises(AccountError):
            work()
    assert [one.name for one in store.listed()] == ["alice"]


def test_a_file_of_a_later_release_is_left_alone(tmp_path):
    AccountStore(tmp_path / FILE).close()
    apsw.Connection(str(tmp_path / FILE)).pragma("user_version", 99)
    with pytest.raises(AccountError, match="version 99"):
        AccountStore(tmp_path / FILE)


async def test_a_login_by_what_the_store_holds(store, accounts):
    store.add(with_password(Account("alice"), "wonderland", MECHANISMS))
    assert (await login(accounts, "Alice", "wonderland")).name == "alice"
    store.set_password(with_password(Account("alice"), "other", MECHANISMS))
    assert (await login(accounts, "alice", "wonderland")).cause is auth.BAD_CREDENTIALS
    assert (await login(accounts, "alice", "other")).name == "alice"
    store.enable("alice", enabled=False)
    assert (await login(accounts, "alice", "other")).cause is auth.BAD_CREDENTIALS
    store.enable("alice", enabled=True)
    store.remove("alice")
    assert (await login(accounts, "alice", "other")).cause is auth.BAD_CREDENTIALS


async def test_E432_1_one_login_that_shows_the_password_makes_the_keys(store, accounts):
    store.add(Account("alice", hash_password("wonderland")))
    asked = SecretWanted("SCRAM-SHA-256", "alice")
    assert (await accounts.secret(asked, PEER)).cause is auth.PASSWORD_TRANSITION
    assert (await login(accounts, "alice", "wrong")).cause is auth.BAD_CREDENTIALS
    assert (await accounts.secret(asked, PEER)).cause is auth.PASSWORD_TRANSITION
    assert (await login(accounts, "alice", "wonderland")).name == "alice"
    assert isinstance(await accounts.secret(asked, PEER), ScramKeys)


async def test_an_account_that_came_with_keys_only_can_use_plain_too(store, accounts):
    keys = with_password(Account("alice"), "wonderland", MECHANISMS).keys
    store.add(Account("alice", keys=keys))
    assert (await login(accounts, "alice", "wonderland")).name == "alice"
    assert (await login(accounts, "alice", "x")).cause is auth.BAD_CREDENTIALS


async def test_app_passwords(store, accounts):
    store.add(with_password(Account("alice"), "wonderland", MECHANISMS))
    secret = store.add_app_password("alice", "phone")
    assert store.app_passwords("alice")[0].used is None
    for typed in (secret, secret.replace("-", ""), secret.upper()):
        assert (await login(accounts, "alice", typed)).name == "alice"
    assert store.app_passwords("alice")[0].used
    with pytest.raises(AccountError, match="already"):
        store.add_app_password("alice", "phone")
    store.remove_app_password("alice", "phone")
    assert (await login(accounts, "alice", secret)).cause is auth.BAD_CREDENTIALS
    assert (await login(accounts, "alice", "wonderland")).name == "alice"


async def test_a_file_that_is_damaged_says_nothing_about_the_password_and_is_tried_again(tmp_path):
    file = tmp_path / FILE
    AccountStore(file).close()
    kept = file.read_bytes()
    file.write_bytes(b"not a database" * 100)
    source = StoredAccounts(file, MECHANISMS)
    accounts = Accounts([source])
    assert source.key() == b""
    assert (await login(accounts, "alice", "x")).cause is auth.BACKEND_DOWN
    proven = Login("SCRAM-SHA-256", "", "alice", "", Proof.PROVEN)
    assert (await accounts.login(proven, PEER)).cause is auth.BACKEND_DOWN
    file.write_bytes(kept)
    assert (await login(accounts, "alice", "x")).cause is auth.BAD_CREDENTIALS
    await accounts.close()
