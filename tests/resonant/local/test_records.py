from dataclasses import dataclass, field

import pytest

from resonant.local.compatibility import count_unsent_messages
from resonant.local.records import AWAY_SECONDS, MOST_UNSENT, PATIENCE_SECONDS, Records
from resonant.local.server import send_events


@dataclass
class Queue:
    """Prefect's queue, of which so many messages are sent a second."""

    unsent: int
    sent_a_second: float = 0.0
    now: float = 1_000.0
    waited: float = field(default=0.0)

    async def sleep(self, seconds):
        self.now += seconds
        self.waited += seconds
        self.unsent = max(0, self.unsent - round(self.sent_a_second * seconds))

    def records(self):
        return Records(lambda: self.unsent, clock=lambda: self.now, sleep=self.sleep)


@pytest.mark.parametrize("unsent", [0, MOST_UNSENT - 1])
async def test_senders_do_not_wait_while_there_is_room(unsent):
    queue = Queue(unsent)
    await queue.records().catch_up()
    assert queue.waited == 0


async def test_the_queue_is_checked_no_more_often_than_it_can_fill():
    looks = []

    async def run(unsent, calls):
        looks.clear()
        records = Records(lambda: looks.append(1) or unsent, clock=lambda: 0.0)
        for _ in range(calls):
            await records.catch_up()

    await run(0, MOST_UNSENT // 20 + 1)
    assert len(looks) == 1
    await run(MOST_UNSENT - 1, 10)
    assert len(looks) == 10


async def test_an_emission_waits_for_room_as_long_as_the_server_receives_messages():
    queue = Queue(MOST_UNSENT + 2_000, sent_a_second=500)
    await queue.records().catch_up()
    assert queue.unsent < MOST_UNSENT
    assert queue.waited == pytest.approx(4, abs=0.2)

    slow = Queue(MOST_UNSENT + 900, sent_a_second=20)
    await slow.records().catch_up()
    assert slow.unsent < MOST_UNSENT
    assert slow.waited > 4 * PATIENCE_SECONDS


async def test_a_server_that_receives_nothing_delays_no_event_for_long():
    queue = Queue(MOST_UNSENT)
    records = queue.records()
    await records.catch_up()
    waited = queue.waited
    assert waited == pytest.approx(PATIENCE_SECONDS, abs=0.1)

    await records.catch_up()
    assert queue.waited == waited, "once is enough"

    queue.now += AWAY_SECONDS
    await records.catch_up()
    assert queue.waited > waited, "after a minute it may be back"


@pytest.mark.engine
def test_prefect_reports_how_many_messages_it_has_not_sent(prefect_api):
    from prefect.events import emit_event
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: prefect_api}):
        send_events(prefect_api)  # queued by earlier tests
        assert count_unsent_messages() == 0
        counted = []
        for _ in range(200):
            emit_event("resonant.test", resource={"prefect.resource.id": "resonant.test"})
            counted.append(count_unsent_messages())  # its thread sends meanwhile
        assert 0 < max(counted) <= 200
