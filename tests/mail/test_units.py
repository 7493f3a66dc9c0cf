"""Times and sizes as people write them."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.mail.units import (
    Octets,
    Seconds,
    Settings,
    approximate_size,
    decode_unit,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("5m", 300),
        ("4h", 14400),
        ("5d", 432000),
        ("1w", 604800),
        ("1h30m", 5400),
        ("250ms", 0.25),
        (7, 7),
    ],
)
def test_durations_are_read(text: object, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "5 m",
        "m",
        "-5m",
        "+5m",
        "1_0s",
        "٣s",
        "5M",
        "5y",
        "inf",
        "9" * 5000,
        True,
        None,
        -1,
        float("nan"),
        [5],
    ],
)
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "octets"),
    [("64K", 65536), ("50M", 52428800), ("2G", 2147483648), ("1T", 1 << 40), ("100", 100), (12, 12), (0, 0)],
)
def test_sizes_are_read(text: object, octets: int) -> None:
    assert parse_size(text) == octets


@pytest.mark.parametrize(
    "text", ["", "50MB", "50 M", "1.5M", "-1", "+1", "1_0", "٣", "9" * 5000, True, 1.5, -1, None]
)
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_size(text)


@given(st.integers(0, 10**7))
def test_a_written_size_reads_the_same(octets: int) -> None:
    assert parse_size(format_size(octets)) == octets


@given(st.floats(0, 10**7))
def test_a_written_duration_is_read_back_close(seconds: float) -> None:
    read = parse_duration(format_duration(seconds))
    assert abs(read - seconds) <= max(1, seconds / 24)


def test_durations_for_people() -> None:
    assert [format_duration(s) for s in (0, 0.25, 59, 3600, 5400, 3601, 90061)] == [
        "0s", "250ms", "59s", "1h", "1h30m", "1h", "1d1h",
    ]  # fmt: skip
    assert [approximate_size(n) for n in (5, 1536, 5 << 20, 3 << 30)] == [
        "5 octets",
        "1.5 KiB",
        "5.0 MiB",
        "3.0 GiB",
    ]


class _Retry(Settings, frozen=True):
    first_s: Seconds = Seconds(300)
    max_bytes: Octets = Octets(10)


def test_a_settings_class_takes_units_and_drops_the_suffix() -> None:
    assert msgspec.convert({"first": "5m", "max": "1K"}, _Retry, dec_hook=decode_unit) == _Retry(
        first_s=Seconds(300), max_bytes=Octets(1024)
    )
    with pytest.raises(msgspec.ValidationError, match=r"not a duration.*\$\.first"):
        msgspec.convert({"first": "soon"}, _Retry, dec_hook=decode_unit)
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.convert({"first_s": 3}, _Retry, dec_hook=decode_unit)
