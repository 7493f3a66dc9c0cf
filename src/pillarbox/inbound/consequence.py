"""Say what follows from what was found about a letter, once for all letters of one kind.

Letters of one kind come from one host under one name, for one domain in the envelope and in From, and their signatures are
worth the same: only the first characters of the signatures and the local part of the sender differ. Which letters those are
is the business of `inbound.case`, how long an outcome stands that of `mailauth.dns`.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, AnyStr

import msgspec
from msgspec.structs import replace

from pillarbox.mail import message
from pillarbox.mailauth.results import (
    Finding,
    format_finding,
    format_received_spf,
    join_findings,
    quoted,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pillarbox.inbound.counted import Counting
    from pillarbox.mail.reply import Reply
    from pillarbox.mailauth import spf
    from pillarbox.mailauth.aggregate import DmarcRow
    from pillarbox.policy.origin import OriginPolicy, Verdicts

_MARK = secrets.token_hex(
    16
)  # stands for the start of a signature; nobody can put it into a message, for none knows it
_MAX_KEPT = 8192  # characters that an outcome says, if it is to be remembered


class Checked(msgspec.Struct, frozen=True):
    """What was found about one letter."""

    refusal: Reply | None
    warnings: tuple[Reply, ...]
    prefix: bytes  # Authentication-Results and Received-SPF
    told: str  # for the trace: the findings and what DNS answered, a line each
    held: bool  # whether it is to wait in the queue for the operator
    client_name: str  # a name of the client that leads back to it, or ""
    _findings: tuple[Finding, ...]
    _starts: tuple[str, ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What stands in Authentication-Results."""
        starts = iter(self._starts)
        return tuple([_filled(one, starts) for one in self._findings])


class Outcome(msgspec.Struct, frozen=True):
    """What follows for each letter of one kind; texts are cut where the start of a signature belongs."""

    refusal: Reply | None
    warnings: tuple[Reply, ...]
    results: tuple[bytes, ...]  # Authentication-Results
    received: tuple[spf.Verdict, ...]  # what Received-SPF tells of
    junk: bool
    told: tuple[str, ...]
    held: bool
    client_name: str
    findings: tuple[Finding, ...]
    rows: tuple[DmarcRow, ...]  # what reports count

    @property
    def is_short(self) -> bool:
        """Whether it takes so little memory that it may be kept."""
        return sum(map(len, self.told)) <= _MAX_KEPT

    def of(self, client: spf.Client, starts: tuple[str, ...]) -> Checked:
        """The same for one letter: by its sender, and the starts of its signatures as far as they have one."""
        # of what stands in base64 these two need quotes
        shown = [quoted(one) if "/" in one or "=" in one else one for one in starts]
        prefix = b"".join(_fill(self.results, [one.encode() for one in shown]))
        for one in self.received:
            prefix += format_received_spf(
                one.result,
                one.identity,
                client.address,
                client.sender,
                client.helo,
                client.receiver,
                one.detail,
            )
        if self.junk:
            prefix += message.JUNK_FIELD
        told = "".join(_fill(self.told, shown))
        return Checked(
            self.refusal, self.warnings, prefix, told, self.held, self.client_name, self.findings, starts
        )


def follow_up(
    policy: OriginPolicy, found: Verdicts, client: spf.Client, evidence: Iterable[str], count: Counting | None
) -> Outcome:
    """What follows from what was found; `evidence` are the answers of DNS as the trace shows them."""
    judgement = policy.judge(found, client.address)
    signed = found.dkim and tuple(
        replace(one, signature_start=one.signature_start and _MARK) for one in found.dkim
    )
    findings = policy.findings(replace(found, dkim=signed), judgement)
    told = [format_finding(one) for one in findings]
    results = f"Authentication-Results: {join_findings(client.receiver, told)}\r\n"
    lines = [one.replace("\r\n\t", " ") for one in told]
    return Outcome(
        judgement.refusal,
        judgement.warnings,
        tuple(results.encode("utf-8", "surrogateescape").split(_MARK.encode())),
        tuple([one for one in (found.spf, found.helo) if one is not None]) if policy.spf.check else (),
        judgement.suspect == "junk",
        tuple("\n".join([*lines, *evidence]).split(_MARK)),
        judgement.suspect == "hold",
        found.iprev.name if found.iprev is not None and found.iprev.result == "pass" else "",
        tuple(findings),
        count.rows(found, judgement, client.address, client.sender) if count is not None else (),
    )


def _fill(pieces: tuple[AnyStr, ...], values: Sequence[AnyStr]) -> Sequence[AnyStr]:
    """The pieces with the values between them."""
    if len(pieces) == 1:
        return pieces
    filled = [pieces[0]]
    for value, piece in zip(values, pieces[1:], strict=True):
        filled += value, piece
    return filled


def _filled(finding: Finding, starts: Iterator[str]) -> Finding:
    """A finding with the start of its own signature."""
    if not any(value == _MARK for _, value in finding.properties):
        return finding
    return finding._replace(
        properties=tuple(
            (place, next(starts) if value == _MARK else value) for place, value in finding.properties
        )
    )
