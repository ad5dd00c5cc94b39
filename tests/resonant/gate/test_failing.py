"""Event types that fail while others work: which are held, how they are probed, and when they are freed."""

import random
from dataclasses import replace
from itertools import pairwise

import pytest

from resonant.gate.permission import RELEASE
from support.gate_processes import DELIVERED, failed

GOOD = replace(DELIVERED, event_type="good")
WORKS_AGAIN = replace(DELIVERED, event_type="bad")
HOUR = 3_600.0


def bad(delivery_id=0, status=503, *, event_type="bad", **options):
    """Return the answer to a delivery of a type that fails."""
    return failed(status, delivery_id=delivery_id, event_type=event_type, **options)


def fail_beside_others(process, now, deliveries=5, event_type="bad"):
    """Let deliveries of a type fail, each after ten of another type that worked."""
    for n in range(deliveries):
        for _ in range(10):
            process.answer(GOOD, now)
        process.answer(bad(n, event_type=event_type), now)


def held(row):
    return [each.event_type for each in row.gate.failing]


@pytest.fixture
def holding(process):
    """A process that has found the type `bad` at 100."""
    fail_beside_others(process, 100)
    assert held(process.row) == ["bad"]
    return process


class TestFinding:
    def test_a_type_is_held_after_five_deliveries_that_fail_while_others_work(self, row, process):
        fail_beside_others(process, 100, deliveries=4)
        assert (held(row), process.may_send(100, event_type="bad")) == ([], True)
        process.answer(bad(5, None, code="timeout", duration=15.0), 101)
        [found] = row.gate.failing
        assert (found.event_type, found.since, found.failure) == ("bad", 100, "no answer within 15 s")
        assert found.code == "timeout"
        assert row.gate.state == "normal"
        assert not process.may_send(101, event_type="bad")
        assert process.may_send(101, event_type="good")

    @pytest.mark.parametrize("deliveries", [1, 4])
    def test_deliveries_that_are_retried_many_times_count_once(self, row, process, deliveries):
        for n in range(100):
            process.answer(GOOD, 100 + n / 10)
            process.answer(bad(n % deliveries), 100 + n / 10)
        assert held(row) == []

    def test_a_type_of_which_some_deliveries_work_is_not_held(self, row, process):
        for n in range(400):
            process.answer(GOOD, 100 + n / 10)
            process.answer(bad(n) if n % 5 else WORKS_AGAIN, 100 + n / 10)
        assert row.writes == 0

    def test_a_type_of_which_half_usually_fails_is_held_after_many_more(self, row, process):
        for n in range(100):
            process.answer(GOOD, 100)
            process.answer(bad(n) if n % 2 else WORKS_AGAIN, 100)
        fail_beside_others(process, 101, deliveries=15)
        assert row.writes == 0
        fail_beside_others(process, 102, deliveries=20)
        assert held(row) == ["bad"]

    def test_a_type_whose_failures_may_be_chance_is_not_held(self, row, process):
        for n in range(7):
            for other in range(10):
                is_bad = (other + n) % 10 < 3
                process.answer(replace(bad(n) if is_bad else GOOD, event_type=f"good-{other}"), 100)
            process.answer(bad(n), 100)
        assert row.writes == 0, "three of the ten others fail, so seven failures in a row may be chance"

    def test_no_type_is_held_while_all_fail(self, row, process):
        for n in range(200):
            process.answer(replace(GOOD, event_type="abc"[n % 3]), 100 + n / 20)
        for n in range(100):
            process.answer(bad(n, event_type="abc"[n % 3]), 111 + n / 20)
        assert (row.gate.state, held(row)) == ("probing", [])

    def test_the_only_type_of_an_endpoint_is_never_held(self, row, process):
        for n in range(200):
            process.answer(WORKS_AGAIN, 100 + n / 20)
        process.fail(111, bad(), times=100)
        assert (row.gate.state, held(row)) == ("probing", [])

    def test_others_must_have_worked_within_ten_seconds(self, row, process):
        fail_beside_others(process, 100, deliveries=4)
        process.answer(bad(5), 110)
        assert held(row) == []
        process.answer(GOOD, 110.5)
        process.answer(bad(6), 120)
        assert held(row) == ["bad"]

    @pytest.mark.parametrize("refusal", [bad(status=429), bad(retry_after=0.1)], ids=["429", "Retry-After"])
    def test_refusals_never_hold_a_type(self, row, process, refusal):
        for n in range(60):
            for _ in range(10):
                process.answer(GOOD, 100 + n / 4)
            process.answer(replace(refusal, delivery_id=n), 100 + n / 4)
        assert held(row) == []

    def test_refusals_before_other_failures_do_not_count(self, row, process):
        for n in range(10):
            process.answer(GOOD, 99)
            process.answer(bad(100 + n, status=429), 99)
        fail_beside_others(process, 100, deliveries=4)
        assert held(row) == []
        process.answer(bad(5), 101)
        assert [(each.event_type, each.since) for each in row.gate.failing] == [("bad", 100)]

    @pytest.mark.parametrize("seed", range(3))
    def test_random_failures_of_half_of_all_answers_hold_no_type(self, row, process, seed):
        rng = random.Random(seed)
        for n in range(3_000):
            answer = bad(n) if rng.random() < 0.5 else DELIVERED
            process.answer(replace(answer, event_type=str(rng.randrange(10))), 100 + n / 50)
        assert row.writes == 0

    def test_a_finding_or_its_end_is_written_later_if_another_process_changed_the_row_first(
        self, row, process
    ):
        gate = process.gate
        for is_end, now in ((False, 100), (True, 103)):
            if is_end:
                assert process.look(now, ["bad"])
            else:
                fail_beside_others(process, now, deliveries=4)
            answer = WORKS_AGAIN if is_end else bad(5)
            change = gate.answered(gate.sent(now), answer, now)
            row.set(reason=str(now))
            assert not process.write(change)
            assert process.may_send(now, event_type="bad") == is_end, "this process knows it already"
            process.look(now + 0.25, ())
            assert (held(row), row.gate.reason) == ([] if is_end else ["bad"], str(now))


class TestHolding:
    def test_another_process_holds_the_type_too_and_either_frees_it(self, other, holding):
        assert other.may_send(100, event_type="bad")
        other.look(100.25, ())
        assert not other.may_send(100.25, event_type="bad")
        assert other.look(102, ["bad"])
        assert other.send(WORKS_AGAIN, 102)
        assert not holding.may_send(102.1, event_type="bad")
        holding.look(102.25, ())
        assert holding.may_send(102.25, event_type="bad")

    def test_a_type_is_held_during_and_after_an_outage(self, row, holding):
        holding.fail(110, replace(failed(None), event_type="good"))
        assert (row.gate.state, held(row)) == ("probing", ["bad"])
        assert holding.look(112, ["bad", "good"])
        assert holding.probed == "good"
        assert holding.send(GOOD, 112)
        assert (row.gate.state, held(row)) == ("paced", ["bad"])
        for n in range(4 * 15):
            holding.look(112 + n / 4, ())
        assert (row.gate.state, held(row)) == ("normal", ["bad"])
        assert not holding.may_send(127, event_type="bad")

    def test_a_type_that_worked_once_after_a_long_time_and_fails_again_is_held_again(self, row, holding):
        for n in range(100):
            now = 102 + 140 * n
            assert holding.look(now, ["bad"])
            assert holding.send(bad(n) if n < 99 else WORKS_AGAIN, now)
        assert held(row) == []
        fail_beside_others(holding, now + 1, deliveries=50)
        assert held(row) == ["bad"]

    def test_a_type_may_work_again_at_the_end_of_an_outage(self, row, holding):
        holding.fail(110, replace(failed(None), event_type="good"))
        assert holding.look(112, ["bad"]), "nothing else is due"
        assert holding.send(WORKS_AGAIN, 112)
        assert (row.gate.state, held(row)) == ("paced", [])

    def test_a_type_is_held_while_an_operator_pauses_the_endpoint_and_afterwards(self, row, holding):
        for state, now in (("paused", 101), ("normal", 102)):
            row.set(state=state, since=now)
            holding.look(now, ())
            assert not holding.may_send(now, event_type="bad")
        assert holding.may_send(102, event_type="good")

    def test_a_type_is_held_after_a_410(self, row, holding):
        holding.answer(failed(410, "permanent", gone=True), 101)
        assert (row.gate.state, held(row)) == ("paused", ["bad"])

    def test_a_type_that_is_no_longer_in_the_row_is_free(self, row, holding):
        row.set(failing=())
        holding.look(101, ())
        assert holding.may_send(101, event_type="bad")

    def test_failures_of_a_held_type_are_no_outage(self, row, holding):
        for n in range(1_000):
            holding.answer(bad(n), 100 + n / 10)
        assert row.gate.state == "normal"

    def test_failures_of_a_held_type_do_not_cut_the_pace(self, row, process):
        process.recover(102)
        for n in range(40):
            process.look(102 + n / 4, ())
            for _ in range(10):
                process.answer(GOOD, 102 + n / 4)
            process.answer(bad(n), 102 + n / 4)
        assert held(row) == ["bad"]
        paced = process.gate.most_within(2, 112)
        for n in range(100):
            process.answer(bad(n), 112)
        assert (row.gate.state, process.gate.most_within(2, 112)) == ("paced", paced)

    def test_at_most_twenty_are_held(self, row, process):
        for n in range(25):
            fail_beside_others(process, 100 + n, event_type=f"bad-{n}")
        assert held(row) == [f"bad-{n}" for n in range(20)]
        writes = row.writes
        process.answer(bad(9, event_type="bad-24"), 125)
        assert row.writes == writes, "it displaces none of them"
        assert process.may_send(125, event_type="bad-24")
        assert not process.may_send(125, event_type="bad-0")

    def test_more_types_that_are_found_at_once_are_written_once(self, row, process):
        gate, types = process.gate, [f"bad-{number}" for number in range(25)]
        for n in range(4):
            for name in types:
                for _ in range(50):
                    process.answer(GOOD, 100)
                process.answer(bad(n, event_type=name), 100)
        last = [bad(5, event_type=name) for name in types]
        change, *later = [gate.answered(gate.sent(101), each, 101) for each in last]
        assert later == [None] * 24, "the first is being written"
        process.write(change)
        process.look_until(102, 104)
        assert len(held(row)) == 20
        writes = row.writes
        for n in range(20):
            process.look(104 + n / 4, ())
            process.answer(GOOD, 104 + n / 4)
        assert row.writes == writes

    def test_a_type_is_forgotten_an_hour_after_its_last_probe(self, row, holding):
        holding.look(103, ["bad"])
        holding.send(bad(9), 103)
        holding.look(103 + HOUR - 1, ())
        assert (held(row), holding.may_send(103 + HOUR - 1, event_type="bad")) == (["bad"], False)
        holding.look(103 + HOUR, ())
        assert (held(row), holding.may_send(103 + HOUR, event_type="bad")) == ([], True)


class TestProbes:
    def test_a_delivered_probe_frees_the_type(self, row, holding):
        assert holding.look(102, ["bad", "good"])
        assert holding.probed == "bad"
        assert holding.send(WORKS_AGAIN, 102)
        assert held(row) == []
        assert holding.may_send(102, event_type="bad")

    def test_a_permanently_rejected_probe_frees_the_type(self, row, holding):
        assert holding.look(102, ["bad"])
        assert holding.send(bad(9, 422, category="permanent"), 102)
        assert held(row) == []

    def test_one_that_fails_holds_the_type_and_its_failure_is_known_at_the_next(self, row, holding):
        assert holding.look(102, ["bad"])
        assert holding.send(bad(9, 500), 102)
        assert not holding.may_send(102, event_type="bad")
        assert holding.look(104, ["bad"])
        [found] = row.gate.failing
        assert (found.since, found.tried_at, found.failure) == (100, 104, "http 500")

    def test_one_process_sends_each_and_only_one(self, other, holding):
        assert not holding.look(100.5, ["bad"])
        assert other.look(102, ["bad"])
        assert not holding.look(102, ["bad"])
        assert other.send(bad(9), 102)
        assert not other.send(bad(9), 102)
        assert not other.look(102.5, ["bad"])

    @pytest.mark.parametrize("state", ["normal", "paced"])
    def test_the_time_between_them_grows_with_the_outage_of_the_type_up_to_two_minutes(
        self, row, holding, state
    ):
        row.set(state=state, since=100.0, pace=10.0, pilot="two", pilot_until=1e9)
        times = []
        for now in (100 + n / 4 for n in range(4 * 3600)):
            if holding.look(now, ["bad"]):
                times.append(now)
                assert holding.send(bad(9), now)
        gaps = [after - before for before, after in pairwise(times)]
        assert 0.75 <= min(gaps) <= 1.5
        assert 105 <= max(gaps) <= 135
        assert len(times) < 90
        assert all(gap <= max(1.5, 0.14 * (time - 100)) for gap, time in zip(gaps, times, strict=False))

    def test_several_types_are_probed_in_turn(self, process):
        types = ["bad-1", "bad-2", "bad-3"]
        for n, name in enumerate(types):
            fail_beside_others(process, 100 + n, event_type=name)
        probed = []
        for now in range(110, 230, 10):
            assert process.look(now, ["bad-3", "good", "bad-2", "bad-1"])
            assert process.send(bad(9, event_type=process.probed), now)
            probed.append(process.probed)
        assert probed == types * 4

    def test_a_retry_after_delays_probes(self, row, holding):
        row.set(not_before=160.0)
        assert not holding.look(159, ["bad"])
        assert holding.look(160.5, ["bad"])
        row.set(not_before=200.0)
        holding.look(161, ())
        assert not holding.gate.may_send_probe(161)
        assert holding.gate.may_send(161, 0) == RELEASE

    def test_a_pause_stops_probes(self, row, holding):
        row.set(state="paused", since=101.0)
        assert not holding.look(200, ["bad"])

    def test_one_is_due_at_once_if_the_clock_was_set_back_by_much(self, holding):
        assert holding.look(100 - HOUR, ["bad"])
