"""Makes stores of Resonant 0.1.0 with many events, each with one delivery and 1.2 attempts, with SQL for both databases."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from benches.filling import NUMBERS
from resonant.events import Event

T = TypeVar("T")

ENDPOINT = "orders"
_TABLES = Path(__file__).parents[1] / "tests/resonant/store/engine"
DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}
_DATA = "x" * 1022  # a body of 1 KiB
# A hundred billion plus the number: digits of equal length, which sort like the numbers.
_ID = "'evt_' || CAST(100000000000 + i AS TEXT)"
_STATUS = "CASE i % 20 WHEN 0 THEN 'dead_letter' WHEN 1 THEN 'pending' ELSE 'delivered' END"
_ATTEMPTS = "CASE i % 20 WHEN 1 THEN 0 ELSE CASE i % 4 WHEN 0 THEN 2 ELSE 1 END END"
_ATTEMPT = f"""{NUMBERS} INSERT INTO resonant_attempts (delivery_id, number, round, started_at, duration, result, status_code,
    owner, task_run_id) SELECT i, :number, 1, 1700000000.0 + i, 0.125, 'delivered', 200,
    '96380c5f-1636-46fc-adb1-1861c0523fd1', '0198f6a2-7e1d-7c3b-9a64-5b1f2c3d4e5f' FROM n WHERE """
_FILLING = (
    f"""{NUMBERS} INSERT INTO resonant_events (id, type, source, time, digest, accepted_at, body)
    SELECT {_ID}, :type, :source, '2026-01-01T00:00:00.000Z', :digest, 1700000000.0 + i, :body FROM n""",
    f"""{NUMBERS} INSERT INTO resonant_deliveries (id, event_id, endpoint, event_type, status, accepted_at, round_started_at,
    attempts, round_attempts, first_attempt_at, finished_at, available_at,
    next_attempt_at, lease_token, status_code, reason, category, code,
    cause_id)
    SELECT i, {_ID}, '{ENDPOINT}', :type, {_STATUS}, 1700000000.0 + i, 1700000000.0 + i, {_ATTEMPTS}, {_ATTEMPTS},
    CASE WHEN i % 20 <> 1 THEN 1700000000.0 + i END, CASE WHEN i % 20 <> 1 THEN 1700000001.0 + i END,
    CASE i % 20 WHEN 1 THEN 1700000000.0 + i END, CASE i % 20 WHEN 1 THEN 1700000000.0 + i END, 1, CASE WHEN i % 20 <> 1 THEN 200 END,
    CASE i % 20 WHEN 0 THEN 'permanent' END, CASE i % 20 WHEN 0 THEN 'permanent' END,
    CASE i % 20 WHEN 0 THEN 'http_400' END, CASE i % 20 WHEN 0 THEN 1 END FROM n""",
    _ATTEMPT.replace(":number", "1") + "i % 20 <> 1",
    _ATTEMPT.replace(":number", "2") + "i % 4 = 0",
    f"""INSERT INTO resonant_causes
    (id, digest, fingerprint, endpoint, event_type, reason, category, code, error_type, error, varies)
    VALUES (1, 'd', 'f', '{ENDPOINT}', :type, 'permanent', 'permanent', 'http_400', 'E', 'e', false)""",
    f"INSERT INTO resonant_endpoints (name, accepted) VALUES ('{ENDPOINT}', :count)",
)


def event_of(number: int) -> Event:
    """Return the event with this number, from 1."""
    return _event(f"evt_{100_000_000_000 + number}")


def new_event(name: str) -> Event:
    """Return another event with the same content."""
    return _event(f"new_{name}")


def make_tables(connection: Connection) -> None:
    """Create the tables of 0.1.0."""
    statements = (_TABLES / f"release_0_1_0.{connection.dialect.name}.sql").read_text()
    for statement in statements.split(";")[:-1]:
        connection.exec_driver_sql(statement)


def make_old_store(connection: Connection, count: int) -> None:
    """Create the tables of 0.1.0, and this many events."""
    make_tables(connection)
    event = event_of(1)
    values = {
        "type": event.type,
        "source": event.source,
        "digest": event.digest,
        "body": event.body,
        "count": count,
    }
    for statement in _FILLING:
        used = {name: value for name, value in values.items() if f":{name}" in statement}
        for name in ("type", "source", "digest", "count"):  # PostgreSQL would need the types of bound values
            statement = statement.replace(f":{name}", repr(values[name]))  # noqa: PLW2901 - one after the other
            used.pop(name, None)
        connection.execute(text(statement), used)
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT setval('resonant_deliveries_id_seq', {count})")


async def in_database(url: str, operation: Callable[[Connection], T]) -> T:
    """Run an operation in a transaction of a database."""
    parsed = make_url(url)
    engine = create_async_engine(
        parsed.set(drivername=DRIVERS[parsed.drivername]), connect_args={"timeout": 60}
    )
    try:
        async with engine.begin() as connection:
            return await connection.run_sync(operation)
    finally:
        await engine.dispose()


def _event(event_id: str) -> Event:
    return Event(id=event_id, type="order.paid", source="/shop", data=_DATA)
