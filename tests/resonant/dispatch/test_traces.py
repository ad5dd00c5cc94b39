"""Traces from the producer to the receiver, over a store and HTTP, in both lanes."""

import pytest
from opentelemetry.trace import SpanKind

from resonant.events import Event
from support.dispatching import http_target, scene
from support.traces import TracedReceiver, ids, ids_in, install_sdk


@pytest.fixture
def sdk(monkeypatch):
    return install_sdk(monkeypatch)


@pytest.fixture
def receiver(sdk):
    with TracedReceiver(sdk[1]) as receiver:
        yield receiver


@pytest.fixture
def place_order(sdk):
    """Create an event in a span of the producer; returns both."""

    def place(event_id="evt_1"):
        with sdk[1].get_tracer("shop").start_as_current_span("place order") as span:
            return Event(type="order.paid", source="/shop", data=1, id=event_id), span

    return place


def attempts_of(sdk):
    """Return the spans of attempts, in order, each with the receiver's span that continues it."""
    spans = sdk[0].get_finished_spans()
    received = {ids_of_parent(span): span for span in spans if span.kind == SpanKind.SERVER}
    attempts = [span for span in spans if span.kind == SpanKind.CLIENT]
    assert received.keys() == {ids(span) for span in attempts}
    return [(span, received[ids(span)]) for span in attempts]


def ids_of_parent(span):
    return span.parent.trace_id, span.parent.span_id


async def test_the_receiver_continues_the_trace_of_each_attempt(tmp_path, lane, sdk, receiver, place_order):
    event, placed = place_order()
    receiver.answers = [503, 503]
    async with scene(tmp_path, orders=http_target("orders", receiver.url)) as worker:
        await worker.store.enqueue(event, "orders")
        await worker.run()
    attempts = attempts_of(sdk)
    assert [span.attributes["resonant.attempt"] for span, _ in attempts] == [1, 2, 3]
    assert [span.attributes["http.response.status_code"] for span, _ in attempts] == [503, 503, 200]
    traces = [span.context.trace_id for span, _ in attempts]
    assert [received.context.trace_id for _, received in attempts] == traces
    assert traces[0] == placed.get_span_context().trace_id
    assert len(set(traces)) == 3
    assert ids_of_parent(attempts[0][0]) == ids(placed)
    assert [[ids(link) for link in span.links] for span, _ in attempts] == 3 * [[ids(placed)]]

    sent = [ids_in(headers["traceparent"]) for headers in receiver.received]
    assert sent == [ids(span) for span, _ in attempts]
    assert {headers["ce-traceparent"] for headers in receiver.received} == {event.traceparent}
