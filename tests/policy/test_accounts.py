"""Logins: who is let in, who is not, and that nobody can tell why."""

import argon2
import pytest

from pillarbox.mail.catalogue import auth
from pillarbox.mail.reply import Reply
from pillarbox.policy.account import Account, SourceDown, owns
from pillarbox.policy.accounts import Accounts, AccountSettings, Admitted, AuthSettings, ConfigAccounts, Peer
from pillarbox.policy.passwords import NOBODY, Passwords, hash_password, scram_keys
from pillarbox.smtp.events import Login, SecretWanted
from pillarbox.smtp.scram import ITERATIONS, ScramKeys, derive_keys, format_keys

QUICK = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
KEYS = derive_keys("SCRAM-SHA-256", "wonderland", b"salt", 8)
ALICE = AccountSettings(
    password=QUICK.hash("wonderland"),
    scram=(format_keys("SCRAM-SHA-256", KEYS),),
    senders=("alice@example.org",),
)
PEER = Peer("192.0.2.1")


@pytest.fixture
async def make():
    """Accounts of a configuration, under some settings."""
    made = []

    def build(accounts, **settings):
        made.append(Accounts([ConfigAccounts(accounts)], AuthSettings(**settings), key=b"k"))
        return made[-1]

    yield build
    for one in made:
        await one.close()


@pytest.fixture
def accounts(make):
    return make({"Alice@example.org": ALICE, "broken": AccountSettings(password="wonderland")})


def cause(found):
    return found.cause if isinstance(found, Reply) else found


def login(accounts, user, password, authorize_as="", peer=PEER):
    return accounts.login(Login("PLAIN", authorize_as, user, password), peer)


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
        ("nobody", "pillarbox-nobody", "", auth.BAD_CREDENTIALS),
        ("", "", "", auth.BAD_CREDENTIALS),
        ("broken", "wonderland", "", auth.BAD_CREDENTIALS),
    ],
)
async def test_who_is_let_in(accounts, user, password, authorize_as, expected):
    found = await login(accounts, user, password, authorize_as)
    assert (found.name if isinstance(found, Admitted) else found.cause) == expected


async def test_a_password_found_right_is_remembered_and_a_wrong_one_is_not(accounts, monkeypatch):
    checked = []
    verify = accounts._passwords._verify
    monkeypatch.setattr(accounts._passwords, "_verify", lambda *pair: checked.append(pair) or verify(*pair))
    for password in ("wonderland", "wonderland", "wrong", "wrong", "wonderland"):
        await login(accounts, "alice@example.org", password)
    assert [password for _, password in checked] == ["wonderland", "wrong", "wrong"]


async def test_an_unknown_user_is_checked_against_a_real_hash(accounts, monkeypatch):
    checked = []
    monkeypatch.setattr(accounts._passwords, "_verify", lambda secret, _password: checked.append(secret))
    await login(accounts, "zoe@example.org", "x")
    assert checked == [NOBODY]
    found, usual = argon2.extract_parameters(NOBODY), argon2.extract_parameters(hash_password("x"))
    assert (found.time_cost, found.memory_cost, found.parallelism, found.hash_len) == (
        usual.time_cost,
        usual.memory_cost,
        usual.parallelism,
        usual.hash_len,
    )
    with pytest.raises(argon2.exceptions.VerifyMismatchError):
        argon2.PasswordHasher().verify(NOBODY, "x")


class Dead:
    """A directory that does not answer."""

    title = "dead"
    keyed = frozenset({"SCRAM-SHA-256"})
    keyless = 0.0
    makes_keys = False

    async def find(self, name):
        raise SourceDown("connection refused")

    async def verify(self, account, password):
        raise SourceDown("connection refused")

    async def close(self):
        pass


async def test_E454_2_a_directory_that_does_not_answer_says_nothing_about_the_password():
    accounts = Accounts([ConfigAccounts({"alice@example.org": ALICE}), Dead()])
    assert (await login(accounts, "alice@example.org", "wonderland")).name == "alice@example.org"
    assert cause(await login(accounts, "bob@example.org", "x")) is auth.BACKEND_DOWN
    assert (
        cause(await login(accounts, "alice@example.org", "x")) is auth.BACKEND_DOWN
    )  # or it would show that she exists
    assert cause(await accounts.secret(SecretWanted("SCRAM-SHA-256", "bob"), PEER)) is auth.BACKEND_DOWN
    await accounts.close()


class Watched:
    """A directory that checks passwords itself if `secret` is given, and writes down all that it is asked."""

    keyed = frozenset({"SCRAM-SHA-256"})
    keyless = 0.0
    makes_keys = False

    def __init__(self, title, log, accounts=(), secret=None):
        self.title, self._log, self._secret = title, log, secret
        self._accounts = {one.name: one for one in accounts}

    async def find(self, name):
        self._log.append((self.title, "find"))
        return self._accounts.get(name)

    async def verify(self, account, password):
        if self._secret is None:
            return None
        self._log.append((self.title, "verify"))
        return account is not None and password == self._secret

    async def logged_in(self, account, password, app_password):
        pass

    async def close(self):
        pass


async def test_a_refusal_costs_the_same_work_whoever_is_named(monkeypatch):
    log = []
    monkeypatch.setattr(Passwords, "_verify", lambda *_: log.append(("pool", "hash")))
    first = Watched("first", log, [Account("ann", password=ALICE.password)])
    middle = Watched("middle", log, [Account("ben")], secret="b")
    last = Watched("last", log, [Account("cy", password=ALICE.password)])
    accounts = Accounts([first, middle, last], AuthSettings(trusted_networks=("0.0.0.0/0",)), key=b"k")
    work = {}
    for name in "ann", "ben", "cy", "nobody":
        log.clear()
        assert cause(await login(accounts, name, "wrong")) is auth.BAD_CREDENTIALS
        work[name] = sorted(log)
    assert work["nobody"] == [
        ("first", "find"), ("last", "find"), ("middle", "find"), ("middle", "verify"), ("pool", "hash"),
    ]  # fmt: skip
    assert set(map(tuple, work.values())) == {tuple(work["nobody"])}
    for name in "ann", "nobody":
        log.clear()
        await accounts.secret(SecretWanted("SCRAM-SHA-256", name), PEER)
        assert sorted(log) == [("first", "find"), ("last", "find"), ("middle", "find")]
    await accounts.close()


async def test_who_does_not_exist_is_checked_at_the_cost_of_those_who_do(monkeypatch):
    checked = []
    keys = format_keys("SCRAM-SHA-256", scram_keys("SCRAM-SHA-256", "wonderland"))
    monkeypatch.setattr(Passwords, "_verify", lambda _self, hashed, _password: checked.append(hashed))
    passwords = Passwords(9)
    await passwords.matches_nobody(b"mark", "x")
    for hashed in keys, "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaA", "nonsense":
        await passwords.matches(hashed, "x")
    assert checked[0] == NOBODY
    checked.clear()
    for mark in range(200):
        await passwords.matches_nobody(mark.to_bytes(4), "x")
    costs = {
        hashed.partition(":")[0] if hashed.startswith("SCRAM") else hashed.rsplit("$", 2)[0]
        for hashed in checked
    }
    assert costs == {f"SCRAM-SHA-256${ITERATIONS}", "$argon2id$v=19$m=8,t=1,p=1"}
    monkeypatch.undo()
    for hashed in set(checked):
        assert not passwords._verify(hashed, "x")
    passwords.close()


async def test_no_account_is_told_to_wait_for_keys_that_nobody_makes():
    accounts = Accounts(
        [Watched("sql", [], [Account("ann", password=ALICE.password)])], AuthSettings(), key=b"k"
    )
    for name in "ann", "nobody":
        assert isinstance(await accounts.secret(SecretWanted("SCRAM-SHA-256", name), PEER), ScramKeys)
    await accounts.close()


async def test_an_unknown_user_gets_a_challenge_like_any_other(make):
    accounts = make({"alice": ALICE})
    assert await accounts.secret(SecretWanted("SCRAM-SHA-256", "Alice"), PEER) == KEYS
    first = await accounts.secret(SecretWanted("SCRAM-SHA-256", "zoe"), PEER)
    assert first == await make({"alice": ALICE}).secret(SecretWanted("SCRAM-SHA-256", "ZOE"), PEER)
    other = await accounts.secret(SecretWanted("SCRAM-SHA-256", "yves"), PEER)
    assert isinstance(first, ScramKeys)
    assert first.salt != other.salt
    assert len(first.salt) == 16
    assert len(first.stored) == 32


async def test_as_many_unknown_users_lack_keys_as_known_ones():
    source = Watched("moving", [], [Account("alice", keys={"SCRAM-SHA-256": KEYS}), Account("bob")])
    source.makes_keys, source.keyless = True, 0.5
    accounts = Accounts([source], AuthSettings(), key=b"k")
    answers = [
        cause(await accounts.secret(SecretWanted("SCRAM-SHA-256", f"user{n}"), PEER)) for n in range(200)
    ]
    assert 60 < answers.count(auth.PASSWORD_TRANSITION) < 140
    assert (
        cause(await accounts.secret(SecretWanted("SCRAM-SHA-256", "bob"), PEER)) is auth.PASSWORD_TRANSITION
    )
    await accounts.close()


@pytest.mark.parametrize(
    ("accounts", "mechanisms"),
    [
        ({"bob": AccountSettings(password=ALICE.password)}, ("PLAIN", "LOGIN")),
        ({"alice": ALICE}, ("SCRAM-SHA-256", "PLAIN", "LOGIN")),
        ({"alice": ALICE, "bob": AccountSettings(password=ALICE.password)}, ("PLAIN", "LOGIN")),
    ],
)
def test_only_mechanisms_that_can_work_are_offered(make, accounts, mechanisms):
    assert make(accounts).mechanisms() == mechanisms
    assert "EXTERNAL" in make(accounts).mechanisms(certificates=True)


@pytest.mark.parametrize(
    ("sender", "owned"),
    [
        ("alice@example.org", True),
        ("ALICE@example.org", True),
        ("bob@example.org", False),
        ("any@wonder.example", True),
        ("any@sub.wonder.example", False),
    ],
)
def test_whose_sender_it_is(sender, owned):
    assert owns(("alice@example.org", "@wonder.example"), sender) is owned


async def test_a_hash_that_was_made_here_is_understood_here(make):
    accounts = make({"bob": AccountSettings(password=hash_password("passwört"))})
    assert (await login(accounts, "bob", "passwört")).name == "bob"
