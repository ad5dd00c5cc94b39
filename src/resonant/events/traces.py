"""Validates trace contexts (W3C Trace Context)."""

from __future__ import annotations

import re
from typing import Any

_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?", re.ASCII
)


def trace_context(traceparent: Any, tracestate: Any) -> tuple[str | None, str | None]:
    """Return the two values as they are stored; an invalid one is dropped, and ``tracestate`` needs ``traceparent``."""
    if not isinstance(traceparent, str) or not _TRACEPARENT.fullmatch(traceparent):
        return None, None
    return traceparent, tracestate if isinstance(tracestate, str) else None
