"""What is remembered of other domains' encryption, as an operator sees and forgets it."""

import json

import pytest
from click.testing import CliRunner

from pillarbox.cli.commands import cli
from pillarbox.policy.memory import FILE, Memory, open_notes
from pillarbox.relay.tls_levels import Level, remember


@pytest.fixture
def tls(tmp_path):
    """Run `pillarbox tls ...`: its exit status and what it says."""

    def run(*arguments):
        done = CliRunner().invoke(cli, ["tls", *arguments, "--data", str(tmp_path)])
        return done.exit_code, done.output

    return run


@pytest.fixture
async def remembered(tmp_path):
    """Three domains: one was better before, one fell back and recovered, one is as good as ever."""
    memory = Memory(tmp_path)
    for domain, *levels in (
        ("fallen.test", Level.PROVEN, Level.CLEAR),
        ("back.test", Level.ENCRYPTED, Level.CLEAR, Level.ENCRYPTED),
        ("good.test", Level.PROVEN),
        ("clear.test", Level.CLEAR),
    ):
        for level in levels:
            await memory.ask(lambda notes, domain=domain, level=level: remember(notes, domain, level))
    yield memory  # the server runs
    await memory.close()


def test_without_a_memory_nothing_is_made(tls, tmp_path):
    assert tls("list") == (0, "Nothing is remembered.\n")
    assert tls("list", "--json") == (0, "[]\n")
    assert tls("show", "x.test")[0] == 66
    assert tls("forget", "x.test") == (1, "Nothing was remembered of x.test.\n")
    assert not (tmp_path / FILE).exists()


async def test_domains_are_listed_with_what_they_had(remembered, tls):
    status, output = tls("list", "--json")
    found = {one["domain"]: (one["best"], one["worse"]) for one in json.loads(output)}
    assert status == 0
    assert found == {
        "fallen.test": ("proven", "clear"),
        "back.test": ("encrypted", None),
        "good.test": ("proven", None),
    }
    lines = tls("list")[1].splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["DOMAIN", "BEST"], ["back.test", "encrypted"], ["fallen.test", "proven"], ["good.test", "proven"],
    ]  # fmt: skip
    assert "in clear, now" in lines[2]
    assert "fallen.test" in tls("list", "--worse")[1]
    assert "good.test" not in tls("list", "--worse")[1]


async def test_one_is_shown_with_what_to_do(remembered, tls):
    status, output = tls("show", "Fallen.Test")
    assert status == 1
    assert "fallen.test took mail under TLS with proof of who it is" in output
    assert "pillarbox tls forget fallen.test" in output
    assert tls("show", "good.test")[0] == 0


async def test_what_is_forgotten_is_gone(remembered, tls):
    assert tls("forget", "fallen.test", "good.test") == (
        0,
        "fallen.test is forgotten.\ngood.test is forgotten.\n",
    )
    assert [one["domain"] for one in json.loads(tls("list", "--json")[1])] == ["back.test"]
    status, output = tls("forget", "back.test", "never.test", "--json")
    assert (status, json.loads(output)) == (1, {"forgotten": ["back.test"]})


def test_a_month_later_it_is_no_longer_known(tls, tmp_path):
    with open_notes(tmp_path / FILE, now=1_000_000.0) as notes:
        remember(notes, "long.test", Level.PROVEN)
    assert tls("list") == (0, "Nothing is remembered.\n")
