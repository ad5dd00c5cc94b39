"""Scripts: functions that choose an action for each request."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from resonant.testing.actions import (
    Action,
    bad_gzip,
    endless_answers,
    endless_body,
    endless_chunks,
    endless_headers,
    endless_interim,
    endless_status_line,
    endless_trailers,
    garbage,
    gzip_bomb,
    half_close,
    huge_header,
    interim_only,
    many_headers,
    never_answer,
    redirect,
    reset_after_headers,
    reset_before_response,
    reset_mid_body,
    reset_mid_response,
    respond,
    retry_after,
    retry_after_date,
    slow_body,
    slow_headers,
    surplus_body,
    truncated_body,
)
from resonant.testing.journal import Request

if TYPE_CHECKING:
    from collections.abc import Mapping

Script = Callable[[Request], Action]


def always_ok(_: Request) -> Action:
    """Answer every request with 200."""
    return respond(200)


# The action for the first try, and for every later one.
_EIGHT_WAYS = {
    "slow": (respond(200, delay=2.0), respond(200, delay=2.0)),
    "500-then-200": (respond(500), respond(200)),
    "503-retry-after": (respond(503, {"retry-after": "1"}), respond(200)),
    "429": (respond(429), respond(200)),
    "400": (
        respond(400, body=b'{"error": "no such amount"}'),
        respond(400, body=b'{"error": "no such amount"}'),
    ),
    "reset": (reset_mid_response(), reset_mid_response()),
    "silent": (never_answer(), never_answer()),
    "redirect": (redirect("https://example.com/moved"), redirect("https://example.com/moved")),
}


def eight_ways(request: Request) -> Action:
    """Misbehave according to the last part of the event's type, as in ``demo.reset``; answer other types with 200."""
    way = request.event_type.rpartition(".")[2]
    first, later = _EIGHT_WAYS.get(way, (respond(200), respond(200)))
    return first if request.try_number == 1 else later


def flaky(share: float, seed: int) -> Script:
    """Return a script that answers a share of first attempts with 500. The same seed selects the same attempts.

    Args:
        share: 0 to 1.
        seed: selects the attempts, together with the webhook-id.
    """

    def script(request: Request) -> Action:
        luck, _ = _drawn(f"{seed}:{request.webhook_id}")
        return respond(500) if luck < share and request.try_number == 1 else respond(200)

    return script


# The wait in the valid Retry-After headers below.
_WAIT_SECONDS = 5

# Faults of a single request. Invalid certificates are a setting of the receiver (``FLAWS``).
FAULTS: Mapping[str, Action] = {
    "bad-gzip": bad_gzip(),
    "bad-gzip-503": bad_gzip(503),
    "endless-answers": endless_answers(),
    "endless-answers-503": endless_answers(503),
    "endless-body": endless_body(),
    "endless-body-503": endless_body(503),
    "endless-chunks": endless_chunks(),
    "endless-chunks-503": endless_chunks(503),
    "endless-continue": endless_interim(100),
    "endless-headers": endless_headers(),
    "endless-interim": endless_interim(),
    "endless-status-line": endless_status_line(),
    "endless-trailers": endless_trailers(),
    "endless-trailers-503": endless_trailers(503),
    "garbage": garbage(),
    "gzip-bomb": gzip_bomb(),
    "gzip-bomb-503": gzip_bomb(503),
    "half-close": half_close(),
    "half-close-mid-body": half_close(200),
    "huge-header": huge_header(),
    "interim-only": interim_only(),
    "interim-only-silent": interim_only(end="hold"),
    "many-headers": many_headers(),
    "redirect-loop": redirect("/"),
    "reset-after-headers": reset_after_headers(),
    "reset-after-headers-503": reset_after_headers(503),
    "reset-before-response": reset_before_response(),
    "reset-mid-body": reset_mid_body(),
    "reset-mid-body-503": reset_mid_body(503),
    "reset-mid-response": reset_mid_response(),
    "retry-after-asctime": retry_after_date("asctime", _WAIT_SECONDS),
    "retry-after-fractional": retry_after("1.5"),
    "retry-after-huge": retry_after("9" * 30),
    "retry-after-imf-fixdate": retry_after_date("imf-fixdate", _WAIT_SECONDS),
    "retry-after-negative": retry_after("-5"),
    "retry-after-nonsense": retry_after("soon"),
    "retry-after-past": retry_after_date("imf-fixdate", -3600),
    "retry-after-rfc-850": retry_after_date("rfc-850", _WAIT_SECONDS),
    "retry-after-seconds": retry_after(f"{_WAIT_SECONDS}"),
    "retry-after-seconds-503": retry_after(f"{_WAIT_SECONDS}", 503),
    "silent": never_answer(),
    "slow-body": slow_body(),
    "slow-body-503": slow_body(status=503),
    "slow-headers": slow_headers(),
    "surplus-body": surplus_body(),
    "surplus-body-503": surplus_body(503),
    "truncated-body": truncated_body(),
    "truncated-body-503": truncated_body(503),
}
_STATUS_NAME = re.compile("status-([1-9][0-9]{2})")


def named_fault(request: Request) -> Action:
    """Perform the fault that the last part of the event's type names; answer other types with 200.

    The names are the keys of ``FAULTS``, and statuses such as ``status-418``.
    """
    way = request.event_type.rpartition(".")[2]
    if status := _STATUS_NAME.fullmatch(way):
        return respond(int(status[1]))
    return FAULTS.get(way, respond(200))


def bad_day(share: float, seed: int) -> Script:
    """Return a script that performs one of ``FAULTS`` on a share of all attempts. The same seed gives the same faults.

    Args:
        share: 0 to 1.
        seed: selects the attempts and their faults, together with the webhook-id and the number of the try.
    """
    ways = list(FAULTS.values())

    def script(request: Request) -> Action:
        luck, choice = _drawn(f"{seed}:{request.webhook_id}:{request.try_number}")
        return ways[int(choice * len(ways))] if luck < share else respond(200)

    return script


def _drawn(text: str) -> tuple[float, float]:
    """Return two numbers in [0, 1) that look random and depend only on the text."""
    digest = hashlib.sha256(text.encode()).digest()
    first, second = (int.from_bytes(digest[start : start + 6]) / 2**48 for start in (0, 6))
    return first, second
