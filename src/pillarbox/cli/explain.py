"""Explain anything that mail programs say: a code, a reply, a transcript, a log, a bounce.

What it means is `diagnose.explain`'s business; here it is read and shown.
"""

from __future__ import annotations

import sys
from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pillarbox.cli.outcome import Exit
from pillarbox.cli.show import fail, is_colourful, read_text, show_json, wrapped
from pillarbox.diagnose.diagnosis import Kind, Outcome
from pillarbox.diagnose.meaning import Basis
from pillarbox.mail.spelling import some
from pillarbox.observe import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pillarbox.diagnose.diagnosis import Account, Diagnosis, Finding
    from pillarbox.diagnose.meaning import Explanation

EXITS = {
    Outcome.ACCEPTED: Exit.OK,
    Outcome.UNKNOWN: Exit.OK,
    Outcome.TEMPORARY: Exit.TEMPORARY,
    Outcome.IN_DOUBT: Exit.TEMPORARY,
    Outcome.UNSENT: Exit.TEMPORARY,
    Outcome.PERMANENT: Exit.REFUSED,
}
_WORST_FIRST = (Exit.REFUSED, Exit.TEMPORARY, Exit.OK)
_TITLES = {
    Outcome.ACCEPTED: ("accepted", "green"),
    Outcome.TEMPORARY: ("refused for now", "yellow"),
    Outcome.PERMANENT: ("refused for good", "red"),
    Outcome.IN_DOUBT: ("in doubt", "magenta"),
    Outcome.UNSENT: ("not sent", "yellow"),
    Outcome.UNKNOWN: ("not known", "white"),
}
_SHOWN_CAUSES = 12
_SHOWN_GROUPS = 25
_SHOWN_ADDRESSES = 8
_SHOWN_ECHOES = 6
_SHOWN_REPLY = 600
_LABEL = 12
_SUFFIXES = (".eml", ".log", ".mbox", ".msg", ".txt")
_NOTATIONS = {"no marks": "lines without marks", "sentence": "an error message", "bounce": ""}


@click.command()
@click.argument("text", nargs=-1)
@click.option(
    "--file",
    "-f",
    "path",
    type=click.Path(path_type=Path, allow_dash=True),
    help='Read it; "-" is standard input.',
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain(text: tuple[str, ...], path: Path | None, *, as_json: bool) -> None:
    """Explain what mail programs say: what happened, whose move it is, and what comes next.

    TEXT is a code (550), a status (5.1.1), the id of a cause (envelope.relay_denied) or a scenario (E550-1), a reply,
    or the name of a file. Without it, standard input is read. A file, or the input, may hold replies, the transcript
    of a session (swaks, curl -v, telnet, openssl, smtplib, Postfix or Exim with -v, C: and S:), lines of a log
    (Postfix, Exim, Sendmail, Exchange, OpenSMTPD, qmail, Pillarbox), a bounce, or an error message.

    Exit status: 0 accepted, or a question that was answered; 75 refused for now, or in doubt; 69 refused for good;
    65 not understood; 64, 66 wrong use or input. Of several recipients the worst one counts.
    """
    from pillarbox.diagnose.explain import explain as look_into

    found = look_into(_asked(text, path))
    if as_json:
        show_json(found.to_dict())
    else:
        _Page().show(found)
    sys.exit(_exit(found))


def _exit(found: Diagnosis) -> Exit:
    if found.kind is Kind.NOTHING:
        return Exit.DATA
    exits = {EXITS[account.outcome] for account in found.recipients}
    return next((status for status in _WORST_FIRST if status in exits), Exit.OK)


def _asked(words: Sequence[str], path: Path | None) -> str:
    """What to explain, from wherever it comes."""
    if path is None and len(words) == 1 and (words[0] == "-" or _is_file(words[0])):
        path, words = Path(words[0]), ()
    if path is not None and words:
        raise click.UsageError("give either a text or --file")
    if len(words) == 1 and _looks_like_a_file(words[0]):
        fail(f"there is no file {words[0]}", Exit.NO_INPUT)
    if words:
        return " ".join(words)
    if path is None and sys.stdin.isatty():
        click.echo("Paste what is to be explained, then press Ctrl-D on a line of its own.", err=True)
    return read_text(path or Path("-"))


def _is_file(word: str) -> bool:
    from pillarbox.diagnose.meaning import look_up

    try:
        return Path(word).is_file() and not look_up(word).known
    except (OSError, ValueError):
        return False


def _looks_like_a_file(word: str) -> bool:
    """Whether a word that is no file, and nothing to look up, was meant to be one."""
    from pillarbox.diagnose.meaning import look_up

    is_name = "/" in word or Path(word).suffix.lower() in _SUFFIXES
    return is_name and len(word.split()) == 1 and not look_up(word).known


class _Page:
    """Prints an explanation for people."""

    def __init__(self) -> None:
        """Find out about the terminal."""
        self._colour = is_colourful()

    def show(self, found: Diagnosis) -> None:
        explanation = found.explanation
        if found.kind in (Kind.LOOKUP, Kind.NOTHING) and explanation is not None:
            self._explanation(explanation)
            return
        if found.kind is Kind.REPLY and explanation is not None and not found.recipients:
            self._explanation(explanation)
            return
        if found.kind is not Kind.REPLY:
            self._heading(found)
        self._accounts(found)
        if found.kind is not Kind.REPLY:
            for note in found.notes:
                self._row("note", note)
        if len(found.recipients) > 1:
            self._sum(found.recipients)

    # --- pieces

    def _echo(self, text: str = "") -> None:
        click.echo(text, color=self._colour)

    def _wrapped(self, text: str, indent: str) -> str:
        return "\n".join(wrapped(line, indent) for line in text.split("\n"))

    def _row(self, name: str, value: str, colour: str = "") -> None:
        if not value:
            return
        label = f"{name:>{_LABEL}}  "
        text = self._wrapped(value, " " * len(label))[len(label) :]
        self._echo(click.style(label, dim=True) + click.style(text, fg=colour or None))

    def _heading(self, found: Diagnosis) -> None:
        what = {
            Kind.TRANSCRIPT: "A session",
            Kind.LOG: "Deliveries and refusals" if len(found.replies) > 1 else "A delivery or refusal",
            Kind.BOUNCE: "A bounce" if found.notation == "bounce" else "A message about a message",
        }[found.kind]
        host = f" with {visible(found.host)}" if found.host and found.kind is Kind.TRANSCRIPT else ""
        notation = _NOTATIONS.get(found.notation, found.notation)
        self._echo(f"{what}{host}{f', read as: {notation}' if notation else ''}\n")

    def _accounts(self, found: Diagnosis) -> None:
        """One paragraph for all who have the same fate for the same reason."""
        groups = _grouped(found)
        for accounts in groups[:_SHOWN_GROUPS]:
            self._group(accounts, found)
        if len(groups) > _SHOWN_GROUPS:
            self._echo(f"And {len(groups) - _SHOWN_GROUPS} more; --json lists all.\n")

    def _group(self, accounts: Sequence[Account], found: Diagnosis) -> None:
        account = accounts[0]
        title, colour = _TITLES[account.outcome]
        names = [one.address for one in accounts if one.address]
        who = some(names, _SHOWN_ADDRESSES)
        head = f"{who}: {title}" if who else title.capitalize()
        self._echo(click.style(self._wrapped(head, ""), fg=colour, bold=True))
        happened = "" if found.kind is Kind.REPLY else account.happened
        self._echo(self._wrapped(f"{happened} {account.meaning}".strip(), "  "))
        if account.reply is not None and account.outcome is not Outcome.ACCEPTED:
            self._row("the reply", _quoted(found.replies[account.reply], found.kind))
        if account.outcome is not Outcome.ACCEPTED:
            self._row("whose move", account.who.value)
        self._row("what to do", account.advice)
        if account.outcome is not Outcome.ACCEPTED:
            self._row("tried again", account.next_step)
            self._row("suppress", _suppression(account))
            self._row("how sure", _certainty(account))
        self._row("an echo", _echoes(accounts, found.replies))
        if account.attempts > 1:
            self._row("attempts", str(account.attempts))
        if found.kind is Kind.REPLY and found.explanation is not None:
            self._row("standard", found.explanation.clause)
            for note in found.notes:
                self._row("note", note)
            return
        self._echo()

    def _sum(self, accounts: Sequence[Account]) -> None:
        counts = Counter(account.outcome for account in accounts)
        parts = [
            f"{counts[outcome]} {title}" for outcome, (title, _colour) in _TITLES.items() if counts[outcome]
        ]
        self._echo(f"{len(accounts)} recipients: {', '.join(parts)}.")

    def _explanation(self, found: Explanation) -> None:
        self._echo(click.style(self._wrapped(found.title, ""), bold=True))
        for line in (found.meaning, found.explanation):
            if line:
                self._echo(self._wrapped(line, "  "))
        rows = (
            ("whose move", found.who.value if found.known else ""),
            ("what to do", found.advice),
            ("a sender", found.client),
            ("standard", found.clause),
        )
        for name, value in rows:
            self._row(name, value)
        is_one = found.basis is Basis.CAUSE and len(found.causes) == 1  # and all of it is said above
        if is_one:
            self._row("setting", found.causes[0].setting)
        for note in found.notes:
            self._row("note", note)
        if is_one:
            return
        if found.causes:
            self._echo("\nThis server says it because of:")
        for cause in found.causes[:_SHOWN_CAUSES]:
            self._echo(f"  {click.style(cause.id, bold=True)}")
            setting = f" (setting: {cause.setting})" if cause.setting else ""
            self._echo(self._wrapped(f"{cause.meaning}{setting}", " " * 6))
        if len(found.causes) > _SHOWN_CAUSES:
            self._echo(f"  and {len(found.causes) - _SHOWN_CAUSES} more; --json lists all")


def _grouped(found: Diagnosis) -> list[list[Account]]:
    """The accounts by fate and reason, the first of each kind where it stands."""

    def kind(account: Account) -> tuple[object, ...]:
        finding = found.replies[account.reply] if account.reply is not None else None
        said = str(finding.reply) if finding is not None and account.outcome is not Outcome.ACCEPTED else ""
        return (account.outcome, account.happened, account.cause, account.meaning, account.attempts, said)

    order: dict[tuple[object, ...], int] = {}
    for account in found.recipients:
        order.setdefault(kind(account), len(order))
    ranked = sorted(found.recipients, key=lambda account: order[kind(account)])
    return [list(accounts) for _, accounts in groupby(ranked, key=kind)]


def _quoted(finding: Finding, kind: Kind) -> str:
    reply = finding.reply
    text = str(reply) if reply.code else f"{reply.status} {reply.text}".strip()
    text = text if len(text) <= _SHOWN_REPLY else f"{text[:_SHOWN_REPLY]}..."
    if kind is Kind.REPLY:
        return text
    if not finding.line:  # of a bounce
        return text
    return f"{text}\n(line {finding.line}" + (f", to {finding.command})" if finding.command else ")")


def _suppression(account: Account) -> str:
    return {
        "never": "no; other mail to this address may well arrive",
        "address": "yes: send no more mail to this address",
        "address, if it happens again and again": "only if it happens again and again",
        "domain": "yes: send no more mail to this domain",
    }[account.suppress.value]


def _certainty(account: Account) -> str:
    told = {
        "exact pattern": "quite sure: these words are known",
        "status": "fairly: by the enhanced status",
        "code only": "by the code alone",
        "guess": "a guess from the words",
        "unknown": "not at all: the reply does not tell why",
    }[account.certainty.value]
    if account.outcome is Outcome.IN_DOUBT:
        return "quite sure: the answer is missing"
    if account.ours:
        return f"{told} (this server says them: {account.ours})"
    return f"{told} ({account.dialect})" if account.dialect else told


def _echoes(accounts: Sequence[Account], findings: Sequence[Finding]) -> str:
    """The replies that need no attention of their own."""
    places = sorted({place for account in accounts for place in account.echoes})
    if not places:
        return ""
    lines = list(dict.fromkeys(findings[place].line for place in places))
    codes = ", ".join(dict.fromkeys(str(findings[place].reply.code) for place in places))
    shown = ", ".join(str(line) for line in lines[:_SHOWN_ECHOES])
    more = ", ..." if len(lines) > _SHOWN_ECHOES else ""
    return f"{codes} (line{'s' if len(lines) > 1 else ''} {shown}{more}) only follows from this"
