"""dramatiq: https://dramatiq.io/guide.html; its retries are on by default."""

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from benches.contenders.workers.posting import post

dramatiq.set_broker(RedisBroker(url=os.environ["BENCH_BROKER"]))


@dramatiq.actor(max_retries=3, min_backoff=100, max_backoff=100)
def deliver(event_id: str, body: str) -> None:
    """Send one event."""
    post(event_id, body)
