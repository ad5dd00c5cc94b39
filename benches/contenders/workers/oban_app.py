"""oban: https://oban.pro/docs/py/quickstart.html, with a class worker, which alone can change the delay of a retry."""

from functools import cache

from oban import Job, Oban, worker
from oban.schema import install

from benches.contenders.workers.posting import apost, async_client

__all__ = ["QUEUE", "Deliver", "Oban", "install"]

QUEUE = "deliveries"
_client = cache(async_client)


@worker(queue=QUEUE, max_attempts=4)
class Deliver:
    """Sends one event."""

    async def process(self, job: Job) -> None:
        """Send the event."""
        await apost(_client(), job.args["event_id"], job.args["body"])

    def backoff(self, _job: Job) -> int:
        """Return the seconds until the next attempt, which Oban rounds up to its look for due jobs, once a second."""
        return 0
