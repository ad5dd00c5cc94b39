"""Other task queues, each with its usual broker."""

from __future__ import annotations

import contextlib
import importlib
import os
from typing import TYPE_CHECKING, Any

from benches.contenders.contender import Contender, Place, Running
from benches.processes import kept, python
from benches.surroundings import Missing, postgresql, postgresql_is_free, redis, sqlite_is_free

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from resonant.events import Event

_WORKERS = "benches.contenders.workers"
_PROCESSES, _THREADS = 2, 8
_CONCURRENCY = 100


def _app(place: Place, package: str, broker: str) -> Any:
    """Import the module that the producer and the workers share, and point it at the broker.

    Raises:
        Missing: the package is not installed.
    """
    os.environ |= {"BENCH_URL": place.url, "BENCH_BROKER": broker}
    try:
        importlib.import_module(package)
    except ImportError:
        raise Missing(f"{package} is not installed: pip install -e '.[bench]'") from None
    return importlib.import_module(f"{_WORKERS}.{package}_app")


def _each(hand_over: Callable[[str, str], object]) -> Callable[[Sequence[Event]], None]:
    def enqueue(events: Sequence[Event]) -> None:
        for event in events:
            hand_over(event.id, event.body.decode())

    return enqueue


@contextlib.contextmanager
def _celery(place: Place) -> Iterator[Running]:
    with redis() as broker:
        app = _app(place, "celery", f"redis+socket://{broker.socket}")
        options = ("--pool", "prefork", "--concurrency", str(_PROCESSES), "--loglevel", "WARNING")
        command = python("celery", "-A", f"{_WORKERS}.celery_app", "worker", *options)
        with kept(command, log=place.log) as worker:
            yield Running(_each(app.deliver.delay), [worker], {"Redis": broker.pid})


@contextlib.contextmanager
def _dramatiq(place: Place) -> Iterator[Running]:
    with redis() as broker:
        app = _app(place, "dramatiq", f"unix://{broker.socket}")
        options = ("--processes", str(_PROCESSES), "--threads", str(_THREADS))
        with kept(python("dramatiq", f"{_WORKERS}.dramatiq_app", *options), log=place.log) as worker:
            yield Running(_each(app.deliver.send), [worker], {"Redis": broker.pid})


@contextlib.contextmanager
def _huey(place: Place) -> Iterator[Running]:
    database = place.folder / "huey.db"
    app = _app(place, "huey", str(database))
    options = ("--worker-type", "thread", "--workers", str(_THREADS), "--quiet")
    command = python("huey.bin.huey_consumer", f"{_WORKERS}.huey_app.huey", *options)
    with kept(command, log=place.log) as worker:
        yield Running(_each(app.deliver), [worker], is_free=lambda: sqlite_is_free(database))


@contextlib.contextmanager
def _procrastinate(place: Place) -> Iterator[Running]:
    with postgresql() as database:
        module = _app(place, "procrastinate", database.url)
        with module.app.open():
            module.app.schema_manager.apply_schema()

            def enqueue(events: Sequence[Event]) -> None:
                jobs = ({"event_id": event.id, "body": event.body.decode()} for event in events)
                module.deliver.batch_defer(*jobs)

            options = ("worker", "--concurrency", str(_CONCURRENCY))
            name = f"{_WORKERS}.procrastinate_app.app"
            with kept(python("procrastinate", "--app", name, *options), log=place.log) as worker:
                services = {"PostgreSQL": database.pid}
                yield Running(enqueue, [worker], services, is_free=lambda: postgresql_is_free(database.url))


CELERY = Contender("Celery, Redis", _PROCESSES, _celery)
DRAMATIQ = Contender("dramatiq, Redis", _PROCESSES * _THREADS, _dramatiq)
HUEY = Contender("huey, SQLite", _THREADS, _huey)
PROCRASTINATE = Contender("procrastinate, PostgreSQL", _CONCURRENCY, _procrastinate)
