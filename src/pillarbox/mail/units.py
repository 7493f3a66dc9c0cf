"""Read and write times and sizes as people spell them in a configuration, and give settings classes their base.

Where a setting comes from, and which file and line it stands on, is `config`'s business.
"""

from __future__ import annotations

import math
import re

import msgspec

_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_UNIT_OCTETS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_DURATION = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{1,6})?(?:ms|[smhdw]))+")
_DURATION_PART = re.compile(r"([0-9.]+)(ms|[smhdw])")
_RATE = re.compile(r"([0-9]{1,9})/([0-9]{0,6})(s|m|h|d|w)")
_SIZE = re.compile(r"([0-9]{1,15})([KMGT]?)")


class Seconds(float):
    """A length of time in seconds; a configuration writes it as "90s", "5m", "1h30m", "5d" or a number."""

    __slots__ = ()


class Octets(int):
    """A size in octets; a configuration writes it as "64K", "50M", "2G" (powers of 1,024) or a number."""

    __slots__ = ()


class Rate:
    """So many in so long; a configuration writes it as "100/h" or "20/10m"."""

    __slots__ = ("count", "period_s")

    def __init__(self, count: int, period_s: float) -> None:
        """Both are more than nothing."""
        self.count = count
        self.period_s = period_s

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rate) and (self.count, self.period_s) == (other.count, other.period_s)

    def __hash__(self) -> int:
        return hash((self.count, self.period_s))

    def __str__(self) -> str:
        return f"{self.count}/{format_duration(self.period_s)}"

    __repr__ = __str__


class AtLeast(msgspec.Struct, frozen=True):
    """The least that a number in a configuration may be. It stands in the `Annotated` type of a setting; without it, 0."""

    least: float = 0.0
    wise: float = -math.inf
    """Less is allowed, and warned of."""
    because: str = ""
    """What less than that does, or who asks for it."""


def _config_key(field: str) -> str:
    """Name a field in the configuration: the value spells out its unit there, so `idle_s` is `idle = "5s"`."""
    return re.sub(r"_(s|bytes|octets)$", "", field)


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename=_config_key):
    """Base of all settings classes: frozen, strict, keys without the unit suffix of the field name.

    A subclass repeats `frozen=True` for the type checker; a string below a field describes it in the reference.
    """


def parse_duration(value: object) -> Seconds:
    """Read a duration: a number of seconds, or digits with units such as "90s" or "1h30m". Raises ValueError."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0:
        return Seconds(value)
    if isinstance(value, str) and _DURATION.fullmatch(value):
        return Seconds(sum(float(number) * _UNIT_S[unit] for number, unit in _DURATION_PART.findall(value)))
    msg = 'not a duration; write one such as "90s", "5m", "4h" or "5d"'
    raise ValueError(msg)


def parse_size(value: object) -> Octets:
    """Read a size: a number of octets, or digits with K, M, G or T. Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return Octets(value)
    if isinstance(value, str) and (found := _SIZE.fullmatch(value)):
        return Octets(int(found[1]) * _UNIT_OCTETS[found[2]])
    msg = 'not a size; write one such as "64K" or "50M", or a number of octets'
    raise ValueError(msg)


def parse_rate(value: object) -> Rate:
    """Read a rate such as "100/h" or "20/10m". Raises ValueError."""
    if isinstance(value, str) and (found := _RATE.fullmatch(value)):
        rate = Rate(int(found[1]), int(found[2] or 1) * _UNIT_S[found[3]])
        if rate.count and rate.period_s:
            return rate
    msg = 'not a rate; write one such as "100/h" or "20/10m"'
    raise ValueError(msg)


def decode_unit(kind: type, value: object) -> object:
    """Convert `value` for msgspec, as its `dec_hook`. Raises ValueError for a bad value."""
    if kind is Seconds:
        return parse_duration(value)
    if kind is Octets:
        return parse_size(value)
    if kind is Rate:
        return parse_rate(value)
    msg = f"no such kind of setting: {kind.__name__}"
    raise NotImplementedError(msg)


def format_duration(seconds: float) -> str:
    """Write a duration in at most two units, rounded down, so that `parse_duration` can read it: "1h30m", "250ms"."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms" if seconds else "0s"
    rest, parts = int(seconds), []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, length)
        if count:
            parts.append(f"{count}{unit}")
        elif parts:
            break
    return "".join(parts[:2])


def format_size(octets: int) -> str:
    """Write a size with the largest unit that divides it, so that `parse_size` reads the same: "50M"."""
    for unit in ("T", "G", "M", "K"):
        if octets and octets % _UNIT_OCTETS[unit] == 0:
            return f"{octets // _UNIT_OCTETS[unit]}{unit}"
    return str(octets)


def format_number(kind: type, number: float) -> str:
    """Write a number as a configuration does for a setting of this kind."""
    if issubclass(kind, Seconds):
        return f'"{format_duration(number)}"'
    if issubclass(kind, Octets):
        size = format_size(int(number))
        return size if size.isdecimal() else f'"{size}"'
    return f"{number:g}"


def approximate_size(octets: float) -> str:
    """Write a size for people, rounded: "1.4 MiB"."""
    for unit in ("octets", "KiB", "MiB"):
        if octets < 1024:
            return f"{octets:.1f} {unit}" if unit != "octets" else f"{octets:.0f} {unit}"
        octets /= 1024
    return f"{octets:.1f} GiB"
