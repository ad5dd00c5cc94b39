"""What the classifier says about a failure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import get_args

from resonant.events import Blame, Category


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the classifier says of a failure.

    Attributes:
        category: ``transient`` is worth a retry, ``permanent`` is not, ``unknown`` is worth a few.
        code: a short label from a bounded set, for metrics: ``http_503``, ``connect_refused``, ...
        retry_after: seconds that the receiver asks to wait, None where it asks for nothing.
        blame: ``local`` is nothing that the endpoint could be charged with.
        maybe_processed: whether the receiver may have acted on the request.
        gone: whether the receiver says that it will never come back (410).

    Raises:
        ValueError: the category, the blame or the code is invalid.
    """

    category: Category
    code: str
    retry_after: float | None = None
    blame: Blame = "endpoint"
    maybe_processed: bool = False
    gone: bool = False

    def __post_init__(self) -> None:
        if self.category not in get_args(Category) or self.blame not in get_args(Blame):
            raise ValueError(f"no such category or blame: {self.category!r}, {self.blame!r}")
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,40}", self.code):
            raise ValueError(f"a code is lower case letters, digits and _, at most 41: {self.code!r}")
