"""The states of a gate, and the sends that it admits in each."""

import random
from dataclasses import replace
from itertools import pairwise

import pytest

from resonant.gate.controller import EndpointGate
from resonant.gate.permission import NO_LIMIT, RELEASE, SEND, Wait
from resonant.store.shared.gates import Gate
from support.gate_processes import DELIVERED, REFUSED, Process, Row, failed


def test_a_normal_gate_admits_everything_and_writes_nothing(row, process):
    assert all(process.send(DELIVERED, n / 10) for n in range(100))
    assert process.gate.claim_limit(10, 0) == NO_LIMIT
    assert not process.gate.governs(10)
    assert row.gate == Gate("api")


def test_answers_to_sends_from_before_the_clock_was_set_back_count(process):
    assert process.may_send(100)
    sent = [process.gate.sent(100) for _ in range(10)]
    assert isinstance(process.gate.may_send(50, 10), Wait)
    for one in sent[:5]:
        process.answer(DELIVERED, 50, sent=one)
    assert process.gate.may_send(50, 4) == SEND


@pytest.mark.parametrize(("passed", "state"), [(3_590, "probing"), (3_610, "normal")])
def test_a_missing_row_is_older_than_the_known_one_unless_that_may_have_been_removed(passed, state):
    began_at = 10_000.0
    known = Gate("api", "probing", epoch=int(1000 * began_at), since=began_at, probe_at=began_at)
    gate = EndpointGate(known, "one", random.Random(1))
    gate.see(Gate("api"), at=began_at + passed)
    assert gate.row.state == state
    assert (gate.claim_limit(began_at + passed, 0) == NO_LIMIT) == (state == "normal")


def test_a_pause_is_seen_though_the_clock_was_set_back_after_the_row_of_a_normal_gate_was_removed():
    began_at = 10_000.0
    gate = EndpointGate(Gate("api", epoch=int(1000 * began_at), since=began_at), "one", random.Random(1))
    gate.see(Gate("api"), at=began_at + 3_610)
    paused_at = began_at - 3_600
    gate.see(Gate("api", "paused", epoch=int(1000 * paused_at), since=paused_at), at=paused_at)
    assert gate.claim_limit(paused_at, 0) == 0


class TestOutages:
    def test_failures_in_a_row_make_an_endpoint_probing(self, row, process):
        for n in range(30):
            process.send(DELIVERED, 100 + n / 10)
        process.fail(103, times=19)
        assert row.gate.state == "normal"
        process.fail(103, times=1)
        gate = row.gate
        reason = "20 failures in a row, last failure: connect refused"
        assert (gate.state, gate.failing_since, gate.reason) == ("probing", 103, reason)
        assert gate.pace == pytest.approx(10, rel=0.2)
        assert process.gate.claim_limit(103, 0) == 0
        assert process.gate.may_send(103, 0) == RELEASE

    def test_the_reason_has_the_last_failure_also_of_a_probe(self, row, process):
        process.fail(100, times=20)
        process.look(102)
        process.send(failed(None, code="timeout", duration=15.001), 102)
        process.look(120)
        assert row.gate.reason == "9 failures in a row, last failure: no answer within 15 s"

    def test_a_delivery_by_another_process_delays_an_outage_only_briefly(self, row, process):
        row.last_delivered = 101.5
        process.fail(101, times=40)
        assert row.gate.state == "normal"
        for n in range(1, 50):
            process.fail(101 + n / 10, times=1)
        assert row.gate.state == "probing"
        assert row.gate.since < 105

    @pytest.mark.parametrize(
        "answer", [failed(None, blame="local"), failed(422, "permanent")], ids=["own", "422"]
    )
    def test_own_failures_and_permanent_answers_are_no_outage(self, row, process, answer):
        process.fail(100, answer, times=100)
        assert row.gate.state == "normal"

    def test_failures_of_one_event_type_are_no_outage_while_others_are_accepted(self, row, process):
        for n in range(400):
            answer = (
                failed(event_type="bad", delivery_id=n) if n % 5 else replace(DELIVERED, event_type="good")
            )
            process.answer(answer, 100 + n / 200)
        assert row.gate.state == "normal"
        # Nothing is accepted any more.
        process.fail(120, failed(event_type="good"))
        assert row.gate.state == "probing"

    def test_an_event_type_that_fails_is_known_again_after_a_pause(self, row, process):
        good = replace(DELIVERED, event_type="good")
        for n in range(2000):
            process.send(good, n / 200)
        for start in (10, 60):
            for n in range(400):
                process.may_send(start + n / 200)
                process.answer(failed(event_type="bad", delivery_id=n) if n % 5 else good, start + n / 200)
        assert row.gate.state == "normal"

    def test_failures_of_all_events_are_an_outage_if_they_have_one_type(self, row, process):
        for n in range(100):
            process.send(replace(DELIVERED, event_type="only"), 100 + n / 50)
        process.fail(102, failed(event_type="only"))
        assert row.gate.state == "probing"

    def test_a_repeated_500_of_one_delivery_is_no_outage(self, row, process):
        for n in range(100):
            process.send(failed(500, delivery_id=7), 100 + n / 100)
        assert row.gate.state == "normal"

    def test_answers_to_earlier_sends_do_not_end_an_outage(self, row, process):
        early = process.gate.sent(100)
        process.fail(100)
        process.answer(DELIVERED, 100.5, sent=early)
        assert row.gate.state == "probing"


class TestProbes:
    def test_one_probe_at_a_time_is_admitted(self, process):
        process.fail(100)
        assert not process.look(100.5)
        assert process.look(101.2)
        assert process.send(REFUSED, 101.2)
        assert not process.send(REFUSED, 101.2)
        assert not process.look(101.3)

    def test_the_time_between_probes_grows_with_the_outage_up_to_two_minutes(self, process):
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

    def test_a_successful_probe_is_remembered_if_another_change_came_first(self, row, process):
        process.fail(100)
        process.look(102)
        change = process.gate.answered(process.gate.sent(102), DELIVERED, 102)
        row.set(probe_at=200)
        assert not process.write(change)
        process.look(102.25)
        assert row.gate.state == "paced"


class TestConnecting:
    """A probe is sent when an endpoint accepts connections again."""

    @pytest.fixture
    def down(self, row, process):
        """A process that has failed to connect to an endpoint since 0, and whose next probe is due much later."""
        process.fail(0)
        row.set(probe_at=140)
        process.look(3)
        return process

    def test_an_endpoint_that_refuses_connections_is_connected_to_every_five_seconds(self, down):
        connected = [now for now in range(60) if self.connects(down, now, is_accepted=False)]
        assert connected == list(range(5, 60, 5))

    def test_a_probe_is_due_once_it_accepts_a_connection_again(self, down):
        assert self.connects(down, 5, is_accepted=False)
        assert not down.look(6)
        assert self.connects(down, 10, is_accepted=True)
        assert down.look(10.25)
        assert down.send(DELIVERED, 10.25)
        assert down.row.gate.state == "paced"

    def test_an_endpoint_that_accepts_connections_and_never_answers_is_probed_as_before(self, down):
        assert self.connects(down, 5, is_accepted=True)
        assert not down.look(5.25)
        assert not down.gate.may_connect(130)

    def test_an_endpoint_that_answers_is_not_connected_to(self, process):
        process.fail(0, failed(503))
        assert process.row.gate.state == "probing"
        assert not process.gate.may_connect(300)

    def test_an_endpoint_that_accepts_connections_but_does_not_answer_is_probed_once(self, down):
        self.connects(down, 5, is_accepted=False)
        self.connects(down, 10, is_accepted=True)
        assert down.look(10.25)
        assert down.send(REFUSED, 10.25)
        down.row.set(probe_at=140)
        assert self.connects(down, 16, is_accepted=True)
        assert not down.look(16.25)

    def test_a_process_that_finds_an_endpoint_down_connects_at_once(self, down, other):
        other.look(4)
        assert self.connects(other, 4, is_accepted=False)
        assert self.connects(other, 9, is_accepted=True)
        assert other.look(9)

    @staticmethod
    def connects(process, now, *, is_accepted):
        may_connect = process.gate.may_connect(now)
        if may_connect:
            process.gate.connected(now, is_accepted=is_accepted)
        return may_connect


class TestPaces:
    def test_a_successful_probe_starts_a_pace_of_one_per_second_that_doubles(self, row, process):
        process.recover(102)
        assert (row.gate.state, row.gate.pilot, row.gate.pace) == ("paced", "one", 1.0)
        sent = []
        for now in (n / 20 for n in range(102 * 20, 108 * 20)):
            process.look(now)
            if process.send(DELIVERED, now):
                sent.append(now)
        by_second = [sum(int(each) == second for each in sent) for second in range(102, 108)]
        assert by_second[0] <= 1
        assert 12 <= by_second[-1] <= 20

    def test_a_pace_that_holds_nothing_back_makes_the_endpoint_normal(self, row, process):
        process.recover(102)
        process.look_until(102, 114)
        assert row.gate.state == "normal"
        assert process.gate.claim_limit(114, 0) == NO_LIMIT

    def test_after_an_outage_an_endpoint_is_down_until_it_is_normal(self, row, process, other):
        process.recover(102)
        began = row.gate.failing_since
        assert (row.gate.state, row.gate.is_down) == ("paced", True)
        other.look(105.5)
        assert (row.gate.pilot, row.gate.failing_since) == ("two", began)
        other.look_until(105.5, 118)
        assert (row.gate.state, row.gate.is_down) == ("normal", False)

    def test_an_endpoint_that_is_only_slowed_down_is_not_down(self, row, process):
        for n in range(4):
            process.send(failed(429), 100 + n / 20)
        assert (row.gate.state, row.gate.is_down) == ("paced", False)

    def test_another_process_replaces_a_pilot_that_died_at_half_its_pace(self, row, process, other):
        process.recover(102)
        row.set(pace=50.0)
        other.look(104)
        assert row.gate.pilot == "one"
        other.look(105.5)
        assert (row.gate.pilot, row.gate.pace) == ("two", 25.0)

    def test_another_process_replaces_a_pilot_that_leaves_at_once(self, row, process, other):
        process.recover(102)
        process.write(process.gate.look(102.5, may_be_pilot=False))
        assert process.gate.may_send(102.5, 0) == RELEASE
        other.look(102.6)
        assert row.gate.pilot == "two"

    def test_a_later_run_with_the_pilots_id_replaces_it_as_another_process_does(self, row, process):
        process.recover(102)
        row.set(pace=50.0)
        later = Process(Row())  # it has not read the row yet
        later.row = row
        later.look(104)
        assert (row.gate.state, row.gate.pace, later.may_send(104)) == ("paced", 50.0, False)
        later.look(105.5)
        assert (row.gate.state, row.gate.pace, row.gate.pilot_until) == ("paced", 25.0, 108.5)

    def test_a_pilot_whose_lease_has_expired_sends_nothing_before_it_has_looked(self, process):
        process.recover(102)
        assert process.gate.may_send(106, 0) == Wait(0.25)
        process.look(106)
        assert process.gate.may_send(106, 0) == SEND

    def test_an_endpoint_that_throttles_is_paced_at_the_accepted_rate(self, row, process):
        for n in range(10):
            process.send(DELIVERED, 100 + n / 20)
        for n in range(4):
            process.send(failed(429), 100.5 + n / 20)
        assert (row.gate.state, row.gate.reason) == ("paced", "it asked to slow down")
        assert row.gate.pace == pytest.approx(10, rel=0.1)

    def test_a_process_has_room_for_retries_while_its_pace_is_written(self, row, process):
        for n in range(10):
            process.send(DELIVERED, 100 + n / 20)
        changes = [process.gate.answered(process.gate.sent(100.5), failed(429), 100.5) for _ in range(4)]
        assert process.gate.most_within(2, 100.5) >= 10
        row.set(state="paused")
        assert not process.write(next(filter(None, changes)))
        assert process.gate.most_within(2, 100.5) == 0


class TestFirstSends:
    def test_a_process_begins_with_one_send_and_doubles_them_as_they_are_accepted(self, process):
        assert process.send(DELIVERED, 100)
        assert process.may_send(100, 0)
        assert not process.may_send(100, 1)
        for _ in range(4):
            process.answer(DELIVERED, 100.01)
        assert process.may_send(100.01, 4)
        assert not process.may_send(100.01, 5)
        assert process.may_send(100.4, 50)

    def test_an_endpoint_that_accepts_one_per_second_gets_two_until_it_is_paced(self, row, process):
        sent_at, accepted_at = [], -1.0
        for n in range(2_000):
            now = 100 + n / 100
            if row.gate.state == "normal" and process.may_send(now):
                is_accepted = now - accepted_at >= 1
                accepted_at = now if is_accepted else accepted_at
                sent_at.append(now)
                process.answer(DELIVERED if is_accepted else failed(), now)
        assert max(sum(0 <= at - other < 0.99 for other in sent_at) for at in sent_at) == 2
        assert row.gate.state == "paced"
        assert row.gate.pace == pytest.approx(1, rel=0.15)

    def test_own_deliveries_that_are_recorded_late_do_not_delay_an_outage(self, row, process):
        for n in range(5):
            process.send(DELIVERED, 100 + n / 100)
        row.last_delivered = 100.06
        process.fail(100.05, failed(), times=6)
        assert row.gate.state == "probing"

    def test_failures_by_chance_do_not_pace_a_new_endpoint(self, row, process):
        for n in range(200):
            process.send(DELIVERED if n % 2 else failed(), 100 + n / 50)
        assert row.gate.state == "normal"
        assert process.may_send(104, 49)

    def test_the_time_before_the_first_send_is_no_time_without_a_failure(self, process):
        assert process.may_send(100), "a chunk asks before its sends begin in the store"
        assert process.may_send(101)
        assert not process.may_send(101.1, 1)
        assert process.may_send(101.4, 1)

    def test_a_slow_first_answer_does_not_stop_the_sends_after_failures(self, process):
        assert process.send(replace(DELIVERED, duration=7), 100)
        process.fail(100.1, failed(), times=2)
        assert not process.may_send(101)
        assert not process.may_send(101.2, 1)
        assert process.may_send(101.2)

    def test_it_sends_only_a_few_at_once_while_the_first_ones_fail(self, process):
        process.may_send(100)
        process.fail(100.01, times=3)
        assert process.may_send(100.1, 3)
        assert not process.may_send(100.5, 4)

    def test_it_sends_one_at_a_time_while_an_outage_is_likely(self, process):
        for n in range(200):
            process.send(DELIVERED, 100 + n / 100)
        process.fail(102, times=5)
        assert process.may_send(102, 50)
        process.fail(102, times=1)
        assert process.may_send(102)
        assert not process.may_send(102, 1)

    def test_one_that_hangs_while_an_outage_is_likely_does_not_stop_the_others(self, process):
        for n in range(200):
            process.send(DELIVERED, 100 + n / 100)
        process.fail(102, times=6)
        assert not process.may_send(102.3, 1)
        assert process.may_send(102.5, 1)
        assert not process.may_send(102.8, 2)
        assert process.may_send(103, 2)
