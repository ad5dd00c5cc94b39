"""Traces from the producer to the receiver, over a store and HTTP, in both lanes."""

import pytest
from opentelemetry.trace import SpanKind

from resonant.dead_letters.replay import ReplayRequest, take_dead_letters
from resonant.events import Event
from resonant.store.audit import audited
from resonant.store.views.selection import Selection
from support.dispatching import another_worker, http_target, scene
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


async def test_concurrent_sends_do_not_mix_their_traces(tmp_path, lane, sdk, receiver, place_order):
    placed = dict(place_order(f"evt_{number}") for number in range(60))
    async with scene(tmp_path, orders=http_target("orders", receiver.url)) as worker:
        await worker.store.enqueue(placed, "orders")
        await worker.run()
    by_event = {headers["ce-id"]: headers for headers in receiver.received}
    assert len(attempts_of(sdk)) == len(by_event) == 60
    for span, received in attempts_of(sdk):
        headers = by_event[span.attributes["cloudevents.event_id"]]
        assert ids_in(headers["traceparent"]) == ids(span)
        assert ids_in(headers["ce-traceparent"]) == ids_of_parent(span)
        assert received.context.trace_id == span.context.trace_id
    assert {event.traceparent for event in placed} == {
        headers["ce-traceparent"] for headers in receiver.received
    }


async def test_the_next_attempt_after_a_killed_worker_begins_a_trace(
    tmp_path, lane, sdk, receiver, place_order
):
    event, placed = place_order()
    async with scene(tmp_path, orders=http_target("orders", receiver.url)) as worker:
        await worker.store.enqueue(event, "orders")
        async with another_worker(tmp_path, clock=worker.clock) as killed:
            await killed.begin(await killed.claim("orders", owner="killed", limit=1))
        await worker.store.rescue_from(["killed"])
        worker.clock.advance(30)
        await worker.run()
    [(span, received)] = attempts_of(sdk)
    assert (span.attributes["resonant.attempt"], span.parent) == (2, None)
    assert [ids(link) for link in span.links] == [ids(placed)]
    assert received.context.trace_id == span.context.trace_id != ids(placed)[0]


async def test_a_replay_begins_a_trace(tmp_path, lane, sdk, receiver, place_order):
    event, placed = place_order()
    receiver.answers = [400]
    async with scene(tmp_path, orders=http_target("orders", receiver.url)) as worker:
        await worker.store.enqueue(event, "orders")
        await worker.run()
        worker.clock.advance(1)
        request = ReplayRequest(selection=Selection(), everything=True, include_permanent=True)
        async with audited(worker.store, who="me", action="replay", selection={}) as audit_id:
            taken = take_dead_letters(worker.store, request, owner="worker", audit_id=audit_id)
            await worker.dispatcher.emit_given(worker.emit_one, taken)
    (_, first), (span, received) = attempts_of(sdk)
    assert (span.attributes["resonant.attempt"], span.attributes["resonant.round"]) == (2, 2)
    assert span.parent is None
    assert [ids(link) for link in span.links] == [ids(placed)]
    assert received.context.trace_id != first.context.trace_id


async def test_without_an_sdk_the_receiver_gets_the_trace_in_which_the_event_was_created(
    tmp_path, lane, monkeypatch, sdk, receiver, place_order
):
    event, _ = place_order()
    monkeypatch.undo()
    receiver.answers = [503]
    async with scene(tmp_path, orders=http_target("orders", receiver.url)) as worker:
        await worker.store.enqueue(event, "orders")
        await worker.run()
    headers = ("traceparent", "ce-traceparent")
    assert [tuple(map(each.get, headers)) for each in receiver.received] == 2 * [2 * (event.traceparent,)]
