"""The activity that conditions evaluate, and the alerts, each announced once despite kills."""

from dataclasses import asdict
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resonant.dead_letters.triage import triage
from resonant.delivery.retry import GiveUp
from resonant.metrics.alerts import (
    ALL_ENDPOINTS,
    AlertCondition,
    Crossing,
    Finding,
    Key,
    crossings,
    read_raised,
    record_crossings,
)
from resonant.metrics.conditions import read_activity
from resonant.store import schema
from resonant.store.shared.acknowledgements import acknowledge
from resonant.store.shared.announcements import read_announcements
from resonant.store.views.selection import Selection

HOUR, DAY = 3600.0, 86_400.0
WINDOW = 900.0
NOW = 1_700_000_000.0

numbers = count()


def activity(desk):
    """Read it, and check that it is the same after a fold and a compaction."""
    found = desk.read(read_activity, now=desk.clock(), window=WINDOW)
    for merge in (desk.store.fold, desk.store.compact):
        desk.run(merge())
        again = desk.read(read_activity, now=desk.clock(), window=WINDOW)
        assert again.keys() == found.keys()
        for name, each in again.items():
            for part, counts in asdict(each).items():
                assert counts == pytest.approx(asdict(found[name])[part])
    return found


def send(desk, events, *, seconds=0.1, decision=None):
    """Send so many events, each new, with success where nothing is decided."""
    desk.enqueue(*(f"evt-{next(numbers)}" for _ in range(events)))
    leases = desk.claim()
    desk.begin(*leases)
    if decision is None:
        desk.record(*(desk.delivered(lease, duration=seconds) for lease in leases))
    else:
        desk.record(*(desk.failed(lease, decision, duration=seconds) for lease in leases))


def test_only_recent_attempts_failures_and_retries_are_counted_by_endpoint(desk):
    assert activity(desk) == {}
    send(desk, 3)
    send(desk, 2, decision=desk.park_for(7200))
    desk.clock.advance(WINDOW + 60)
    send(desk, 4)
    send(desk, 3, decision=desk.park_for(7200))
    desk.enqueue("a", endpoint="crm")
    desk.deliver(desk.claim_one(endpoint="crm"))

    found = activity(desk)

    orders = found["orders"]
    assert (orders.window.attempts, orders.window.failed, orders.window.retried) == (7, 3, 3)
    assert (orders.hour.attempts, orders.hour.seconds) == (12, pytest.approx(1.2, rel=1e-3))
    assert found["crm"].window.attempts == 1


def test_lost_attempts_are_not_counted_but_their_dead_letter_is(desk):
    send(desk, 3)
    send(desk, 1, decision=desk.park_for(7200))
    desk.enqueue("evt")
    while desk.status().dead_letter == 0:
        desk.begin(desk.claim_one())
        desk.clock.advance(61)
        desk.rescue()

    found = activity(desk)["orders"]

    assert (found.window.attempts, found.window.failed, found.hour.attempts) == (4, 1, 4)
    assert found.hour.dead_letters == 1


def replay(desk, number):
    return desk.replay(Selection(endpoint="orders"), died_before=desk.clock() + 1, limit=number).leases


def give_up(desk, leases):
    desk.begin(*leases)
    desk.record(*(desk.failed(lease, GiveUp("exhausted")) for lease in leases))


def cancel(desk):
    desk.cancel(endpoint="orders")


def dead_letters(desk):
    return activity(desk)["orders"].hour.dead_letters


def test_a_replayed_dead_letter_is_not_counted_until_it_fails_again(desk):
    send(desk, 2, decision=GiveUp("exhausted"))
    desk.clock.advance(HOUR + 60)
    send(desk, 3, decision=GiveUp("exhausted"))
    assert dead_letters(desk) == 3

    leases = replay(desk, 1)
    assert dead_letters(desk) == 2

    give_up(desk, leases)
    assert dead_letters(desk) == 3


def test_a_cancelled_event_is_no_dead_letter_before_and_after_its_purge(desk):
    send(desk, 3, decision=GiveUp("exhausted"))
    desk.clock.advance(HOUR + 60)
    desk.enqueue(*(f"cancelled-{n}" for n in range(9)))
    cancel(desk)
    assert dead_letters(desk) == 0, "though older ones are there"

    send(desk, 2, decision=GiveUp("exhausted"))
    assert dead_letters(desk) == 2

    desk.purge()
    assert dead_letters(desk) == 0


def test_only_dead_letters_of_causes_that_are_not_acknowledged_are_counted(desk):
    send(desk, 3, decision=GiveUp("exhausted"))
    [group] = desk.read(triage)
    desk.write(acknowledge, group.fingerprint, who="ann", note=None, now=desk.clock())
    send(desk, 2, decision=GiveUp("exhausted"))
    assert dead_letters(desk) == 0

    desk.bury("evt_new", code="http_500")
    assert dead_letters(desk) == 1


def test_a_delivery_that_fails_after_a_cancellation_and_a_replay_is_a_dead_letter(desk):
    desk.enqueue(*(f"cancelled-{n}" for n in range(3)))
    cancel(desk)
    give_up(desk, replay(desk, 3))
    assert dead_letters(desk) == 3


def test_only_the_same_hour_of_the_day_before_is_compared(desk):
    send(desk, 5, seconds=9.0)  # 26 hours before
    desk.clock.advance(1.5 * HOUR)
    send(desk, 4, seconds=0.5)
    desk.clock.advance(1.5 * HOUR)
    send(desk, 6, seconds=9.0)  # 23 hours before
    desk.clock.advance(23 * HOUR)
    send(desk, 2, seconds=1.0)

    found = activity(desk)["orders"]

    assert (found.hour.attempts, found.hour.seconds) == (2, pytest.approx(2.0))
    assert (found.before.attempts, found.before.seconds) == (4, pytest.approx(2.0))


def crossing(what, at, endpoint="orders", condition=AlertCondition.ERROR_RATE):
    return Crossing(what, condition, endpoint, 0.5, 0.25, "in words", at, at - WINDOW)


def announced(desk):
    return [each.event for each in desk.read(read_announcements)]


@pytest.mark.parametrize(
    ("endpoint", "resource", "name"),
    [("orders", "endpoint.orders", "orders"), (ALL_ENDPOINTS, "store", "all endpoints")],
    ids=["one endpoint", "all endpoints"],
)
def test_a_decision_is_stored_with_its_announcement(desk, endpoint, resource, name):
    raised = crossing("raised", 10.0, endpoint=endpoint)

    assert desk.write(record_crossings, [raised]) == [raised]

    assert desk.read(read_raised) == {raised.key: 10.0}
    [event] = announced(desk)
    assert event == {
        "event": "resonant.alert.raised",
        "occurred": "1970-01-01T00:00:10.000Z",
        "resource": {
            "prefect.resource.id": f"resonant.{resource}",
            "prefect.resource.name": name,
            "resonant.condition": "error_rate",
        },
        "payload": raised.facts,
    }


def test_of_two_equal_decisions_the_first_counts_and_an_alert_can_be_raised_again(desk):
    assert desk.write(record_crossings, [crossing("recovered", 1.0)]) == [], "it was never raised"
    assert desk.rows(schema.alerts) == []
    for number, what in enumerate(["raised", "recovered", "raised"], 1):
        decided = crossing(what, 10.0 * number)
        assert desk.write(record_crossings, [decided]) == [decided]
        assert desk.write(record_crossings, [crossing(what, 10.0 * number + 0.5)]) == []
        assert announced(desk)[-1]["payload"] == decided.facts
        assert len(announced(desk)) == number
        raised_at = [decided.at] if what == "raised" else []
        assert list(desk.read(read_raised).values()) == raised_at
    assert len(desk.rows(schema.alerts)) == 1


def test_an_unknown_condition_of_a_newer_version_is_ignored(desk):
    row = {"condition": "of_the_future", "endpoint": "orders", "raised_at": 1.0}
    desk.write(lambda connection: connection.execute(schema.alerts.insert(), row).close())
    assert desk.read(read_raised) == {}


def finding(*, is_bad: bool | None, condition: AlertCondition = AlertCondition.ERROR_RATE) -> Finding:
    return Finding(Key(condition, "hooks"), is_bad, 0.5, 0.25, "in words")


def test_a_crossing_begins_with_the_window_in_which_it_was_first_bad():
    raised_at = NOW - HOUR
    [raised] = crossings([finding(is_bad=True)], {}, WINDOW, raised_at)
    [recovered] = crossings([finding(is_bad=False)], {raised.key: raised_at}, WINDOW, NOW)

    assert (raised.what, raised.at, raised.since) == ("raised", raised_at, raised_at - WINDOW)
    assert (recovered.what, recovered.at, recovered.since) == ("recovered", NOW, raised.since)


# The findings of two conditions, run by run; None if undecided, as for a value a little below its limit.
RUNS = st.lists(
    st.fixed_dictionaries({each: st.sampled_from([True, False, None]) for each in list(AlertCondition)[:2]})
)


@given(RUNS)
def test_each_crossing_is_announced_once_and_raised_and_recovered_alternate(runs):
    raised_at: dict[Key, float] = {}
    announced: dict[AlertCondition, list[str]] = {each: [] for each in AlertCondition}
    for number, run in enumerate(runs):
        found = [finding(is_bad=is_bad, condition=each) for each, is_bad in run.items()]
        for crossing in crossings(found, raised_at, WINDOW, float(number)):
            announced[crossing.condition].append(crossing.what)
            if crossing.what == "raised":
                raised_at[crossing.key] = crossing.at
            else:
                del raised_at[crossing.key]

    for condition, story in announced.items():
        said = [run[condition] for run in runs if run.get(condition) is not None]
        changes = sum(before != after for before, after in zip([False, *said], said, strict=False))
        assert len(story) == changes
        assert story == ["raised", "recovered"] * (changes // 2) + ["raised"] * (changes % 2)
