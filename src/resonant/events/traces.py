"""The trace in which an event was created (W3C Trace Context), as its attributes ``traceparent`` and ``tracestate``."""

import re
import sys
from typing import Any, NamedTuple

_IDS = "-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
# Versions after 00 may append more. Both values are sent as headers.
_TRACEPARENT = re.compile(f"00{_IDS}|(?!00|ff)[0-9a-f]{{2}}{_IDS}(-[!-~]*)?")
_KEY, _VALUE = r"[a-z0-9][a-z0-9_*/@-]{0,255}", r"[ -+\--<>-~]{0,255}[!-+\--<>-~]"
_MEMBER = re.compile(f"({_KEY})={_VALUE}")
_MOST_MEMBERS = 32
_MOST_CHARACTERS = 512


class EventTrace(NamedTuple):
    """The trace of an event; ``drops`` says that a given value was invalid."""

    traceparent: str | None
    tracestate: str | None
    drops: bool = False


def trace_of_event(traceparent: Any = None, tracestate: Any = None) -> EventTrace:
    """Return the given trace if it is valid, else that of the current OpenTelemetry span, if there is one.

    An invalid ``tracestate`` is dropped alone; without a valid ``traceparent`` it means nothing.
    """
    if traceparent is None and tracestate is None:
        return _current_trace()
    if not _is_traceparent(traceparent):
        return _current_trace()._replace(drops=True)
    state = _valid_tracestate(tracestate)
    return EventTrace(traceparent, state, drops=state is None and tracestate is not None)


def _current_trace() -> EventTrace:
    """Return the trace of the current span. If OpenTelemetry is not imported, there is none, and this costs nothing."""
    # Another thread may be importing it, so the function may be missing.
    current_span = getattr(sys.modules.get("opentelemetry.trace"), "get_current_span", None)
    if current_span is None:
        return _NO_TRACE
    context = current_span().get_span_context()
    if not context.is_valid:
        return _NO_TRACE
    traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    # It may come from a client of this program, and be too long for the headers of a receiver.
    return EventTrace(traceparent, _valid_tracestate(context.trace_state.to_header()))


def _is_traceparent(value: Any) -> bool:
    is_short = isinstance(value, str) and len(value) <= _MOST_CHARACTERS
    return is_short and _TRACEPARENT.fullmatch(value) is not None


def _valid_tracestate(value: Any) -> str | None:
    """Return the members without the white space between them, which may be tabs; None if the value is not valid."""
    if not isinstance(value, str) or len(value) > _MOST_CHARACTERS:
        return None
    members = [member for each in value.split(",") if (member := each.strip(" \t"))]
    keys = {found[1] for member in members if (found := _MEMBER.fullmatch(member))}
    is_valid = 0 < len(keys) == len(members) <= _MOST_MEMBERS
    return ",".join(members) if is_valid else None


_NO_TRACE = EventTrace(None, None)
