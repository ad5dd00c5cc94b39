"""Scripts of receivers in their own processes: ``python -m resonant.testing --script support.receiver_scripts:NAME``."""

import itertools
import os
import time
from collections import deque
from pathlib import Path
from zlib import crc32

from resonant.testing import Action, Request, bad_day, flaky, never_answer, respond

_BUSY = respond(429, {"retry-after": "1"})
_bad_day = bad_day(0.08, seed=6)
_flaky = flaky(0.3, seed=7)
_requests = itertools.count()


def mixed(request: Request) -> Action:
    """Answer 400 to some types, always 500 to others, and fail three in ten first attempts of the rest."""
    if request.event_type.endswith(".rejected"):
        return respond(400, body=b'{"error": "no such customer"}')
    if request.event_type.endswith(".broken"):
        return respond(500)
    return _flaky(request)


def broken_for_some(request: Request) -> Action:
    """Answer 500 to one type, which says nothing about the endpoint while others are accepted."""
    return respond(500 if request.event_type == "broken" else 200)


def asks_to_wait(request: Request) -> Action:
    """Answer the first attempt with a Retry-After of two seconds."""
    return respond(503, headers={"retry-after": "2"}) if request.try_number == 1 else respond(200)


def steady(request: Request) -> Action:
    """Deliver everything, within 10 to 50 ms: so some are in flight at every moment."""
    return respond(200, delay=0.01 + crc32(request.webhook_id.encode()) % 40 / 1000)


def answers_late_at_first(request: Request) -> Action:
    """Answer a first attempt so late that a test can stop the sender before."""
    return respond(200, delay=8.0) if request.try_number == 1 else respond(200)


def broken_until_repaired(request: Request) -> Action:
    """Answer 400 for types that end in ``.rejected`` and 503 for others, until the file named by REPAIRED exists."""
    if Path(os.environ["REPAIRED"]).exists():
        return respond(200)
    return respond(400 if request.event_type.endswith(".rejected") else 503)


def slow_until_repaired(_: Request) -> Action:
    """Answer after a second until the file named by REPAIRED exists, and then at once."""
    return respond(200, delay=0.0 if Path(os.environ["REPAIRED"]).exists() else 1.0)


def steady_or_rejected(request: Request) -> Action:
    """Refuse events marked as rejected, and deliver the others as ``steady`` does."""
    if request.event_type.endswith(".rejected"):
        return respond(400)
    return steady(request)


def silent_after_twenty(_: Request) -> Action:
    """Answer twenty requests, and never the others."""
    return respond(200) if next(_requests) < 20 else never_answer()


def ten_per_cent(request: Request) -> Action:
    """Fail one in ten attempts: of these, two get a Retry-After, and eight get one of the ``FAULTS``."""
    is_busy = crc32(f"{request.webhook_id}:{request.try_number}".encode()) % 50 == 0
    return _BUSY if is_busy else _bad_day(request)


def shaky(request: Request) -> Action:
    """As ``steady``, but one in eight is refused at its first try."""
    refused = crc32(request.webhook_id.encode()) % 8 == 0 and request.try_number == 1
    return respond(503) if refused else steady(request)


silent = never_answer()


def silent_until_repaired(_request: Request) -> Action:
    """Answer nothing until the file named by REPAIRED exists."""
    return respond(200) if Path(os.environ["REPAIRED"]).exists() else never_answer()


def throttled(request: Request) -> Action:
    """Fail four in ten first attempts: of these, three in eight get a Retry-After, and the others 503."""
    luck = crc32(request.webhook_id.encode()) % 40
    if request.try_number > 1 or luck >= 16:
        return respond(200)
    return _BUSY if luck < 6 else respond(503)


_accepted: deque[float] = deque()


def twenty_per_second(_request: Request) -> Action:
    """Accept 20 requests in a second, and refuse the others; and one in twelve, for a sender on a slow machine."""
    now = time.monotonic()
    while _accepted and _accepted[0] < now - 1:
        _accepted.popleft()
    if len(_accepted) >= 20 or next(_requests) % 12 == 0:
        return _BUSY
    _accepted.append(now)
    return respond(200)
