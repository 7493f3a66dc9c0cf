"""Logins: who is let in, who is not, and that nobody can tell why."""

import asyncio
import threading

import argon2
import pytest

from pillarbox.mail.catalogue import auth
from pillarbox.mail.reply import Reply
from pillarbox.policy import accounts as module
from pillarbox.policy.accounts import Accounts, AccountSettings, hash_password

QUICK = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
ALICE = AccountSettings(password=QUICK.hash("wonderland"), senders=("alice@example.org",))


@pytest.fixture
def accounts():
    made = Accounts({"Alice@example.org": ALICE, "broken": AccountSettings(password="wonderland")})
    yield made
    made.close()


def cause(found):
    return found.cause if isinstance(found, Reply) else found


@pytest.mark.parametrize(
    ("user", "password", "authorize_as", "expected"),
    [
        ("alice@example.org", "wonderland", "", "alice@example.org"),
        ("ALICE@Example.org", "wonderland", "", "alice@example.org"),
        ("alice@example.org", "wonderland", "Alice@example.org", "alice@example.org"),
        ("alice@example.org", "wonderland", "bob@example.org", auth.BAD_CREDENTIALS),
        ("alice@example.org", "wrong", "", auth.BAD_CREDENTIALS),
        ("alice@example.org", "", "", auth.BAD_CREDENTIALS),
        ("alice@example.org", "wonderland\0", "", auth.BAD_CREDENTIALS),
        ("alice@example.org", "x" * 100_000, "", auth.BAD_CREDENTIALS),
        ("zoe@example.org", "wonderland", "", auth.BAD_CREDENTIALS),
        ("", "", "", auth.BAD_CREDENTIALS),
        ("broken", "wonderland", "", auth.BAD_CREDENTIALS),
    ],
)
async def test_who_is_let_in(accounts, user, password, authorize_as, expected):
    assert cause(await accounts.login(user, password, authorize_as)) == expected


async def test_an_unknown_user_is_checked_against_a_real_hash(accounts, monkeypatch):
    checked = []
    monkeypatch.setattr(accounts, "_matches", lambda secret, _password: checked.append(secret))
    await accounts.login("zoe@example.org", "x")
    (secret,) = checked
    found, usual = argon2.extract_parameters(secret), argon2.extract_parameters(hash_password("x"))
    assert (found.time_cost, found.memory_cost, found.parallelism, found.hash_len) == (
        usual.time_cost,
        usual.memory_cost,
        usual.parallelism,
        usual.hash_len,
    )
    with pytest.raises(argon2.exceptions.VerifyMismatchError):
        argon2.PasswordHasher().verify(secret, "x")


async def test_the_user_and_the_password_are_never_the_ones_of_nobody(accounts):
    assert cause(await accounts.login("nobody", "pillarbox-nobody")) is auth.BAD_CREDENTIALS


async def test_E454_2_too_many_logins_at_once_are_put_off_and_the_loop_goes_on(accounts, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(accounts, "_matches", lambda _secret, _password: release.wait(20))
    waiting = [
        asyncio.create_task(accounts.login("alice@example.org", "x")) for _ in range(module._MAX_WAITING)
    ]
    await asyncio.sleep(0)
    assert cause(await accounts.login("alice@example.org", "wonderland")) is auth.BACKEND_DOWN
    release.set()
    await asyncio.gather(*waiting)
    assert await accounts.login("alice@example.org", "x") == "alice@example.org"


def test_whether_anybody_can_log_in(accounts):
    assert accounts
    assert not Accounts({})


async def test_a_hash_that_was_made_here_is_understood_here():
    made = Accounts({"bob": AccountSettings(password=hash_password("passwört"))})
    assert await made.login("bob", "passwört") == "bob"
    made.close()
