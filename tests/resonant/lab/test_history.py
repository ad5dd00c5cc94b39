"""An endpoint's history in the store."""

import pytest

from resonant.dead_letters.purge import Retention, purge
from resonant.delivery.retry import Park
from resonant.lab.history import read_history

MINUTE, HOUR, DAY = 60, 3_600, 86_400


class Story:
    """An endpoint's attempts, in the order of time."""

    def __init__(self, desk):
        self.desk = desk
        self.number = 0
        # The start of an hour, so that no minute or hour has more than it should.
        desk.clock.advance(-desk.clock() % HOUR)
        self.start = desk.clock()

    def attempt(self, count=1, *, endpoint="orders", every=1.0, **failure):
        """Make attempts, so many seconds apart: delivered, unless a failure is given."""
        for _ in range(count):
            self.number += 1
            self.desk.enqueue(f"evt_{self.number}", endpoint=endpoint)
            lease = self.desk.claim_one(endpoint=endpoint)
            now = self.desk.clock()
            if failure:
                self.desk.fail(lease, Park(1e6, now + 1e6), started_at=now, **failure)
            else:
                self.desk.begin(lease)
                self.desk.record(self.desk.delivered(lease, started_at=now))
            self.desk.clock.advance(every)

    def read(self, endpoint="orders"):
        self.desk.fold()
        return self.desk.read(read_history, endpoint, now=self.desk.clock())


@pytest.fixture
def story(desk):
    return Story(desk)


REFUSED = {"status_code": None, "code": "connect_refused"}
TIMED_OUT = {"status_code": None, "code": "timeout"}


def test_an_endpoint_without_attempts_has_no_history(story):
    found = story.read()
    assert (found.delivered, found.failed, found.outages, found.attempts) == (0, 0, (), ())
    assert (found.longest_outage, found.capacity, found.retry_after, found.share_failed) == (
        None,
        None,
        None,
        0.0,
    )


@pytest.mark.parametrize(
    ("failure", "kind"), [({"code": "http_503"}, "503"), (REFUSED, "refuse"), (TIMED_OUT, "hang")]
)
def test_an_outage_is_a_time_of_failures_without_a_delivery(story, failure, kind):
    story.attempt(6, every=10)
    story.attempt(10, every=MINUTE, **failure)
    story.attempt(6, every=10)
    found = story.read()
    [outage] = found.outages
    assert (outage.start, outage.end, outage.kind) == (story.start + MINUTE, story.start + 11 * MINUTE, kind)
    assert (found.delivered, found.failed, len(found.attempts)) == (12, 10, 22)
    assert found.longest_outage == outage
    assert found.timeouts == (10 if kind == "hang" else 0)


def test_failures_beside_deliveries_are_no_outage_even_if_those_are_purged(story):
    for _ in range(10):
        story.attempt(3, every=5)
        story.attempt(1, every=5, code="http_500", status_code=500)
    assert story.read().share_failed == 0.25
    for is_purged in (False, True):
        if is_purged:
            story.desk.run(purge(story.desk.store, Retention(delivered=0), who="ann", now=story.desk.clock()))
        found = story.read()
        assert (found.delivered, found.failed, found.outages) == (30, 10, ())


def test_a_few_failures_and_answers_about_events_are_no_outage(story):
    story.attempt(6, every=10)
    story.attempt(4, every=MINUTE, **REFUSED)
    story.attempt(6, every=10)
    story.attempt(10, every=MINUTE, category="permanent", code="http_400", status_code=400)
    assert story.read().outages == ()


def test_an_outage_goes_on_over_minutes_without_an_attempt_but_not_over_hours(story):
    story.attempt(5, every=10 * MINUTE, **REFUSED)
    story.attempt(1, every=10 * HOUR)
    story.attempt(5, every=MINUTE, **REFUSED)
    story.desk.clock.advance(4 * HOUR)
    story.attempt(5, every=MINUTE, **REFUSED)
    assert [outage.seconds for outage in story.read().outages] == [50 * MINUTE, 5 * MINUTE, 5 * MINUTE]


def test_an_older_outage_is_seen_by_the_hour(story):
    story.attempt(12, every=30 * MINUTE, **REFUSED)
    story.attempt(6, every=10)
    story.desk.clock.advance(3 * DAY)
    story.attempt(6, every=10)
    story.desk.run(story.desk.store.compact())
    found = story.read()
    assert [outage.seconds for outage in found.outages] == [6 * HOUR]
    assert (found.delivered, found.failed) == (12, 12)


def test_attempts_of_other_endpoints_and_failures_on_this_side_are_left_out(story):
    story.attempt(3)
    story.attempt(7, endpoint="audit", **REFUSED)
    story.attempt(2, blame="local", code="pool_full", status_code=None)
    assert len(story.read().attempts) == 3
    assert len(story.read("audit").attempts) == 7


def test_the_answers_of_a_receiver_are_read(story):
    for _ in range(3):
        story.attempt(10, every=0.05)
        story.attempt(4, every=0.05, code="throttled", status_code=429, retry_after=30.0)
        story.desk.clock.advance(10.3)
    found = story.read()
    assert (found.throttled, found.retry_after, found.capacity) == (12, 30.0, 10.0)
    assert found.durations == [0.02] * 30
