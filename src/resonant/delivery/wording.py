"""Describes deliveries, their attempts and failures, with the receivers' answers, for commands and pages."""

import json
import re

from resonant.display import ago, counted
from resonant.errors import InvalidEvent
from resonant.events import Attempt, Delivery, encode_data, rfc3339

_ANSWER_CHARACTERS = 120
_TAG = re.compile(r"<[^<>]*(?:>|$)")
# The prefix that `Redactor.message` writes, and the text of `UnexpectedStatus`, which only repeats the code.
_ERROR_TYPE = re.compile(r"\A[A-Za-z_]\w*: ")
_STATUS_ALONE = re.compile(r"the endpoint answered (?:\d+|<n>)")


def shortened(answer: str, characters: int = _ANSWER_CHARACTERS) -> str:
    """Return the beginning of an answer, without HTML tags."""
    text = answer
    if answer.lstrip().startswith("<"):
        text = " ".join(_TAG.sub(" ", answer).split()) or answer
    return text if len(text) <= characters else f"{text[:characters].rstrip()}…"


def why(*, reason: str, code: str | None, error: str | None, answer: str | None) -> str:
    """Return why a delivery failed, as in ``http 422: amount is missing``; if it was never tried, only the reason."""
    failed_with = code.replace("_", " ") if code else reason
    said = shortened(answer) if answer else _ERROR_TYPE.sub("", error or "")
    if _STATUS_ALONE.fullmatch(said):
        said = "no text in the answer"
    return f"{failed_with}: {said}" if said else failed_with


def outcome(attempt: Attempt) -> str:
    """Describe an attempt: ``delivered in 12 ms, answered 200``, ``failed in 12 ms: permanent, http 422: no amount``."""
    took = f"in {attempt.duration * 1000:.0f} ms"
    if attempt.result == "delivered":
        return f"delivered {took}" + (f", answered {attempt.status_code}" if attempt.status_code else "")
    category = attempt.category or "unknown"
    failure = why(reason=category, code=attempt.code, error=attempt.error, answer=attempt.excerpt)
    return f"failed {took}: {category}, {failure}"


def facts(attempt: Attempt) -> list[str]:
    """Return the facts of an attempt: its duration, result and verdict."""
    found = (
        f"took {attempt.duration:.3f} s",
        attempt.result,
        attempt.status_code is not None and f"status {attempt.status_code}",
        " ".join(filter(None, (attempt.category, attempt.code))),
        attempt.blame == "local" and "local fault",
        attempt.maybe_processed and attempt.result != "delivered" and "possibly processed",
        attempt.late and "late, changed nothing",
        attempt.early and "not counted in max_attempts",
    )
    return [part for part in found if part]


def state(delivery: Delivery, why_held: str, now: float) -> str:
    """Describe the state of a delivery; ``why_held`` is the reason of the gate that holds it, or empty."""
    attempts = counted(delivery.attempts, "attempt")
    replays = f" ({counted(delivery.replays, 'replay')})" if delivery.replays else ""
    match delivery.status:
        case "delivered":
            what = f"delivered {dated(delivery.finished_at, now)}"
        case "dead_letter":
            what = f"dead letter, {delivery.reason}, given up {dated(delivery.finished_at, now)}"
            if delivery.replayed_to:
                what += f", replayed to {delivery.replayed_to}"
        case _ if delivery.lease_until is not None and delivery.lease_until > now:
            # A delivery in its process may be waiting for its retry.
            due_at = delivery.next_attempt_at or now
            due = f", retry due {dated(due_at, now)}" if due_at > now else ""
            what = f"{delivery.status}{due}, leased by {delivery.leased_by} until {rfc3339(delivery.lease_until)}"
        case _:
            is_held = why_held and (delivery.next_attempt_at or now) <= now
            held = f"held because {why_held}, " if is_held else ""
            what = f"{delivery.status}, {held}due {dated(delivery.next_attempt_at, now)}{_own_backoff(delivery, now)}"
    return f"{what}, {attempts}{replays}"


def _own_backoff(delivery: Delivery, now: float) -> str:
    """Return when the delivery's own backoff ends if the gate sends it earlier; earlier failures do not count."""
    until = delivery.backoff_until
    if until is None or until <= max(now, delivery.next_attempt_at or now):
        return ""
    return f", own backoff until {rfc3339(until)}"


def next_step(attempt: Attempt, delivery: Delivery, *, is_last: bool) -> str | None:
    """Describe what was decided after an attempt; None if it delivered."""
    asked = "" if attempt.retry_after is None else f" (Retry-After: {attempt.retry_after:g} s)"
    match attempt.decision:
        case "retry" if attempt.delay is None:
            return "retry"
        case "retry":
            return f"retry in {attempt.delay:.2f} s{asked}"
        case "park" if attempt.next_attempt_at is not None:
            return f"parked until {rfc3339(attempt.next_attempt_at)}{asked}"
        case "give_up":
            # The store keeps the reason of the current round only.
            return f"gave up: {delivery.reason}" if is_last and delivery.reason else "gave up"
        case other:
            return other


def dated(moment: float | None, now: float) -> str:
    """Return a time with its age."""
    return "never" if moment is None else f"{rfc3339(moment)} ({ago(now - moment)})"


def laid_out(body: bytes) -> str:
    """Return JSON on several lines, or as it is if parsing would change it."""
    data = json.loads(body)
    try:
        exact = encode_data(data) == body
    except InvalidEvent:
        exact = False
    return json.dumps(data, indent=2, ensure_ascii=False) if exact else body.decode()
