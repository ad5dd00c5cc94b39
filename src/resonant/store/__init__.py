"""The durable store: accepted events, attempts and decisions.

The operations (``enqueue``, ``claim``, ``record`` ...) are plain functions of an SQLAlchemy connection with an open
transaction, so that a producer can call ``enqueue`` in its own transaction. ``Store``, the public half, and ``WorkerStore`` run
them.

::

    engine   the databases: how each commits, locks and wakes, its errors, its migrations
    queue    the path of a delivery: enqueue, claim, begin, renew, record, rescue
    counts   counts and durations, for metrics and alerts
    shared   rows by which processes agree: gates, send slots, drains
    views    queries for operators
    audit    a log of the operators' changes
"""

from resonant.delivery.outcome import Outcome
from resonant.store.engine.migrate import create_schema
from resonant.store.queue.accept import Conflict, Unrouted
from resonant.store.queue.enqueue import EnqueueResult, enqueue
from resonant.store.queue.leases import Due
from resonant.store.store import Store, open_store
from resonant.store.worker import WorkerStore

__all__ = [
    "Conflict",
    "Due",
    "EnqueueResult",
    "Outcome",
    "Store",
    "Unrouted",
    "WorkerStore",
    "create_schema",
    "enqueue",
    "open_store",
]
