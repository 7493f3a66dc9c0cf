"""Run one SQL statement for many rows with few steps.

Each step of a statement gives the interpreter lock away and must win it back, which under load costs more than the step
itself; so many rows go into one step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import apsw

_MOST = 6  # at most 2**6 rows a step: few prepared statements, none of them large


class Bulk:
    """A statement around a list of rows: `head` VALUES (...), (...) `tail`, each row `width` values wide."""

    __slots__ = ("_statements", "_width")

    def __init__(self, head: str, width: int, tail: str = "") -> None:
        """Prepare the texts for 1, 2, 4, ... rows."""
        self._width = width
        row = f"({','.join('?' * width)})"
        self._statements = [
            f"{head} VALUES {','.join([row] * (1 << power))} {tail}" for power in range(_MOST + 1)
        ]

    def run(self, connection: apsw.Connection, flat: Sequence[object]) -> list[tuple[Any, ...]]:
        """Run it for the rows that lie one after another in `flat`; the rows that it returns. Raises apsw.Error."""
        rows, width = len(flat) // self._width, self._width
        if rows == 1:
            return connection.execute(self._statements[0], flat).fetchall()
        returned: list[tuple[Any, ...]] = []
        start = 0
        while rows:
            power = min(rows.bit_length() - 1, _MOST)
            end = start + (width << power)
            returned += connection.execute(self._statements[power], flat[start:end]).fetchall()
            start, rows = end, rows - (1 << power)
        return returned
