"""The verdict of the classifier."""

from __future__ import annotations

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
        retry_after: seconds that the receiver asks to wait; None if it does not ask.
        blame: ``local`` if the fault is not the endpoint's.
        maybe_processed: whether the receiver may have processed the request.
        gone: whether the receiver says that it is gone for good (410).

    Raises:
        ValueError: invalid category, blame or code.
    """

    category: Category
    code: str
    retry_after: float | None = None
    blame: Blame = "endpoint"
    maybe_processed: bool = False
    gone: bool = False

    def __post_init__(self) -> None:
        if self.category not in get_args(Category) or self.blame not in get_args(Blame):
            raise ValueError(f"invalid category or blame: {self.category!r}, {self.blame!r}")
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,40}", self.code):
            raise ValueError(f"a code has lower case letters, digits and _, at most 41: {self.code!r}")
