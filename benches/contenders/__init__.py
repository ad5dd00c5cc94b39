"""The contenders, including Resonant: how to start each and enqueue events.

All send the same events by POST, with ``content-type`` and ``webhook-id``, to one receiver; none signs them. Resonant sends
its CloudEvents headers too. Contenders on asyncio send through httpx with the httpx-aiohttp transport; threads use httpx's own
transport, with a client for each thread. Each uses its own retries: at most four attempts, at once or after 0.1 s.
"""

from benches.contenders.contender import Contender
from benches.contenders.ours import ours
from benches.contenders.plain import RAW_LOOP
from benches.contenders.postgresql import AWA, OBAN, PGQUEUER, PROCRASTINATE
from benches.contenders.queues import CELERY, DRAMATIQ, HUEY

__all__ = [
    "AWA",
    "BULK",
    "BULK_POSTGRESQL",
    "BULK_TWICE",
    "CELERY",
    "CONTENDERS",
    "DRAMATIQ",
    "HUEY",
    "OBAN",
    "PGQUEUER",
    "PROCRASTINATE",
    "RAW_LOOP",
]

BULK = ours("bulk", "SQLite")
BULK_POSTGRESQL = ours("bulk", "PostgreSQL")
BULK_TWICE = ours("bulk", "SQLite", processes=2)

CONTENDERS: dict[str, Contender] = {
    each.name: each
    for each in (
        RAW_LOOP,
        CELERY,
        DRAMATIQ,
        HUEY,
        PROCRASTINATE,
        AWA,
        OBAN,
        PGQUEUER,
        ours("task", "SQLite"),
        ours("task", "PostgreSQL"),
        ours("task", "SQLite", processes=2),
        ours("task", "PostgreSQL", processes=2),
        BULK,
        BULK_POSTGRESQL,
        BULK_TWICE,
        ours("bulk", "PostgreSQL", processes=2),
    )
}
