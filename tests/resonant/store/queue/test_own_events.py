"""The system's own events are stored with the change that they report, if a subscription matches, and cause no others."""

import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from resonant.dead_letters.archive import read_archive
from resonant.delivery.retry import GiveUp
from resonant.errors import InvalidEvent
from resonant.events import Event, rfc3339
from resonant.gate.pausing import pause, resume
from resonant.metrics.alerts import AlertCondition, Crossing, record_crossings
from resonant.store import schema
from resonant.store.queue.accept import accept
from resonant.store.queue.expiry import expire
from resonant.store.queue.gate_changes import change_and_report
from resonant.store.queue.rescue import LOST_LEASES_BEFORE_GIVING_UP
from resonant.store.shared.gates import (
    KEPT_SECONDS,
    MOST_FAILING,
    FailingType,
    Gate,
    GateChange,
    read_gate,
)
from support.examples import examples
from support.sqlite import on_sqlite
from support.subscriptions import subscribe

START = 1_700_000_000.0


class Chat:
    """What the endpoint ``chat`` has to be sent."""

    def __init__(self, desk) -> None:
        self.desk = desk

    def events(self) -> list[Event]:
        leases = self.desk.claim(endpoint="chat", owner="chat")
        self.desk.deliver(*leases)
        assert self.desk.status().balanced
        return [lease.event for lease in leases]

    def bodies(self, *names: str) -> list[tuple[object, ...]]:
        """Return these parts of the data of each event."""
        return [tuple(json.loads(each.body)[name] for name in names) for each in self.events()]

    def received(self) -> list[tuple[str, str | None]]:
        return [(each.type, each.subject) for each in self.events()]


@pytest.fixture
def chat(desk):
    """An endpoint that subscribes to all own events."""
    subscribe(desk, "chat", "resonant.*")
    return Chat(desk)


def turn(desk, state, *, endpoint="orders", **fields):
    """Change a gate as a drain does."""
    before = desk.read(read_gate, endpoint)
    after = replace(Gate(endpoint, state, since=desk.clock()), **fields)
    assert desk.write(change_and_report, GateChange(before, after), now=desk.clock())


# --- endpoints ---------------------------------------------------------------------------------------------------


def test_a_410_that_pauses_an_endpoint_is_one_event(desk, chat):
    turn(desk, "paused", reason="it answered 410")

    [event] = chat.events()

    assert (event.type, event.source, event.subject) == ("resonant.endpoint.paused", "/resonant", "orders")
    assert event.time == rfc3339(START)
    assert json.loads(event.body) == {
        "endpoint": "orders",
        "state": "paused",
        "before": "normal",
        "since": rfc3339(START),
        "failing_since": None,
        "reason": "it answered 410",
        "pace": None,
        "paused_by": None,
    }


def test_an_outage_is_reported_once_and_its_end_when_the_endpoint_is_normal_again(desk, chat):
    turn(desk, "probing", failing_since=START)
    turn(desk, "paced", failing_since=START, pace=1.0)
    turn(desk, "probing", failing_since=START)  # a relapse
    turn(desk, "paced", failing_since=START, pace=1.0)
    assert chat.received() == [("resonant.endpoint.failing", "orders")]

    turn(desk, "normal")
    assert chat.received() == [("resonant.endpoint.recovered", "orders")]

    turn(desk, "paced", pace=5.0)  # it limits the rate, and is not down
    turn(desk, "normal")
    assert chat.received() == []


def test_a_paused_endpoint_has_recovered_when_it_is_resumed_and_a_gone_one_when_it_works(desk, chat):
    desk.run(pause(desk.store, "orders", who="ann", reason="maintenance"))
    assert chat.bodies("state", "paused_by", "reason") == [("paused", "ann", "maintenance")]
    desk.run(resume(desk.store, "orders", who="ann"))
    assert chat.received() == [("resonant.endpoint.recovered", "orders")]

    turn(desk, "paused", reason="it answered 410")
    desk.run(pause(desk.store, "orders", who="ann"))  # replaces the other pause
    turn(desk, "paused", reason="it answered 410")
    desk.run(resume(desk.store, "orders", who="ann"))
    assert desk.read(read_gate, "orders").state == "probing"
    assert chat.received() == [("resonant.endpoint.paused", "orders")]

    turn(desk, "paced", failing_since=START, pace=1.0)
    turn(desk, "normal")
    assert chat.received() == [("resonant.endpoint.recovered", "orders")]


def fails(desk, *types):
    """Change the gate as a drain does: these types failed just now."""
    now = desk.clock()
    turn(
        desk,
        "normal",
        failing=tuple(FailingType(each, now - 5, "http 500", now + 120, now) for each in types),
    )


def reported(chat) -> list[tuple[str, str]]:
    """Return what each event says of which type, in order."""
    found = [(each.type.rpartition(".")[2], json.loads(each.body)["event_type"]) for each in chat.events()]
    return sorted(found)


def test_a_type_that_fails_and_recovers_is_reported_once_each(desk, chat):
    fails(desk, "order.paid")
    [event] = chat.events()
    assert (event.type, event.subject) == ("resonant.endpoint.failing", "orders")
    assert event.extensions == {"eventtype": "order.paid"}
    facts = json.loads(event.body)
    names = ("endpoint", "state", "event_type", "failing_since", "reason")
    assert [facts[each] for each in names] == [
        "orders",
        "normal",
        "order.paid",
        rfc3339(START - 5),
        "http 500",
    ]

    fails(desk, "order.paid")
    assert reported(chat) == []

    fails(desk)
    assert reported(chat) == [("recovered", "order.paid")]


def test_types_that_fail_and_types_that_recover_in_one_change_are_all_reported(desk, chat):
    fails(desk, "a", "b")
    assert reported(chat) == [("failing", "a"), ("failing", "b")]

    fails(desk, "c", "d")

    assert reported(chat) == [
        ("failing", "c"),
        ("failing", "d"),
        ("recovered", "a"),
        ("recovered", "b"),
    ]


def test_a_type_that_is_forgotten_after_an_hour_has_not_recovered(desk, chat):
    fails(desk, "a", "b")
    chat.events()
    desk.clock.advance(KEPT_SECONDS)

    fails(desk, "c")

    assert reported(chat) == [("failing", "c")]


def test_a_type_that_a_full_gate_forgets_for_another_has_not_recovered(desk, chat):
    types = [f"t{number:02}" for number in range(MOST_FAILING)]
    fails(desk, *types)
    assert reported(chat) == [("failing", each) for each in types]

    fails(desk, *types[1:], "new")
    assert reported(chat) == [("failing", "new")]

    fails(desk, *types[1:])
    assert reported(chat) == [("recovered", "new")]


def test_an_endpoint_gets_no_event_about_itself(desk, chat):
    subscribe(desk, "audit", "resonant.*")
    turn(desk, "paused", endpoint="chat")
    turn(desk, "paused", endpoint="orders")

    assert chat.received() == [("resonant.endpoint.paused", "orders")]
    found = [lease.event.subject for lease in desk.claim(endpoint="audit")]
    assert sorted(found) == ["chat", "orders"]


# --- dead letters ------------------------------------------------------------------------------------------------


def test_a_dead_letter_is_an_event_without_its_data(desk, chat):
    desk.enqueue(desk.make("evt_1", data={"card": "4111"}))
    desk.clock.advance(2)
    desk.fail(desk.claim_one(), GiveUp("exhausted"))

    [event] = chat.events()

    assert (event.type, event.subject) == ("resonant.delivery.dead", "orders")
    assert json.loads(event.body) == {
        "event_id": "evt_1",
        "event_type": "order.paid",
        "source": "/shop",
        "endpoint": "orders",
        "reason": "exhausted",
        "category": "transient",
        "code": "http_503",
        "error_type": "UnexpectedStatus",
        "error": "the endpoint answered 503",
        "status_code": 503,
        "attempts": 1,
        "replays": 0,
        "accepted_at": rfc3339(START),
        "dead_at": rfc3339(START + 2),
    }
    assert event.extensions == {"category": "transient", "code": "http_503", "reason": "exhausted"}


@on_sqlite
def test_subscriptions_filter_by_endpoint_reason_category_and_code_and_others_store_nothing(desk):
    subscribe(desk, "shop", "*")
    subscribe(desk, "chat", "resonant.delivery.dead", filters=[{"exact": {"category": "permanent"}}])
    conditions = [{"exact": {"subject": "billing"}}, {"prefix": {"code": "http_4"}}]
    subscribe(desk, "pager", "resonant.*", filters=conditions)
    desk.bury("evt_1")
    turn(desk, "paused")
    assert [row["id"] for row in desk.rows(schema.events)] == ["evt_1"]
    assert desk.status().accepted == 1

    desk.bury("evt_2", reason="permanent", category="permanent", code="http_400", endpoint="billing")
    for endpoint in ("chat", "pager"):
        [lease] = desk.claim(endpoint=endpoint)
        assert json.loads(lease.event.body)["event_id"] == "evt_2"


def test_every_reason_of_a_dead_letter_is_reported_except_a_cancellation(desk, chat):
    desk.enqueue("evt_cancelled")
    assert desk.cancel() == 1
    assert chat.received() == []

    desk.enqueue("evt_expired")
    desk.write(expire, desk.claim(), now=desk.clock())
    assert chat.bodies("event_id", "reason", "code") == [("evt_expired", "expired", "event_expired")]

    desk.enqueue("evt_crash")
    for _ in range(LOST_LEASES_BEFORE_GIVING_UP):
        desk.begin(desk.claim_one())
        desk.clock.advance(desk.store.lease_seconds + 1)
        desk.rescue()
    expected = ("evt_crash", "/shop", "crashed", LOST_LEASES_BEFORE_GIVING_UP)
    assert chat.bodies("event_id", "source", "reason", "attempts") == [expected]


def test_each_round_that_ends_in_a_dead_letter_is_reported_once(desk, chat):
    desk.enqueue("evt_1")
    lease = desk.claim_one()
    outcome = desk.failed(lease, GiveUp("exhausted"))
    for _ in range(2):  # again after an unconfirmed write
        desk.record(outcome)
    assert len(chat.events()) == 1

    desk.clock.advance(1)
    [lease] = desk.replay().leases
    desk.fail(lease, GiveUp("exhausted"))
    assert chat.bodies("replays") == [(1,)]


def test_a_dead_letter_of_an_own_event_causes_none(desk, chat):
    subscribe(desk, "audit", "resonant.*", "*")
    turn(desk, "paused")

    for endpoint in ("chat", "audit"):
        desk.fail(desk.claim_one(endpoint=endpoint), GiveUp("exhausted"))

    assert desk.claim(endpoint="chat") == desk.claim(endpoint="audit") == []
    assert len(desk.rows(schema.events)) == 1


def test_a_damaged_subscription_undoes_no_outcome_and_no_change_of_a_gate(desk, chat, caplog):
    desk.execute(schema.subscriptions.update().values(types="?"))

    desk.bury("evt_1")
    turn(desk, "paused")

    assert desk.delivery("evt_1").status == "dead_letter"
    assert desk.read(read_gate, "orders").state == "paused"
    assert "no event resonant.delivery.dead is stored: the stored subscription sub_" in caplog.text
    assert desk.status().accepted == 1


def empty(connection) -> None:
    for table in reversed(schema.metadata.sorted_tables):
        connection.execute(delete(table))


@on_sqlite
@given(
    types=st.lists(st.sampled_from(["order.paid", "resonant.endpoint.paused"]), min_size=1, max_size=4),
    wants=st.tuples(*[st.sampled_from([("*", "resonant.*"), ("resonant.delivery.*",)])] * 2),
    turns=st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["paused", "normal"])), max_size=4),
)
@settings(
    max_examples=examples(10),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_two_endpoints_that_fail_and_get_everything_cause_a_bounded_number_of_events(
    desk, types, wants, turns
):
    desk.write(empty)  # much faster than a new database
    for endpoint, globs in zip("ab", wants, strict=True):
        subscribe(desk, endpoint, *globs)
        events = [desk.make(f"evt_{number}", event_type=each) for number, each in enumerate(types)]
        desk.write(accept, [(event, endpoint) for event in events], now=desk.clock())
    for endpoint, state in turns:
        turn(desk, state, endpoint=endpoint)

    for _ in range(5):
        for endpoint in "ab":
            for lease in desk.claim(endpoint=endpoint):
                desk.fail(lease, GiveUp("exhausted"))

    assert desk.claim(endpoint="a") == desk.claim(endpoint="b") == []
    of_producers = [each for each in types if each == "order.paid"]
    assert len(desk.rows(schema.events)) <= len(types) + 2 * len(of_producers) + len(turns)
    assert desk.status().balanced


# --- producers ---------------------------------------------------------------------------------------------------


@on_sqlite
@pytest.mark.parametrize(
    ("event_type", "source"), [("resonant.endpoint.paused", "/resonant/"), ("order.paid", "/resonant")]
)
def test_a_producer_can_neither_forge_nor_anticipate_an_own_event(desk, chat, event_type, source):
    forged = Event(id=f"endpoint-orders-1-{int(START)}000", type=event_type, source=source, data="forged")
    for endpoint in ("orders", None):
        with pytest.raises(InvalidEvent, match="reserved for Resonant's own events"):
            desk.run(desk.store.enqueue([desk.make("evt_1"), forged], endpoint))
    assert desk.status().accepted == 0
    turn(desk, "paused", since=START, epoch=1)
    assert chat.received() == [("resonant.endpoint.paused", "orders")]


@on_sqlite
def test_an_own_event_can_be_stored_again_from_an_archive(desk, chat, tmp_path):
    turn(desk, "paused")
    [lease] = desk.claim(endpoint="chat")
    desk.fail(lease, GiveUp("exhausted"))
    desk.purge(archive=tmp_path / "archive.jsonl")
    [archived] = read_archive(tmp_path / "archive.jsonl")
    desk.enqueue(archived.event, endpoint=archived.endpoint)
    assert chat.received() == [("resonant.endpoint.paused", "orders")]


# --- alerts ------------------------------------------------------------------------------------------------------


def test_an_alert_that_begins_or_ends_is_an_event_once(desk, chat):
    raised = Crossing("raised", AlertCondition.GONE, "orders", 1.0, 0.5, "it answered 410", START, START - 60)
    for _ in range(2):  # the second decision is too late
        desk.write(record_crossings, [raised])

    [event] = chat.events()

    assert (event.type, event.subject) == ("resonant.alert.raised", "orders")
    assert event.extensions == {"condition": "gone"}
    assert json.loads(event.body) == raised.facts


@on_sqlite
def test_an_alert_of_all_endpoints_has_no_subject_and_one_of_an_endpoint_is_not_sent_to_it(desk, chat):
    of_all = Crossing("raised", AlertCondition.RETRIES, "", 0.5, 0.25, "in words", START, START)
    of_chat = replace(of_all, condition=AlertCondition.GONE, endpoint="chat")
    desk.write(record_crossings, [of_all, of_chat])
    assert chat.received() == [("resonant.alert.raised", None)]
