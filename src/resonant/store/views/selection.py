"""A selection of deliveries: one model for command options, flow parameters and SQL."""

from datetime import UTC, datetime
from typing import Annotated, Any, Self, TypeAlias

from pydantic import BaseModel, BeforeValidator, PlainSerializer, model_validator
from sqlalchemy import ColumnElement, false, func, or_, select
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from resonant.errors import StoreError
from resonant.events import Category, Reason
from resonant.routing.globs import WILDCARDS, glob_to_like
from resonant.store import schema
from resonant.store.engine.sql import is_any_of

Columns: TypeAlias = ReadOnlyColumnCollection[str, Any]

_OF_CAUSE = ("event_type", "endpoint", "category", "code", "reason", "cause", "text")
# Approximate range of a datetime.
_FIRST, _LAST = (datetime(*day, tzinfo=UTC).timestamp() for day in ((1, 1, 1), (9999, 12, 31)))
_d, _c = schema.deliveries, schema.causes
# An alias, since some of the queries with these conditions have the events too.
_e = schema.events.alias("selected_events")


def _seconds(moment: object) -> object:
    if not isinstance(moment, datetime):
        return moment
    if moment.tzinfo is None:
        text = moment.isoformat()
        raise StoreError(f"the time {text} has no time zone: give one, as in {text}Z")
    return moment.timestamp()


def _rfc3339(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(min(max(seconds, _FIRST), _LAST), UTC).isoformat()


# Seconds since the epoch. Accepts a datetime, and is written as one to JSON, as flows expect.
_Moment = Annotated[float | None, BeforeValidator(_seconds), PlainSerializer(_rfc3339, when_used="json")]


class Selection(BaseModel, frozen=True, extra="forbid", defer_build=True):
    """Selects deliveries that meet all conditions; None or empty means no condition.

    Attributes:
        ids: event ids; each may be of several sources.
        source: the source of the events.
        event_type: a glob for the type: ``*`` matches any text, ``?`` one character.
        endpoint: the endpoint's name.
        category: transient, permanent or unknown.
        code: the classifier's code, e.g. ``http_503``.
        reason: why the delivery was given up.
        cause: the fingerprint of the dead letter's group (``DeadLetterGroup.fingerprint``); no unfinished delivery has one.
        text: a substring of the error; case is ignored.
        since, until: when the delivery was given up: at or after ``since``, before ``until``, seconds since the epoch.

    Raises:
        ValidationError: unknown field, category or reason.
        StoreError: a string contains NUL or a lone surrogate, or a time has no time zone.
    """

    ids: tuple[str, ...] = ()
    source: str | None = None
    event_type: str | None = None
    endpoint: str | None = None
    category: Category | None = None
    code: str | None = None
    reason: Reason | None = None
    cause: str | None = None
    text: str | None = None
    since: _Moment = None
    until: _Moment = None

    @classmethod
    def from_form(cls, **fields: Any) -> Self:
        """Return the selection with these fields, of which a form leaves some empty: no value is no condition.

        ``as_parameters`` is the inverse.

        Raises:
            ValidationError: a field that no selection has, even an empty one.
        """
        return cls.model_validate(
            {name: None if value in ("", []) else value for name, value in fields.items()}
        )

    def as_parameters(self) -> dict[str, Any]:
        """Return the selection as flow parameters, in JSON types."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def as_dict(self) -> dict[str, Any]:
        """Return the given conditions, for the audit."""
        return self.model_dump(exclude_defaults=True)

    @property
    def is_empty(self) -> bool:
        """Whether it has no conditions."""
        return not self.as_dict()

    @model_validator(mode="before")
    @classmethod
    def _check_text(cls, given: dict[str, Any]) -> dict[str, Any]:
        # Every error contains the empty string, and a form without ids has none.
        given = given | {"ids": given.get("ids") or (), "text": given.get("text") or None}
        for value in (*given["ids"], *given.values()):
            if isinstance(value, str) and not _is_storable(value):
                raise StoreError(
                    f"{value!r} contains text that databases cannot store: NUL, or bytes that are not UTF-8"
                )
        return given

    @property
    def is_by_cause(self) -> bool:
        """Whether it has conditions other than ids, sources and times."""
        return any(getattr(self, name) is not None for name in _OF_CAUSE)

    def of_unfinished(self) -> list[ColumnElement[bool]]:
        """Return the conditions on unfinished deliveries; ``since`` and ``until`` apply to the time of acceptance."""
        return self._of_deliveries(_d.c.accepted_at)

    def of_delivered(self) -> list[ColumnElement[bool]]:
        """Return the conditions on deliveries that succeeded; ``since`` and ``until`` apply to the time of delivery."""
        return self._of_deliveries(_d.c.finished_at)

    def _of_deliveries(self, moment: ColumnElement[Any]) -> list[ColumnElement[bool]]:
        found = [*self._kinds(_d.c), *self._ids_and_times(moment)]
        if self.cause is not None:
            found.append(false())
        return found if self.text is None else [*found, self.text_in(_d.c)]

    def of_dead_letters(self) -> list[ColumnElement[bool]]:
        """Return the conditions on the events of dead letters, and on the times when they were given up."""
        return self._ids_and_times(_d.c.finished_at)

    def of_causes(self) -> list[ColumnElement[bool]]:
        """Return the conditions on causes; if a cause varies, the text must be searched in each dead letter."""
        found = self._kinds(_c.c)
        if self.cause is not None:
            found.append(_c.c.fingerprint == self.cause)
        return found if self.text is None else [*found, or_(_c.c.varies, self.text_in(_c.c))]

    def text_in(self, columns: Columns) -> ColumnElement[bool]:
        """Return the condition that an error contains the text."""
        return or_(
            *(each.icontains(self.text, autoescape=True) for each in (columns.error, columns.error_type))
        )

    def _kinds(self, columns: Columns) -> list[ColumnElement[bool]]:
        found: list[ColumnElement[bool]] = [
            # A missing value is null in a delivery and empty in a cause, so an empty value selects nothing.
            columns[name] == value if value else false()
            for name in ("endpoint", "code", "reason")
            if (value := getattr(self, name)) is not None
        ]
        if self.category == "unknown":
            # Consistent with `status`: a delivery cancelled before its first attempt has no category.
            found.append(func.coalesce(columns.category, "").in_(["unknown", ""]))
        elif self.category is not None:
            found.append(columns.category == self.category)
        if self.event_type is not None and not WILDCARDS & set(self.event_type):
            found.append(columns.event_type == self.event_type)
        elif self.event_type is not None:
            found.append(columns.event_type.like(glob_to_like(self.event_type), escape="\\"))
        return found

    def _ids_and_times(self, moment: ColumnElement[Any]) -> list[ColumnElement[bool]]:
        found: list[ColumnElement[bool]] = []
        of_source = [] if self.source is None else [_e.c.source == self.source]
        if self.ids:
            # Not a join with events: this way, the index by event finds the deliveries.
            found.append(_d.c.event_key.in_(select(_e.c.key).where(is_any_of(_e.c.id, self.ids), *of_source)))
        elif of_source:
            # No index begins with the source, so this looks up the event of each delivery that the other conditions find.
            found.append(select(_e.c.key).where(_e.c.key == _d.c.event_key, *of_source).exists())
        if self.since is not None:
            found.append(moment >= self.since)
        if self.until is not None:
            found.append(moment < self.until)
        return found


def _is_storable(text: str) -> bool:
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False
