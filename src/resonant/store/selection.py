"""A selection of deliveries: the same words for every command and flow that picks some."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from sqlalchemy import or_

from resonant.errors import StoreError
from resonant.store import schema

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

# SQLite and asyncpg bind about 32,700 values in a statement at most.
_MOST_IDS = 30_000
_d = schema.deliveries


@dataclass(frozen=True, slots=True)
class Selection:
    """Which deliveries; what is None or empty restricts nothing, and all that is given must hold.

    Attributes:
        ids: event ids, 30,000 at most.
        event_type: a glob over the type: ``*`` is any text, ``?`` one character.
        endpoint: the endpoint's name.
        category: transient, permanent or unknown.
        code: the classifier's code, e.g. ``http_503``.
        reason: why it was given up.
        text: a part of the error, in any case.
        since, until: from when and before when it was given up, seconds since the epoch.
    """

    ids: tuple[str, ...] = ()
    event_type: str | None = None
    endpoint: str | None = None
    category: str | None = None
    code: str | None = None
    reason: str | None = None
    text: str | None = None
    since: float | None = None
    until: float | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing restricts it."""
        return all(getattr(self, field.name) in (None, ()) for field in fields(self))

    def as_dict(self) -> dict[str, Any]:
        """Return what was given, for the audit."""
        return {name: value for name, value in asdict(self).items() if value not in (None, ())}

    def conditions(
        self, *, moment: ColumnElement[float | None] = _d.c.finished_at
    ) -> list[ColumnElement[bool]]:
        """Return the SQL conditions; every value is bound, none is pasted.

        Args:
            moment: what ``since`` and ``until`` are compared with.

        Raises:
            StoreError: too many ids for one statement.
        """
        found: list[ColumnElement[bool]] = []
        if len(self.ids) > _MOST_IDS:
            raise StoreError(f"a selection names at most {_MOST_IDS:,} ids, not {len(self.ids):,}")
        if self.ids:
            found.append(_d.c.event_id.in_(self.ids))
        found += [
            column == value
            for column in (_d.c.endpoint, _d.c.category, _d.c.code, _d.c.reason)
            if (value := getattr(self, column.name)) is not None
        ]
        if self.event_type is not None and not {"*", "?"} & set(self.event_type):
            found.append(_d.c.event_type == self.event_type)
        elif self.event_type is not None:
            found.append(_d.c.event_type.like(_glob_to_like(self.event_type), escape="\\"))
        if self.text is not None:
            found.append(
                or_(*(c.icontains(self.text, autoescape=True) for c in (_d.c.error, _d.c.error_type)))
            )
        if self.since is not None:
            found.append(moment >= self.since)
        if self.until is not None:
            found.append(moment < self.until)
        return found


def _glob_to_like(glob: str) -> str:
    escaped = glob.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return escaped.replace("*", "%").replace("?", "_")
