"""Collects garbage less often during a run."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# A task run holds about 280 objects until it ends. With Python's default threshold (700), the garbage collector scans
# everything that Prefect imported every 300 events, which takes a fifth of the time and frees nothing.
_NEW_OBJECTS_BETWEEN_COLLECTIONS = 50_000


@contextmanager
def garbage_collected_less_often() -> Iterator[None]:
    """Raise the garbage collector's threshold, unless collection is off or a concurrent run has raised it already."""
    before = gc.get_threshold()
    if before[0] == 0 or before[0] >= _NEW_OBJECTS_BETWEEN_COLLECTIONS:
        yield
        return
    gc.set_threshold(_NEW_OBJECTS_BETWEEN_COLLECTIONS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
