"""The receivers of the fault suite; ``python -m resonant.testing --script faults_receiver:NAME``."""

from __future__ import annotations

import os
from pathlib import Path
from zlib import crc32

from resonant.testing import Action, Request, bad_day, never_answer, respond

_BUSY = respond(429, {"retry-after": "1"})
_bad_day = bad_day(0.08, seed=6)


def ten_per_cent(request: Request) -> Action:
    """Fail one in ten attempts: of these, two get a Retry-After, and eight get one of the ``FAULTS``."""
    is_busy = crc32(f"{request.webhook_id}:{request.try_number}".encode()) % 50 == 0
    return _BUSY if is_busy else _bad_day(request)


def steady(request: Request) -> Action:
    """Deliver everything, within 10 to 50 ms: so some are in flight at every moment."""
    return respond(200, delay=0.01 + crc32(request.webhook_id.encode()) % 40 / 1000)


def shaky(request: Request) -> Action:
    """As ``steady``, but one in eight is refused at its first try."""
    refused = crc32(request.webhook_id.encode()) % 8 == 0 and request.try_number == 1
    return respond(503) if refused else steady(request)


silent = never_answer()


def asleep(_request: Request) -> Action:
    """Answer nothing until the file ``WOKEN`` is there."""
    return respond(200) if Path(os.environ["WOKEN"]).exists() else never_answer()
