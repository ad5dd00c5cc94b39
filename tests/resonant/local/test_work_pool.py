"""The waiting runs that count as drains."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun

from resonant.local.work_pool import starts_soon

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("auto_scheduled", "starts_in", "counts"),
    [(True, 90, False), (True, 0, True), (True, -90, True), (False, 60, True), (False, -60, True)],
)
def test_a_scheduled_run_counts_once_it_is_due_and_any_other_at_once(auto_scheduled, starts_in, counts):
    expected = NOW + timedelta(seconds=starts_in)
    run = FlowRun(flow_id=uuid4(), auto_scheduled=auto_scheduled, expected_start_time=expected)
    assert starts_soon(run, NOW) is counts
