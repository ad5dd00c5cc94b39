"""Complete endpoints, codes and policies in the shell: from the store, without a server, and silent if anything fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sqlalchemy import Connection

# A shell waits for the completion; a database that does not answer must not block it.
_MOST_SECONDS = 1.0


def endpoints(incomplete: str) -> list[str]:
    """Return the endpoints of the store that begin with this text."""
    from resonant.store.endpoints import names

    return _beginning(incomplete, _read(names))


def codes(incomplete: str) -> list[str]:
    """Return the codes that begin with this text: those of dead letters, or if none does, those of the classifier."""
    from resonant.delivery.classification import built_in_codes
    from resonant.store.endpoints import codes as stored

    return _beginning(incomplete, _read(stored)) or _beginning(incomplete, built_in_codes())


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


def _read(operation: Callable[[Connection], set[str]]) -> set[str]:
    """Read from an existing store, without a change to it; return nothing if that fails for any reason."""
    import asyncio

    from resonant.settings import load_settings
    from resonant.store.database import file_of, open_database

    async def read() -> set[str]:
        settings = load_settings()
        if (file := file_of(settings.store_url)) and not file.exists():
            return set()
        async with asyncio.timeout(_MOST_SECONDS):
            database = await open_database(settings.store_url, may_migrate=False)
            try:
                return await database.read(operation)
            finally:
                await database.close()

    try:
        return asyncio.run(read())
    except Exception:  # noqa: BLE001 - an error in the middle of a command line would only disturb
        return set()
