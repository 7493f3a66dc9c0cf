"""Say of one message what a DMARC report counts (RFC 9990): a row for each domain in From that asks for reports.

Where rows are kept is the business of `policy.report_store`, what is made of them that of `inbound.reporting`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillarbox.mailauth import dmarc
from pillarbox.mailauth.aggregate import DkimResult, DmarcRow, SpfResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pillarbox.mailauth import dkim
    from pillarbox.policy.author import Disposition
    from pillarbox.policy.origin import Judgement, Verdicts

_MAX_DETAIL = 200


class Counting:
    """Counts each message as reports tell of it."""

    def __init__(self, count: Callable[[DmarcRow], None], *, suffixes: bool) -> None:
        """`count` takes the rows. `suffixes`: records are found by the list of public suffixes, not by the tree walk."""
        self._count = count
        self._method = "psl" if suffixes else "treewalk"

    def rows(self, found: Verdicts, judgement: Judgement, client: str, sender: str) -> tuple[DmarcRow, ...]:
        """What is counted of one message from a client."""
        return tuple(_rows(found, judgement, client, sender, self._method))

    def count(self, rows: tuple[DmarcRow, ...]) -> None:
        """Take note of one message of which these are counted."""
        for row in rows:
            self._count(row)


def _rows(found: Verdicts, judgement: Judgement, client: str, sender: str, method: str) -> Iterator[DmarcRow]:
    for one, disposition in zip(found.dmarc or (), judgement.dispositions, strict=True):
        record = dmarc.parse_record(one.record) if one.record else None
        if record is None or not record.reports_to or one.result not in {"pass", "fail"}:
            continue
        spf = found.spf
        yield DmarcRow(
            one.found_at,
            one.record,
            client.partition("%")[0],  # without the zone of a link-local address (RFC 3986 3.2.2)
            one.domain,
            disposition.done,
            "dkim" in one.aligned,
            "spf" in one.aligned,
            sender.rpartition("@")[2].lower(),
            "",
            _reasons(disposition, found),
            tuple(
                DkimResult(each.domain, each.selector, each.result, each.detail[:_MAX_DETAIL])
                for each in sorted(found.dkim or (), key=lambda each: _rank(each, one))
            ),
            None if spf is None else SpfResult(spf.domain, spf.result, _said(spf.result, spf.detail)),
            method,
        )


def _reasons(disposition: Disposition, found: Verdicts) -> tuple[tuple[str, str], ...]:
    if not disposition.reason:
        return ()
    comment = disposition.comment
    if comment == "arc" and found.arc is not None:
        comment = f"arc=pass ({', '.join(found.arc.sealers)})"
    return ((disposition.reason, comment),)


def _rank(each: dkim.Verdict, author: dmarc.Verdict) -> int:
    """The order in which signatures tell most (RFC 9990 3.1.3)."""
    if each.result != "pass":
        return 3
    if each.domain == author.domain:
        return 0
    return 1 if each.domain.endswith(f".{author.found_at}") or each.domain == author.found_at else 2


def _said(result: str, detail: str) -> str:
    """Why a record can't be used; which mechanism matched is nobody's concern."""
    return detail[:_MAX_DETAIL] if result.endswith("error") else ""
