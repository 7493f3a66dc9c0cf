"""Compare the bounce reader with what the collection of bounces says of each file."""

import hashlib
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path

from pillarbox.diagnose.bounce import Bounce, BounceKind, read_bounce
from pillarbox.diagnose.causes import Suppress

FOLDER = Path(__file__).parents[1] / "data" / "bounces"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())
REASONS = tomllib.loads((FOLDER / "reasons.toml").read_text())
KINDS = {"feedback": "feedback report", "vacation": "automatic reply", "delivered": "report of success"}
MAY_BE_DEAD = {"userunknown", "filtered", "hasmoved", "suspend", "hostunknown", "notaccept"}
MAY_REPEAT = {*MAY_BE_DEAD, "mailboxfull", "rejected", "securityerror", "policyviolation"}


@dataclass(frozen=True)
class Judged:
    """One file: what was right in it."""

    name: str
    bounce: Bounce
    recipients: bool
    kind: bool
    hard: bool
    cause: bool
    wrong_suppressions: int
    unknown: int


def half(name: str) -> int:
    """To which half of the collection a file belongs: patterns were written on the one, checked on the other."""
    return hashlib.sha256(name.encode()).digest()[0] & 1


def judge(name: str) -> Judged:
    """Read one file and compare, recipient by recipient in their order."""
    rows = EXPECTED[name]
    bounce = read_bounce((FOLDER / name).read_bytes())
    pairs = _paired(rows, bounce)
    complete = len(rows) == len(bounce.recipients)
    found = bool(pairs) or bounce.kind is BounceKind.FEEDBACK  # who complains may stay unnamed
    reason = rows[0]["reason"]
    wrong = sum(
        (one.verdict.suppress in {Suppress.ADDRESS, Suppress.DOMAIN} and row["reason"] not in MAY_BE_DEAD)
        or (one.verdict.suppress is Suppress.REPEATED and row["reason"] not in MAY_REPEAT)
        for row, one in pairs
    )
    return Judged(
        name,
        bounce,
        recipients=complete,
        kind=bounce.kind.value == KINDS.get(reason, bounce.kind.value) and found,
        hard=found and all(_hard(row, one) for row, one in pairs),
        cause=found and all(_cause(row, one, bounce) for row, one in pairs),
        wrong_suppressions=wrong,
        unknown=sum(one.verdict.cause.id == "unknown" for one in bounce.recipients),
    )


def _paired(rows, bounce):
    """Rows and recipients; their order is not always ours, so those with the same cause find each other first."""
    left = list(bounce.recipients)
    pairs = []
    for row in sorted(rows, key=lambda row: row["reason"]):
        fitting = [one for one in left if one.verdict.cause.id in REASONS[row["reason"]]] or list(left)
        if fitting:
            left.remove(fitting[0])
            pairs.append((row, fitting[0]))
    return pairs


def _cause(row, one, bounce):
    """They call it "expired" as well if a message is late and the notice does not say why."""
    late = (
        row["reason"] == "expired" and bounce.kind is BounceKind.DELAY and one.verdict.cause.id == "unknown"
    )
    return late or one.verdict.cause.id in REASONS[row["reason"]]


def _hard(row, one):
    """Their "filtered" is soft by definition, ours follows from the words: an unknown user is one at any stage."""
    return row["reason"] == "filtered" or one.verdict.hard == row["hard"]


def figures(names) -> dict[str, float]:
    """Shares of files that are right."""
    judged = [judge(name) for name in names]
    count = len(judged)
    people = sum(len(one.bounce.recipients) for one in judged)
    return {
        "files": count,
        "recipients": sum(one.recipients for one in judged) / count,
        "kind": sum(one.kind for one in judged) / count,
        "hard": sum(one.hard for one in judged) / count,
        "cause": sum(one.cause for one in judged) / count,
        "wrong suppressions": sum(one.wrong_suppressions for one in judged),
        "unknown": sum(one.unknown for one in judged) / people,
    }
