"""Write the reference pages that follow from the code: settings, replies, commands."""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
import types
import typing
from pathlib import Path

import click
import msgspec

from pillarbox.cli.commands import cli
from pillarbox.config.settings import Config
from pillarbox.mail.catalogue import CAUSES
from pillarbox.mail.units import Octets, Seconds, Settings, format_duration, format_size

REFERENCE = Path(__file__).parent / "reference"
NAMES = {
    Seconds: "duration",
    Octets: "size",
    str: "text",
    int: "number",
    float: "number",
    bool: "true or false",
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


def shown(value: object) -> str:
    """A default as a configuration would write it."""
    if isinstance(value, Seconds):
        return f'"{format_duration(value)}"'
    if isinstance(value, Octets):
        return f'"{format_size(value)}"'
    if value is msgspec.NODEFAULT or isinstance(value, types.FunctionType):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(list(value) if isinstance(value, tuple) else value)


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
        word = NAMES.get(field.type, "") or str(field.type).replace("typing.", "").replace("|", "or")
        lines.append(
            f"| `{field.encode_name}` | {word} | `{shown(field.default)}` | {texts.get(field.name, '')} |".replace(
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
    }


if __name__ == "__main__":
    REFERENCE.mkdir(exist_ok=True)
    for name, text in pages().items():
        (REFERENCE / name).write_text(text)
