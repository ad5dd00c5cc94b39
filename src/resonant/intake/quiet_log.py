"""A log that repeats nothing, so that a flood of bad requests, or a store that is away, does not fill the disk."""

from __future__ import annotations

import logging
import time

_SECONDS = 10.0


class OnlyNews(logging.Filter):
    """Drops a record if one with the same text, or the same error, was logged within the last ten seconds."""

    def __init__(self) -> None:
        super().__init__()
        self._logged_at: dict[tuple[object, ...], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log the record."""
        now = time.monotonic()
        self._logged_at = {key: at for key, at in self._logged_at.items() if now - at < _SECONDS}
        key = (record.msg, record.exc_info and record.exc_info[0])
        is_new = key not in self._logged_at
        self._logged_at.setdefault(key, now)
        return is_new


def log_news() -> None:
    """Log warnings and errors of this process to standard error, with times."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.addFilter(OnlyNews())
    logging.getLogger().addHandler(handler)
