from dataclasses import replace
from itertools import pairwise

import pytest

from resonant.gate.answers import Answer
from resonant.store.shared.gates import Gate
from support.gate_processes import BUSY, DELIVERED, REFUSED, Process, Row


@pytest.fixture
def row():
    return Row()


@pytest.fixture
def process(row):
    return Process(row)


def test_a_normal_gate_lets_everything_through_and_writes_nothing(row, process):
    for n in range(100):
        assert process.send(DELIVERED, n / 10)
    assert process.gate.room(10, 0) is None
    assert not process.gate.governs(10)
    assert row.gate == Gate("api")


def test_failures_in_a_row_make_an_endpoint_probing(row, process):
    for n in range(30):
        process.send(DELIVERED, 100 + n / 10)
    process.fail(103, times=19)
    assert row.gate.state == "normal"
    process.fail(103, times=1)
    assert (row.gate.state, row.gate.failing_since, row.gate.reason) == (
        "probing",
        103,
        "20 failures in a row",
    )
    assert row.gate.pace == pytest.approx(10, rel=0.2)
    assert process.gate.room(103, 0) == 0
    assert process.gate.wait(103, 0) is None


def test_no_outage_is_declared_while_another_process_delivers(row, process):
    row.last_delivered = 101.5
    process.fail(101, times=40)
    assert row.gate.state == "normal"


def test_a_delivery_recorded_after_the_first_failure_puts_an_outage_off_for_a_moment_only(row, process):
    row.last_delivered = 101.05
    process.fail(101)
    assert row.gate.state == "normal"
    for n in range(1, 50):
        process.fail(101 + n / 10, times=1)
    assert row.gate.state == "probing"
    assert row.gate.since < 105


def test_one_probe_at_a_time_is_let_through(row, process):
    process.fail(100)
    assert not process.look(100.5)
    assert process.look(101.2)
    assert process.send(REFUSED, 101.2)
    assert not process.send(REFUSED, 101.2)
    assert not process.look(101.3)


def test_probes_come_each_time_the_outage_has_grown_by_a_tenth_but_two_minutes_apart_at_most(row, process):
    process.fail(0)
    times = []
    for n in range(4 * 3600):
        if process.look(n / 4):
            times.append(n / 4)
            process.send(REFUSED, n / 4)
    gaps = [after - before for before, after in pairwise(times)]
    assert 0.75 <= min(gaps) <= 1.5
    assert 105 <= max(gaps) <= 135
    assert len(times) < 90
    assert all(gap <= max(1.5, 0.14 * time) for gap, time in zip(gaps, times, strict=False))


def test_the_type_of_a_probe_may_be_added_when_it_is_reserved(row, process):
    process.fail(100)
    change = process.gate.probe(102)
    row.write(replace(change, after=replace(change.after, probed_type="order.created")))
    process.gate.see(row.gate)
    assert process.send(REFUSED, 102)


def test_a_probe_that_works_is_remembered_where_another_change_came_first(row, process):
    process.fail(100)
    process.look(102)
    sent = process.gate.sent(102)
    change = process.gate.answered(sent, DELIVERED, 102, 0)
    row.gate = replace(row.gate, epoch=row.gate.epoch + 1, probe_at=200)
    assert not process.write(change)
    process.look(102.25)
    assert row.gate.state == "paced"


def test_a_probe_that_works_starts_a_pace_of_one_per_second_that_doubles(row, process):
    process.fail(100)
    process.look(102)
    assert process.send(DELIVERED, 102)
    assert (row.gate.state, row.gate.pilot, row.gate.pace) == ("paced", "one", 1.0)
    sent = []
    for now in (n / 20 for n in range(102 * 20, 108 * 20)):
        process.look(now)
        if process.send(DELIVERED, now):
            sent.append(now)
    by_second = [sum(int(each) == second for each in sent) for second in range(102, 108)]
    assert by_second[0] <= 1
    assert 12 <= by_second[-1] <= 20


def test_a_pace_that_holds_nothing_back_makes_the_endpoint_normal(row, process):
    process.fail(100)
    process.look(102)
    process.send(DELIVERED, 102)
    for n in range(102 * 4, 114 * 4):
        process.look(n / 4)
    assert row.gate.state == "normal"
    assert process.gate.room(114, 0) is None


def test_only_the_pilot_sends_while_paced(row, process):
    other = Process(row, "two")
    process.fail(100)
    process.look(102)
    process.send(DELIVERED, 102)
    other.look(102.1)
    assert other.gate.room(102.1, 0) == 0
    assert other.gate.wait(102.1, 0) is None


def test_another_process_takes_the_place_of_a_pilot_that_died_at_half_its_pace(row, process):
    other = Process(row, "two")
    process.fail(100)
    process.look(102)
    process.send(DELIVERED, 102)
    row.gate = replace(row.gate, pace=50.0, epoch=row.gate.epoch + 1)
    other.look(104)
    assert row.gate.pilot == "one"
    other.look(105.5)
    assert (row.gate.pilot, row.gate.pace) == ("two", 25.0)


def test_a_pilot_that_leaves_gives_its_place_up(row, process):
    other = Process(row, "two")
    process.fail(100)
    process.look(102)
    process.send(DELIVERED, 102)
    process.write(process.gate.leave(102.5))
    assert process.gate.wait(102.5, 0) is None
    other.look(102.6)
    assert row.gate.pilot == "two"


def test_a_pilot_whose_place_has_run_out_sends_nothing_before_it_looked(row, process):
    process.fail(100)
    process.look(102)
    process.send(DELIVERED, 102)
    assert process.gate.wait(106, 0) == 0.25
    process.look(106)
    assert process.gate.wait(106, 0) == 0


def test_many_equal_retry_afters_are_written_once(row, process):
    sent = [process.gate.sent(100) for _ in range(5)]
    for n, each in enumerate(sent):
        process.write(process.gate.answered(each, replace(BUSY, retry_after=30.0), 100 + n / 100, 0))
    assert row.gate.epoch == 1


def test_an_endpoint_that_answers_410_is_paused(row, process):
    process.send(Answer("alive", 0.01, 410, gone=True), 100)
    assert (row.gate.state, row.gate.reason, row.gate.paused_by) == ("paused", "it answered 410", None)
    assert process.gate.wait(100, 0) is None


def test_answers_to_what_was_sent_before_the_state_changed_are_ignored(row, process):
    early = process.gate.sent(100)
    process.fail(100)
    process.write(process.gate.answered(early, DELIVERED, 100.5, 0))
    assert row.gate.state == "probing"


def test_failures_of_our_own_count_for_nothing(row, process):
    process.fail(100, answer=Answer("local", 0.01), times=100)
    assert row.gate.state == "normal"


def test_permanent_answers_show_that_the_endpoint_works(row, process):
    process.fail(100, answer=Answer("alive", 0.01, 422), times=100)
    assert row.gate.state == "normal"


def test_a_repeated_500_of_one_delivery_is_no_outage(row, process):
    for n in range(100):
        process.send(Answer("failed", 0.01, 500, delivery_id=7), 100 + n / 100)
    assert row.gate.state == "normal"


def test_throttling_makes_an_endpoint_paced_at_what_it_takes(row, process):
    for n in range(10):
        process.send(DELIVERED, 100 + n / 20)
    for n in range(4):
        process.send(replace(BUSY, status_code=429), 100.5 + n / 20)
    assert (row.gate.state, row.gate.reason) == ("paced", "it asks to slow down")
    assert row.gate.pace == pytest.approx(10, rel=0.1)


def test_a_process_that_knows_nothing_of_an_endpoint_begins_with_one_send_and_then_a_few(process):
    sent, now = [], 100.0
    assert process.send(DELIVERED, now)
    for in_flight in range(5):
        assert process.gate.wait(now, in_flight) == 0
        sent.append(process.gate.sent(now))
    assert process.gate.wait(now, 5) > 0
    for each in sent:
        process.gate.answered(each, DELIVERED, now + 0.01, 3)
    assert process.gate.wait(now + 0.01, 4) == 0
    assert process.gate.wait(now + 0.4, 50) == 0


def test_an_endpoint_that_is_gone_gets_one_request(row, process):
    sent = process.gate.sent(100.0 + process.gate.wait(100, 0))
    assert process.gate.wait(100, 1) > 0
    process.write(process.gate.answered(sent, Answer("failed", 0.01, 410, gone=True), 100.2, 0))
    assert row.gate.is_gone
    assert process.gate.wait(100.2, 0) is None


def test_it_adds_only_a_few_while_the_first_ones_fail(process):
    process.gate.wait(100, 0)
    for n in range(4):
        process.gate.answered(process.gate.sent(100), replace(REFUSED, delivery_id=n), 100.01, 3 - n)
    assert process.gate.wait(100.1, 0) > 0
    assert process.gate.wait(100.5, 0) == 0
    assert process.gate.wait(100.5, 4) > 0
