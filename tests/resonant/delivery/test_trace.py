"""The span of an attempt, by OpenTelemetry's SDK."""

import asyncio
import logging
from dataclasses import replace

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Sampler
from opentelemetry.trace import SpanKind, StatusCode

from resonant.delivery.retry import GateView
from resonant.delivery.trace import AttemptSpans
from resonant.errors import UnexpectedStatus
from resonant.events import Event
from resonant.sinks.base import Receipt, attempt_trace
from resonant.sinks.endpoint import Endpoint
from resonant.sinks.http import HttpSink
from resonant.sinks.redaction import Redactor
from resonant.testing import FixedClock
from support.attempts import LEASE, START, attempt, attempt_runner, failing, refuse
from support.events import changed
from support.traces import ids, ids_in, install_sdk

CREATED_IN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
EVENT = Event(
    type="order.paid",
    source="/orders",
    data={"order": 42},
    id="evt_1",
    subject="Ada",
    extensions={"traceparent": CREATED_IN, "tracestate": "vendor=1"},
)
FIRST = replace(LEASE, event=EVENT)
LATER = {
    "a retry": {"attempts": 1, "round_attempts": 1},
    "a replay": {"attempts": 3, "round": 2},
    "a replay of a delivery that was never sent": {"round": 2},
    "a first attempt after more than a minute": {"accepted_at": START - 60.1},
}


@pytest.fixture
def sdk(monkeypatch):
    exporter, _ = install_sdk(monkeypatch)
    return exporter


async def succeed(_event):
    return Receipt(202)


async def span_of(sdk, function=succeed, *, lease=FIRST, mode="auto", **options):
    sdk.clear()
    await attempt(function, lease=lease, by=attempt_runner(spans=AttemptSpans(mode)), **options)
    (span,) = sdk.get_finished_spans()
    return span


def is_child(span):
    return span.parent is not None and (span.parent.trace_id, span.parent.span_id) == ids_in(CREATED_IN)


# --- the place in the traces ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("age", [0, 60], ids=["at once", "after a minute"])
async def test_a_first_attempt_is_a_child_of_the_span_in_which_the_event_was_created(sdk, age):
    span = await span_of(sdk, lease=replace(FIRST, accepted_at=START - age))
    assert is_child(span)
    assert span.parent.is_remote
    assert [ids(link) for link in span.links] == [ids_in(CREATED_IN)]
    assert span.context.trace_state.to_header() == "vendor=1"


@pytest.mark.parametrize("changes", LATER.values(), ids=LATER)
async def test_a_later_attempt_begins_a_trace_with_a_link(sdk, changes):
    span = await span_of(sdk, lease=replace(FIRST, **changes))
    assert span.parent is None
    assert span.context.trace_id != ids_in(CREATED_IN)[0]
    assert [ids(link) for link in span.links] == [ids_in(CREATED_IN)]
    assert span.context.trace_state.to_header() == ""


@pytest.mark.parametrize("changes", [{}, *LATER.values()], ids=["a first attempt", *LATER])
@pytest.mark.parametrize(("mode", "becomes_child"), [("link", False), ("parent", True)])
async def test_the_other_modes_treat_all_attempts_alike(sdk, mode, becomes_child, changes):
    span = await span_of(sdk, lease=replace(FIRST, **changes), mode=mode)
    assert (is_child(span), span.parent is None) == (becomes_child, not becomes_child)
    assert [ids(link) for link in span.links] == [ids_in(CREATED_IN)]


async def test_the_mode_off_makes_no_spans(sdk):
    await attempt(succeed, lease=FIRST, by=attempt_runner(spans=AttemptSpans("off")))
    assert sdk.get_finished_spans() == ()


@pytest.mark.parametrize("mode", ["auto", "link", "parent"])
async def test_without_a_trace_of_the_event_an_attempt_begins_one(sdk, mode):
    span = await span_of(sdk, lease=LEASE, mode=mode)
    assert (span.parent, list(span.links)) == (None, [])


@pytest.mark.parametrize("lease", [FIRST, LEASE], ids=["with a trace", "without"])
@pytest.mark.parametrize("mode", ["auto", "link", "parent"])
async def test_a_surrounding_span_is_linked_and_never_the_parent(sdk, monkeypatch, mode, lease):
    tracer = trace.get_tracer_provider().get_tracer("prefect")
    with tracer.start_as_current_span("emit-event"):
        span = await span_of(sdk, lease=lease, mode=mode)
        surrounding = trace.get_current_span().get_span_context()
    assert surrounding.trace_id != span.context.trace_id
    assert ids(span.links[-1]) == (surrounding.trace_id, surrounding.span_id)
    assert len(span.links) == 1 + (lease is FIRST)


# --- attributes -------------------------------------------------------------------------------------------------------


async def test_a_delivery_is_described_by_the_conventions_of_messaging(sdk):
    event = changed(EVENT, webhook_id="evt_hash")
    lease = replace(FIRST, event=event, attempts=4, round=2)
    span = await span_of(sdk, lease=lease, options={"gate": lambda: GateView(state="paced")})
    assert (span.name, span.kind) == ("send orders", SpanKind.CLIENT)
    assert (span.status.status_code, span.status.description) == (StatusCode.UNSET, None)
    assert dict(span.attributes) == {
        "messaging.system": "resonant",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "orders",
        "messaging.message.id": "evt_hash",
        "cloudevents.event_id": "evt_1",
        "cloudevents.event_source": "/orders",
        "cloudevents.event_type": "order.paid",
        "resonant.attempt": 5,
        "resonant.round": 2,
        "resonant.gate": "paced",
        "http.response.status_code": 202,
    }
    assert span.instrumentation_scope.name == "resonant"
    assert span.instrumentation_scope.version


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (UnexpectedStatus(503), ("transient", "http_503", "retry", 503)),
        (UnexpectedStatus(503, "120"), ("transient", "http_503", "park", 503)),
        (UnexpectedStatus(400), ("permanent", "http_400", "give_up", 400)),
        (ConnectionRefusedError("nobody listens"), ("transient", "connect_refused", "retry", None)),
    ],
    ids=str,
)
async def test_a_failure_is_described_with_its_verdict_and_decision(sdk, failure, expected):
    span = await span_of(sdk, failing(failure))
    names = ("resonant.category", "resonant.code", "resonant.decision", "http.response.status_code")
    assert tuple(span.attributes.get(name) for name in names) == expected
    assert span.attributes["error.type"] == expected[1]
    assert span.status.status_code == StatusCode.ERROR
    assert span.status.description == f"{type(failure).__name__}: {failure}"
    assert list(span.events) == [], "a stack trace may contain secrets"


async def test_no_span_contains_a_secret(sdk):
    secret = "s3cret-t0ken-in-the-path"
    endpoint = Endpoint(
        "orders",
        f"http://user:{secret}@127.0.0.1:9/hooks/{secret}?key={secret}",
        headers={"X-Key": secret},
        allow_private=True,
    )
    async with HttpSink(endpoint) as sink:
        span = await span_of(sdk, sink.send, describe=Redactor.of(endpoint).message)
    assert span.attributes["error.type"] == "connect_refused"
    assert "127.0.0.1" not in str(dict(span.attributes))
    assert secret not in span.to_json()

    described = failing(RuntimeError(f"the key {secret} is old"))
    span = await span_of(sdk, described, describe=Redactor([secret]).message)
    assert span.status.description == "RuntimeError: the key *** is old"
    assert secret not in span.to_json()


async def test_the_subject_and_the_data_are_in_no_span(sdk):
    span = await span_of(sdk)
    assert "Ada" not in span.to_json()
    assert "42" not in str(dict(span.attributes))


async def test_an_interrupted_attempt_ends_its_span(sdk):
    sending = asyncio.Event()

    async def hang(_event):
        sending.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(attempt(hang, lease=FIRST))
    await sending.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (span,) = sdk.get_finished_spans()
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "interrupted")
    assert span.attributes["error.type"] == "CancelledError"


# --- headers ----------------------------------------------------------------------------------------------------------


async def test_the_sink_sends_the_trace_of_its_own_attempt_even_among_concurrent_ones(sdk):
    sent = {}
    both = asyncio.Barrier(2)

    async def send(event):
        await both.wait()
        current = trace.get_current_span().get_span_context()
        sent[event.id] = attempt_trace.get(), (current.trace_id, current.span_id)
        await both.wait()

    other = Event(type="order.paid", source="/orders", data=1, id="evt_2")
    await asyncio.gather(
        attempt(send, lease=FIRST), attempt(send, lease=replace(LEASE, event=other, attempts=1))
    )
    spans = {span.attributes["cloudevents.event_id"]: span for span in sdk.get_finished_spans()}
    for event_id, (headers, current) in sent.items():
        assert ids_in(headers.traceparent) == current == ids(spans[event_id])
    assert (sent["evt_1"][0].tracestate, sent["evt_2"][0].tracestate) == ("vendor=1", None)
    assert attempt_trace.get() is None


async def test_nothing_of_the_attempt_is_left_after_it(sdk):
    surrounding = trace.get_current_span()
    for function in (succeed, refuse):
        await attempt(function, lease=FIRST)
        assert attempt_trace.get() is None
        assert trace.get_current_span() is surrounding


async def test_a_span_that_is_not_recorded_is_not_sent(monkeypatch):
    exporter, _ = install_sdk(monkeypatch, sampler=ALWAYS_OFF)
    assert await seen_by_the_sink() == (None, False)
    assert exporter.get_finished_spans() == ()


@pytest.mark.parametrize("is_installed", [False, True], ids=["without an SDK", "a disabled SDK"])
async def test_no_span_and_no_object_for_it_is_made(monkeypatch, is_installed):
    if is_installed:
        monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
        exporter, _ = install_sdk(monkeypatch)
    assert await seen_by_the_sink() == (None, False)
    spans = AttemptSpans()
    made = [spans.of(FIRST, started_at=START, gate=GateView) for _ in range(2)]
    assert made[0] is made[1]
    assert not (is_installed and exporter.get_finished_spans())


async def test_an_sdk_may_be_installed_during_a_run(monkeypatch):
    runner = attempt_runner()
    await attempt(succeed, by=runner)
    exporter, _ = install_sdk(monkeypatch)
    await attempt(succeed, by=runner)
    assert len(exporter.get_finished_spans()) == 1


async def seen_by_the_sink():
    """Return the trace that a sink would send, and whether the current span is recorded."""
    seen = []

    async def look(_event):
        seen.append((attempt_trace.get(), trace.get_current_span().is_recording()))

    await attempt(look, lease=FIRST)
    return seen[0]


# --- failures of tracing ----------------------------------------------------------------------------------------------


class Broken(Sampler, SpanProcessor, SpanExporter):
    """Fails in one of its methods."""

    def __init__(self, method):
        self.method = method

    def __getattribute__(self, name):
        if name == object.__getattribute__(self, "method"):
            raise RuntimeError("the exporter's header is s3cret")
        return object.__getattribute__(self, name)

    def get_description(self):
        return "broken"

    def should_sample(self, *args, **options):
        raise NotImplementedError


@pytest.mark.parametrize("method", ["should_sample", "on_start", "on_end", "export"])
async def test_a_failure_of_tracing_harms_no_delivery(monkeypatch, caplog, method):
    broken = Broken(method)
    _, provider = install_sdk(monkeypatch, **({"sampler": broken} if method == "should_sample" else {}))
    if method == "export":
        provider.add_span_processor(SimpleSpanProcessor(broken))
    elif method != "should_sample":
        provider.add_span_processor(broken)
    caplog.set_level(logging.WARNING, "resonant")
    runner = attempt_runner(clock=FixedClock(START))
    for _ in range(3):
        assert (await attempt(succeed, by=runner, lease=FIRST)).attempt.status_code == 202
        assert (await attempt(refuse, by=runner, lease=FIRST)).attempt.code == "http_503"
    assert attempt_trace.get() is None
    assert not trace.get_current_span().is_recording()
    warnings = [record.getMessage() for record in caplog.records if record.name.startswith("resonant")]
    # The SDK itself logs what an exporter raises.
    said = "traces may be incomplete: OpenTelemetry raised RuntimeError"
    assert warnings == ([] if method == "export" else [said])


async def test_an_sdk_that_cannot_be_loaded_harms_no_delivery(monkeypatch, caplog):
    monkeypatch.setenv("OTEL_PYTHON_TRACER_PROVIDER", "nonsense")
    runner = attempt_runner()
    for _ in range(2):
        assert (await attempt(succeed, by=runner, lease=FIRST)).attempt.status_code == 202
    assert [each.levelname for each in caplog.records if each.name.startswith("resonant")] == ["WARNING"]
