"""The plans of the statements that were executed on an SQLite store."""

import contextlib
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resonant.store.engine.sql import HOST_CLOCK
from support.sqlite import listening

# These tables grow with every event, and keep finished ones. A selection has an alias for the events.
_LARGE = r"(?:resonant_(?:deliveries|attempts|events)|selected_events)"
# A range of row ids is a scan too: it covers all rows from some id on.
_SCAN = re.compile(rf"SCAN {_LARGE}\b.*|SEARCH {_LARGE} USING INTEGER PRIMARY KEY \(rowid[<>].*")

_SEARCHES = re.compile(r"(SELECT|WITH|UPDATE|DELETE|INSERT [^?]*SELECT)\b.*\bresonant_", re.DOTALL)


@dataclass
class Plans:
    """The statements executed during the block of ``planned``, with the parameters of their first execution."""

    executed: dict[str, Any] = field(default_factory=dict)

    def scans(self, database: Path) -> set[str]:
        """Return how statements scan the large tables: ``SCAN resonant_deliveries USING INDEX …``."""
        with contextlib.closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA case_sensitive_like = ON")
            connection.create_function(HOST_CLOCK, 0, lambda: 0.0)
            found = set()
            for statement, parameters in self.executed.items():
                for *_, step in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters):
                    found.update(_SCAN.findall(step))
        return found


@contextlib.contextmanager
def planned() -> Iterator[Plans]:
    """Record the statements of every store during the block."""
    plans = Plans()

    def record(_connection, _cursor, statement, parameters, _context, is_many):
        if _SEARCHES.match(statement):
            plans.executed.setdefault(statement, parameters[0] if is_many else parameters)

    with listening("before_cursor_execute", record):
        yield plans
