"""A Retry-After and slow answers: the sends that they hold, and the pace afterwards."""

from collections import Counter
from dataclasses import replace

import pytest

from resonant.gate.permission import RELEASE
from resonant.store.shared.gates import Gate
from support.gate_processes import DELIVERED, REFUSED, Process, failed


def asking(seconds):
    """Return an answer with a Retry-After."""
    return failed(429, retry_after=seconds)


def work_at(process, rate, start, seconds, *, refused_every=0):
    """Send at this rate; one in so many sends is refused with a Retry-After. Return the number of sends."""
    sent = 0
    for n in range(int(rate * seconds)):
        is_refused = refused_every and n % refused_every == refused_every - 1
        sent += process.send(asking(5.0) if is_refused else DELIVERED, start + n / rate)
    return sent


def pass_on(process, start, until):
    """Look, and send as much as the gate admits; return the number of sends in each second."""
    sent = Counter()
    for n in range(round((until - start) * 1000)):
        now = start + n / 1000
        if n % 250 == 0:
            process.look(now)
        sent[int(now)] += process.send(DELIVERED, now)
    return sent


def test_a_retry_after_holds_only_its_delivery_while_good_answers_follow(row, process):
    assert work_at(process, 150, 100, 20, refused_every=100) == 3000
    assert row.gate == Gate("api")


def test_refusals_that_are_faster_than_good_answers_do_not_hold_deliveries(row, process):
    work_at(process, 150, 100, 1)
    sent = [process.gate.sent(101 + n / 150) for n in range(90)]
    for n in range(3, 90, 8):
        process.answer(failed(retry_after=5.0), 101.3, sent[n])
    assert row.gate == Gate("api")


def test_refusals_of_sends_in_flight_say_nothing_about_later_sends(row, process):
    work_at(process, 150, 100, 1)
    for sent in [process.gate.sent(101) for _ in range(10)]:
        process.answer(failed(retry_after=30.0), 101.01, sent=sent)
    assert row.gate.not_before is None


def test_a_retry_after_holds_the_endpoint_if_later_sends_are_refused_too(row, process, other):
    work_at(process, 150, 100, 1)
    process.fail(101, failed(retry_after=30.0), times=6)
    assert row.gate.not_before == 131
    other.look(101.25)
    for each in (process, other):
        assert each.gate.governs(130)
        assert each.gate.claim_limit(130, 0) == 0
        assert each.gate.may_send(130, 0) == RELEASE


@pytest.mark.parametrize("step", [2, 100, 280, 3_600])
def test_a_retry_after_holds_the_endpoint_though_the_clock_was_set_back(row, process, other, step):
    process.fail(5_000, failed(retry_after=60.0), times=6)
    other.look(5_002)
    now = 5_002 - step

    other.look(now)
    new = Process(row, "new")

    for each in (other, process, new):
        each.look(now + 57)
        assert each.gate.must_wait(now + 57)
        assert not each.may_send(now + 57)
    assert not other.gate.must_wait(now + 59 + min(step, 330))


def test_many_equal_retry_afters_are_written_once(row, process):
    for n, sent in enumerate([process.gate.sent(100) for _ in range(5)]):
        process.answer(failed(retry_after=30.0), 100 + n / 100, sent=sent)
    assert row.writes == 1


def test_a_retry_after_that_comes_while_the_change_to_paced_is_written_holds_the_endpoint(row, process):
    gate, answer = process.gate, asking(30.0)
    assert gate.answered(gate.sent(100), answer, 100.1) is None
    others = [gate.sent(100.1) for _ in range(5)]
    change, *later = [gate.answered(each, answer, 100.2) for each in others]
    assert not any(later)
    assert process.write(change)
    assert (row.gate.state, row.gate.not_before) == ("paced", None)

    assert gate.may_send(100.3, 0) == RELEASE
    process.look(100.3)
    assert row.gate.not_before == 130.2
    assert gate.may_send(101, 0) == RELEASE


@pytest.mark.parametrize("retry_after", [30.0, 3600.0])
def test_a_retry_after_that_comes_while_the_change_to_probing_is_written_holds_the_endpoint(
    row, process, retry_after
):
    gate = process.gate
    early = [gate.sent(100) for _ in range(20)]
    assert gate.answered(early[0], asking(retry_after), 100.1) is None
    late = [gate.sent(100.1) for _ in range(6)]
    changes = (gate.answered(each, REFUSED, 100.2) for each in early[1:])
    change = next(filter(None, changes))
    assert [gate.answered(each, asking(retry_after), 100.3) for each in late] == [None] * 6
    assert process.write(change)
    assert (row.gate.state, row.gate.not_before) == ("probing", None)

    process.look(100.4)
    assert row.gate.not_before == 100.3 + min(retry_after, 300)


def test_an_operator_who_resumes_an_endpoint_drops_its_retry_after(row, process):
    process.fail(100, failed(retry_after=30.0), times=6)
    row.set(state="paused", since=101.0, pilot=None)
    process.look(101)
    row.set(state="normal", since=102.0, not_before=None)
    process.look(102)
    assert not process.gate.governs(102)


def test_a_known_refusal_holds_the_endpoint_again_at_once(row, process):
    process.fail(100, failed(retry_after=5.0), times=6)
    process.look_until(100, 107)
    process.send(failed(retry_after=5.0), 107)
    assert row.gate.not_before == 112


@pytest.mark.parametrize("retry_after", [86_400.0, 1e9])
def test_a_retry_after_holds_an_endpoint_for_five_minutes_at_most(row, process, retry_after):
    process.fail(100, failed(retry_after=retry_after), times=6)
    assert row.gate.not_before == 400


class TestThePaceAfterwards:
    def test_it_starts_at_the_rate_accepted_before_and_doubles(self, row, process):
        work_at(process, 150, 100, 3)
        process.fail(103, failed(retry_after=30.0), times=6)
        assert (row.gate.state, row.gate.reason) == ("paced", "it asked to slow down")
        sent = pass_on(process, 103, 136)
        assert not any(sent[second] for second in range(103, 133))
        assert sent[133] >= 140
        assert sent[134] >= 280

    def test_one_request_is_tried_first(self, process):
        process.fail(100, failed(retry_after=30.0), times=6)
        process.look_until(100, 131)
        assert process.may_send(131)
        assert not process.may_send(131, 1)

    @pytest.fixture
    def paced(self, process):
        """A process that has sent 50 requests per second, and was asked once to wait."""
        work_at(process, 50, 100, 3)
        process.fail(103, failed(retry_after=1.0), times=6)
        pass_on(process, 103, 106)
        return process

    def test_after_a_second_retry_after_it_grows_slowly(self, paced):
        paced.fail(106, failed(retry_after=1.0), times=6)
        sent = pass_on(paced, 106, 112)
        assert not sent[106]
        assert sent[111] <= 1.2 * sent[108]

    @pytest.mark.parametrize(("seconds", "is_cut"), [(0.5, False), (1.5, True)])
    def test_it_is_cut_only_if_all_answers_of_a_second_are_slow(self, row, paced, seconds, is_cut):
        def pace(now):
            paced.look(now)
            paced.look(now + 1.5)
            return row.gate.pace

        before = pace(106)
        for n in range(int(seconds * 20)):
            paced.send(replace(DELIVERED, duration=1.0), 108 + n / 20)
        assert (pace(108 + seconds) < 0.6 * before) == is_cut
