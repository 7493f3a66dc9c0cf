"""The accounts that the commands keep, and a running server that lets them in at once."""

import json
import re

import pytest


@pytest.fixture
def user(pillarbox, tmp_path):
    def run(*arguments, **further):
        return pillarbox("user", *arguments, "--data", tmp_path, **further)

    return run


def added(user, name, password, *options):
    return user("add", name, *options, "--password-file", "-", input=f"{password}\n")


def listed(user):
    return {one["name"]: one for one in user("list", "--json").json}


def test_accounts_are_added_listed_disabled_and_removed(user):
    assert user("list").out == "No account.\n"
    assert added(user, "Alice@example.org", "wonderland", "--sender", "@Example.org").status == 0
    assert user("add", "bob@example.org", PILLARBOX_PASSWORD="builder").status == 0
    found = listed(user)
    assert list(found) == ["alice@example.org", "bob@example.org"]
    assert found["alice@example.org"]["senders"] == ["@example.org"]
    assert found["alice@example.org"]["scram"] == ["SCRAM-SHA-256"]
    assert "argon2" not in json.dumps(found)
    assert user("disable", "bob@example.org").status == 0
    assert not listed(user)["bob@example.org"]["enabled"]
    assert re.search(r"bob@example.org +disabled", user("list").out)
    assert user("enable", "bob@example.org").status == 0
    assert listed(user)["bob@example.org"]["enabled"]
    assert user("remove", "bob@example.org").status == 0
    assert list(listed(user)) == ["alice@example.org"]


def test_what_can_not_be_done_has_a_status_of_its_own(user, pillarbox, tmp_path):
    added(user, "alice", "wonderland")
    assert added(user, "alice", "x").status == 1
    assert "already" in added(user, "alice", "x").err
    assert user("disable", "zoe").status == 1
    assert added(user, "bob", "").status == 65
    assert added(user, "two words", "x").status == 64
    (tmp_path / "accounts.db").write_text("not a database" * 100)
    assert user("list").status == 66


def test_a_password_is_never_an_argument(user, pillarbox):
    assert user("add", "alice", "wonderland").status == 64
    for command in ("add", "passwd"):
        assert not re.search(r"--password\b(?!-file)", pillarbox("user", command, "--help").out)


def test_an_app_password_is_shown_once(user):
    added(user, "alice", "wonderland")
    secret = user("app-password", "add", "alice", "phone").out.strip()
    assert re.fullmatch(r"(?:[a-z2-7]{4}-){4}[a-z2-7]{4}", secret)
    shown = user("app-password", "list", "alice", "--json")
    assert [(one["label"], one["used"]) for one in shown.json] == [("phone", None)]
    assert secret not in shown.out
    assert "never" in user("app-password", "list", "alice").out
    assert user("app-password", "add", "alice", "phone").status == 1
    assert user("app-password", "remove", "alice", "phone").status == 0
    assert user("app-password", "list", "alice").out == "No app password.\n"


def test_accounts_come_from_the_file_of_another_server(user, pillarbox, tmp_path):
    hashed = pillarbox("user", "hash", "--password-file", "-", input="hashed\n").out.strip()
    text = f"# users\nann:{{ARGON2ID}}{hashed}:1000:1000::/home/ann\nben:{{PLAIN}}plain\n\n"
    assert user("import", "-", input=text).out == "2 accounts imported.\n"
    assert listed(user)["ann"]["scram"] == []
    assert listed(user)["ben"]["scram"] == ["SCRAM-SHA-256"]
    assert user("import", "-", input=text).status == 1
    assert user("import", "-", "--replace", input=text).status == 0


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("ann", "line 1: not NAME"),
        ("ann:secret", "line 1: no {SCHEME}"),
        ("ann:{MD5}xyz", "line 1: the scheme MD5 can't be used"),
        ("ann:{SCRAM-SHA-256}4096,x", "line 1"),
        ("ann:{PLAIN}x\nann:{PLAIN}y", "line 2: ann is there twice"),
    ],
)
def test_a_file_with_a_line_that_can_not_be_used_adds_nothing(user, line, problem):
    ran = user("import", "-", input=f"{line}\n")
    assert ran.status == 65
    assert problem in ran.err
    assert listed(user) == {}


def test_a_look_makes_no_accounts(user, tmp_path):
    assert user("list").out == "No account.\n"
    for arguments in (("app-password", "list", "ann"), ("remove", "ann")):
        ran = user(*arguments)
        assert (ran.status, "there are no accounts in" in ran.err) == (1, True)
    assert not list(tmp_path.iterdir())
