"""Checks codes and event ids, and suggests alternatives for unknown ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import exists, select

from resonant.delivery.classification import built_in_codes
from resonant.display import some
from resonant.store import schema
from resonant.store.views import reads
from resonant.suggestions import did_you_mean, near

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import Connection


def why_no_such_code(connection: Connection, code: str) -> str | None:
    """Return a message with suggestions if the code is unknown, otherwise None."""
    built_in = built_in_codes()
    if code in built_in or _has_code(connection, code):
        return None
    stored = _codes(connection)
    # Codes that occurred are more likely to be meant than the others of the classifier.
    known = stored if near(code, stored) else built_in | stored
    hint = ": did you mean throttled?" if code == "http_429" else did_you_mean(code, known)
    return f"no failure has the code {code!r}{hint}"


def why_no_such_ids(connection: Connection, ids: Collection[str]) -> str | None:
    """Return a message that names the unknown ids; None if all are known."""
    missing = sorted(set(ids) - reads.known_ids(connection, ids)) if ids else []
    return f"no event has the id {some(missing)}: nothing was done" if missing else None


def _codes(connection: Connection) -> set[str]:
    """Return the codes of all dead letters, including codes of user rules."""
    return set(connection.execute(select(schema.causes.c.code).distinct()).scalars()) - {""}


def _has_code(connection: Connection, code: str) -> bool:
    """Return whether a delivery failed with this code; may scan all deliveries."""
    of_causes = exists().where(schema.causes.c.code == code)
    of_deliveries = exists().where(schema.deliveries.c.code == code)
    return bool(connection.execute(select(of_causes | of_deliveries)).scalar())
