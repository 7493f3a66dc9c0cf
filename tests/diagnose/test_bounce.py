import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from corpus import EXPECTED, FOLDER, figures, half, judge

from pillarbox.diagnose.bounce import BounceKind, read_bounce

NAMES = sorted(EXPECTED)


@pytest.mark.parametrize("number", [0, 1])
def test_real_bounces_are_understood(number, record_property):
    found = figures([name for name in NAMES if half(name) == number])
    print({key: round(value, 4) for key, value in found.items()})
    record_property("figures", found)
    assert found["wrong suppressions"] == 0
    assert min(found[key] for key in ("recipients", "kind", "hard", "cause")) >= 0.97


def test_a_report_of_the_standard_is_read_in_full():
    bounce = read_bounce((FOLDER / "lhost-postfix-31.eml").read_bytes())
    (one,) = bounce.recipients
    assert bounce.kind is BounceKind.FAILURE
    assert one.address.endswith("@gmail.com")
    assert (one.action, one.status, one.reply.code) == ("failed", "5.1.1", 550)
    assert one.verdict.pattern == "gmail.no_such_user"
    assert bounce.reporting_mta
    assert bounce.message_id.startswith("<")


@given(st.binary(max_size=2000))
@settings(deadline=None)
def test_no_octets_are_too_much(octets):
    read_bounce(octets)


@given(st.sampled_from(NAMES), st.data())
@settings(deadline=None)
def test_no_broken_bounce_is_too_much(name, data):
    octets = (FOLDER / name).read_bytes()
    start = data.draw(st.integers(0, len(octets)))
    length = data.draw(st.integers(0, 400))
    junk = data.draw(st.binary(max_size=40))
    read_bounce(octets[:start] + junk + octets[start + length :])


def test_every_file_has_a_verdict_for_each_recipient():
    for name in NAMES:
        for one in judge(name).bounce.recipients:
            assert one.verdict.cause.meaning
