"""Complete endpoints, subscriptions, codes and policies in the shell: from the store, without a server, and silent if anything fails.

A shell waits for each completion, and SQLAlchemy takes longer to import than everything else. So an SQLite file is read
without it, and the queries are text.
"""

from collections.abc import Iterable, Iterator

# A database that does not answer must not block the shell.
_MOST_SECONDS = 1.0
_ENDPOINTS = "SELECT name FROM resonant_endpoints UNION SELECT endpoint FROM resonant_acceptances"
_SUBSCRIPTIONS = "SELECT id FROM resonant_subscriptions"
_CODES = "SELECT DISTINCT code FROM resonant_causes WHERE code <> ''"


def endpoints(incomplete: str) -> list[str]:
    """Return the endpoints of the store that begin with this text."""
    return _beginning(incomplete, _read(_ENDPOINTS))


def subscriptions(incomplete: str) -> list[str]:
    """Return the ids of subscriptions that begin with this text."""
    return _beginning(incomplete, _read(_SUBSCRIPTIONS))


def codes(incomplete: str) -> list[str]:
    """Return the codes that begin with this text: those of dead letters, or if none does, those of the classifier."""
    if found := _beginning(incomplete, _read(_CODES)):
        return found
    from resonant.delivery.classification import built_in_codes

    return _beginning(incomplete, built_in_codes())


def policies(incomplete: str) -> list[str]:
    """Return the retry policies that begin with this text."""
    from resonant.errors import ResonantError
    from resonant.settings import load_settings

    try:
        return _beginning(incomplete, load_settings().known_policies)
    except ResonantError:
        return []


def _beginning(text: str, words: Iterable[str]) -> list[str]:
    return sorted(word for word in words if word.startswith(text))


def _read(query: str) -> list[str]:
    """Read a column from an existing store, without a change to it; return nothing if that fails for any reason."""
    from resonant.settings import load_settings

    try:
        url = load_settings().store_url
        return list(_read_file(url, query) if url.startswith("sqlite") else _read_server(url, query))
    except Exception:  # noqa: BLE001 - an error in the middle of a command line would only disturb
        return []


def _read_file(url: str, query: str) -> Iterator[str]:
    import sqlite3
    from contextlib import closing
    from pathlib import Path
    from urllib.parse import unquote

    path = Path(unquote(url.partition(":///")[2])).expanduser().absolute()
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=_MOST_SECONDS)) as connection:
        yield from (value for (value,) in connection.execute(query))


def _read_server(url: str, query: str) -> Iterable[str]:
    import asyncio

    from sqlalchemy import text

    from resonant.store.engine.database import open_database

    async def read() -> list[str]:
        async with asyncio.timeout(_MOST_SECONDS):
            database = await open_database(url, may_migrate=False)
            try:
                return await database.read(lambda connection: [*connection.execute(text(query)).scalars()])
            finally:
                await database.close()

    return asyncio.run(read())
