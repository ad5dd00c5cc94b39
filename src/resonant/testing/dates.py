"""The three date formats of HTTP (RFC 9110 5.6.7)."""

import time
from email.utils import formatdate
from typing import Literal

DateForm = Literal["imf-fixdate", "rfc-850", "asctime"]

_LONG_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def http_date(form: DateForm, moment: float) -> str:
    """Format seconds since the epoch in one of these formats. It avoids ``strftime``, which depends on the locale."""
    if form == "asctime":
        return time.asctime(time.gmtime(moment))
    fixdate = formatdate(moment, usegmt=True)
    if form == "imf-fixdate":
        return fixdate
    _, day, month, year, clock, zone = fixdate.split()
    return f"{_LONG_DAYS[time.gmtime(moment).tm_wday]}, {day}-{month}-{year[2:]} {clock} {zone}"
