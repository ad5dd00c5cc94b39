"""The trace in which an event was created: given as extensions, or that of the current OpenTelemetry span."""

import subprocess
import sys
from types import ModuleType

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from resonant import Event

IDS = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"
TRACEPARENT = f"00-{IDS}-01"
MOST_MEMBERS = ",".join(f"k{number}=1" for number in range(32))


def event(**extensions):
    return Event(type="order.paid", source="/orders", data=1, id="evt_1", extensions=extensions)


def trace_of(made):
    return made.traceparent, made.tracestate, made.drops_trace


PARENTS = [TRACEPARENT, f"00-{IDS}-00", f"cc-{IDS}-01", f"cc-{IDS}-01-what.is=next"]
NO_PARENTS = [
    "",
    "00",
    f" {TRACEPARENT}",
    f"{TRACEPARENT}\n",
    f"{TRACEPARENT}-more",
    f"ff-{IDS}-01",
    f"00-{IDS.upper()}-01",
    f"00-{'0' * 32}-b7ad6b7169203331-01",
    f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01",
    f"cc-{IDS}-01-a\r\nx-injected: 1",
    f"cc-{IDS}-01-{'x' * 500}",
    f"cc-{IDS}-01-ä",
    7,
    True,
]
STATES = ["vendor=1", "tenant@vendor=a b!", MOST_MEMBERS, f"a={'x' * 256}"]
# CloudEvents allows no tab in an attribute.
WITH_SPACES = ["1a=2 ,\tb=<>~", " 1a=2,,b=<>~,\t"]
NO_STATES = [
    "",
    ",",
    "vendor",
    "Vendor=1",
    "vendor=",
    "vendor=a=b",
    "vendor=ä",
    "vendor=1\r\nx-injected: 1",
    "vendor=1,vendor=2",
    f"{MOST_MEMBERS},one=more",
    f"a={'x' * 257}",
    f"a={'x' * 250},b={'x' * 250},c={'x' * 250}",
    7,
]
TRACES = [
    *((parent, None, (parent, None, False)) for parent in PARENTS),
    *((parent, "vendor=1", (None, None, True)) for parent in (*NO_PARENTS, None)),
    *((TRACEPARENT, state, (TRACEPARENT, state, False)) for state in STATES),
    *((TRACEPARENT, state, (TRACEPARENT, "1a=2,b=<>~", False)) for state in WITH_SPACES),
    *((TRACEPARENT, state, (TRACEPARENT, None, True)) for state in NO_STATES),
    (None, None, (None, None, False)),
]


@pytest.mark.parametrize(("traceparent", "tracestate", "expected"), TRACES)
def test_a_valid_trace_is_kept_and_an_invalid_traceparent_drops_its_tracestate(
    traceparent, tracestate, expected
):
    assert trace_of(event(traceparent=traceparent, tracestate=tracestate)) == expected


def test_the_trace_is_no_extension_and_not_part_of_the_content():
    with_trace = event(traceparent=TRACEPARENT, tracestate="vendor=1")
    assert with_trace.extensions == {}
    assert with_trace.digest == event().digest


def test_an_event_created_in_a_span_carries_its_trace():
    with TracerProvider().get_tracer("shop").start_as_current_span("place order") as span:
        made = event()
    context = span.get_span_context()
    flags = f"{context.trace_flags:02x}"
    assert made.traceparent == f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags}"
    assert int(flags, 16) & TraceFlags.SAMPLED
    assert (made.tracestate, made.drops_trace) == (None, False)
    assert event().traceparent is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [("1", "vendor=1,other=1"), ("x" * 256, None)],
    ids=["short", "too long for headers"],
)
def test_the_state_of_the_current_trace_is_carried_unless_it_is_too_long(value, expected):
    state = TraceState([("vendor", value), ("other", value)])
    context = SpanContext(0xA, 0xB, is_remote=True, trace_flags=TraceFlags(0), trace_state=state)
    with trace.use_span(NonRecordingSpan(context)):
        made = event()
    assert trace_of(made) == (f"00-{0xA:032x}-{0xB:016x}-00", expected, False)


def test_an_event_can_be_created_while_another_thread_imports_opentelemetry(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", ModuleType("opentelemetry.trace"))
    assert trace_of(event()) == (None, None, False)


def test_a_given_trace_takes_precedence_over_the_current_span():
    with TracerProvider().get_tracer("shop").start_as_current_span("place order") as span:
        assert trace_of(event(traceparent=TRACEPARENT)) == (TRACEPARENT, None, False)
        replaced = event(traceparent="invalid", tracestate="vendor=1")
    assert f"{span.get_span_context().span_id:016x}" in replaced.traceparent
    assert (replaced.tracestate, replaced.drops_trace) == (None, True)


def test_creating_an_event_does_not_import_opentelemetry():
    code = (
        "import sys, resonant; resonant.Event(type='a', source='/b', data=1); "
        "print(sorted(name for name in sys.modules if name.startswith('opentelemetry')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
