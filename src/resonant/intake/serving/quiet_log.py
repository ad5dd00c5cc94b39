"""A log without repetitions, so that a flood of bad requests or an unavailable store does not fill the disk."""

import logging
import time

from resonant.events import Clock

_SECONDS = 10.0


class WithoutRepeats(logging.Filter):
    """Drops a record if one with the same text before its arguments, and the same kind of error, was logged within ten seconds.

    Args:
        clock: never goes back, in seconds.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._logged_at: dict[tuple[object, ...], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log the record."""
        now = self._clock()
        self._logged_at = {key: at for key, at in self._logged_at.items() if now - at < _SECONDS}
        key = (record.msg, record.exc_info and record.exc_info[0])
        is_new = key not in self._logged_at
        self._logged_at.setdefault(key, now)
        return is_new


def log_without_repeats() -> None:
    """Log warnings and errors of this process to standard error, with times."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.addFilter(WithoutRepeats())
    logging.getLogger().addHandler(handler)
