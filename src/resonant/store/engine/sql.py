"""SQL that differs between the databases: inserts, the shared clock, and ``is_any_of``, which binds many values as one.

SQLAlchemy's ``in_`` binds each value separately. That allows at most 32,700 values, and each number of values is a
different statement to compile, prepare and plan. With one array, the statement is always the same.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import ARRAY, BigInteger, Boolean, Connection, Double, Integer, Text, bindparam, literal
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import ColumnElement, Dialect, Table
    from sqlalchemy.dialects import postgresql
    from sqlalchemy.sql.compiler import SQLCompiler
    from sqlalchemy.sql.operators import OperatorType


def require_connection(connection: object) -> None:
    """Check that an argument is a connection.

    Raises:
        TypeError: it is not an SQLAlchemy ``Connection``.
    """
    if not isinstance(connection, Connection):
        given = f"{type(connection).__module__}.{type(connection).__qualname__}"
        raise TypeError(
            f"connection must be an SQLAlchemy Connection, not {given} "
            "(Session: session.connection(); AsyncConnection: await connection.run_sync(function, ...))"
        )


def insert_into(dialect: str, table: Table) -> postgresql.Insert | sqlite.Insert:
    """Return an insert that supports ON CONFLICT."""
    if dialect == "postgresql":
        from sqlalchemy.dialects import postgresql  # noqa: PLC0415 - slow, and unnecessary on SQLite

        return postgresql.insert(table)
    return sqlite.insert(table)


def insert_row(connection: Connection, table: Table, row: dict[str, Any]) -> None:
    """Insert a row of plain values."""
    if connection.dialect.name == "sqlite":
        # Takes a quarter of the time of a compiled statement.
        statement = f"INSERT INTO {table.name} ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})"  # noqa: S608 - constants
        connection.exec_driver_sql(statement, tuple(row.values()))
    else:
        connection.execute(table.insert().inline(), row)


def end_snapshot(connection: Connection) -> None:
    """Let the next statement of a read transaction see a newer snapshot.

    While a snapshot is in use, SQLite's log grows with each write. So a long read uses one snapshot per page, and none while
    the caller works on a page.
    """
    connection.rollback()


class SharedClock(FunctionElement[float]):
    """The clock that all processes of a store share: PostgreSQL's, or on SQLite the host's. In seconds since the epoch."""

    inherit_cache = True
    type = Double()


# The function that each connection to SQLite defines.
HOST_CLOCK = "resonant_host_clock"


@compiles(SharedClock)
def _host_clock(_clock: SharedClock, _compiler: SQLCompiler, **_options: Any) -> str:
    return f"{HOST_CLOCK}()"


@compiles(SharedClock, "postgresql")
def _server_clock(_clock: SharedClock, _compiler: SQLCompiler, **_options: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"


def is_any_of(column: ColumnElement[Any], values: Collection[int] | Collection[str]) -> ColumnElement[bool]:
    """Return the condition that an integer or text column has one of these values."""
    return _IsAnyOf(column, literal(list(values), _Values(_item(column))))


def is_any_of_given(column: ColumnElement[Any], name: str) -> ColumnElement[bool]:
    """Return the same condition for a statement that is built once; the values are its parameter ``name``."""
    return _IsAnyOf(column, bindparam(name, type_=_Values(_item(column))))


def _item(column: ColumnElement[Any]) -> TypeEngine[Any]:
    return BigInteger() if isinstance(column.type, Integer) else Text()


class _Values(TypeDecorator[Any]):
    """An array on PostgreSQL, JSON on SQLite."""

    impl = Text
    cache_ok = True

    def __init__(self, item: TypeEngine[Any]) -> None:
        super().__init__()
        self.item = item

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(ARRAY(self.item) if dialect.name == "postgresql" else Text())

    def process_bind_param(self, value: list[Any] | None, dialect: Dialect) -> Any:
        return value if dialect.name == "postgresql" else json.dumps(value)


class _IsAnyOf(FunctionElement[bool]):
    name = "is_any_of"
    type = Boolean()
    inherit_cache = True

    def self_group(self, against: OperatorType | None = None) -> _IsAnyOf:
        # Otherwise SQLAlchemy appends "= 1", as for a boolean column, which prevents the use of an index.
        del against
        return self


@compiles(_IsAnyOf, "postgresql")
def _to_array(element: _IsAnyOf, compiler: SQLCompiler, **options: Any) -> str:
    column, values = (compiler.process(clause, **options) for clause in element.clauses)
    return f"({column} = ANY ({values}))"


@compiles(_IsAnyOf, "sqlite")
def _to_json(element: _IsAnyOf, compiler: SQLCompiler, **options: Any) -> str:
    column, values = (compiler.process(clause, **options) for clause in element.clauses)
    return f"({column} IN (SELECT value FROM json_each({values})))"  # noqa: S608 - compiled parts
