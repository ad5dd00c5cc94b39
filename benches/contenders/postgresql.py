"""Task queues on PostgreSQL, each with one process that sends."""

import asyncio
import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benches.contenders.contender import IN_FLIGHT, Contender, Place, Running
from benches.contenders.queues import WORKERS, app_module
from benches.processes import kept, python
from benches.surroundings import Postgresql, postgresql, postgresql_is_free
from resonant.events import Event

_CONCURRENCY = 100
_LOOK_SECONDS, _START_SECONDS = 0.1, 60.0


@contextlib.contextmanager
def _worker(
    place: Place, database: Postgresql, command: list[str], enqueue: Callable[[Sequence[Event]], None]
) -> Iterator[Running]:
    with kept(command, log=place.log) as worker:
        services = {"PostgreSQL": database.pid}
        yield Running(enqueue, [worker], services, is_free=lambda: postgresql_is_free(database.url))


@contextlib.contextmanager
def _procrastinate(place: Place) -> Iterator[Running]:
    with postgresql() as database:
        module = app_module(place, "procrastinate", database.url)
        with module.app.open():
            module.app.schema_manager.apply_schema()

            def enqueue(events: Sequence[Event]) -> None:
                jobs = ({"event_id": event.id, "body": event.body.decode()} for event in events)
                module.deliver.batch_defer(*jobs)

            options = ("worker", "--concurrency", str(_CONCURRENCY))
            command = python("procrastinate", "--app", f"{WORKERS}.procrastinate_app.app", *options)
            with _worker(place, database, command, enqueue) as running:
                yield running


def _wait_for_queue_storage(client: Any) -> None:
    """Wait until awa's worker has switched the new database to the storage that the producer's COPY needs."""
    give_up_at = time.monotonic() + _START_SECONDS
    while json.loads(client.storage_status())["active_engine"] != "queue_storage":
        if time.monotonic() > give_up_at:
            raise RuntimeError("awa's worker does not start")
        time.sleep(_LOOK_SECONDS)


@contextlib.contextmanager
def _awa(place: Place) -> Iterator[Running]:
    with postgresql() as database:
        # Its URL parser refuses a user without a host.
        url = database.url.replace("//postgres@/", "///") + "&user=postgres"
        module = app_module(place, "awa", url)
        client = module.Client(url)
        client.migrate()

        def enqueue(events: Sequence[Event]) -> None:
            jobs = [module.Deliver(event.id, event.body.decode()) for event in events]
            if len(jobs) == 1:  # COPY takes longer for one job
                client.insert(jobs[0], queue=module.QUEUE, max_attempts=4)
            else:
                client.enqueue_many_copy(jobs, queue=module.QUEUE, max_attempts=4)

        with (
            contextlib.closing(client),
            _worker(place, database, python(f"{WORKERS}.awa_app"), enqueue) as running,
        ):
            _wait_for_queue_storage(client)
            yield running


@contextlib.contextmanager
def _oban(place: Place) -> Iterator[Running]:
    with postgresql() as database, asyncio.Runner() as runner:
        module = app_module(place, "oban", database.url)
        pool = runner.run(module.Oban.create_pool(database.url))
        runner.run(module.install(pool))
        oban = module.Oban(pool=pool)

        def enqueue(events: Sequence[Event]) -> None:
            jobs = (module.Deliver.new({"event_id": each.id, "body": each.body.decode()}) for each in events)
            runner.run(oban.enqueue_many(*jobs))

        options = ("--dsn", database.url, "--queues", f"{module.QUEUE}:{IN_FLIGHT}", "--log-level", "WARNING")
        command = python("oban", "start", *options, "--cron-modules", f"{WORKERS}.oban_app")
        with _worker(place, database, command, enqueue) as running:
            yield running
        runner.run(pool.close())


@contextlib.contextmanager
def _pgqueuer(place: Place) -> Iterator[Running]:
    with postgresql() as database, asyncio.Runner() as runner:
        module = app_module(place, "pgqueuer", database.url)
        for step in ("install", "autovac"):
            subprocess.run(
                python("pgqueuer", "--pg-dsn", database.url, step), check=True, capture_output=True
            )
        pool = runner.run(module.open_pool())
        queries = module.Queries(module.AsyncpgPoolDriver(pool))

        def enqueue(events: Sequence[Event]) -> None:
            jobs = [json.dumps([event.id, event.body.decode()]).encode() for event in events]
            runner.run(queries.enqueue([module.QUEUE] * len(jobs), jobs, [0] * len(jobs)))

        with _worker(place, database, python(f"{WORKERS}.pgqueuer_app"), enqueue) as running:
            yield running
        runner.run(pool.close())


AWA = Contender("awa, PostgreSQL", IN_FLIGHT, _awa)
OBAN = Contender("oban, PostgreSQL", IN_FLIGHT, _oban)
PGQUEUER = Contender("pgqueuer, PostgreSQL", IN_FLIGHT, _pgqueuer)
PROCRASTINATE = Contender("procrastinate, PostgreSQL", _CONCURRENCY, _procrastinate)
