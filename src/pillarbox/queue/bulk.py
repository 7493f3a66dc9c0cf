"""Run one SQL statement for many rows with few steps.

Each step of a statement gives the interpreter lock away and must win it back, which under load costs more than the step
itself; so many rows go into one step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import apsw

_MOST = 64  # rows a step: each number of rows is a prepared statement of its own, which must not become large


class Bulk:
    """A statement around a list of rows: `head` VALUES (...), (...) `tail`, each row `width` values wide."""

    __slots__ = ("_head", "_row", "_statements", "_tail", "_width", "most_values")

    def __init__(self, head: str, width: int, tail: str = "") -> None:
        """Prepare the text for one row; those for more are made when they are needed."""
        self._head, self._tail = head, tail
        self._row = f"({','.join('?' * width)})"
        self._width = width
        self.most_values = width * _MOST  # in one step
        self._statements = {1: self._statement(1)}

    def _statement(self, rows: int) -> str:
        return f"{self._head} VALUES {','.join([self._row] * rows)} {self._tail}"

    def run(self, connection: apsw.Connection, flat: Sequence[object]) -> list[tuple[Any, ...]]:
        """Run it for the rows that lie one after another in `flat`; the rows that it returns. Raises apsw.Error."""
        stride = self.most_values
        if 0 < len(flat) <= stride:
            return self.step(connection, flat)
        returned: list[tuple[Any, ...]] = []
        for start in range(0, len(flat), stride):
            returned += self.step(connection, flat[start : start + stride])
        return returned

    def step(self, connection: apsw.Connection, flat: Sequence[object]) -> list[tuple[Any, ...]]:
        """Run it in one step for rows that have no more than `most_values`, as above. Raises apsw.Error."""
        rows = len(flat) // self._width
        statement = self._statements.get(rows)
        if statement is None:
            statement = self._statements[rows] = self._statement(rows)
        return connection.execute(statement, flat).fetchall()
