"""Turns database driver errors into one line: the database without its password, the cause, and the next step."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from resonant.errors import StoreLocked, StoreRefused, StoreUnavailable

_ELSEWHERE = "or set RESONANT_DATABASE_URL"
READ_ONLY = "25006"
_NO_PRIVILEGE = "42501"
_NO_PREPARED = (
    "let PgBouncer keep prepared statements: set its max_prepared_statements to 200 (version 1.21 or newer)"
)
_CONNECTION_LOST = "the server ended the connection: run the same command again"
# PostgreSQL's SQLSTATE (Appendix A of its manual), or a substring of SQLite's message.
_HINTS = {
    "08003": _CONNECTION_LOST,
    READ_ONLY: "it accepts only read-only transactions, like a standby: connect to the primary, or wait for the failover",
    "25P03": _CONNECTION_LOST,  # idle-in-transaction timeout
    "26000": _NO_PREPARED,
    "42P05": _NO_PREPARED,
    "28P01": "the server refuses this user or password",
    "28000": "the server refuses this user or password",
    "3D000": f"the server has no such database: create it, {_ELSEWHERE}",
    _NO_PRIVILEGE: "use a user with this privilege, or upgrade the store as the owner of its tables",
    "55P03": "another transaction holds a lock on it: try again when it is done",
    "53100": "the server's disk is full: free some space and run the same command again",
    "53300": "the server has no free connection: try again later",
    "57P03": "the server is starting or stopping: try again in a moment",
    "database is locked": "another process holds its lock: try again when it is done",
    "readonly database": f"it is read-only for this user: change its mode, {_ELSEWHERE}",
    "disk is full": "the disk is full: free some space and run the same command again",
    # SQLite also reports a quota or a file size limit with this error.
    "disk I/O error": "the disk cannot be written (a quota, a limit or a fault): fix that and run the same command again",
    "unable to open": f"it cannot be opened: check its path and mode, {_ELSEWHERE}",
    "not a database": f"the file is not an SQLite database: choose another, {_ELSEWHERE}",
    "malformed": "the file is damaged: restore it from a backup",
    # asyncpg's messages on the next use of a connection that the server has closed.
    "cannot switch to state": _CONNECTION_LOST,
    "connection is closed": _CONNECTION_LOST,
    "another operation": _CONNECTION_LOST,
}
_LOCKED = ("55P03", "database is locked")
_REFUSED = (
    "28P01",
    "28000",
    "3D000",
    _NO_PRIVILEGE,
    "readonly database",
    "unable to open",
    "not a database",
    "malformed",
)
_SHOWN_CHARACTERS = 300


@contextmanager
def translated_database_errors(database: str, *others: type[Exception]) -> Iterator[None]:
    """Turn a database error in the block into StoreUnavailable; bugs in Resonant keep their traceback.

    A lock becomes StoreLocked; an error that waiting cannot fix becomes StoreRefused.

    Args:
        database: the database's name for the message, without secrets.
        others: further exceptions to treat as failures of the database.
    """
    expected: tuple[type[Exception], ...] = (SQLAlchemyError, sqlite3.Error, TimeoutError, *others)
    try:
        yield
    except expected as error:
        if _is_our_mistake(error):
            raise
        raise _kind(error)(f"{database}: {_reason(error)}") from None


def sqlstate(error: BaseException) -> str:
    """Return PostgreSQL's SQLSTATE of an error; empty if it has none."""
    return getattr(getattr(error, "orig", error), "sqlstate", None) or ""


def _kind(error: BaseException) -> type[StoreUnavailable]:
    found = sqlstate(error) or str(getattr(error, "orig", None) or error)
    for kind, marks in ((StoreLocked, _LOCKED), (StoreRefused, _REFUSED)):
        if any(mark in found for mark in marks):
            return kind
    return StoreUnavailable


def _is_our_mistake(error: BaseException) -> bool:
    state = sqlstate(error)
    if state:
        return state.startswith(("22", "23", "42")) and state not in _HINTS
    text = str(getattr(error, "orig", ""))
    return isinstance(error, IntegrityError) or "syntax error" in text or "no such column" in text


def _reason(error: BaseException) -> str:
    error = getattr(error, "orig", None) or error
    text = " ".join(str(error).split())
    if state := sqlstate(error):
        if state == _NO_PRIVILEGE:
            # The driver's text begins with the class of its error. The rest names the table.
            return f"{text.rpartition('>: ')[2]}: {_HINTS[state]}"
        return _HINTS.get(state) or text[:_SHOWN_CHARACTERS]
    match error:
        case ConnectionRefusedError() | FileNotFoundError():
            return f"no database server answers at this address: start it, {_ELSEWHERE}"
        case TimeoutError():
            return f"the database server does not answer: check its address, {_ELSEWHERE}"
    for fragment, hint in _HINTS.items():
        if fragment in text:
            return hint
    return text[:_SHOWN_CHARACTERS] or type(error).__name__
