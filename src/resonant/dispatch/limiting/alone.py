"""Decides how many deliveries of a run are sent alone, each as a task run, and how many in chunks."""

from collections import deque

_SECONDS = 1.0


class SentAlone:
    """Lets deliveries be sent alone while few are started per second.

    Deliveries in chunks count too, so that a run with a backlog sends only chunks, until the backlog is gone. Older deliveries
    that still wait for their sends also count, since they show that task runs start too slowly.

    Args:
        most: deliveries per second.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._started: deque[tuple[float, int]] = deque()
        self._recent = 0

    def start(self, count: int, now: float, *, waiting: int = 0) -> int:
        """Note that ``count`` deliveries start, while ``waiting`` others wait for their sends; return how many go alone."""
        while self._started and self._started[0][0] <= now - _SECONDS:
            self._recent -= self._started.popleft()[1]
        alone = max(0, min(count, self._most - max(self._recent, waiting)))
        self._started.append((now, count))
        self._recent += count
        return alone
