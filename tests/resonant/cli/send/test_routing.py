"""Events without an endpoint: the subscriptions decide who gets them."""

import json

import pytest

from resonant.routing import new_subscription
from resonant.store.shared.subscriptions import add_subscription, remove_subscriptions_of
from support.receivers import started_receiver


def line(event_id, event_type="order.paid", **fields):
    return json.dumps({"id": event_id, "type": event_type, "source": "/shop", **fields})


@pytest.fixture
def subscribe(worker):
    """Subscribe an endpoint to types."""

    def run(endpoint, *types):
        wanted = new_subscription(endpoint, {"types": types})
        worker.do(lambda store: store.write(add_subscription, wanted, who="a test", now=store.clock()))

    return run


@pytest.fixture
def subscribed(subscribe):
    """The endpoint shop wants orders and invoices, and crm users and invoices."""
    subscribe("shop", "order.*", "invoice.*")
    subscribe("shop", "*.paid")
    subscribe("crm", "user.*", "invoice.*")


def stored_for(worker, endpoint):
    return sorted(lease.event.id for lease in worker.claim_all(endpoint))


def test_each_event_goes_to_the_endpoints_that_subscribe(resonant, worker, subscribed, tmp_path):
    lines = [line("e1"), line("e2", "user.made"), line("e3", "invoice.paid"), line("e4", "order.sent")]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    answer = resonant("enqueue", "a.jsonl")
    assert (answer.out, answer.err) == ("stored 4 events: 3 for shop, 2 for crm\n", "")
    assert stored_for(worker, "shop") == ["e1", "e3", "e4"]
    assert stored_for(worker, "crm") == ["e2", "e3"]


def test_a_repeat_keeps_its_endpoints_whatever_the_subscriptions_are_now(
    resonant, worker, subscribed, subscribe, tmp_path
):
    (tmp_path / "a.jsonl").write_text(line("e1"))
    resonant("enqueue", "a.jsonl")
    worker.do(lambda store: store.write(remove_subscriptions_of, "shop", who="a test", now=1.0))
    subscribe("audit")
    (tmp_path / "a.jsonl").write_text(f"{line('e1')}\n{line('e2')}")
    assert resonant("enqueue", "a.jsonl").out == "stored 1 event: 1 for audit, 1 already known\n"
    assert stored_for(worker, "shop") == ["e1"]
    assert stored_for(worker, "audit") == ["e2"]


def test_an_event_without_a_subscriber_is_reported_with_its_place(resonant, worker, subscribed, tmp_path):
    (tmp_path / "a.jsonl").write_text(f"{line('e1')}\n{line('e2', 'stock.low')}\n{{\n")
    answer = resonant("enqueue", "a.jsonl", code=1)
    assert answer.out == "stored 1 event: 1 for shop; 1 had no subscriber; 1 bad line\n"
    bad, unrouted = answer.err.splitlines()
    assert bad.startswith("a.jsonl:3: not JSON: ")
    assert unrouted == (
        "a.jsonl:2: no subscription wants type 'stock.low' of source '/shop' (id 'e2'): "
        "`resonant subscription add ENDPOINT stock.low` adds one; --allow-unrouted skips it"
    )
    assert resonant.json("status")["accepted"] == 1


def test_unrouted_events_can_be_allowed_and_are_counted(resonant, subscribed, tmp_path):
    (tmp_path / "a.jsonl").write_text(f"{line('e1', 'invoice.made')}\n{line('e2', 'stock.low')}\n")
    answer = resonant("enqueue", "a.jsonl", "--allow-unrouted", "--json")
    assert answer.err == ""
    assert json.loads(answer.out) == {
        "stored": 1,
        "known": 0,
        "erased": 0,
        "bad": 0,
        "dropped_traces": 0,
        "unrouted": 1,
        "by_endpoint": {"crm": 1, "shop": 1},
    }


def test_strict_stores_nothing_if_an_event_has_no_subscriber(resonant, worker, subscribed, tmp_path):
    (tmp_path / "a.jsonl").write_text(f"{line('e1')}\n{line('e2', 'stock.low')}\n")
    answer = resonant("enqueue", "a.jsonl", "--strict", code=1)
    assert answer.out == "stored 0 events; 1 had no subscriber\n"
    assert resonant.json("status")["accepted"] == 0
    assert resonant("enqueue", "a.jsonl", "--strict", "--allow-unrouted").out == (
        "stored 1 event: 1 for shop; 1 had no subscriber: `resonant subscription add ENDPOINT stock.low` adds one\n"
    )


def test_a_named_endpoint_needs_no_subscription(resonant, worker, subscribed, tmp_path):
    (tmp_path / "a.jsonl").write_text(line("e1", "stock.low"))
    assert resonant("enqueue", "a.jsonl", "--endpoint", "crm", "--allow-unknown").out == (
        "stored 1 event for crm\n"
    )


def test_without_subscriptions_unrouted_events_can_be_allowed(resonant, tmp_path):
    lines = [line("e1", "low\u202e stock"), "{", line("e2", "stock.low")]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert resonant("enqueue", "a.jsonl", "--allow-unrouted", code=1).out == (
        "stored 0 events; 2 had no subscriber: "
        r"`resonant subscription add ENDPOINT 'low\u202e stock'` adds one for the first; 1 bad line"
        "\n"
    )


@pytest.mark.engine
def test_emit_sends_to_the_endpoints_that_subscribe(resonant, worker, subscribe, webhook, tmp_path):
    with started_receiver(tmp_path / "receiver", "resonant.testing:always_ok") as receiver:
        for name in ("routed-crm", "routed-shop"):
            webhook(name, receiver.url, allow_private=True)
        subscribe("routed-crm", "invoice.*")
        subscribe("routed-shop")
        subscribe("not-configured", "user.*")
        (tmp_path / "a.jsonl").write_text(f"{line('e1')}\n{line('e2', 'invoice.paid')}\n")
        answer = resonant.on_prefect("emit", "a.jsonl")
        assert answer.err.splitlines()[0] == "stored 2 events: 2 for routed-shop, 1 for routed-crm"
        assert answer.out.startswith("3 delivered")

        (tmp_path / "a.jsonl").write_text(line("e3", "user.made"))
        answer = resonant.on_prefect("emit", "a.jsonl", "--json", code=1)
        assert "deliveries to not-configured wait: no endpoint is named 'not-configured'" in answer.err
        found = json.loads(answer.out)
        assert found["by_endpoint"] == {"not-configured": 1, "routed-shop": 1}
        assert (found["stored"], found["delivered"], found["held"]) == (1, 1, 1)
