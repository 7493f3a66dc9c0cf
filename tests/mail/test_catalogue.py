"""The catalogue keeps its own rules, and the registry beside it is whole."""

from __future__ import annotations

import re
from typing import get_args, get_origin

import msgspec
import pytest

from pillarbox.config import Config
from pillarbox.mail import catalogue
from pillarbox.mail.catalogue import CAUSES, registry
from pillarbox.mail.reply import MAX_REPLY_LINE_OCTETS, Reply, Who, parse_reply

EVERY_CAUSE = pytest.mark.parametrize("cause", CAUSES.values(), ids=lambda cause: cause.id)
# Two codes where the standards let one cause have either class of number: the id names the situation.
OTHER_CODE = {"session.not_smtp", "session.status_denied"}


@EVERY_CAUSE
def test_cause_is_complete(cause):
    assert re.fullmatch(r"[a-z]+\.[a-z0-9_]+", cause.id)
    assert cause.stages
    assert re.search(r"RFC \d{4}", cause.clause)
    for text in (cause.meaning, cause.explanation, cause.advice):
        assert text == text.strip()
        assert text.endswith((".", "?"))
        assert text.isascii()
    assert cause.explanation != cause.meaning
    assert isinstance(cause.who, Who)


@EVERY_CAUSE
def test_status_belongs_to_the_code(cause):
    if 300 <= cause.code < 400:
        assert not cause.status
    elif cause.status:
        assert cause.status[0] == str(cause.code)[0]
        assert registry.of_status(cause.status) is not None
    assert cause.code in registry.codes()
    assert all(re.fullmatch(r"E\d{3}-\d{1,2}", scenario) for scenario in cause.scenarios)
    if cause.id not in OTHER_CODE:
        assert {scenario[1:4] for scenario in cause.scenarios} <= {str(cause.code)}


@EVERY_CAUSE
def test_hostile_text_never_splits_a_reply(cause):
    names = re.findall(r"\{([a-z_]+)\}", cause.text)
    reply = cause.reply(**dict.fromkeys(names, "evil\r\n250 OK\0\u2028é" * 20))
    for line in reply.wire.split(b"\r\n")[:-1]:
        assert len(line) + 2 <= MAX_REPLY_LINE_OCTETS
        assert line.isascii()
        assert b"\n" not in line
        assert b"\r" not in line
    assert reply.wire.count(b"\r\n") == len(reply.lines)
    again = parse_reply(reply.wire.split(b"\r\n")[:-1])
    assert (again.code, again.status, again.lines) == (reply.code, reply.status, reply.lines)
    words = cause.because("x\r\ny" * 400)
    assert words.wire.count(b"\r\n") == 1


@pytest.mark.parametrize("setting", sorted({cause.setting for cause in CAUSES.values()} - {""}))
def test_settings_named_are_settings_that_exist(setting):
    kind: object = Config
    for key in setting.split("."):
        if get_origin(kind) is dict:  # a table for each name, such as [domain."example.org"]
            kind = get_args(kind)[1]
        elif get_origin(kind) is tuple:  # an array of tables, such as [[listen]]
            kind = get_args(kind)[0]
        fields = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
        assert key in fields, f"{setting}: no {key} in {kind}"
        kind = fields[key]


def test_ids_are_grouped_by_module_and_found_again():
    for module in catalogue.MODULES:
        name = module.__name__.rpartition(".")[2]
        assert any(cause_id.startswith(f"{name}.") for cause_id in CAUSES)
    unknown = CAUSES["envelope.recipient_unknown"]
    assert unknown in catalogue.with_code(unknown.code)
    assert unknown in catalogue.with_status(unknown.status)
    assert catalogue.with_code(999) == []


def test_nobody_has_to_act_when_all_went_well():
    for cause in CAUSES.values():
        if cause.code < 400:
            assert cause.who is Who.NOBODY


def test_registry_is_whole():
    assert len(registry.codes()) >= 37
    subjects = {0: 0, 1: 10, 2: 4, 3: 6, 4: 7, 5: 6, 6: 10, 7: 30}
    expected = {f"{subject}.{detail}" for subject, last in subjects.items() for detail in range(last + 1)}
    assert set(registry.statuses()) == expected
    entries = [*registry.codes().values(), *registry.statuses().values()]
    for entry in entries:
        for text in (entry.meaning, entry.explanation, entry.advice):
            assert text.isascii()
            assert text.endswith((".", "?"))
    assert all(entry.client and entry.stages for entry in registry.codes().values())


@pytest.mark.parametrize(
    ("code", "status", "key"),
    [
        (550, "5.1.1", "X.1.1"),
        (550, "", "550"),
        (550, "5.0.0", "550"),
        (550, "5.99.99", "550"),
        (599, "", "5xx"),
        (471, "4.9.9", "4xx"),
        (421, "5.7.32", "421"),
    ],
)
def test_best_meaning_of_a_reply(code, status, key):
    assert registry.of_reply(Reply(code, status, ("x",))).key == key


def test_no_meaning_where_there_is_none():
    assert registry.of_code(999) is None
    assert registry.of_code(100) is None
    assert registry.of_status("nonsense") is None
    assert registry.of_reply(Reply(999, "", ("x",))) is None
