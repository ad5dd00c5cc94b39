"""RFC 3339 times."""

import contextlib
import re
from calendar import monthrange
from datetime import UTC, datetime

from resonant.display import parse_duration

# `datetime.fromisoformat` also accepts week dates, bare hours, commas and 24:00, which RFC 3339 does not allow.
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT(?!24)\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:[0-5]\d)", re.ASCII)
_AGE = re.compile(r"([0-9]{1,9})([smhdw])")


def rfc3339(moment: float) -> str:
    """Format seconds since the epoch as RFC 3339 in UTC, to the millisecond."""
    try:
        found = datetime.fromtimestamp(moment, UTC)
    except (ValueError, OverflowError):  # a row of an older version may have a time that no calendar has
        found = datetime.max.replace(tzinfo=UTC) if moment > 0 else datetime.min.replace(tzinfo=UTC)
    return found.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def minute(moment: float) -> str:
    """Format seconds since the epoch for readers, in UTC, to the minute: ``2026-01-31 12:00Z``."""
    return f"{rfc3339(moment)[:16].replace('T', ' ')}Z"


def moment_of(text: str) -> float | None:
    """Return an RFC 3339 time in seconds since the epoch; None if the text is not one.

    A leap second counts as the second before it.
    """
    parsed = parse_rfc3339(text)
    return None if parsed is None else parsed.timestamp()


def parse_rfc3339(text: str) -> datetime | None:
    """Read an RFC 3339 time; None if the text is not one. A leap second becomes the second before it."""
    text = text.upper()
    if not _RFC3339.fullmatch(text):
        return None
    # `datetime` has no leap seconds. A leap second is the last second of a month in UTC (RFC 3339, 5.7).
    is_leap = text[17:19] == "60"
    try:
        moment = datetime.fromisoformat(f"{text[:17]}59{text[19:]}" if is_leap else text)
        in_utc = moment.astimezone(UTC) if is_leap else None
    except (ValueError, OverflowError):
        return None
    if in_utc is None:
        return moment
    last_day = monthrange(in_utc.year, in_utc.month)[1]
    return moment if (in_utc.day, in_utc.hour, in_utc.minute) == (last_day, 23, 59) else None


def parse_moment(text: str, *, now: float) -> float:
    """Return seconds since the epoch, of RFC 3339 or of an age before ``now``: ``45s``, ``30m``, ``2h``, ``7d``, ``2w``.

    Raises:
        ValueError: neither.
    """
    if _AGE.fullmatch(text):
        return max(0.0, now - parse_duration(text))
    time = None
    with contextlib.suppress(ValueError):
        time = datetime.fromisoformat(text)
    if time is None or time.tzinfo is None:
        raise ValueError(
            f"{text!r} is not a time: give an age (45s, 30m, 2h, 7d) or a time such as 2026-01-31T12:00:00Z"
        )
    return time.timestamp()
