"""SQL that differs between the databases: inserts, the store's clock, and ``is_any_of``, which binds many values as one.

SQLAlchemy's ``in_`` binds each value separately. That allows at most 32,700 values, and each number of values is a
different statement to compile, prepare and plan. With one array, the statement is always the same.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache, lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from sqlalchemy import (
    ARRAY,
    CTE,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Dialect,
    Double,
    Insert,
    Integer,
    Row,
    Table,
    Text,
    Update,
    bindparam,
    cast,
    func,
    literal,
    literal_column,
    select,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.operators import OperatorType
from sqlalchemy.types import TypeDecorator, TypeEngine

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql

# SQLite binds at most 32,766 values. On PostgreSQL, an array of bodies must be smaller than 1 GB.
_ROWS_AT_ONCE = 500
_KEPT_STATEMENTS = 64
# Whether a transaction of `PostgreSQL` is open, in the `info` of its connection.
IS_OPEN = "resonant_is_open"


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


def insert_into(dialect: str, table: Table) -> "postgresql.Insert | sqlite.Insert":
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


class Unless(NamedTuple):
    """When to insert nothing: the query of one value has another result than this text or NULL."""

    query: str
    result: str | None


def insert_missing(
    connection: Connection,
    table: Table,
    rows: Sequence[Mapping[str, Any]],
    *returned: Column[Any],
    unless: Unless | None = None,
    then: Callable[[CTE], CTE] | None = None,
) -> list[Any]:
    """Insert rows of plain values, in their order, except those that violate a constraint.

    Args:
        connection: in a write transaction.
        table: where to insert.
        rows: with the same columns; all different.
        returned: the columns to return.
        unless: when to insert nothing.
        then: on PostgreSQL, returns another insert for the same statement, given the inserted rows. Always the same function.

    Returns:
        These columns of each inserted row.
    """
    found: list[Any] = []
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        some = rows[start : start + _ROWS_AT_ONCE]
        if connection.dialect.name == "sqlite":
            found += _insert_missing_sqlite(connection, table, some, returned, unless)
        else:
            found += _insert_missing_postgresql(connection, table, some, returned, unless, then)
    return found


def _insert_missing_sqlite(
    connection: Connection,
    table: Table,
    rows: Sequence[Mapping[str, Any]],
    returned: tuple[Column[Any], ...],
    unless: Unless | None,
) -> Sequence[Row[Any]]:
    names = tuple(rows[0])
    condition, result = ("true", ()) if unless is None else (f"({unless.query}) IS ?", (unless.result,))
    if len(rows) == 1:
        statement = _inserting_values(table, (), names, 1, returned, condition)
        return connection.exec_driver_sql(statement, (*rows[0].values(), *result)).all()
    equal, others = _columns(rows)
    statement = _inserting_values(table, tuple(equal), tuple(others), len(rows), returned, condition)
    values = (*equal.values(), *chain.from_iterable(zip(*others.values(), strict=True)), *result)
    return connection.exec_driver_sql(statement, values).all()


@lru_cache(_KEPT_STATEMENTS)
def _inserting_values(
    table: Table,
    equal: tuple[str, ...],
    others: tuple[str, ...],
    count: int,
    returned: tuple[Column[Any], ...],
    condition: str,
) -> str:
    """Return the statement that inserts rows, given one value for the ``equal`` columns, then the other values row by row.

    It takes half of the time of a compiled statement, and to bind a value for each row would take longer.
    """
    selected = ["?"] * len(equal) + [f"column{number}" for number in range(1, len(others) + 1)]
    row = f"({', '.join('?' * len(others))})"
    return (
        f"INSERT INTO {table.name} ({', '.join(equal + others)}) "  # noqa: S608 - our own names
        f"SELECT {', '.join(selected)} FROM (VALUES {', '.join([row] * count)}) WHERE {condition} "
        f"ON CONFLICT DO NOTHING RETURNING {', '.join(each.name for each in returned)}"
    )


def _insert_missing_postgresql(
    connection: Connection,
    table: Table,
    rows: Sequence[Mapping[str, Any]],
    returned: tuple[Column[Any], ...],
    unless: Unless | None,
    then: Callable[[CTE], CTE] | None,
) -> Sequence[Row[Any]]:
    # One array for each column is faster than a parameter for each value, which the server would parse and plan.
    equal, others = _columns(rows)
    query, result = unless or (None, None)
    statement = _inserting_arrays(table, tuple(rows[0]), frozenset(equal), returned, query, then)
    values = equal | {f"all_{name}": values for name, values in others.items()}
    return connection.execute(statement, values | ({"result": result} if query else {})).all()


def _columns(rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Return the values of the columns in which all rows are equal, and the lists of values of the others."""
    columns = dict(zip(rows[0], zip(*[each.values() for each in rows], strict=True), strict=True))
    equal = {name: values[0] for name, values in columns.items() if values.count(values[0]) == len(values)}
    return equal, {name: list(values) for name, values in columns.items() if name not in equal}


@cache
def _inserting_arrays(
    table: Table,
    names: tuple[str, ...],
    equal: frozenset[str],
    returned: tuple[Column[Any], ...],
    query: str | None,
    then: Callable[[CTE], CTE] | None,
) -> Any:
    """Return the statement that inserts rows, given one value for the ``equal`` columns, and arrays for the others."""
    types = {name: table.c[name].type for name in names}
    given = given_rows(table, tuple(name for name in names if name not in equal))
    values = (
        given.c[name] if name not in equal else cast(bindparam(name, type_=types[name]), types[name])
        for name in names
    )
    selected = select(*values)
    if query is not None:
        result = bindparam("result", type_=Text())
        selected = selected.where(literal_column(f"({query})", Text()).is_not_distinct_from(result))
    inserting = insert_into("postgresql", table).from_select(names, selected)
    insert = inserting.on_conflict_do_nothing().returning(*returned)
    if then is None:
        return insert
    added = insert.cte("added")
    return select(added).add_cte(then(added))


def update_these(connection: Connection, statement: Update, ids: list[int], values: dict[str, Any]) -> None:
    """Execute an update that is built once, of the rows where ``is_any_of_given(column, "ids")``; ``values`` are plain."""
    if connection.dialect.name == "sqlite":
        # Text takes less CPU than a compiled statement.
        text, names, constants = _as_text(statement)
        given = constants | values | {"ids": json.dumps(ids)}
        connection.exec_driver_sql(text, tuple(given[name] for name in names))
    else:
        connection.execute(statement, values | {"ids": ids})


@cache
def _as_text(statement: Update) -> tuple[str, list[str], dict[str, Any]]:
    """Return a statement's text for SQLite, the names of its parameters in order, and those with a constant value."""
    compiled = statement.compile(dialect=sqlite.dialect())
    return str(compiled), compiled.positiontup or [], compiled.params


def insert_all(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows of plain values on PostgreSQL, with one statement. All rows have the same columns."""
    if rows:
        connection.execute(_inserting_all(table, tuple(rows[0])), _arrays(rows))


@cache
def _inserting_all(table: Table, names: tuple[str, ...]) -> Insert:
    return table.insert().from_select(names, select(*given_rows(table, names).c))


def update_all(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Update rows on PostgreSQL, with one statement. All have the same columns, of which ``id`` names the row."""
    if rows:
        connection.execute(_updating_all(table, tuple(rows[0])), _arrays(rows))


@cache
def _updating_all(table: Table, names: tuple[str, ...]) -> Update:
    given = given_rows(table, names)
    changes = {name: given.c[name] for name in names if name != "id"}
    return table.update().where(table.c.id == given.c.id).values(changes)


def _arrays(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {f"all_{name}": [row[name] for row in rows] for name in rows[0]}


def given_rows(table: Table, names: tuple[str, ...]) -> Any:
    """Return the rows that are given to a statement on PostgreSQL as one array for each of these columns."""
    types = {name: ARRAY(table.c[name].type) for name in names}
    # Not the columns' own names, which SQLAlchemy reserves in an UPDATE.
    arrays = [cast(bindparam(f"all_{name}", type_=each), each) for name, each in types.items()]
    return func.unnest(*arrays).table_valued(*names, name="given").render_derived()


def end_snapshot(connection: Connection) -> None:
    """Let the next statement of a read transaction see a newer snapshot.

    While a snapshot is in use, SQLite's log grows with each write, and PostgreSQL may end a session that is idle in a
    transaction. So a long read uses one snapshot per page, and none while the caller works on a page.
    """
    if connection.dialect.name == "postgresql":
        # `PostgreSQL` has begun it, not SQLAlchemy, and begins the next.
        connection.exec_driver_sql("ROLLBACK")
        connection.info[IS_OPEN] = False
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

    def self_group(self, against: OperatorType | None = None) -> Self:
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
