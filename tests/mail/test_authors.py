"""From fields as people and programs write them."""

import pytest

from pillarbox.mail.authors import addresses


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("alice@example.org", ["alice@example.org"]),
        ("Alice <Alice@Example.org>", ["alice@example.org"]),
        ('"Smith, Alice <bob@x>" <alice@example.org>', ["alice@example.org"]),
        ("alice@example.org (bob@x, (and <carol@x>))", ["alice@example.org"]),
        ("Alice <a@x>, bob@y", ["a@x", "bob@y"]),
        ("Team: a@x, B <b@x>;", ["a@x", "b@x"]),
        ("undisclosed:;", []),
        ("", []),
        ("Alice", ["alice"]),
        ("<a@x", ["a@x"]),
        ('"alice', ['"alice']),
        ("a@x <b@x> c@x", ["b@x c@x"]),
        ("x" * 9000, ["x" * 8192]),
    ],
)
def test_who_is_named(value, found):
    assert addresses(value) == found


def test_a_hostile_field_takes_no_long_time():
    for unit in ("(", '"', "<", "\\", "a,", "(a", "<>", '"\\'):
        addresses(unit * (8000 // len(unit)))
