"""``store_conformance``, which a database must pass before it may hold a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from resonant.store import WorkerStore


async def store_conformance(
    url: str, *, open_store: Callable[..., Awaitable[WorkerStore]] | None = None
) -> tuple[str, ...]:
    """Check that a database keeps the contract of the store, and return the names of the checks.

    Each check opens the store several times, as several processes would.

    Args:
        url: an empty database, which the checks fill.
        open_store: opens the store at this URL, with the arguments of ``WorkerStore.open``; by default that function.

    Raises:
        AssertionError: some checks fail; the message has one line for each.
    """
    # Imported here, since pytest loads this package in every run.
    from resonant.store import WorkerStore  # noqa: PLC0415
    from resonant.testing.conformance_checks import CHECKS, run  # noqa: PLC0415

    failed = [
        f"{name}: {failure}"
        for name in CHECKS
        if (failure := await run(name, url, open_store or WorkerStore.open))
    ]
    if failed:
        raise AssertionError("\n".join(failed))
    return tuple(CHECKS)
