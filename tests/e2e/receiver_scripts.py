"""The receivers of the end-to-end tests; run by ``python -m resonant.testing --script receiver_scripts:NAME``."""

import itertools
import os
from pathlib import Path

from resonant.testing import Action, Request, flaky, never_answer, respond

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


def slowly_ok(_: Request) -> Action:
    """Answer after a short delay, so that sends are in flight whenever the sender is killed."""
    return respond(200, delay=0.05)


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


def slowly_ok_or_rejected(request: Request) -> Action:
    """Refuse events marked as rejected, and answer the others after a short delay."""
    if request.event_type.endswith(".rejected"):
        return respond(400)
    return slowly_ok(request)


def silent_after_twenty(_: Request) -> Action:
    """Answer twenty requests, and never the others."""
    return respond(200) if next(_requests) < 20 else never_answer()
