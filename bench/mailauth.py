"""Measure signing, verifying and the whole check of incoming mail, beside dkimpy and pyspf in the same run.

    .venv/bin/python bench/mailauth.py [--quick]

All DNS answers are in memory. Times are processor time of this process, the best of several rounds, so that other load on
the machine counts as little as possible; what counts are the ratios. Exits with 1 if one of the goals is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import dkim as dkimpy
import spf as pyspf
import yaml
from cryptography.hazmat.primitives import serialization

from pillarbox.inbound.consequence import Checked
from pillarbox.inbound.origin import OriginChecks
from pillarbox.mail import message
from pillarbox.mailauth import dkim, keys, spf
from pillarbox.mailauth.dns import Answer, Plan, Query
from pillarbox.policy.author import DmarcSettings
from pillarbox.policy.hooks import Client
from pillarbox.policy.origin import OriginPolicy
from pillarbox.policy.origin_settings import ArcSettings, DkimSettings, SpfSettings

SUITE = Path(__file__).parents[1] / "tests" / "data" / "spf" / "rfc7208-tests.yml"
RSA, ED = keys.new_key("rsa"), keys.new_key("ed25519")
SIGNERS = [dkim.Signer("example.org", "rsa", RSA)]
PEM = RSA.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
)
ZONE = {
    Query("rsa._domainkey.example.org", "TXT"): Answer((keys.format_record(RSA),)),
    Query("ed._domainkey.example.org", "TXT"): Answer((keys.format_record(ED),)),
    Query("example.org", "TXT"): Answer(("v=spf1 ip4:192.0.2.0/24 include:spf.example.net -all",)),
    Query("_dmarc.example.org", "TXT"): Answer(("v=DMARC1; p=reject; adkim=r; aspf=r",)),
}
NOTHING = Answer(no_domain=True)
HEAD = (
    b"Received: from a.example.org (a.example.org [192.0.2.1])\r\n\tby b.example.org with ESMTPS id 123;\r\n"
    b"\tMon, 1 Jan 2024 00:00:00 +0000\r\nFrom: Alice <alice@example.org>\r\nTo: Bob <bob@example.net>\r\n"
    b"Subject: what people write to each other\r\nDate: Mon, 1 Jan 2024 00:00:00 +0000\r\n"
    b"Message-ID: <1234567890@example.org>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Transfer-Encoding: 7bit\r\nUser-Agent: something\r\nReferences: <1@x> <2@x>\r\nIn-Reply-To: <2@x>\r\n\r\n"
)
LINE = b"Some text as people write it, in lines of a common length, word by word.\r\n"
SMALL = HEAD + LINE * ((2048 - len(HEAD)) // len(LINE))
LARGE = HEAD + LINE * (1_048_576 // len(LINE))


def look_up(query: Query) -> Answer:
    return ZONE.get(query, NOTHING)


def finish(plan: Plan[object], look: Callable[[Query], Answer] = look_up) -> object:
    try:
        query = next(plan)
        while True:
            query = plan.send(look(query))
    except StopIteration as done:
        return done.value


def per_second(works: Sequence[Callable[[], object]], least_s: float, rounds: int = 70) -> list[float]:
    """How often a second of processor time is enough for each of `works`; they take turns, the best round counts.

    Rounds are many and short, and all works take part in each: a machine that others use too is left alone for a tenth of a
    second now and then, but seldom for long.
    """
    best = [0.0] * len(works)
    for work in works:
        work()
    for _ in range(rounds):
        for number, work in enumerate(works):
            count, start = 0, time.process_time()
            while (spent := time.process_time() - start) < least_s / 10:
                work()
                count += 1
            best[number] = max(best[number], count / spent)
    return best


def sign(mail: bytes) -> bytes:
    header, body_hash = dkim.message_hash(mail)
    return dkim.sign(header, body_hash, SIGNERS, now=time.time())


def verify(mail: bytes) -> None:
    section, _, body = mail.partition(b"\r\n\r\n")
    header = dkim.Header(section)
    found = dkim.signatures(header)
    bodies = dkim.body_hashes(found)
    for one in bodies.values():
        one.update(body)
    for one in found:
        verdict = finish(dkim.verify(one, header, bodies, now=time.time()))
        assert verdict.result == "pass", verdict  # type: ignore[attr-defined]


def oracle_dns(name: bytes, timeout: float = 5) -> bytes:  # noqa: ARG001 - dkimpy's signature
    return str(look_up(Query(name.decode().rstrip("."), "TXT")).records[0]).encode()


def oracle_sign(mail: bytes) -> bytes:
    forms = (b"relaxed", b"relaxed")
    return bytes(dkimpy.sign(mail, b"rsa", b"example.org", PEM, canonicalize=forms))


def oracle_verify(mail: bytes) -> None:
    assert dkimpy.verify(mail, dnsfunc=oracle_dns)


def spf_cases() -> list[tuple[dict[tuple[str, str], list[object]], str, str, str]]:
    """The suite's cases that have neither time-outs nor aliases, as both sides understand them."""
    cases = []
    for scenario in yaml.safe_load_all(SUITE.read_text("utf-8")):
        zone: dict[tuple[str, str], list[object]] = {}
        odd = False
        for name, entries in scenario["zonedata"].items():
            for entry in entries:
                if entry == "TIMEOUT" or "TIMEOUT" in entry.values() or "CNAME" in entry:
                    odd = True
                    continue
                for kind, value in entry.items():
                    known = "TXT" if kind == "SPF" else kind
                    zone.setdefault((name.lower(), known), []).append(value)
        if not odd:
            cases += [
                (zone, str(case["host"]), case.get("mailfrom") or "", str(case["helo"]))
                for case in scenario["tests"].values()
            ]
    return cases


def spf_works() -> tuple[Callable[[], object], Callable[[], object], int]:
    """All cases of the suite by us and by pyspf, and how many they are."""
    cases = spf_cases()

    def ours() -> None:
        for zone, host, sender, helo in cases:
            finish(
                spf.check(spf.Client(host, helo, sender)), lambda query, zone=zone: spf_answer(zone, query)
            )

    def theirs() -> None:
        for zone, host, sender, helo in cases:
            pyspf.DNSLookup = lambda name, kind, *_, zone=zone: oracle_answers(zone, name, kind)
            pyspf.query(i=host, s=sender, h=helo, strict=True).check()

    return ours, theirs, len(cases)


def spf_answer(zone: dict[tuple[str, str], list[object]], query: Query) -> Answer:
    found = zone.get((query.name.lower(), query.kind))
    if found is None:
        return NOTHING
    if query.kind == "TXT":
        return Answer(tuple(one if isinstance(one, str) else "".join(one) for one in found))  # type: ignore[arg-type]
    return Answer(tuple(tuple(one) if isinstance(one, list) else one for one in found))


def oracle_answers(zone: dict[tuple[str, str], list[object]], name: str, kind: str) -> object:
    for one in zone.get((name.lower().rstrip("."), kind), ()):
        value: object = one
        if kind == "TXT":
            value = tuple(part.encode() for part in ([one] if isinstance(one, str) else one))  # type: ignore[union-attr]
        elif kind == "AAAA":
            value = __import__("ipaddress").ip_address(one).packed
        yield (name, kind), value


class Memory:
    """A draft in memory."""

    file = None

    def __init__(self, octets: bytes) -> None:
        self._octets = octets

    def inline(self) -> bytes:
        return self._octets


def whole_work(runner: asyncio.Runner) -> Callable[[], object]:
    """Fifty messages with two DKIM signatures, SPF, DMARC, and the fields written: what the door does with each."""
    header, body_hash = dkim.message_hash(SMALL)
    signers = [dkim.Signer("example.org", "rsa", RSA), dkim.Signer("example.org", "ed", ED)]
    mail = dkim.sign(header, body_hash, signers, now=time.time()) + SMALL
    policy = OriginPolicy(
        SpfSettings(check=True), DkimSettings(check=True), DmarcSettings(check=True), ArcSettings(check=True)
    )

    async def lookup(query: Query) -> Answer:
        return look_up(query)

    checks = OriginChecks(policy, lookup, recall=look_up, hostname="mx.example.net")
    client = Client("s", "192.0.2.7", 1234, "mx", helo="mail.example.org")

    async def rounds(count: int) -> None:
        for _ in range(count):
            found = checks.begin(client, "alice@example.org", message.scan_head(mail), Memory(mail))  # type: ignore[arg-type]
            assert isinstance(found, Checked), "something had to be waited for"
            assert b"dmarc=pass" in found.prefix

    return lambda: runner.run(rounds(50))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    least_s = 0.2 if parser.parse_args().quick else 1.0
    small, large = sign(SMALL) + SMALL, sign(LARGE) + LARGE
    record = keys.parse_record(keys.format_record(RSA))
    made = keys.sign(RSA, SMALL, "rsa-sha256")
    spf_ours, spf_theirs, cases = spf_works()
    pairs: list[tuple[str, Callable[[], object], Callable[[], object], int, float]] = [
        ("sign, RSA-2048, 2 KiB", lambda: sign(SMALL), lambda: oracle_sign(SMALL), 1, 15),
        ("verify, RSA-2048, 2 KiB", lambda: verify(small), lambda: oracle_verify(small), 1, 5),
        ("verify, RSA-2048, 1 MiB", lambda: verify(large), lambda: oracle_verify(large), 1, 8),
        ("SPF, RFC 7208 suite", spf_ours, spf_theirs, cases, 1),
    ]
    with asyncio.Runner() as runner:
        works = [lambda: keys.is_valid(record, made, SMALL), whole_work(runner)]
        raw, whole, *rates = per_second(works + [work for pair in pairs for work in pair[1:3]], least_s)
    print(f"this machine now: {raw:,.0f} bare RSA-2048 verifications a second of processor time")
    print(f"{'':34} {'pillarbox':>12} {'other':>12}")
    missed = False
    for (name, _, _, each, goal), ours, theirs in zip(pairs, rates[::2], rates[1::2], strict=True):
        reached = ours >= goal * theirs
        missed |= not reached
        note = "" if reached else "   MISSED"
        print(
            f"{name:34} {ours * each:10,.0f}/s {theirs * each:10,.0f}/s {ours / theirs:7.1f} x  (goal {goal} x){note}"
        )
    whole *= 50
    missed |= whole < 1500
    print(
        f"{'SPF + 2 DKIM + ARC + DMARC + A-R':34} {whole:10,.0f}/s{'':29}(goal 1,500){'' if whole >= 1500 else '   MISSED'}"
    )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
