"""Describes a failure on one line, with the receiver's answer if there is one."""

import re

from resonant.events import Attempt

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
