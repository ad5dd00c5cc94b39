"""Reading rows of the store into the columns of a frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from sqlalchemy import Connection, Row, Select

    Page = Sequence[Row[Any]]
    Pass = Callable[[Iterator[Page]], Iterator[Page]]

# Few rows at once, since Python's garbage collector scans all live rows again and again.
_ROWS = 500
_FLOATS = frozenset(
    {"accepted_at", "finished_at", "started_at", "duration", "delay", "round_attempt", "retry_after"}
)
_WHOLE = frozenset({"number", "attempts"})


def read_frame(connection: Connection, query: Select[Any], passed: Pass) -> pd.DataFrame:
    """Read rows into columns, in pages: as objects, a million rows would take a gigabyte."""
    columns = {name: _Column(name) for name in query.selected_columns.keys()}  # noqa: SIM118 - it is no dict
    result = connection.execute(query.execution_options(yield_per=_ROWS))
    for page in passed(result.partitions()):
        for column, values in zip(columns.values(), zip(*page, strict=True), strict=True):
            column.add(values)
    return pd.DataFrame({name: column.joined() for name, column in columns.items()})


class _Column:
    """A column of a frame, in parts: numbers, or texts, each stored once."""

    def __init__(self, name: str) -> None:
        # By name, not guessed: without rows, or if all numbers are null, pandas would use objects.
        self._number = float if name in _FLOATS else np.int32 if name in _WHOLE else None
        self._codes = _Codes({None: -1})  # pandas' code for a missing value
        self._parts: list[NDArray[Any]] = []

    def add(self, values: Sequence[Any]) -> None:
        if self._number is not None:
            self._parts.append(np.array(values, dtype=self._number))  # a None is a NaN
            return
        codes = self._codes
        self._parts.append(np.array([codes[value] for value in values], dtype=np.int32))

    def joined(self) -> NDArray[Any] | pd.Categorical:
        parts, self._parts = self._parts, []
        joined = np.concatenate([np.empty(0, self._number or np.int32), *parts])
        if self._number is not None:
            return joined
        texts = pd.Index([text for text in self._codes if text is not None], dtype=object)
        return pd.Categorical.from_codes(joined, categories=texts)


class _Codes(dict[str | None, int]):
    """A number for each text, in the order of first use."""

    def __missing__(self, text: str | None) -> int:
        self[text] = code = len(self) - 1
        return code
