"""The names of the endpoints that the store knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resonant.store import schema
from resonant.store.counts.acceptances import read_ledgers
from resonant.store.engine.sql import insert_into

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import Connection

_ledgers = schema.ledgers


def known(connection: Connection) -> set[str]:
    """Return the endpoints that were added, or for which a delivery was ever accepted."""
    return set(read_ledgers(connection))


def remember(connection: Connection, added: Collection[str]) -> None:
    """Record endpoints that were added, so that their names are known before the first delivery."""
    if added:
        new = insert_into(connection.dialect.name, _ledgers).on_conflict_do_nothing()
        connection.execute(new, [{"name": name} for name in sorted(added)])


def forget(connection: Connection, name: str) -> None:
    """Record that an endpoint was removed. Its name stays known if a delivery was ever accepted for it."""
    never_used = (_ledgers.c.accepted == 0, _ledgers.c.purged == 0)
    connection.execute(_ledgers.delete().where(_ledgers.c.name == name, *never_used))
