"""Read MTA-STS records and policies, and tell which hosts a policy names (RFC 8461).

Fetching a policy and keeping it is the business of `relay.sts`; what a host must then show is that of `relay.demand`.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from pillarbox.mail.reply import printable
from pillarbox.mailauth.dns import Query

if TYPE_CHECKING:
    from pillarbox.mailauth.dns import Plan

MAX_POLICY_OCTETS = 65536  # RFC 8461 3.3
MAX_AGE_S = 31557600  # one year (RFC 8461 3.2)
_MAX_NAMED = 8192  # characters of all hosts of one policy together: many policies are kept in memory
_RECORD = re.compile(r"v=STSv1[ \t]*;")
_ID = re.compile(r"[A-Za-z0-9]{1,32}", re.ASCII)
_FIELD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}=[\x21-\x3a\x3c\x3e-\x7e]+", re.ASCII)
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*\.?", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,10}", re.ASCII)
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}", re.ASCII)


class Mode(StrEnum):
    """What a domain wants done with a host that fails."""

    ENFORCE = "enforce"
    TESTING = "testing"
    NONE = "none"


class PolicyError(ValueError):
    """It is no policy; the text says where and why."""


class StsPolicy(msgspec.Struct, frozen=True):
    """What a domain says of its mail exchangers, and for how long."""

    mode: Mode
    max_age_s: int
    mx: tuple[str, ...] = ()  # host names in small letters; "*." in front stands for exactly one label

    def names(self, host: str) -> bool:
        """Whether a host is one that the policy names (RFC 8461 4.1)."""
        host = host.rstrip(".").lower()
        return host in self.mx or f"*.{host.partition('.')[2]}" in self.mx

    def __str__(self) -> str:
        """The policy as it is published."""
        hosts = "".join(f"mx: {host}\r\n" for host in self.mx)
        return f"version: STSv1\r\nmode: {self.mode.value}\r\n{hosts}max_age: {self.max_age_s}\r\n"


class Announced(msgspec.Struct, frozen=True):
    """What DNS says of a domain's policy: its id, "" if there is none; or that DNS did not say."""

    id: str = ""
    failed: str = ""


def find_record(domain: str) -> Plan[Announced]:
    """Ask whether a domain has a policy."""
    answer = yield Query(f"_mta-sts.{domain}", "TXT")
    if answer.failed:
        return Announced(failed=answer.detail or "no answer")
    return Announced(parse_records(answer.records))


def parse_records(texts: tuple[str, ...]) -> str:
    """The id in the one record that counts; "" if there is none, more than one, or it can't be read (RFC 8461 3.1)."""
    found = [text for text in texts if _RECORD.match(text)]
    if len(found) != 1:
        return ""
    fields = [field.strip(" \t") for field in found[0].split(";")[1:]]
    if fields[-1] == "":
        fields.pop()
    if not all(_FIELD.fullmatch(field) for field in fields):
        return ""
    ids = [field[3:] for field in fields if field.startswith("id=")]
    return ids[0] if ids and _ID.fullmatch(ids[0]) else ""


def parse_policy(octets: bytes) -> StsPolicy:
    """Read a policy as it was fetched (RFC 8461 3.2). Raises PolicyError.

    Of a key that is there twice the first counts, except for mx; keys that are not known say nothing to us.
    """
    if len(octets) > MAX_POLICY_OCTETS:
        raise PolicyError(f"it has over {MAX_POLICY_OCTETS} octets")
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PolicyError("it is not UTF-8") from error
    first: dict[str, str] = {}
    hosts: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        row = line.strip(" \t\r")
        if not row:
            continue
        key, colon, value = row.partition(":")
        key, value = key.rstrip(" \t"), value.lstrip(" \t")
        if not colon or not _KEY.fullmatch(key):
            raise PolicyError(f"line {number} is not a key and a value")
        if key == "mx":
            hosts.append(_read_host(value, number))
        else:
            first.setdefault(key, value)
    return _compose(first, hosts)


def _compose(first: dict[str, str], hosts: list[str]) -> StsPolicy:
    if first.get("version") != "STSv1":
        raise PolicyError("version is not STSv1")
    try:
        mode = Mode(first.get("mode", ""))
    except ValueError:
        raise PolicyError(f'mode "{printable(first.get("mode", ""), 20)}" is unknown') from None
    age = first.get("max_age", "")
    if not _NUMBER.fullmatch(age):
        raise PolicyError("max_age is not a number of seconds")
    if not hosts and mode is not Mode.NONE:
        raise PolicyError("it names no mx")
    named = tuple(dict.fromkeys(hosts))
    if sum(map(len, named)) > _MAX_NAMED:
        raise PolicyError(f"the names of its hosts have over {_MAX_NAMED} characters")
    return StsPolicy(mode, min(int(age), MAX_AGE_S), named)


def _read_host(value: str, number: int) -> str:
    host = value.lower()
    if len(host) > 255 or not _HOST.fullmatch(host):
        raise PolicyError(f'line {number}: "{printable(value, 80)}" is neither a host name nor "*." and one')
    return host.rstrip(".")
