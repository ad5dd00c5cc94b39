"""``resonant serve``, the drain and Prefect's server are killed while services send webhooks, some of them twice: each webhook
starts exactly one flow run.

``RESONANT_CHAOS=long`` sends 10,000 webhooks, kills each 20 times, and once keeps Prefect's server away for a minute.
"""

import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest
from chaos_facts import Database, Look
from faults import IS_LONG, PROJECT, note_figures
from faults_prefect import DRAIN, Kept, own_prefect

from support import patient
from support.deployments import Deployments
from support.machine import Machine
from support.ports import free_port
from support.sources import declare, row, webhook
from support.store_rows import DELIVERIES
from support.waiting import wait_until

pytestmark = [pytest.mark.engine, pytest.mark.own_server, pytest.mark.slow]

WEBHOOKS, KILLS, AWAY_SECONDS = (10_000, 20, 60.0) if IS_LONG else (200, 1, 0.0)
SCHEMES = ("github", "stripe", "slack", "hmac")
SENDERS, PAUSE_SECONDS = 16, 0.05
# No worker runs the runs, and Prefect would write a state of each that is late.
NO_LATE_RUNS = {"PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false"}
# Answers, or deliveries, of a round before the kill.
STEP, LATEST_KILL_SECONDS = WEBHOOKS // KILLS // 10, 0.3
STRUCK_WITHIN_SECONDS, DELIVERED_WITHIN_SECONDS = 600.0, 2400.0


class Sender:
    """Sends webhooks as services do: it signs each request when it sends it, and repeats it until the answer is a success."""

    def __init__(self, url: str) -> None:
        self.client = patient.Client(base_url=url)
        self.answers: Counter[str] = Counter()
        self.is_over = threading.Event()

    def send(self, number: int) -> None:
        while self._post(number) != "success" and not self.is_over.wait(PAUSE_SECONDS):
            pass

    def _post(self, number: int) -> str:
        scheme, event_id = webhook_of(number)
        sent = webhook(scheme, event_id=event_id, at=time.time())
        try:
            answer = self.client.post(f"/sources/{scheme}", content=sent.body, headers=dict(sent.headers))
        except httpx.TransportError:
            found = "no answer"
        else:
            found = "success" if answer.is_success else str(answer.status_code)
        self.answers[found] += 1
        return found


def webhook_of(number: int) -> tuple[str, str]:
    """Return the scheme and the event's id."""
    return SCHEMES[number % len(SCHEMES)], f"evt-{number}"


def repeated(numbers: range) -> list[int]:
    """Return the numbers; one in ten is twice in a row, so that both are sent at the same time, and one in ten again at the end."""
    twice = [number for number in numbers for _ in range(1 + (number % 10 == 3))]
    return twice + [number for number in numbers if number % 10 == 8]


@pytest.fixture
def server(tmp_path):
    with own_prefect(tmp_path / "prefect", **NO_LATE_RUNS) as started:
        yield started


@pytest.mark.timeout(3600)
def test_each_webhook_starts_one_run_over_kills_of_all_processes(server, sqlite_url, tmp_path):
    rng = random.Random(seed := os.environ["RESONANT_CHAOS_SEED"])
    deployments, database = Deployments(server.api_url), Database(sqlite_url)
    machine = Machine(tmp_path, server.api_url, {"RESONANT_DATABASE_URL": sqlite_url})
    machine.do("endpoint", "add", "start", "--deployment", name := deployments.make(), "--types", "*")
    file = declare(tmp_path, *(row(scheme) for scheme in SCHEMES))
    sender, started_at = Sender(f"http://127.0.0.1:{(port := free_port())}"), time.monotonic()

    def number_of(condition: str) -> int:
        [row] = database.query(f"SELECT count(*) AS number FROM resonant_deliveries WHERE {condition}")
        return row["number"]

    def strike(kill: Callable[[], None], done: Callable[[], int], before: int) -> None:
        """Kill a process a moment after some work of this round is done."""
        wait_until(lambda: done() >= before + STEP, STRUCK_WITHIN_SECONDS)
        time.sleep(rng.uniform(0, LATEST_KILL_SECONDS))
        kill()

    def answered() -> int:
        return sender.answers["success"]

    def delivered() -> int:
        return number_of("status = 'delivered'")

    with ThreadPoolExecutor(SENDERS + 2) as pool, ExitStack() as stack:
        log = stack.enter_context((tmp_path / "log").open("wb"))
        serve_options = ("--port", str(port), "--no-auth", "--sources", str(file))
        serve, drain = (
            Kept([sys.executable, *command], cwd=PROJECT, env=machine.environment, stdout=log, stderr=log)
            for command in (("-m", "resonant", "serve", *serve_options), ("-c", DRAIN))
        )
        for stop in (drain.stop, serve.stop, sender.is_over.set):
            stack.callback(stop)
        for kill in range(KILLS):
            before = answered(), delivered()
            print(f"kill {kill}: {round(time.monotonic() - started_at)} s, {before}", flush=True)
            numbers = range(WEBHOOKS * kill // KILLS, WEBHOOKS * (kill + 1) // KILLS)
            work = [pool.submit(sender.send, number) for number in repeated(numbers)]
            work.append(pool.submit(strike, serve.kill, answered, before[0]))
            work.append(pool.submit(strike, drain.kill, delivered, before[1]))
            strike(server.kill, delivered, before[1])
            time.sleep(AWAY_SECONDS if kill == KILLS // 2 else 0)
            server.start()
            for each in work:
                each.result()
        stored_at = time.monotonic()
        wait_until(lambda: number_of("status <> 'delivered'") == 0, DELIVERED_WITHIN_SECONDS, every=1)
        delivered_at = time.monotonic()

    print(f"RESONANT_CHAOS_SEED={seed}")
    note_figures(
        "kills of serve, the drain and Prefect's server",
        {
            "webhooks": WEBHOOKS,
            "kills of each": KILLS,
            "answers": dict(sender.answers),
            "seconds until all were stored": round(stored_at - started_at),
            "seconds until all runs were created": round(delivered_at - started_at),
        },
    )
    with database.opened() as snapshot:
        assert Look.at(snapshot).problems() == []
    wanted = Counter(event_id for _, event_id in map(webhook_of, range(WEBHOOKS)))
    assert (
        Counter(each["event_id"] for each in database.query(f"SELECT event_id FROM {DELIVERIES}")) == wanted
    )
    runs = deployments.runs(name)
    assert Counter(run["name"] for run in runs) == wanted
    assert len({run["idempotency_key"] for run in runs}) == WEBHOOKS
