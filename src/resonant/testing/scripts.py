"""Scripts: functions that choose an action for each request."""

import hashlib
import re
from collections.abc import Callable, Mapping

from resonant.testing import actions
from resonant.testing.actions import Action, respond
from resonant.testing.journal import Request

Script = Callable[[Request], Action]


def always_ok(_: Request) -> Action:
    """Answer every request with 200."""
    return respond(200)


# The actions for the first try, and for every try; otherwise the answer is 200.
_FIRST = {
    "500-then-200": respond(500),
    "503-retry-after": respond(503, {"retry-after": "1"}),
    "429": respond(429),
}
_ALWAYS = {
    "slow": respond(200, delay=2.0),
    "400": respond(400, body=b'{"error": "no such amount"}'),
    "reset": actions.reset_mid_response(),
    "silent": actions.never_answer(),
    "redirect": actions.redirect("https://example.com/moved"),
}


def eight_ways(request: Request) -> Action:
    """Misbehave according to the last part of the event's type, as in ``demo.reset``; answer other types with 200."""
    way = request.event_type.rpartition(".")[2]
    if request.try_number == 1 and way in _FIRST:
        return _FIRST[way]
    return _ALWAYS.get(way, respond(200))


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
    "bad-gzip": actions.bad_gzip(),
    "bad-gzip-503": actions.bad_gzip(503),
    "endless-answers": actions.endless_answers(),
    "endless-answers-503": actions.endless_answers(503),
    "endless-body": actions.endless_body(),
    "endless-body-503": actions.endless_body(503),
    "endless-chunks": actions.endless_chunks(),
    "endless-chunks-503": actions.endless_chunks(503),
    "endless-continue": actions.endless_interim(100),
    "endless-headers": actions.endless_headers(),
    "endless-interim": actions.endless_interim(),
    "endless-status-line": actions.endless_status_line(),
    "endless-trailers": actions.endless_trailers(),
    "endless-trailers-503": actions.endless_trailers(503),
    "garbage": actions.garbage(),
    "gzip-bomb": actions.gzip_bomb(),
    "gzip-bomb-503": actions.gzip_bomb(503),
    "half-close": actions.half_close(),
    "half-close-mid-body": actions.half_close(200),
    "huge-header": actions.huge_header(),
    "interim-only": actions.interim_only(),
    "interim-only-silent": actions.interim_only(end="hold"),
    "many-headers": actions.many_headers(),
    "redirect-loop": actions.redirect("/"),
    "reset-after-headers": actions.reset_after_headers(),
    "reset-after-headers-503": actions.reset_after_headers(503),
    "reset-before-response": actions.reset_before_response(),
    "reset-mid-body": actions.reset_mid_body(),
    "reset-mid-body-503": actions.reset_mid_body(503),
    "reset-mid-response": actions.reset_mid_response(),
    "retry-after-asctime": actions.retry_after_date("asctime", _WAIT_SECONDS),
    "retry-after-fractional": actions.retry_after("1.5"),
    "retry-after-huge": actions.retry_after("9" * 30),
    "retry-after-imf-fixdate": actions.retry_after_date("imf-fixdate", _WAIT_SECONDS),
    "retry-after-negative": actions.retry_after("-5"),
    "retry-after-nonsense": actions.retry_after("soon"),
    "retry-after-past": actions.retry_after_date("imf-fixdate", -3600),
    "retry-after-rfc-850": actions.retry_after_date("rfc-850", _WAIT_SECONDS),
    "retry-after-seconds": actions.retry_after(f"{_WAIT_SECONDS}"),
    "retry-after-seconds-503": actions.retry_after(f"{_WAIT_SECONDS}", 503),
    "silent": actions.never_answer(),
    "slow-body": actions.slow_body(),
    "slow-body-503": actions.slow_body(status=503),
    "slow-headers": actions.slow_headers(),
    "surplus-body": actions.surplus_body(),
    "surplus-body-503": actions.surplus_body(503),
    "truncated-body": actions.truncated_body(),
    "truncated-body-503": actions.truncated_body(503),
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
