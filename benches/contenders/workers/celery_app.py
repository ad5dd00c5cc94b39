"""Celery: https://docs.celeryq.dev/en/stable/userguide/tasks.html, with late acknowledgement, so that no event is lost.

https://docs.celeryq.dev/en/stable/userguide/optimizing.html recommends this prefetch multiplier for many short tasks.
"""

import os

import httpx
from celery import Celery

from benches.contenders.workers.posting import post

app = Celery("bench", broker=os.environ["BENCH_BROKER"])
app.conf.update(task_ignore_result=True, worker_prefetch_multiplier=64)


@app.task(autoretry_for=(httpx.HTTPError,), max_retries=3, default_retry_delay=0.1, acks_late=True)
def deliver(event_id: str, body: str) -> None:
    """Send one event."""
    post(event_id, body)
