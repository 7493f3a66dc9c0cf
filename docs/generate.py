"""Write the reference pages that follow from the code: settings, replies, commands, metrics and events."""

from __future__ import annotations

import ast
import datetime as dt
import inspect
import itertools
import json
import math
import re
import textwrap
import types
import typing
from enum import Enum
from pathlib import Path

import click
import msgspec

from pillarbox import observe
from pillarbox.cli.commands import cli
from pillarbox.cli.explain import EXITS
from pillarbox.config.settings import Config
from pillarbox.diagnose.causes import Retry, Suppress, peer_causes
from pillarbox.diagnose.classify import Certainty
from pillarbox.diagnose.diagnosis import Account, Finding, Kind, Outcome
from pillarbox.diagnose.dialects import Pattern, book
from pillarbox.diagnose.rules import RULES
from pillarbox.diagnose.transcript import Side
from pillarbox.mail.catalogue import CAUSES
from pillarbox.mail.reply import Stage
from pillarbox.mail.units import (
    AtLeast,
    Octets,
    Rate,
    Seconds,
    Settings,
    format_duration,
    format_number,
    format_size,
)
from pillarbox.queue.decisions import ROWS, Action, Fact, Pace, Row, Step

REFERENCE = Path(__file__).parent / "reference"
WORDS = {"certainty": Certainty, "retry": Retry, "suppress": Suppress}
NAMES = {
    Seconds: "duration",
    Octets: "size",
    Rate: "rate",
    str: "text",
    int: "number",
    float: "number",
    bool: "true or false",
    dt.datetime: "date and time",
}


def described(kind: type) -> dict[str, str]:
    """The strings that stand below the fields of a settings class."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body
    found = {}
    for field, text in itertools.pairwise(body):
        is_text = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and is_text:
            found[field.target.id] = " ".join(str(text.value.value).split())
    return found


def inner(kind: object) -> type[Settings] | None:
    """The settings class that a field holds, one or many."""
    if isinstance(kind, type) and issubclass(kind, Settings):
        return kind
    return next((found for part in typing.get_args(kind) if (found := inner(part))), None)


def named(kind: object) -> str:
    """What may be written for a setting."""
    if kind in NAMES:
        return NAMES[kind]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return ", ".join(f'"{one.value}"' for one in kind)
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        bound = next(note for note in parts[1:] if isinstance(note, AtLeast))
        least = "" if math.isinf(bound.least) else f" from {format_number(parts[0], bound.least)}"
        return f"{named(parts[0])}{least}"
    if origin is typing.Literal:
        return ", ".join(f'"{one}"' for one in parts)
    if origin is dict:
        return f"table of {named(parts[1])}"
    if origin in (list, tuple):
        return f"list of {named(parts[0])}"
    return " or ".join(named(part) for part in parts if part is not types.NoneType)


def shown(value: object) -> str:
    """A default as a configuration would write it."""
    if isinstance(value, Seconds):
        return f'"{format_duration(value)}"'
    if isinstance(value, Octets):
        return f'"{format_size(value)}"'
    if isinstance(value, Rate):
        return f'"{value}"'
    if value is None or value is msgspec.NODEFAULT or isinstance(value, types.FunctionType):
        return ""
    return json.dumps(value)  # which TOML writes the same


def settings(kind: type[Settings], heading: str) -> list[str]:
    """One section, then those inside it."""
    lines = [
        f"\n## {heading}\n",
        f"{inspect.cleandoc(kind.__doc__ or '')}\n",
        "| key | kind | default | meaning |",
        "|---|---|---|---|",
    ]
    below: list[str] = []
    texts = described(kind)
    for field in msgspec.structs.fields(kind):
        nested = inner(field.type)
        if nested is not None:
            origin = typing.get_origin(field.type)
            name = (
                field.encode_name
                if heading.startswith("Top")
                else f"{heading.strip('`[]')}.{field.encode_name}"
            )
            style = {dict: f'`[{name}."NAME"]`', tuple: f"`[[{name}]]`", list: f"`[[{name}]]`"}.get(
                origin, f"`[{name}]`"
            )
            below += settings(nested, style)
            continue
        lines.append(
            f"| `{field.encode_name}` | {named(field.type)} | `{shown(field.default)}` | {texts.get(field.name, '')} |".replace(
                "``", ""
            )
        )
    return lines + below


def replies() -> list[str]:
    """Every cause of the catalogue."""
    lines = [
        "# Replies and outcomes\n",
        "Every reply that this server sends, and every outcome that it records, by cause.\n",
    ]
    for cause in sorted(CAUSES.values(), key=lambda one: (one.code, one.id)):
        lines += [
            f"\n## {cause.code} {cause.status} `{cause.id}`\n",
            f"> {cause.text}\n".replace("\n", " ").rstrip() + "\n",
            f"{cause.meaning} {cause.explanation}\n",
            f"- Whose move: {cause.who.value}. {cause.advice}",
            f"- Standard: {cause.clause}" + (f"; setting: `{cause.setting}`" if cause.setting else ""),
        ]
    return lines


def commands() -> list[str]:
    """The help of every command."""
    lines = ["# Commands\n"]
    context = click.Context(cli, info_name="pillarbox")
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        below = click.Context(command, info_name=f"pillarbox {name}", parent=None, max_content_width=100)
        lines += [f"\n## pillarbox {name}\n", "```", command.get_help(below), "```"]
        for sub in getattr(command, "commands", {}):
            inside = click.Context(
                command.commands[sub], info_name=f"pillarbox {name} {sub}", max_content_width=100
            )
            lines += [f"\n### pillarbox {name} {sub}\n", "```", command.commands[sub].get_help(inside), "```"]
    return lines


def metrics() -> list[str]:
    """Every metric, then every event with its counter."""
    lines = [
        "# Metrics and events\n",
        "What `/metrics` tells, and what the log says. Nothing is counted unless `console.address` is set.\n",
        "| metric | kind | labels | meaning |",
        "|---|---|---|---|",
    ]
    counters = {id(event.counter) for event in observe.Event.declared}
    for metric in observe.Metric.declared:
        if id(metric) not in counters:
            name = f"{metric.name}_total" if metric.kind == "Counter" else metric.name
            labels = ", ".join(f"`{label}`" for label in metric.labels)
            lines.append(f"| `{name}` | {metric.kind.lower()} | {labels} | {metric.meaning} |")
    lines += [
        "\n## Events\n",
        "Each is a line in the log if its level is on (`[log]`), and counted by a counter of its name whether it is or not.\n",
        "| event | level | sentence | counter | labels |",
        "|---|---|---|---|---|",
    ]
    for event in observe.Event.declared:
        labels = ", ".join(f"`{label}`" for label in event.counter.labels)
        lines.append(
            f"| `{event.name}` | {event.level_name} | {event.text.replace('<', '&lt;')} | `{event.counter.name}_total` | {labels} |"
        )
    return lines


ALL_STAGES = len(Stage)
DOES = {
    Action.OK: "done",
    Action.RETRY: "nothing more now",
    Action.BOUNCE: "nothing more",
    Action.NEXT_HOST: "next host",
    Action.LARGER_HOST: "next host with a larger limit",
    Action.RECONNECT: "same host, new connection, once",
    Action.ENCRYPT: "same host under TLS, once",
    Action.SPLIT: "rest of the recipients in another transaction",
    Action.SINGLY: "each recipient in a transaction of its own",
    Action.STRIP: "again without parameters that can be left out",
    Action.HELO: "HELO",
    Action.IN_CLEAR: "go on without TLS",
    Action.OTHER_LOGIN: "another mechanism",
    Action.OTHER_FAMILY: "by IPv4, once",
}
PACES = {
    Pace.NORMAL: "by schedule",
    Pace.GREYLIST: "soon, or when the host says",
    Pace.SLOW: "in long steps",
    Pace.CAUSE: "as the cause says",
}


def decision(row: Row) -> str:
    """One line of the decision table."""
    stages = "any" if len(row.stages) == ALL_STAGES else " ".join(f"`{stage.value}`" for stage in row.stages)
    said = [row.codes or "any", f"status {row.statuses}" if row.statuses else ""]
    known = [
        " or ".join(f"`{cause.id}`" for cause in row.ours),
        " or ".join(f"`{cause}`" for cause in row.causes),
        " or ".join(one.value for one in row.about),
        f"advice: {' or '.join(one.value for one in row.advised)}" if row.advised else "",
        "the words are about IPv6 or reverse DNS" if row.words else "",
        *(_fact(fact) for fact in Fact if fact and fact in row.needs),
        *(f"not: {_fact(fact)}" for fact in Fact if fact and fact in row.lacks),
    ]
    step = {Step.DELIVERED: "delivered", Step.RETRY: f"stays, {PACES[row.pace]}", Step.BOUNCE: "returned"}[
        row.step
    ]
    if row.patience:
        step += f" after {row.patience} more attempt{'s' if row.patience > 1 else ''}, {PACES[row.pace]}"
    also = [
        f"left alone for {format_duration(row.suspend_s)} or longer" if row.suspend_s else "",
        {0: "", 1: "alarm"}.get(row.alarm_after, f"alarm after {row.alarm_after} times"),
    ]
    cells = [stages, *("; ".join(filter(None, one)) for one in (said, known)), DOES[row.action], step]
    return f"| {' | '.join([*cells, row.scope.value, '; '.join(filter(None, also))])} |"


def _fact(fact: Fact) -> str:
    return (fact.name or "").lower().replace("_", " ")


def decisions() -> list[str]:
    """The table by which the sending side acts."""
    return [
        "# What the sending side does about a reply\n",
        "The table of `pillarbox.queue.decisions`, in its order: the first line that fits counts.",
        "[What a reply does](../explanation/what-a-reply-does.md) explains it.\n",
        "| stage | reply | and | in the attempt | in the queue | concerns | also |",
        "|---|---|---|---|---|---|---|",
        *map(decision, ROWS),
    ]


def dialects() -> list[str]:
    """What other hosts' replies are known by, and what each means."""
    lines = [
        "# What other servers say\n",
        "The replies of other hosts that are known here, by whose words they are, and what follows from each. The same list",
        "decides what the queue does, what `pillarbox explain` tells and how bounces are read. Only letters and digits count,",
        "in any case; `...` is anything, `*` the rest of a word, and `x` any class of a status.\n",
        "- [Causes](#causes): what can be behind a refusal",
        *(f"- [{one.title}](#{one.id})" for one in book().dialects.values()),
        "- [Numbers alone](#numbers-alone): what a reply without known words is taken for",
        "\n## Causes\n",
        "`at once` and `if repeated` tell when a permanent refusal stops further mail to the address.\n",
        "| cause | meaning | whose move | what to do | what a queue does | stops mail |",
        "|---|---|---|---|---|---|",
    ]
    stops = {"never": "", "address": "at once", "domain": "to the domain"}
    for cause in peer_causes().values():
        wait = f", after {format_duration(Seconds(cause.wait_s))}" if cause.wait_s else ""
        stop = stops.get(cause.suppress.value, "if repeated")
        lines.append(
            f'| <a id="{cause.id}"></a>`{cause.id}` | {cause.meaning} | {cause.who.value} | {cause.advice} | {cause.retry.value}{wait} | {stop} |'
        )
    for dialect in book().dialects.values():
        lines += [
            f'\n## <a id="{dialect.id}"></a>{dialect.title}\n',
            f"Source: {dialect.source}."
            + (f" Hosts: {', '.join(f'`{host}`' for host in dialect.hosts)}." if dialect.hosts else ""),
            "\n| pattern | numbers | words | means | for example |",
            "|---|---|---|---|---|",
        ]
        lines += [pattern_row(one, dialect.source) for one in book().patterns if one.dialect == dialect.id]
    lines += ["\n## Numbers alone\n", "| code | status | stage | means |", "|---|---|---|---|"]
    for one in book().defaults:
        stages = ", ".join(sorted(one.stages))
        lines.append(f"| {one.code} | {one.status} | {stages} | [`{one.cause.id}`](#{one.cause.id}) |")
    return lines


def pattern_row(pattern: Pattern, usual_source: str) -> str:
    """One pattern, with a source of its own if it has one."""
    words = "; ".join(pattern.written)
    means = f"{pattern.cause.meaning} [`{pattern.cause.id}`](#{pattern.cause.id})"
    if pattern.source != usual_source:
        means += f" Source: {pattern.source}."
    sample = pattern.samples[0].replace("\n", " ").replace("|", "\\|").replace("`", "'")
    return f"| `{pattern.id}` | {pattern.condition} | {words} | {means} | `{sample}` |"


def commented(kind: type) -> dict[str, str]:
    """The comments behind the fields of a class."""
    found = re.findall(r"^    (\w+): [^#\n]*?(?:# (.*))?$", inspect.getsource(kind), re.MULTILINE)
    return {name: text[:1].upper() + text[1:] for name, text in found}


def explanations() -> list[str]:
    """What `pillarbox explain` tells programs."""
    lines = [
        "# What explain tells programs\n",
        "The exit statuses of `pillarbox explain`, and the keys of its `--json`. Keys are only ever added.\n",
        "## Outcomes and exit statuses\n",
        "| outcome | exit status | meaning |",
        "|---|---|---|",
    ]
    values = re.findall(r'^    (\w+) = "[^"]+"(?:  # (.*))?$', inspect.getsource(Outcome), re.MULTILINE)
    for name, comment in values:
        status = str(int(EXITS[Outcome[name]])) if Outcome[name] in EXITS else "that of the worst"
        lines.append(f"| `{Outcome[name].value}` | {status} | {comment[:1].upper()}{comment[1:]} |")
    lines += [
        "\nA look-up of a code, a status or an id that is known ends with 0, a text that is not understood with 65, wrong use with 64, a file that cannot be read with 66.\n",
        "Of several recipients a permanent refusal counts more than one that may pass, and that more than success.",
        "\n## Keys\n",
        "| key | meaning |",
        "|---|---|",
        "| `kind` | " + ", ".join(f"`{one.value}`" for one in Kind) + " |",
        "| `notation` | How the text is written |",
        "| `known` | Whether anything could be told |",
        "| `outcome` | Of all recipients together |",
        "| `host` | The server that answered, if the text has its name |",
        "| `recipients` | A list, see below |",
        "| `replies` | A list, see below |",
        "| `notes` | Sentences about what is odd |",
        "| `explanation` | Of a single code, status, id or reply, as the catalogue has it; else null |",
    ]
    for title, kind, more in (
        ("recipients", Account, {}),
        ("replies", Finding, {"code": "Of the reply", "status": "The enhanced status", "text": "Its lines"}),
    ):
        lines += [f"\n## Keys of each of `{title}`\n", "| key | meaning |", "|---|---|"]
        known = {
            name: text for name, text in commented(kind).items() if (title, name) != ("replies", "reply")
        }
        lines += [f"| `{name}` | {text or name.capitalize()} |" for name, text in (known | more).items()]
    lines += ["\n## Words for `certainty`, `retry` and `suppress`\n"]
    lines += [f"- `{key}`: {', '.join(f'`{one.value}`' for one in kind)}" for key, kind in WORDS.items()]
    return lines


def lint_rules() -> list[str]:
    """What `pillarbox lint` judges."""
    lines = [
        "# Rules of lint\n",
        "What `pillarbox lint` finds in a transcript. An error is what the standard forbids; a warning is allowed, or not certain, and asks for trouble.\n",
    ]
    for side in (Side.SERVER, Side.CLIENT):
        lines += [f"## The {side.value}\n", "| rule | | says | clause |", "|---|---|---|---|"]
        lines += [
            f"| `{rule.id}` | {rule.severity.value} | {rule.says} | {rule.clause} |"
            for rule in RULES.values()
            if rule.side is side
        ]
        lines.append("")
    lines += [
        "## Exit status and JSON\n",
        "0 no fault, 1 faults, 65 not a transcript, 64 and 66 wrong use or input. With `--json`: `notation`, `sessions`, `exchanges`,",
        "and `faults`, a list with the keys `line` (from 1), `rule`, `severity`, `side`, `says`, `detail` and `clause`.",
    ]
    return lines


def pages() -> dict[str, str]:
    """All pages by file name."""
    intro = [
        "# Configuration\n",
        "One TOML file; an unknown key is an error. Generated from the settings classes.",
    ]
    return {
        "configuration.md": "\n".join([*intro, *settings(Config, "Top level")]) + "\n",
        "replies.md": "\n".join(replies()) + "\n",
        "cli.md": "\n".join(commands()) + "\n",
        "dialects.md": "\n".join(dialects()) + "\n",
        "metrics.md": "\n".join(metrics()) + "\n",
        "decisions.md": "\n".join(decisions()) + "\n",
        "explain.md": "\n".join(explanations()) + "\n",
        "lint.md": "\n".join(lint_rules()) + "\n",
    }


if __name__ == "__main__":
    REFERENCE.mkdir(exist_ok=True)
    for name, text in pages().items():
        (REFERENCE / name).write_text(text)
