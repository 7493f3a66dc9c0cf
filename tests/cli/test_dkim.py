"""`pillarbox dkim`: keys are made, listed and changed, and what is to be published is printed."""

from __future__ import annotations

import asyncio
import json
import os

import dns.zone
import pytest
from click.testing import CliRunner

from pillarbox.cli.commands import cli


@pytest.fixture
def run(tmp_path):
    def run(*arguments, status=0):
        done = CliRunner().invoke(cli, ["dkim", *arguments, "--data", str(tmp_path)])
        assert done.exit_code == status, done.output
        return done.output

    return run


def test_the_records_can_be_pasted_into_a_zone(run):
    text = run("new", "example.org")
    zone = dns.zone.from_text(
        f"$TTL 300\n@ IN SOA a. b. 1 2 3 4 5\n@ IN NS a.\n{text}", "example.org", relativize=False
    )
    listed = json.loads(run("list", "--json"))
    assert {one["kind"] for one in listed} == {"rsa", "ed25519"}
    assert {one["state"] for one in listed} == {"signs"}
    for one in listed:
        strings = zone.get_rdataset(one["name"] + ".", "TXT")[0].strings
        assert b"".join(strings).decode() == one["record"]


def test_keys_are_changed_in_two_steps(run):
    first = json.loads(run("new", "example.org", "--kind", "rsa", "--json"))
    assert "rotate --activate example.org" in run("rotate", "example.org")
    waiting = [one["name"] for one in json.loads(run("list", "--json")) if one["state"] == "waits"]
    assert json.loads(run("rotate", "example.org", "--activate", "--no-check", "--json")) == {
        "signing": waiting, "retired": [first[0]["name"]],
    }  # fmt: skip
    assert "no key of example.org waits" in run("rotate", "example.org", "--activate", status=1)
    assert "retired" in run("list")


async def test_new_keys_sign_only_if_the_world_can_see_them(run, serve_dns):
    run("new", "example.org", "--kind", "ed25519")
    (waiting,) = (
        one for one in json.loads(run("rotate", "example.org", "--json")) if one["kind"] == "ed25519"
    )
    run("remove", "example.org", waiting["selector"][:-1] + "r")  # one kind is enough here
    name = f"{waiting['name']}."
    for answer, status, words in (
        ("nxdomain", 1, "is not published; publish"),
        ("servfail", 75, "no usable answer"),
        ([(name, 300, "IN", "TXT", '"v=DKIM1; k=ed25519; p=dVtgZ6wnbI86Fs08DLTCzP3pUF5tGdeV7CHu1d6R5Iw="')], 1, "not the key"),
        ([(name, 300, "IN", "TXT", f'"{waiting["record"]}"')], 0, "signs now"),
    ):  # fmt: skip
        names = await serve_dns({f"{name} TXT": answer})
        activate = ("rotate", "example.org", "--activate", "--resolver", names.address)
        said = await asyncio.to_thread(run, *activate, status=status)
        assert words in " ".join(said.split())


def test_keys_are_forgotten_when_no_mail_with_them_is_on_its_way(run):
    (old,) = json.loads(run("new", "example.org", "--kind", "ed25519", "--json"))
    assert "signs; `pillarbox dkim rotate" in run("remove", "example.org", old["selector"], status=1)
    run("rotate", "example.org")
    run("rotate", "example.org", "--activate", "--no-check")
    assert "on its way" in run("remove", "example.org", old["selector"], status=1)
    assert run("remove", "example.org", status=1) == "No key was retired so long ago.\n"
    assert "take its record out of the zone" in run("remove", "example.org", "--older-than", "0s")
    assert old["selector"] not in run("list")
    assert "has no key nonsense" in run("remove", "example.org", "nonsense", status=1)


def test_what_is_no_domain_gets_no_key(run):
    assert "not a domain name" in run("new", "../example", status=64)


def test_without_a_data_folder_it_says_what_to_do(tmp_path):
    done = CliRunner().invoke(cli, ["dkim", "new", "example.org", "--data", str(tmp_path / "none")])
    assert "start the server once" in done.output
    assert done.exit_code == 64


def test_a_key_that_others_may_read_is_an_error(run, tmp_path):
    run("new", "example.org")
    next(tmp_path.glob("dkim/*/*.key")).chmod(0o644)
    assert "others may read this key" in run("list", status=78)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_so_is_a_key_of_somebody_else(run, tmp_path):
    run("new", "example.org")
    key = next(tmp_path.glob("dkim/*/*.key"))
    os.chown(key, 65_534, 65_534)
    assert "belongs to nobody, who may read and change it" in " ".join(run("list", status=78).split())
    os.chown(tmp_path, 65_534, 65_534)  # and with it the whole folder: that is the service's user
    run("list")


def test_a_folder_that_others_may_write_to_is_an_error(run, tmp_path):
    run("new", "example.org")
    (tmp_path / "dkim/example.org").chmod(0o777)
    assert "others may write into it" in run("list", status=78)


def test_a_list_without_keys_says_so(run):
    assert run("list") == "No key.\n"
    assert json.loads(run("list", "--json")) == []


def test_what_is_no_domain_is_named(run):
    assert "'nonsense..' is not a domain name" in run("new", "nonsense..", status=64)
