"""Read reports of others from files, and show those that came and those that went out.

How they are read is the business of `mailauth.report_mail`, keeping them that of `policy.report_store`.
"""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pillarbox.cli.outcome import Exit
from pillarbox.cli.show import Group, count, fail, format_time, iso_time, show_json, show_table
from pillarbox.cli.store import data_folder, store_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pillarbox.mailauth.aggregate import AggregateReport
    from pillarbox.mailauth.tls_report import TlsReport
    from pillarbox.policy.report_store import Kept, Reports

_KINDS = ("dmarc", "tls", "failure", "unreadable")
_MAX_OCTETS = 64 << 20


@click.group(cls=Group)
def reports() -> None:
    """Read DMARC and TLS reports, and show those that came in and went out."""


@reports.command("read")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@store_options
def read(files: tuple[str, ...], data: Path | None, config: Path | None, *, as_json: bool) -> None:
    """Read reports from files: XML or JSON, packed or not, or mails that have them; "-" is standard input.

    Exit status 65: a file has none that can be read.
    """
    from pillarbox.mailauth.aggregate import ReportError
    from pillarbox.mailauth.report_mail import read_reports
    from pillarbox.policy.report_store import received

    told: list[dict[str, object]] = []
    bad = False
    with _opened(data, config) as store:
        for name in files:
            try:
                found = read_reports(_octets(name))
            except (OSError, ReportError) as error:
                click.echo(f"{name}: {error}", err=True)
                bad = True
                continue
            for report in found:
                one = received(report, at=time.time(), note=f"file {Path(name).name}")
                told.append({**_as_json(one), "file": name, "new": store.keep(one)})
    if as_json:
        show_json(told)
    for one_told in told if not as_json else ():
        known = "" if one_told["new"] else " (known already)"
        click.echo(f"{one_told['file']}: {one_told['kind']} report about {one_told['domain']}{known}")
    if bad:
        raise SystemExit(Exit.DATA)


@reports.command("list")
@click.option("--kind", type=click.Choice(_KINDS), default=None, help="Only these.")
@click.option("--domain", default="", metavar="NAME", help="Only about this domain.")
@click.option("--sent", is_flag=True, help="Those that this server sent, instead of those that came.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=100, help="How many, the newest first.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@store_options
def list_command(  # noqa: PLR0913 - one argument for each option
    data: Path | None,
    config: Path | None,
    *,
    kind: str | None,
    domain: str,
    sent: bool,
    limit: int,
    as_json: bool,
) -> None:
    """List reports, the newest first."""
    from pillarbox.mailauth.names import a_labels

    with _opened(data, config) as store:
        found = store.listed(
            kind=kind or "", domain=a_labels(domain), direction="out" if sent else "in", limit=limit
        )
    if as_json:
        show_json([_as_json(one) for one in found])
    elif not found:
        click.echo("No report.")
    else:
        rows = [
            (
                str(one.id),
                one.kind,
                one.domain,
                format_time(one.begins)[:10],
                one.organization,
                str(one.total),
                str(one.failed),
            )
            for one in found
        ]
        columns = ("ID", "KIND", "ABOUT", "DAY", "BY", "TOTAL", "FAILED")
        show_table(columns, rows, right=("ID", "TOTAL", "FAILED"))


@reports.command("show")
@click.argument("number", type=int, metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@store_options
def show(number: int, data: Path | None, config: Path | None, *, as_json: bool) -> None:
    """Show a report with all its rows. Exit status 1: there is none of this id."""
    with _opened(data, config) as store:
        one = store.get(number)
    if one is None:
        fail(f"no report {number}", Exit.NOTHING)
    if as_json:
        show_json({**_as_json(one), "content": _content(one)})
    else:
        _print(one)


@contextmanager
def _opened(data: Path | None, config: Path | None) -> Iterator[Reports]:
    import apsw

    from pillarbox.policy.report_store import open_reports

    folder = data or data_folder(config)
    if not folder.is_dir():
        fail(f"{folder}: there is no such data folder", Exit.NO_INPUT)
    try:
        yield open_reports(folder, now=time.time())
    except (apsw.Error, OSError) as error:
        fail(f"the store of reports cannot be used now: {error}", Exit.TEMPORARY)


def _octets(name: str) -> bytes:
    from pillarbox.mailauth.aggregate import ReportError

    if name == "-":
        octets = sys.stdin.buffer.read(_MAX_OCTETS + 1)
    else:
        with Path(name).open("rb") as file:
            octets = file.read(_MAX_OCTETS + 1)
    if len(octets) > _MAX_OCTETS:
        raise ReportError(f"it has more than {_MAX_OCTETS} octets")
    return octets


def _as_json(one: Kept) -> dict[str, object]:
    return {
        "id": one.id or None,
        "direction": one.direction,
        "kind": one.kind,
        "domain": one.domain,
        "organization": one.organization,
        "report_id": one.name,
        "begins": iso_time(one.begins),
        "ends": iso_time(one.ends),
        "at": iso_time(one.at),
        "total": one.total,
        "failed": one.failed,
        "note": one.note,
    }


def _content(one: Kept) -> object:
    """What a report says, as JSON; the text of what can't be read."""
    import msgspec

    if one.kind == "unreadable":
        return one.content.decode("utf-8", "replace")
    if one.direction == "out":
        from pillarbox.mailauth.report_mail import read_reports

        return msgspec.to_builtins(read_reports(one.content)[0])
    return msgspec.json.decode(one.content)


def _print(one: Kept) -> None:
    from pillarbox.observe import visible

    click.echo(f"{one.kind} report about {visible(one.domain)} by {visible(one.organization)}")
    click.echo(f"  id: {visible(one.name)}")
    click.echo(f"  from {format_time(one.begins)} to {format_time(one.ends)}")
    click.echo(f"  {'sent to' if one.direction == 'out' else 'came'}: {visible(one.note)}")
    if one.kind == "unreadable":
        click.echo("\n".join(map(visible, one.content.decode("utf-8", "replace")[:20_000].splitlines())))
        return
    import msgspec

    from pillarbox.mailauth.aggregate import AggregateReport
    from pillarbox.mailauth.tls_report import TlsReport

    said = _content(one)
    if one.kind == "dmarc":
        _print_aggregate(msgspec.convert(said, AggregateReport))
    elif one.kind == "tls":
        _print_tls(msgspec.convert(said, TlsReport))
    elif isinstance(said, dict):
        for key, value in said.items():
            if value not in ("", None):
                click.echo(f"  {key.replace('_', ' ')}: {visible(str(value))}")


def _print_aggregate(report: AggregateReport) -> None:
    policy = report.policy
    click.echo(f"  policy: p={policy.policy} sp={policy.of_subdomains or '-'} np={policy.of_missing or '-'}")
    click.echo(f"  {count(report.total, 'message')}, {report.failed} failed")
    rows = [
        (
            str(number),
            row.source,
            row.header_from,
            row.disposition,
            "pass" if row.dkim_aligned else "fail",
            "pass" if row.spf_aligned else "fail",
            ", ".join(f"{one.domain}={one.result}" for one in row.dkim),
        )
        for row, number in sorted(report.rows, key=lambda counted: -counted[1])
    ]
    show_table(("COUNT", "SOURCE", "FROM", "DONE", "DKIM", "SPF", "SIGNATURES"), rows, right=("COUNT",))


def _print_tls(report: TlsReport) -> None:
    from pillarbox.observe import visible

    for policy in report.policies:
        click.echo(
            f"  {visible(policy.domain)}, {visible(policy.policy)}: {count(policy.successful, 'session')} with TLS, "
            f"{policy.failed} failed"
        )
        rows = [
            (str(number), failure.result, failure.mx, failure.receiving_ip, failure.details)
            for failure, number in policy.failures
        ]
        if rows:
            show_table(("COUNT", "RESULT", "HOST", "ADDRESS", "DETAILS"), rows, right=("COUNT",))
