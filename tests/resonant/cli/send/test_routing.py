"""Events without an endpoint: the subscriptions decide who gets them."""

import json

import pytest

from resonant.routing import new_subscription
from resonant.store.shared.subscriptions import add_subscription
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


def test_an_event_goes_to_its_subscribers_and_one_without_is_reported(resonant, worker, subscribed, tmp_path):
    lines = [line("e1"), line("e2", "user.made"), line("e3", "invoice.paid"), line("e4", "stock.low"), "{"]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    answer = resonant("enqueue", "a.jsonl", code=1)
    assert answer.out == "stored 3 events: 2 for shop, 2 for crm; 1 had no subscriber; 1 bad line\n"
    bad, unrouted = answer.err.splitlines()
    assert bad.startswith("a.jsonl:5: not JSON: ")
    assert unrouted == (
        "a.jsonl:4: no subscription wants type 'stock.low' of source '/shop' (id 'e4'): "
        "`resonant subscription add ENDPOINT stock.low` adds one; --allow-unrouted skips it"
    )
    assert stored_for(worker, "shop") == ["e1", "e3"]
    assert stored_for(worker, "crm") == ["e2", "e3"]


def test_strict_stores_nothing_if_an_event_has_no_subscriber_unless_that_is_allowed(
    resonant, subscribed, tmp_path
):
    (tmp_path / "a.jsonl").write_text(f"{line('e1')}\n{line('e2', 'stock.low')}\n")
    strict = ("enqueue", "a.jsonl", "--strict")
    assert resonant(*strict, code=1).out == "stored 0 events; 1 had no subscriber\n"
    assert resonant.json("status")["accepted"] == 0
    remedy = "`resonant subscription add ENDPOINT stock.low` adds one\n"
    allowed = resonant(*strict, "--allow-unrouted")
    assert (allowed.out, allowed.err) == (f"stored 1 event: 1 for shop; 1 had no subscriber: {remedy}", "")
    found = resonant.json(*strict, "--allow-unrouted")
    assert (found["stored"], found["known"], found["unrouted"], found["by_endpoint"]) == (0, 1, 1, {})


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
