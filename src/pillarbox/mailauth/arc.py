"""Verify and extend the chain of custody of forwarded mail: ARC (RFC 8617).

Each host that changes a message writes down what it had found before, and seals that. Whose seals are believed is the
policy's business. Nothing here raises, whatever stands in a message or in DNS.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from pillarbox.mailauth import dkim, keys
from pillarbox.mailauth.canonical import BodyHash, canonical_field, relaxed_field
from pillarbox.mailauth.dns import Plan
from pillarbox.mailauth.results import Finding, Results, format_value, parse_results
from pillarbox.mailauth.tags import TagError, parse_tags, unspaced

MAX_SETS = 50  # RFC 8617 4.2.1
_AAR, _AMS, _AS = _FIELDS = b"arc-authentication-results", b"arc-message-signature", b"arc-seal"


class Set(Struct, frozen=True):
    """What one host added."""

    number: int  # i=
    results: bytes  # the field ARC-Authentication-Results
    message: dkim.Signature  # ARC-Message-Signature
    seal: bytes  # the field ARC-Seal
    tags: dict[str, str]  # of the seal


class Chain(Struct, frozen=True):
    """The sets of a message in order, or why they are no chain."""

    sets: tuple[Set, ...] = ()
    problem: str = ""

    @property
    def bodies(self) -> list[dkim.Signature]:
        """The signature whose hash of the body is needed: that of the last set."""
        return [self.sets[-1].message] if self.sets and not self.problem else []


class Verdict(Struct, frozen=True):
    """What a chain is worth; `sealers` and `results` begin with the first host that sealed."""

    result: str  # none, pass, fail, temperror
    detail: str = ""
    sealers: tuple[str, ...] = ()
    results: tuple[Results | None, ...] = ()


UNSEALED = Verdict("none")
"""What is found if there is no chain."""


def parse_chain(header: dkim.Header) -> Chain | None:
    """Collect the sets of a message (RFC 8617 5.2, steps 1 to 3); None if there are none."""
    if not any(map(header.numbers, _FIELDS)):
        return None
    fields = {name: header.all(name) for name in _FIELDS}
    count = len(fields[_AS])
    if any(len(found) != count for found in fields.values()):
        return Chain(problem="a set is not complete")
    if count > MAX_SETS:
        return Chain(problem=f"more than {MAX_SETS} sets")
    by_number: dict[bytes, dict[int, tuple[bytes, dict[str, str]]]] = {}
    for name, found in fields.items():
        by_number[name] = {}
        for field in found:
            tags = _tags(field, only_instance=name == _AAR)
            number = _instance(tags)
            by_number[name][number] = (field, tags)
        if set(by_number[name]) != set(range(1, count + 1)):
            return Chain(problem="the sets are not numbered in order")
    return Chain(tuple(_set(number, by_number) for number in range(1, count + 1)))


def _set(number: int, found: dict[bytes, dict[int, tuple[bytes, dict[str, str]]]]) -> Set:
    field, tags = found[_AMS][number]
    message = dkim.read_tags(field, tags, "")
    message = replace(message, field=canonical_field(field, message.header_form))
    return Set(number, found[_AAR][number][0], message, *found[_AS][number])


def _tags(field: bytes, *, only_instance: bool) -> dict[str, str]:
    """The tags of a field, {} if they make no sense."""
    value = field.partition(b":")[2].decode("utf-8", "replace")
    if only_instance:
        value = value.partition(";")[0]
    try:
        return parse_tags(value)
    except TagError:
        return {}


def _instance(tags: dict[str, str]) -> int:
    text = tags.get("i", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 3 else 0


def verify(
    chain: Chain, header: dkim.Header, bodies: dict[tuple[str, int | None], BodyHash], *, now: float
) -> Plan[Verdict]:
    """Verify a chain (RFC 8617 5.2, steps 2 to 8); the body hashes must have been fed."""
    if chain.problem:
        return Verdict("fail", chain.problem)
    sealers = tuple(unspaced(one.tags.get("d", "")).lower() for one in chain.sets)
    results = tuple(_results(one.results) for one in chain.sets)

    def verdict(result: str, detail: str = "") -> Verdict:
        return Verdict(result, detail, sealers, results)

    problem = _order(chain.sets)
    if problem:
        return verdict("fail", problem)
    last = chain.sets[-1].message
    if last.limit is not None or _AS in last.signed:
        return verdict("fail", "the last ARC-Message-Signature has l= or signs ARC-Seal")
    found = yield from dkim.verify(last, header, bodies, now=now)
    if found.result != "pass":
        temporary = found.result == "temperror"
        return verdict("temperror" if temporary else "fail", f"ARC-Message-Signature: {found.detail}")
    for one in reversed(chain.sets):
        sealed = _sealed(chain.sets[: one.number])
        problem = yield from _verify_seal(one, sealed)
        if problem:
            temporary = problem.startswith("!")
            detail = f"ARC-Seal {one.number}: {problem.removeprefix('!')}"
            return verdict("temperror" if temporary else "fail", detail)
    return verdict("pass")


def _results(field: bytes) -> Results | None:
    _, _, value = field.decode("utf-8", "replace").partition(":")
    return parse_results(value.partition(";")[2])


def _order(sets: Sequence[Set]) -> str:
    """Whether each host said what it had to say about the chain before it."""
    for one in sets:
        said = unspaced(one.tags.get("cv", "")).lower()
        if said != ("none" if one.number == 1 else "pass"):
            return f"ARC-Seal {one.number} says cv={said[:10]}"
        if "h" in one.tags or "bh" in one.tags:
            return f"ARC-Seal {one.number} has h= or bh="
        if one.message.problem:
            return f"ARC-Message-Signature {one.number}: {one.message.problem}"
    return ""


def _sealed(sets: Sequence[Set]) -> bytes:
    """What the seal of the last of these sets covers (RFC 8617 5.1.1)."""
    lines = []
    for one in sets:
        lines += [relaxed_field(one.results), relaxed_field(one.message.field)]
        last = one is sets[-1]
        lines.append(dkim.unsigned_field(one.seal, "relaxed") if last else relaxed_field(one.seal))
    return b"\r\n".join(lines)


def _verify_seal(one: Set, sealed: bytes) -> Plan[str]:
    """What is wrong with a seal; "" if nothing, "!" in front if that may change."""
    tags = one.tags
    missing = [name for name in ("a", "b", "d", "s") if name not in tags]
    if missing:
        return f"no {missing[0]}="
    algorithm = unspaced(tags["a"]).lower()
    try:
        signature = b64decode(unspaced(tags["b"]), validate=True)
    except (binascii.Error, ValueError):
        return "b= is not base64"
    found = yield from dkim.fetch_keys(unspaced(tags["d"]), unspaced(tags["s"]))
    if isinstance(found, str):
        return found
    problem = "no key record"
    for text in found:
        try:
            key = keys.parse_record(text)
        except keys.BadKey as error:
            problem = str(error)
            continue
        problem = dkim.misfit(algorithm, key)
        if not problem and not keys.is_valid(key, signature, sealed):
            problem = "the chain was changed"
        if not problem:
            break
    return problem


def seal(  # noqa: PLR0913 - the parts of a set
    header: dkim.Header,
    body_hash: bytes,
    signer: dkim.Signer,
    *,
    server: str,
    findings: list[Finding],
    chain: str,
    now: float,
) -> bytes:
    """The three fields of our set with line ends, to be put in front (RFC 8617 5.1).

    `chain` is the result of `verify` for the message as it came; `body_hash` is that of the relaxed body. b"" if a chain has
    ended: nothing can be added to one that failed before, nor to one of full length.
    """
    before = parse_chain(header) or Chain()
    number = len(header.numbers(_AS)) + 1
    broken = chain not in {"none", "pass"} or bool(before.problem)
    if number > MAX_SETS or (before.sets and unspaced(before.sets[-1].tags.get("cv", "")).lower() == "fail"):
        return b""
    results = f"ARC-Authentication-Results: i={number}; {format_value(server, findings)}".encode(
        "utf-8", "surrogateescape"
    )
    names = (
        *dkim.fields_to_sign(header.names),
        *[b"dkim-signature"] * len(header.numbers(b"dkim-signature")),
    )
    covered = header.covered(names, "relaxed")
    start = (
        f"ARC-Message-Signature: i={number}; a={signer.algorithm}; c=relaxed/relaxed; d={signer.domain};\r\n"
        f"\ts={signer.selector}; t={int(now)};\r\n\th={dkim.listed(names)};\r\n"
        f"\tbh={b64encode(body_hash).decode()};\r\n\tb="
    ).encode()
    message = start + _sign(signer, covered + relaxed_field(start))
    said = "fail" if broken else "none" if number == 1 else "pass"
    start = (
        f"ARC-Seal: i={number}; a={signer.algorithm}; cv={said}; d={signer.domain};\r\n"
        f"\ts={signer.selector}; t={int(now)};\r\n\tb="
    ).encode()
    older = () if broken else before.sets  # RFC 8617 5.1.2: a broken chain is not covered
    lines = [relaxed_field(field) for one in older for field in (one.results, one.message.field, one.seal)]
    sealed = b"\r\n".join([*lines, relaxed_field(results), relaxed_field(message), relaxed_field(start)])
    return start + _sign(signer, sealed) + b"\r\n" + message + b"\r\n" + results + b"\r\n"


def _sign(signer: dkim.Signer, data: bytes) -> bytes:
    return dkim.fold_base64(keys.sign(signer.key, data, signer.algorithm))
