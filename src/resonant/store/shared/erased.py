"""Erased events: their ids are HMACs with a key of the store, by which a repeat of an event is recognised.

The key is in the table of the schema's version, which every producer may read. The first erasure makes it.
"""

import hmac
import json
import secrets
from collections.abc import Callable, Iterable

from sqlalchemy import Connection, select, text

from resonant.events import EventKey
from resonant.store import schema
from resonant.store.engine.migrate import VERSION_TABLE, check_version
from resonant.store.engine.sql import is_any_of

KEY = f"SELECT erasure_key FROM {VERSION_TABLE}"  # noqa: S608 - a constant
_VERSION_AND_KEY = f"SELECT version_num, erasure_key FROM {VERSION_TABLE}"  # noqa: S608 - a constant
_KNOWN = "resonant_erasure_key"
_KEY_BYTES = 32
_ID_DIGITS = 32
_e = schema.events.c


def make_erasure_key(connection: Connection, *, draw: Callable[[int], str] = secrets.token_hex) -> bytes:
    """Return the key of the store; the first call makes it."""
    new = text(f"UPDATE {VERSION_TABLE} SET erasure_key = :new WHERE erasure_key IS NULL")  # noqa: S608 - a constant
    connection.execute(new, {"new": draw(_KEY_BYTES)})
    return erasure_key(connection) or b""


def erasure_key(connection: Connection) -> bytes | None:
    """Return the key of the store; None if nothing was ever erased. The first statement of a producer, so it checks the schema.

    Raises:
        StoreError: this Resonant cannot use the store's schema.
    """
    version, found = connection.exec_driver_sql(_VERSION_AND_KEY).one()
    check_version(version)
    connection.info[_KNOWN] = found
    return None if found is None else bytes.fromhex(found)


def known_key(connection: Connection) -> str | None:
    """Return the key as this connection has last read it, in hex digits; the first call reads it.

    An insert on the condition that the store still has this key costs less than to read it for each call.
    """
    if _KNOWN not in connection.info:
        erasure_key(connection)
    known: str | None = connection.info[_KNOWN]
    return known


def keyed_digest(key: bytes, *parts: object) -> str:
    """Return an HMAC of JSON values, as 64 hex digits."""
    return hmac.digest(key, json.dumps(parts).encode(), "sha256").hex()


def erased_id(key: bytes, identity: EventKey) -> str:
    """Return the id that an event has once it is erased."""
    return f"erased-{keyed_digest(key, *identity)[:_ID_DIGITS]}"


def find_erased(connection: Connection, identities: Iterable[EventKey]) -> set[EventKey]:
    """Return those of these identities whose events were erased, as far as the known key shows."""
    if (known := known_key(connection)) is None:
        return set()
    key = bytes.fromhex(known)
    by_id = {erased_id(key, each): each for each in identities}
    query = select(_e.id).where(is_any_of(_e.id, list(by_id)), _e.form == "erased")
    return {by_id[found] for found in connection.execute(query).scalars()}
