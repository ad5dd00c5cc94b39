"""huey: https://huey.readthedocs.io/en/latest/guide.html, on SQLite."""

import os

from huey import SqliteHuey

from benches.contenders.workers.posting import post

huey = SqliteHuey(filename=os.environ["BENCH_BROKER"], results=False)


@huey.task(retries=3, retry_delay=0)
def deliver(event_id: str, body: str) -> None:
    """Send one event."""
    post(event_id, body)
