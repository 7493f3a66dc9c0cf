"""Each place where mailboxes may be kept on this host or at the next hop: unknown names are refused at the door.

SQL and LDAP, which need a server of their own, are in tests/policy.
"""

import asyncio

import pytest

from pillarbox.config import load_accounts
from pillarbox.mail.address import parse_address
from pillarbox.mail.catalogue import envelope, mailbox
from pillarbox.net.resolver import Resolver, ResolverSettings
from pillarbox.policies import read_accounts
from pillarbox.policy.account import Account, SourceDown
from pillarbox.policy.account_file import FileAccounts
from pillarbox.policy.account_store import FILE, AccountStore
from pillarbox.policy.accounts import Accounts, AuthSettings, Peer
from pillarbox.policy.asked_names import AskedNames, Need, NotAskedError
from pillarbox.policy.directory import Directory
from pillarbox.policy.domain_store import DomainStore, StoredDomain, StoredNames
from pillarbox.policy.domains import DomainSettings
from pillarbox.policy.known_names import KnownNames
from pillarbox.policy.map_files import DirectoryTroubleError
from pillarbox.policy.names import DirectorySettings
from pillarbox.policy.passwords import hash_password
from pillarbox.relay.couriers import Couriers
from pillarbox.relay.session import SmtpSettings
from pillarbox.smtp.events import Login
from pillarbox.testing import ScriptedPeer

ANN = b"ann@example.org"
NOBODY = (b"eve@example.org", b"eve+tag@example.org", b"anna@example.org")


def hold(**settings):
    return {"example.org": DomainSettings(deliver="hold", **settings)}


# --- on this host


async def test_mailboxes_in_the_configuration(open_office, refuses_strangers_at_the_door):
    office = await open_office(domains=hold(users=["ann"], aliases={"info": "ann"}))
    await refuses_strangers_at_the_door(office, ANN, *NOBODY)


async def test_mailboxes_that_are_accounts_of_the_configuration(open_office, refuses_strangers_at_the_door):
    known = KnownNames({"configuration": ["Ann@Example.org", "eve@elsewhere.example", "eve"]})
    office = await open_office(domains=hold(users_from=("accounts",)), known=known)
    await refuses_strangers_at_the_door(office, ANN, *NOBODY)


async def test_mailboxes_that_commands_keep(open_office, refuses_strangers_at_the_door, tmp_path):
    accounts, domains = AccountStore(tmp_path / FILE), DomainStore(tmp_path / FILE)
    accounts.add(Account("ann@example.org"))
    domains.put(StoredDomain("example.org", "hold"), replace=False)
    accounts.close(), domains.close()
    office = await open_office(domains={})
    stored = StoredNames(tmp_path / FILE, office.door._directory)
    stored.take(stored.read())
    await refuses_strangers_at_the_door(office, ANN, *NOBODY)


async def test_mailboxes_in_a_file_of_names(open_office, refuses_strangers_at_the_door, tmp_path):
    (tmp_path / "users").write_text("ann\n")
    office = await open_office(domains=hold(users_file=str(tmp_path / "users")))
    await refuses_strangers_at_the_door(office, ANN, *NOBODY)


ACCOUNT = '[account."{name}@example.org"]\npassword = "{hashed}"\n'


@pytest.fixture
def accounts_file(tmp_path):
    """A file of accounts, and a way to write another in its place."""
    hashed = hash_password("wonderland")
    file = tmp_path / "accounts.toml"

    def write(*names, more=""):
        new = tmp_path / "new.toml"
        new.write_text("".join(ACCOUNT.format(name=name, hashed=hashed) for name in names) + more)
        new.rename(file)

    write("ann")
    return file, write


async def test_mailboxes_that_are_accounts_of_a_file(
    open_office, refuses_strangers_at_the_door, accounts_file
):
    known = KnownNames()
    FileAccounts(accounts_file[0], read_accounts, known)
    office = await open_office(domains=hold(users_from=("accounts",)), known=known)
    await refuses_strangers_at_the_door(office, ANN, *NOBODY)


async def test_a_file_of_accounts_is_read_again_when_it_changes(accounts_file, noted):
    file, write = accounts_file
    known = KnownNames()
    kept = FileAccounts(file, read_accounts, known)
    accounts = Accounts([kept], AuthSettings(), key=b"k")

    async def admitted(name):
        found = await accounts.login(
            Login("PLAIN", "", f"{name}@example.org", "wonderland"), Peer("192.0.2.1")
        )
        return hasattr(found, "name")

    assert await admitted("ann")
    assert not kept.changed()
    write("bob")
    assert kept.changed()
    kept.refresh()
    assert (await admitted("ann"), await admitted("bob")) == (False, True)
    assert (known.has("example.org", "ann"), known.has("example.org", "bob")) == (False, True)
    write("carl", more='pasword = "x"\n')
    kept.refresh()
    assert await admitted("bob")  # what was good stays in use
    ((_event, facts),) = [one for one in noted if one[0] == "directory.trouble"]
    assert facts["problem"].startswith(
        f'{file}:3: account."carl@example.org".pasword: there is no such setting'
    )
    file.unlink()
    kept.refresh()
    assert await admitted("bob")
    write("bob", "dan")
    assert kept.changed()
    kept.refresh()
    assert await admitted("dan")
    await accounts.close()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[account.x]\n", "account.x: the key 'password' is missing"),
        ('[account.x]\npassword = "x"\n', "account.x.password: must be an argon2 hash"),
        ('hostname = "x"\n', "hostname: there is no such setting"),
        ("[account\n", "not TOML"),
    ],
)
def test_a_file_of_accounts_is_strict(tmp_path, text, problem):
    file = tmp_path / "accounts.toml"
    file.write_text(text)
    with pytest.raises(Exception, match=r"accounts\.toml:[12]: ") as raised:
        load_accounts(file)
    assert problem in str(raised.value)


# --- at the next hop


@pytest.mark.parametrize("lmtp", [False, True])
async def test_mailboxes_at_the_next_hop(open_office, refuses_strangers_at_the_door, lmtp):
    async with ScriptedPeer({"RCPT": ["550 5.1.1 nobody", "250 2.1.5 ok"]}, lmtp=lmtp) as peer:
        couriers = Couriers(
            SmtpSettings(), Resolver(ResolverSettings()), hostname="mx.example.org", local=None
        )
        way = f"{'lmtp' if lmtp else 'smtp'}://127.0.0.1:{peer.port}"
        domain = DomainSettings(deliver=way, verify_recipients=True)
        office = await open_office(domains={"example.org": domain}, probe=couriers.probe)
        await refuses_strangers_at_the_door(office, ANN, b"eve@example.org")


# --- what was asked of other hosts


class Elsewhere:
    """A directory on another host, as its questions and a clock tell it."""

    def __init__(self, **known):
        self.known = known
        self.questions = []
        self.now = 0.0
        self.gate = None

    async def ask(self, address):
        self.questions.append(address)
        if self.gate is not None:
            await self.gate.wait()
        answer = self.known.get(address.partition("@")[0])
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def names(self):
        return AskedNames("elsewhere", self.ask, lambda: self.now)


async def test_an_answer_is_believed_for_a_while():
    place = Elsewhere(ann=())
    names = place.names
    for name in "ann@x", "eve@x":
        with pytest.raises(NotAskedError):
            names.find(name, Need.KNOWN)
        await names.ask(name)
    assert (names.find("ann@x", Need.FRESH), names.find("eve@x", Need.FRESH)) == ((), None)
    place.now = 20.0
    assert names.find("ann@x", Need.FRESH) == ()
    with pytest.raises(NotAskedError):
        names.find("eve@x", Need.FRESH)
    assert names.find("eve@x", Need.KNOWN) is None  # a decision that began earlier
    place.now = 61.0
    with pytest.raises(NotAskedError):
        names.find("ann@x", Need.FRESH)


async def test_a_directory_that_is_away_is_left_alone_for_a_moment(noted):
    place = Elsewhere(ann=SourceDown("gone"))
    names = place.names
    await names.ask("ann@x")
    await names.ask("eve@x")
    assert place.questions == ["ann@x"]
    for name in "ann@x", "eve@x":
        with pytest.raises(DirectoryTroubleError) as raised:
            names.find(name, Need.KNOWN)
        assert raised.value.cause is mailbox.DIRECTORY_DOWN
        assert names.find(name, Need.GUESS) is None
    place.now, place.known = 3.0, {"ann": ()}
    await names.ask("ann@x")
    assert names.find("ann@x", Need.FRESH) == ()


async def test_many_who_ask_the_same_ask_once():
    place = Elsewhere(ann=())
    place.gate = asyncio.Event()
    names = place.names
    waiting = [asyncio.create_task(names.ask("ann@x")) for _ in range(5)]
    await asyncio.sleep(0)
    place.gate.set()
    await asyncio.gather(*waiting)
    assert place.questions == ["ann@x"]


async def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr("pillarbox.policy.asked_names._MAX_KNOWN", 3)
    names = Elsewhere().names
    for number in range(9):
        await names.ask(f"{number}@x")
    assert len(names._answers) == 3


async def test_mail_that_was_taken_and_reports_need_no_answer():
    place = Elsewhere(ann=(), sales=("ann",))
    directory = Directory(DirectorySettings(domains=hold(users_from=("ldap",))), asked={"ldap": place.names})
    for name in "ann+tag", "sales", "gone":
        (target,) = directory.resolve(parse_address(f"{name}@example.org"), Need.GUESS)
        assert target.address == f"{name}@example.org"
        assert directory.resolve(parse_address(f"{name}@example.org")).cause is mailbox.DIRECTORY_DOWN
    assert not place.questions
    for name in "sales", "ann", "gone":
        await directory.ask(parse_address(f"{name}@example.org"))
    (target,) = directory.resolve(parse_address("sales@example.org"), Need.GUESS)
    assert target.address == "ann@example.org"
    assert directory.resolve(parse_address("gone@example.org")).cause is envelope.RECIPIENT_UNKNOWN
    assert (
        directory.route(parse_address("gone@example.org")) == target.route
    )  # it was there when mail was taken


async def test_the_members_of_a_list_are_asked_about_together(open_office, begin):
    members = {f"m{number}": () for number in range(40)}
    place = Elsewhere(all=tuple(members), **members)
    office = await open_office(domains=hold(users_from=("sql",)), asked={"sql": place.names})
    caller, _ = await begin(office, b"MAIL FROM:<a@sender.example>")
    assert (await caller.ask(b"RCPT TO:<all@example.org>"))[:9] == b"250 2.1.5"
    assert len(place.questions) == 41
    place.known["m3"] = None
    place.known["other"] = ("m1", "nobody")
    assert (await caller.ask(b"RCPT TO:<other@example.org>"))[:9] == b"550 5.1.1"
