"""Task queues on Redis and SQLite."""

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benches.contenders.contender import Contender, Place, Running
from benches.processes import kept, python
from benches.surroundings import Missing, redis, sqlite_is_free
from resonant.events import Event

WORKERS = "benches.contenders.workers"
_PROCESSES, _THREADS = 2, 8


def app_module(place: Place, package: str, broker: str) -> Any:
    """Import the module that the producer and the workers share, and point it at the broker.

    Raises:
        Missing: the package is not installed.
    """
    os.environ |= {"BENCH_URL": place.url, "BENCH_BROKER": broker}
    try:
        importlib.import_module(package)
    except ImportError:
        raise Missing(f"{package} is not installed: pip install -e '.[bench]'") from None
    return importlib.import_module(f"{WORKERS}.{package}_app")


def _each(hand_over: Callable[[str, str], object]) -> Callable[[Sequence[Event]], None]:
    def enqueue(events: Sequence[Event]) -> None:
        for event in events:
            hand_over(event.id, event.body.decode())

    return enqueue


@contextlib.contextmanager
def _celery(place: Place) -> Iterator[Running]:
    with redis() as broker:
        app = app_module(place, "celery", f"redis+socket://{broker.socket}")
        options = ("--pool", "prefork", "--concurrency", str(_PROCESSES), "--loglevel", "WARNING")
        command = python("celery", "-A", f"{WORKERS}.celery_app", "worker", *options)
        with kept(command, log=place.log) as worker:
            yield Running(_each(app.deliver.delay), [worker], {"Redis": broker.pid})


@contextlib.contextmanager
def _dramatiq(place: Place) -> Iterator[Running]:
    with redis() as broker:
        app = app_module(place, "dramatiq", f"unix://{broker.socket}")
        options = ("--processes", str(_PROCESSES), "--threads", str(_THREADS))
        with kept(python("dramatiq", f"{WORKERS}.dramatiq_app", *options), log=place.log) as worker:
            yield Running(_each(app.deliver.send), [worker], {"Redis": broker.pid})


@contextlib.contextmanager
def _huey(place: Place) -> Iterator[Running]:
    database = place.folder / "huey.db"
    app = app_module(place, "huey", str(database))
    options = ("--worker-type", "thread", "--workers", str(_THREADS), "--quiet")
    command = python("huey.bin.huey_consumer", f"{WORKERS}.huey_app.huey", *options)
    with kept(command, log=place.log) as worker:
        yield Running(_each(app.deliver), [worker], is_free=lambda: sqlite_is_free(database))


CELERY = Contender("Celery, Redis", _PROCESSES, _celery)
DRAMATIQ = Contender("dramatiq, Redis", _PROCESSES * _THREADS, _dramatiq)
HUEY = Contender("huey, SQLite", _THREADS, _huey)
