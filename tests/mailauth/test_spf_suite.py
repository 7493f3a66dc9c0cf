"""The openspf.org test suite of RFC 7208, all of it; its licence lies beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pillarbox.mailauth import spf
from pillarbox.mailauth.dns import Answer, Query

SUITE = Path(__file__).parents[1] / "data" / "spf" / "rfc7208-tests.yml"
SCENARIOS = list(yaml.safe_load_all(SUITE.read_text("utf-8")))
CASES = [(f"{name}", scenario, case) for scenario in SCENARIOS for name, case in scenario["tests"].items()]


def zone_of(scenario):
    """The suite writes a zone as name -> list of {kind: value} and "TIMEOUT"; SPF stands for TXT where there is none."""
    zone = {}
    for name, entries in scenario["zonedata"].items():
        kinds = {}
        for entry in entries:
            if entry == "TIMEOUT":
                kinds.setdefault("*", "failed")
                continue
            for kind, value in entry.items():
                kinds.setdefault(kind, []).append(value)
        if "TXT" not in kinds and "SPF" in kinds:
            kinds["TXT"] = kinds["SPF"]
        kinds.pop("SPF", None)
        zone[name.lower().rstrip(".")] = {
            kind: values for kind, values in kinds.items() if values != ["NONE"]
        }
    return zone


def look_up(zone, query: Query) -> Answer:
    name = query.name.lower()
    if name.startswith("error.") and name not in zone:
        return Answer(failed=True)
    for _ in range(8):
        kinds = zone.get(name)
        if kinds is None:
            return Answer(no_domain=True)
        if "CNAME" not in kinds:
            break
        name = kinds["CNAME"][0].lower().rstrip(".")
    values = kinds.get(query.kind)
    if values is None:
        return Answer(failed="*" in kinds)
    if "TIMEOUT" in values:
        return Answer(failed=True)
    if query.kind == "TXT":
        return Answer(tuple(value if isinstance(value, str) else "".join(value) for value in values))
    if query.kind == "MX":
        return Answer(tuple((preference, host.rstrip(".")) for preference, host in values))
    return Answer(tuple(str(value).rstrip(".") for value in values))


def test_the_suite_has_203_cases():
    assert len(CASES) == 203


@pytest.mark.parametrize(("name", "scenario", "case"), CASES, ids=[name for name, _, _ in CASES])
def test_case(name, scenario, case, run_plan):
    zone = zone_of(scenario)
    client = spf.Client(str(case["host"]), str(case["helo"]), case.get("mailfrom") or "")
    verdict = run_plan(spf.check(client), lambda query: look_up(zone, query))
    allowed = case["result"] if isinstance(case["result"], list) else [case["result"]]
    assert verdict.result in allowed, verdict.detail
    expected = case.get("explanation")
    if expected is not None:
        assert (verdict.explanation or "DEFAULT") == expected
