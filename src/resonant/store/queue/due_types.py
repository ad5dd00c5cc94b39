"""The event types of an endpoint's due deliveries, found with two index lookups per type, however many deliveries are due."""

from functools import cache

from sqlalchemy import Connection, Integer, Select, Text, bindparam, func, select

from resonant.store import schema

_d = schema.deliveries.c


def due_types(connection: Connection, endpoint: str, *, after: str = "", most: int, now: float) -> list[str]:
    """Return the types of an endpoint's due deliveries, in the order of their names in the database.

    Args:
        after: begin after this type, and continue with the first one.
        most: the number of types to return.
    """
    given = {"of": endpoint, "due": now, "most": most}
    found = list(connection.execute(_due_types(), given | {"after": after}).scalars())
    if after and len(found) < most:
        first = connection.execute(_due_types(), given | {"after": ""}).scalars()
        found += [name for name in first if name not in found][: most - len(found)]
    return found


@cache
def _due_types() -> Select[str]:
    of_endpoint = (_d.endpoint == bindparam("of", type_=Text()), _d.available_at.is_not(None))
    later = _d.event_type > bindparam("after", type_=Text())
    types = (
        select(func.min(_d.event_type).label("name")).where(*of_endpoint, later).cte("types", recursive=True)
    )
    following = select(func.min(_d.event_type)).where(*of_endpoint, _d.event_type > types.c.name)
    types = types.union_all(
        select(following.correlate(types).scalar_subquery()).where(types.c.name.is_not(None))
    )
    # A lease ends later, so deliveries that are sent do not count. Not EXISTS: PostgreSQL may read all due deliveries for it.
    earliest = select(func.min(_d.available_at)).where(*of_endpoint, _d.event_type == types.c.name)
    is_due = earliest.correlate(types).scalar_subquery() <= bindparam("due")
    return (
        select(types.c.name)
        .where(types.c.name.is_not(None), is_due)
        .limit(bindparam("most", type_=Integer()))
    )
