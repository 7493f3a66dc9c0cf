"""The commands about the suppression list, with no server running."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pillarbox.queue import schema

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def suppression(pillarbox, tmp_path: Path) -> Callable:
    """Run `pillarbox suppression ...` on an empty store."""
    schema.connect(tmp_path / schema.FILE).close()
    return lambda *arguments: pillarbox("suppression", *arguments, "--data", tmp_path)


def test_an_address_is_put_on_the_list_shown_and_taken_off(suppression) -> None:
    assert suppression("list").out == "No address is suppressed.\n"
    added = suppression("add", "Old@Example.NET", "--note", "they asked for it", "--for", "2d")
    assert added.out == "Mail to old@example.net is returned to its senders from now on.\n"
    (entry,) = suppression("list", "--json").json
    assert (entry["address"], entry["cause"], entry["note"]) == (
        "old@example.net",
        "operator",
        "they asked for it",
    )
    assert "in 1d23h" in suppression("list").out
    shown = suppression("show", "old@example.net").out
    assert "because: they asked for it" in shown
    assert "pillarbox suppression remove old@example.net" in shown
    removed = suppression("remove", "old@example.net")
    assert (removed.status, removed.out) == (0, "Mail to old@example.net is sent again.\n")
    assert suppression("list", "--json").json == []


def test_a_whole_domain_is_suppressed_for_each_of_its_addresses(suppression) -> None:
    suppression("add", "@gone.example")
    assert suppression("show", "anybody@gone.example", "--json").json[0]["address"] == "@gone.example"
    suppression("add", "a@other.example")
    assert [one["address"] for one in suppression("list", "--domain", "gone.example", "--json").json] == [
        "@gone.example"
    ]


def test_what_is_not_there_and_what_is_no_address_have_their_own_exit_status(suppression) -> None:
    assert suppression("show", "a@b.example").status == 1
    assert suppression("remove", "a@b.example").status == 1
    assert suppression("show", "a@b.example", "--json").json == []
    for command in (("show", "nothing"), ("add", "a@"), ("remove", "@@"), ("list", "--domain", "..")):
        ran = suppression(*command)
        assert ran.status == 64
        assert 'write "user@example.org"' in ran.err
