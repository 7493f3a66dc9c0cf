"""Show the certificates of the server, and ask the authority for new ones.

Reading them is the business of `net.chains`, asking that of `net.renewal`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pillarbox.cli.outcome import Exit
from pillarbox.cli.places import CONFIG_FILE, CONFIG_VARIABLE
from pillarbox.cli.show import Group, fail, show_json, show_table
from pillarbox.cli.store import load_config, named_config

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillarbox.config import Config
    from pillarbox.net.chains import Source

_DAY_S = 86_400


def _config_option(function: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help=f"The configuration. Default: ${CONFIG_VARIABLE}, else {CONFIG_FILE}.",
    )(function)


def _load(file: Path | None) -> Config:
    named = file or named_config()
    if named is None:
        fail("which configuration? name it with --config", Exit.USAGE)
    return load_config(named)


@click.group(cls=Group)
def certificate() -> None:
    """Show the certificates of the server, and renew those of an authority."""


@certificate.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_config_option
def list_certificates(config: Path | None, *, as_json: bool) -> None:
    """List all certificates: their names, until when they are valid, and what is wrong with them."""
    from pillarbox.config.certificates import certificates_of
    from pillarbox.net.renewal import Renewal

    settings = _load(config)
    rows = [_describe(source) for source in certificates_of(settings).sources]
    acme = settings.acme
    failed = Renewal(acme, settings.hostname, Path(settings.data)).failure() if acme.directory else None
    if as_json:
        renewal: dict[str, Any] | None = None
        if acme.directory:
            renewal = {"authority": acme.directory, "problem": "", "again": None}
            if failed is not None:
                renewal |= {"problem": failed.problem, "again": _iso(failed.again), "times": failed.times}
        show_json({"certificates": rows, "renewal": renewal})
        return
    shown = [
        [row["file"], ", ".join(row["names"]), row["key"], row["until"] or "", row["problem"] or _left(row)]
        for row in rows
    ]
    show_table(["file", "names", "key", "until", "state"], shown)
    if failed is not None:
        click.echo(f"The last renewal failed: {failed.problem}; the next try is at {_iso(failed.again)}.")


def _describe(source: Source) -> dict[str, Any]:
    from pillarbox.net.chains import ChainError, read_chain

    found: dict[str, Any] = {
        "file": source.chain,
        "setting": source.setting,
        "names": [],
        "key": "",
        "issuer": "",
        "from": None,
        "until": None,
        "problem": "",
    }
    try:
        chain = read_chain(source)
    except ChainError as error:
        there = source.expected or Path(error.file).exists()
        return found | {"problem": f"{error.file} {error.reason}" if there else "not issued yet"}
    return found | {
        "names": list(chain.names),
        "key": chain.kind,
        "issuer": chain.issuer,
        "from": _iso(chain.begins),
        "until": _iso(chain.expires),
        "problem": "ended" if chain.expires <= time.time() else "",
        "days_left": int((chain.expires - time.time()) // _DAY_S),
    }


def _left(row: dict[str, Any]) -> str:
    return f"{row['days_left']} days left"


def _iso(at: float) -> str:
    from pillarbox.net.certificates import moment

    return moment(at)


@certificate.command("renew")
@click.option("--all", "everything", is_flag=True, help="Also what is not due yet.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_config_option
def renew(config: Path | None, *, everything: bool, as_json: bool) -> None:
    """Ask the ACME authority for the certificates that are due. The server must run: it answers the authority's questions.

    Exit status: 0 renewed, or nothing was due; 75 the authority refused or can't be reached, the old ones stay in use;
    78 no authority is configured.
    """
    from pillarbox.net.renewal import Renewal, RenewalError

    settings = _load(config)
    if not settings.acme.directory:
        fail("there is no [acme] in the configuration", Exit.CONFIG)
    try:
        kinds = Renewal(settings.acme, settings.hostname, Path(settings.data)).renew(everything=everything)
    except (RenewalError, OSError) as error:
        if as_json:
            show_json({"renewed": [], "problem": str(error)})
            raise SystemExit(Exit.TEMPORARY) from error
        fail(f"nothing was renewed: {error}", Exit.TEMPORARY)
    if as_json:
        show_json({"renewed": kinds, "problem": ""})
    else:
        click.echo(f"Renewed: {', '.join(kinds)}." if kinds else "Nothing is due; --all renews all the same.")
