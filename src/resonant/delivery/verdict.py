"""The verdict of the classifier."""

import re
from dataclasses import dataclass
from typing import get_args

from resonant.events import Blame, Category


@dataclass(frozen=True, slots=True)
class Verdict:
    """The classifier's verdict on a failure.

    Attributes:
        category: ``transient`` is retried, ``permanent`` is not, ``unknown`` is retried a few times.
        code: a short label from a bounded set, for metrics: ``http_503``, ``connect_refused``, ...
        retry_after: the receiver's Retry-After, in seconds; None without one.
        blame: ``endpoint``, or ``local`` if the fault is on the sender's side.
        maybe_processed: whether the receiver may have processed the request.
        free_wait: for a failure that is not counted in ``max_attempts``: the time until the next attempt, in seconds. None: it
            is counted.
        gone: whether the receiver answered that it is permanently gone (410).

    Raises:
        ValueError: invalid category, blame or code.
    """

    category: Category
    code: str
    retry_after: float | None = None
    blame: Blame = "endpoint"
    maybe_processed: bool = False
    free_wait: float | None = None
    gone: bool = False

    def __post_init__(self) -> None:
        if self.category not in get_args(Category) or self.blame not in get_args(Blame):
            raise ValueError(f"invalid category or blame: {self.category!r}, {self.blame!r}")
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,40}", self.code):
            raise ValueError(f"invalid code {self.code!r}: use lower case letters, digits and _, at most 41")
