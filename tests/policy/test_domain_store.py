"""The domains in the data folder, beside the accounts that are their mailboxes; and a directory that learns of them."""

import apsw
import pytest

from pillarbox.mail.address import parse_address
from pillarbox.mail.catalogue import envelope
from pillarbox.mail.units import Seconds
from pillarbox.policy.account import Account
from pillarbox.policy.account_store import _TABLES, FILE, AccountError, AccountStore
from pillarbox.policy.directory import Directory
from pillarbox.policy.domain_store import DomainStore, StoredDomain, StoredNames
from pillarbox.policy.domains import DomainSettings, StsSettings
from pillarbox.policy.names import DirectorySettings


@pytest.fixture
def store(tmp_path):
    opened = DomainStore(tmp_path / FILE)
    yield opened
    opened.close()


@pytest.fixture
def accounts(tmp_path):
    opened = AccountStore(tmp_path / FILE)
    yield opened
    opened.close()


@pytest.fixture
def server(tmp_path):
    """The directory of a server that knows one domain by its configuration, and what it has read of the file."""
    settings = {"configured.example": DomainSettings(deliver="hold", users=["ann"])}
    directory = Directory(DirectorySettings(domains=settings))
    return directory, StoredNames(tmp_path / FILE, directory)


def ask(server, address):
    directory, stored = server
    if stored.changed():
        stored.take(stored.read())
    found = directory.resolve(parse_address(address))
    return found.cause if hasattr(found, "cause") else [target.address for target in found]


def test_a_server_learns_of_domains_accounts_and_aliases(server, tmp_path):
    assert not server[0].serves("example.org")
    assert not server[1].changed()  # and looking has made no file
    store, accounts = DomainStore(tmp_path / FILE), AccountStore(tmp_path / FILE)
    store.put(StoredDomain("example.org", "hold"), replace=False)
    assert ask(server, "ann@example.org") is envelope.RECIPIENT_UNKNOWN
    assert ask(server, "postmaster@example.org") == ["postmaster@example.org"]
    accounts.add(Account("ann@example.org"))
    assert ask(server, "Ann+tag@example.org") == ["Ann+tag@example.org"]
    store.put_alias("example.org", "Info", ("ann", "jo@elsewhere.example"))
    assert ask(server, "info@example.org") == ["jo@elsewhere.example", "ann@example.org"]
    accounts.remove("ann@example.org")
    assert ask(server, "ann@example.org") is envelope.RECIPIENT_UNKNOWN
    store.remove("example.org")
    ask(server, "ann@configured.example")
    assert not server[0].serves("example.org")
    store.close(), accounts.close()


def test_what_the_configuration_says_counts(server, store, noted):
    store.put(StoredDomain("configured.example", "hold", every_name=True), replace=False)
    assert ask(server, "eve@configured.example") is envelope.RECIPIENT_UNKNOWN
    assert [name for name, _ in noted] == ["directory.trouble"]


def test_a_file_that_breaks_changes_nothing(server, store, accounts, tmp_path, noted):
    accounts.add(Account("ann@example.org"))
    store.put(StoredDomain("example.org", "hold"), replace=False)
    assert ask(server, "ann@example.org") == ["ann@example.org"]
    (tmp_path / FILE).write_bytes(b"no database" * 1000)
    assert ask(server, "ann@example.org") == ["ann@example.org"]
    assert [name for name, _ in noted] == ["directory.trouble"]
    assert ask(server, "ann@example.org") == ["ann@example.org"]
    assert [name for name, _ in noted] == ["directory.trouble"]  # once


def test_a_file_that_vanishes_changes_nothing_until_there_is_another(server, store, tmp_path, noted):
    store.put(StoredDomain("example.org", "hold", every_name=True), replace=False)
    assert ask(server, "ann@example.org") == ["ann@example.org"]
    (tmp_path / FILE).unlink()
    assert ask(server, "ann@example.org") == ["ann@example.org"]
    assert [name for name, _ in noted] == ["directory.trouble"]
    DomainStore(tmp_path / FILE).close()
    ask(server, "ann@example.org")
    assert not server[0].serves("example.org")


def test_every_name_and_a_catch_all(server, store):
    store.put(StoredDomain("all.example", "hold", every_name=True), replace=False)
    store.put(StoredDomain("some.example", "hold", catch_all="x@all.example"), replace=False)
    assert ask(server, "eve@all.example") == ["eve@all.example"]
    assert ask(server, "eve@some.example") == ["x@all.example"]
    with pytest.raises(AccountError, match="never applies"):
        store.put(StoredDomain("all.example", "hold", every_name=True, catch_all="x"), replace=True)
    assert ask(server, "eve@all.example") == ["eve@all.example"]


def test_aliases_lead_somewhere_or_are_not_taken(store, accounts):
    store.put(StoredDomain("example.org", "hold"), replace=False)
    with pytest.raises(AccountError, match="nobody"):
        store.put_alias("example.org", "info", ("ann",))
    accounts.add(Account("ann@example.org"))
    store.put_alias("example.org", "info", ("ann",))
    store.put_alias("example.org", "help", ("info",))
    with pytest.raises(AccountError, match="loop"):
        store.put_alias("example.org", "info", ("help",))
    (found,) = store.domains()
    assert found.aliases == {"help": ["info"], "info": ["ann"]}
    for work in (
        lambda: store.remove_alias("example.org", "nobody"),
        lambda: store.remove_alias("example.net", "info"),
        lambda: store.put_alias("example.net", "info", ("ann",)),
        lambda: store.put(StoredDomain("example.org", "hold"), replace=False),
    ):
        with pytest.raises(AccountError):
            work()


@pytest.mark.parametrize("way", ["pipe:filter", "python:a:b", "maildir:relative", "nonsense"])
def test_a_way_that_can_not_work_is_not_taken(store, way):
    with pytest.raises(AccountError):
        store.put(StoredDomain("example.org", way), replace=False)
    assert store.domains() == []


def test_a_policy_is_told_and_forgotten(server, store):
    store.put(StoredDomain("b\u00fccher.example", "hold"), replace=False)
    policy = StsSettings(mode="enforce", mx=("mx.example.org", "*.example.net"), max_age_s=Seconds(86_400))
    store.put_policy("b\u00fccher.example", policy)
    directory, stored = server
    stored.take(stored.read())
    assert directory.settings_of("xn--bcher-kva.example").mta_sts == policy
    store.put(StoredDomain("b\u00fccher.example", "discard"), replace=True)
    (kept,) = store.domains()
    assert (kept.deliver, kept.mta_sts) == ("discard", policy)
    store.put_policy("b\u00fccher.example", StsSettings())
    stored.take(stored.read())
    assert directory.settings_of("xn--bcher-kva.example").mta_sts.mode == "off"
    with pytest.raises(AccountError, match="there is no domain"):
        store.put_policy("example.org", policy)


def test_a_file_of_the_release_before_gets_its_new_tables(tmp_path):
    old = apsw.Connection(str(tmp_path / FILE))
    old.execute(_TABLES)
    old.execute(
        "INSERT INTO nobody VALUES (x'00'); INSERT INTO account (name, password, created) VALUES ('ann', '', 1)"
    )
    old.pragma("user_version", 1)
    old.close()
    opened = DomainStore(tmp_path / FILE)
    assert opened.account_names() == ["ann"]
    assert opened.domains() == []
    opened.close()
