"""Parsing the ``Retry-After`` header."""

import logging
import re
from datetime import UTC, datetime, timedelta

logger = logging.getLogger(__name__)

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DAY = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_LONG_DAY = "(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day"
_MONTH = f"(?P<month>{'|'.join(_MONTHS)})"
_TIME = "(?P<hour>[01][0-9]|2[0-3]):(?P<minute>[0-5][0-9]):(?P<second>[0-5][0-9]|60)"
_HTTP_DATES = (
    re.compile(f"{_DAY}, (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_TIME} GMT"),  # IMF-fixdate
    re.compile(f"{_LONG_DAY}, (?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_TIME} GMT"),  # RFC 850
    re.compile(f"{_DAY} {_MONTH} (?P<day>[0-9]{{2}}| [0-9]) {_TIME} (?P<year>[0-9]{{4}})"),  # asctime
)
# A longer wait is most likely a mistake, such as milliseconds or a date in 2099; deliveries would expire at once.
MAX_RETRY_AFTER = 24 * 3600.0
_FIFTY_YEARS = timedelta(days=50 * 365.2425)


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Parse a ``Retry-After`` header according to RFC 9110 10.2.3.

    Args:
        value: the raw header: digits, or an HTTP-date in any of its three forms (RFC 9110 5.6.7).
        now: seconds since the epoch.

    Returns:
        The seconds to wait: 0 for a date in the past. More than 24 hours are implausible: they are logged, and count as
        24 hours. None without a header or for an invalid one, which is logged.
    """
    if value is None:
        return None
    seconds = _parse(value.strip(" \t"), now)
    if seconds is None:
        logger.warning("ignored a Retry-After that is neither seconds nor a date: %.80r", value)
        return None
    if seconds > MAX_RETRY_AFTER:
        logger.warning("a Retry-After of more than 24 hours counts as 24 hours: %.80r", value)
        return MAX_RETRY_AFTER
    return max(seconds, 0.0)


def _parse(text: str, now: float) -> float | None:
    if re.fullmatch("[0-9]+", text):
        return float(text)  # int() refuses more than 4300 digits, float() returns infinity
    moment = _parse_http_date(text, now)
    return None if moment is None else moment - now


def _parse_http_date(text: str, now: float) -> float | None:
    """Return an HTTP-date as seconds since the epoch, or None if it is invalid. The day name is not checked."""
    for form in _HTTP_DATES:
        if match := form.fullmatch(text):
            month = _MONTHS.index(match["month"]) + 1
            hour, minute, second = int(match["hour"]), int(match["minute"]), int(match["second"])
            try:
                date = _full_date(match["year"], month, int(match["day"]), now)
            except ValueError:  # such as 31 February
                return None
            # a sum, because datetime has no leap seconds
            return date.timestamp() + hour * 3600 + minute * 60 + second
    return None


def _full_date(year: str, month: int, day: int, now: float) -> datetime:
    if len(year) > len("yy"):
        return datetime(int(year), month, day, tzinfo=UTC)
    latest = datetime.fromtimestamp(now, UTC) + _FIFTY_YEARS
    date = datetime(latest.year - (latest.year - int(year)) % 100, month, day, tzinfo=UTC)
    return date if date <= latest else date.replace(year=date.year - 100)
