"""The durable store: what was accepted, what was tried, what was decided.

The functions that say what happens (``enqueue``, ``claim``, ``record`` ...) are plain functions over an SQLAlchemy
connection in its transaction, so that a producer can call ``enqueue`` inside its own; ``Store`` runs them.
"""

from resonant.store.enqueue import Conflict, EnqueueResult, enqueue
from resonant.store.leases import Due
from resonant.store.migrate import create_schema
from resonant.store.outcomes import Outcome
from resonant.store.store import Store, open_store

__all__ = ["Conflict", "Due", "EnqueueResult", "Outcome", "Store", "create_schema", "enqueue", "open_store"]
