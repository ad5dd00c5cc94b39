"""Worlds on a real PostgreSQL server, with several connections."""

import asyncio
import itertools
import json
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from random import Random
from threading import Thread
from typing import Any

from sqlalchemy import Connection, make_url

from resonant.events import Clock
from resonant.store import schema
from resonant.store.engine.migrate import create_schema
from resonant.store.engine.postgresql import PostgreSQL
from simulation.database import Noted, OpenServer, Server
from support.postgresql import PostgreSQLServer, started_postgresql

# The database's own clock_timestamp comes before PostgreSQL's.
_CLOCK = """
    CREATE FUNCTION clock_timestamp() RETURNS timestamptz LANGUAGE sql
        AS $$ SELECT to_timestamp(current_setting('simulation.now')::float8) $$;
    ALTER DATABASE simulation SET search_path = public, pg_catalog"""
_TRIGGER = """
    CREATE FUNCTION note_{number}() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN RAISE NOTICE '%', json_build_array('{name}', {values}); RETURN NULL; END $$;
    CREATE TRIGGER note_{number} AFTER {change} ON {table} FOR EACH ROW EXECUTE FUNCTION note_{number}()"""
# The stores of the processes share them in turn: each connection compiles and plans all statements again.
_CONNECTIONS = 5


class WorldOnPostgreSQL(Server):
    """A database that is empty at first. Its driver runs in a thread, for which the world waits."""

    def __init__(self, server: PostgreSQLServer, clock: Clock, rng: Random) -> None:
        super().__init__(clock, rng)
        url = server.empty_database("simulation")
        for statement in _CLOCK.split(";\n"):
            server.execute(statement, "simulation")
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._databases = [PostgreSQL(make_url(url)) for _ in range(_CONNECTIONS)]
        self._in_turn = itertools.cycle(self._databases)
        self.run(_create, self.own, writes=True)

    def connect(self) -> PostgreSQL:
        return next(self._in_turn)

    def disconnect(self, connected: PostgreSQL) -> None:
        self._wait_for(connected.close())

    def run(self, operation: Callable[[Connection], Any], connected: PostgreSQL, *, writes: bool) -> Any:
        now = repr(self.clock())

        def step(connection: Connection) -> Any:
            driver: Any = connection.connection.driver_connection
            driver.add_log_listener(self._hear)
            self.facts.clear()
            connection.exec_driver_sql("SELECT set_config('simulation.now', $1, false)", (now,))
            return operation(connection)

        return self._wait_for(connected.write(step) if writes else connected.read(step))

    def _wait_for(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _hear(self, _connection: object, notice: Any) -> None:
        name, *values = json.loads(notice.message)
        self.facts.append((name, tuple(values)))

    def note(self, noted: list[Noted]) -> None:
        def create(connection: Connection) -> None:
            for number, each in enumerate(noted):
                for statement in _TRIGGER.format(number=number, **each._asdict()).split(";\n"):
                    connection.exec_driver_sql(statement)

        self.run(create, self.own, writes=True)

    def close(self) -> None:
        for each in self._databases:
            self.disconnect(each)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _create(connection: Connection) -> None:
    create_schema(connection)
    for table in schema.metadata.tables:
        # It would run at its own times, and change the order of rows.
        connection.exec_driver_sql(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")


@contextmanager
def opened_postgresql() -> Iterator[OpenServer]:
    """Run a server during the block; its worlds run one after another."""
    with started_postgresql() as server:
        server.execute("ALTER SYSTEM SET fsync = off")
        server.reload()
        yield partial(WorldOnPostgreSQL, server)
