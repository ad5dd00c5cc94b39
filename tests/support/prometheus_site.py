"""A shop with a Prometheus that scrapes its metrics, and the figures of its store."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import yaml

from resonant.dead_letters.replay import ReplayRequest, replay_batch
from resonant.delivery.retry import GiveUp, Park, Retry
from resonant.events import Attempt, Event
from resonant.local.server import free_port
from resonant.store import Outcome, WorkerStore
from resonant.store.shared.gates import GateChange, change_gate, read_gate
from resonant.store.views.selection import Selection
from resonant.testing import FixedClock
from support.prometheus_facts import DAY, HISTOGRAMS, Samples, facts
from support.waiting import wait_until

if TYPE_CHECKING:
    from contextlib import ExitStack

PROJECT = Path(__file__).parents[2]
RULES = PROJECT / "deployments" / "prometheus"
# The names of the scrape jobs in the example configuration.
SERVED, TEXTFILE = "resonant", "node"
COUNTERS = (
    "resonant_events_accepted_total",
    "resonant_delivery_outcomes_total",
    "resonant_delivery_attempts_total",
    "resonant_dead_letter_replays_total",
    "resonant_dead_letter_purges_total",
    *(f"{name}_{part}" for name, *_ in HISTOGRAMS for part in ("bucket", "count", "sum")),
)
GAUGES = (
    "resonant_delivery_latency_percentile_seconds",
    "resonant_delivery_first_attempt_percentile_seconds",
    "resonant_deliveries",
    "resonant_dead_letters",
    "resonant_oldest_due_timestamp_seconds",
    "resonant_last_claim_timestamp_seconds",
    "resonant_dead_letter_oldest_timestamp_seconds",
    "resonant_endpoint_state",
    "resonant_endpoint_pace_per_second",
    "resonant_endpoint_gone_timestamp_seconds",
    "resonant_deliveries_held",
)
EXPORTED_AT = "resonant_last_export_timestamp_seconds"


class Prometheus:
    """The HTTP API of Prometheus."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=30)

    def get(self, path: str, **parameters: Any) -> Any:
        answer = self._client.get(f"/api/v1/{path}", params=parameters).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        return self.get("query", query=expression)["result"]

    def samples(self, expression: str) -> Samples:
        """Query the current values, keyed by labels without the target's labels; zeros are omitted."""
        return {
            frozenset(_labels(series["metric"]).items()): float(series["value"][1])
            for series in self.query(expression)
            if float(series["value"][1])
        }

    def number(self, expression: str) -> float:
        [series] = self.query(expression)
        return float(series["value"][1])

    def is_ready(self) -> bool:
        try:
            return self._client.get("/-/ready").is_success
        except httpx.TransportError:
            return False


def _labels(metric: dict[str, str]) -> dict[str, Any]:
    kept = {key: value for key, value in metric.items() if key not in ("__name__", "job", "instance")}
    # A node exporter writes the bound 1.0 as 1.
    return kept | ({"le": float(kept["le"])} if "le" in kept else {})


class Shop:
    """The actions of producers, workers and an operator on a store, at the time of its clock."""

    def __init__(self, url: str) -> None:
        self.clock = FixedClock(time.time() - 4 * DAY)
        self._url = url

    def do(self, work):
        async def run():
            store = await WorkerStore.open(self._url, clock=self.clock, host_clock=self.clock)
            try:
                await work(store)
            finally:
                await store.close()

        asyncio.run(run())

    async def four_days_ago(self, store):
        """Deliver one event and give up another, for the purge to remove."""
        await self.accept(store, "billing", 2)
        delivered, refused = await self.claim(store, "billing")
        await self.deliver(store, delivered, 0.3)
        await self.fail(store, refused, GiveUp("permanent"), 0.1, category="permanent", code="http_400")

    async def now(self, store):
        """Perform some of every action; the tests assert the figures after two calls."""
        self.clock.advance(max(0.0, time.time() - 300 - self.clock()))
        await self.accept(store, "billing", 6)
        first, second, third, fourth, lost, _ = await self.claim(store, "billing")
        for lease, duration in ((first, 0.02), (second, 0.3), (third, 1.0)):
            await self.deliver(store, lease, duration)
        again = await self.fail(store, fourth, Retry(2.0, self.clock() + 2), 0.7)
        await self.deliver(store, again, 0.09)
        await store.begin([lost])
        self.clock.advance(61)
        await store.rescue()
        for lease in await self.claim(store, "billing"):
            assert lease.attempts == (lease.event.id == lost.event.id)
            await self.fail(store, lease, Park(40.0, self.clock() + 4000), 15.0, code="timeout")

        await self.accept(store, "crm", 3)
        refused, exhausted, replayed = await self.claim(store, "crm")
        await self.fail(store, refused, GiveUp("permanent"), 0.04, category="permanent", code="http_400")
        await self.fail(store, exhausted, GiveUp("exhausted"), 0.05)
        await self.fail(store, replayed, GiveUp("exhausted"), 0.06)
        await store.write(
            replay_batch,
            ReplayRequest(Selection(ids=(replayed.event.id,))),
            died_before=self.clock() + 1,
            limit=1,
            owner="operator",
            now=self.clock(),
            lease_seconds=60,
        )
        await store.release_all("operator")
        [lease] = await self.claim(store, "crm")
        await self.deliver(store, lease, 0.07)

        await self.accept(store, "quiet", 1)

        await self.gate(store, "billing", "paced", pace=12.5)
        await self.gate(store, "crm", "paused", reason="it answered 410")
        await self.gate(store, "quiet", "probing", failing_since=self.clock())

    async def gate(self, store, endpoint, state, **fields):
        before = await store.read(read_gate, endpoint)
        after = replace(before, state=state, since=self.clock(), **fields)
        assert await store.write(change_gate, GateChange(before, after))

    async def accept(self, store, endpoint, count):
        events = [Event(type="order.paid", source="/shop", data=n) for n in range(count)]
        await store.enqueue(events, endpoint)

    async def claim(self, store, endpoint):
        return await store.claim(endpoint, owner="worker", limit=100)

    async def deliver(self, store, lease, duration):
        await self.record(store, lease, None, duration=duration, result="delivered", status_code=200)

    async def fail(self, store, lease, decision, duration, **fields):
        failure = {"result": "failed", "category": "transient", "code": "http_503"} | fields
        delay = getattr(decision, "delay", None)
        word = {Retry: "retry", Park: "park", GiveUp: "give_up"}[type(decision)]
        await self.record(store, lease, decision, duration=duration, decision=word, delay=delay, **failure)
        return replace(lease, attempts=lease.attempts + 1, round_attempts=lease.round_attempts + 1)

    async def record(self, store, lease, decision, /, **fields):
        await store.begin([lease])
        attempt = Attempt(number=lease.attempts + 1, round=lease.round, started_at=self.clock(), **fields)
        self.clock.advance(attempt.duration)
        assert await store.record([Outcome(lease, attempt, decision)])


@dataclass
class Moment:
    """The figures of the store and of Prometheus at the same moment."""

    facts: dict[str, Samples]
    status: dict[str, Any]
    answers: dict[str, dict[str, Samples]] = field(default_factory=dict)
    sums: dict[str, dict[str, float]] = field(default_factory=dict)
    old_dead_letters: set[str] = field(default_factory=set)


class Site:
    """A machine with a store, its two exporters, and a Prometheus with the shipped rules."""

    def __init__(self, folder: Path, stack: ExitStack, programs: tuple[str, str]) -> None:
        self._stack = stack
        self._folder = folder
        self._port = free_port()
        self._serving: subprocess.Popen[str] | None = None
        self.database = folder / "resonant.db"
        self.textfile = folder / "textfiles" / "resonant.prom"
        self.textfile.parent.mkdir()
        self.shop = Shop(f"sqlite:///{self.database}")
        prometheus, node_exporter = programs
        node_port = free_port()
        self.start(
            node_exporter,
            "--collector.disable-defaults",
            "--collector.textfile",
            f"--collector.textfile.directory={self.textfile.parent}",
            f"--web.listen-address=127.0.0.1:{node_port}",
        )
        port = free_port()
        self.start(
            prometheus,
            f"--config.file={self._configuration(node_port)}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
        )
        self.prometheus = Prometheus(f"http://127.0.0.1:{port}")
        wait_until(self.prometheus.is_ready)

    def _configuration(self, node_port: int) -> Path:
        """Write the shipped example with shorter intervals and free ports; return its path."""
        shipped = yaml.safe_load((RULES / "prometheus.yml").read_text())
        # The interval is also the timeout of a scrape, and after a failed scrape a query finds nothing.
        shipped["global"] = {"scrape_interval": "2s", "evaluation_interval": "1s"}
        shipped["rule_files"] = [str(RULES / name) for name in shipped["rule_files"]]
        ports = {SERVED: self._port, TEXTFILE: node_port}
        for job in shipped["scrape_configs"]:
            job["static_configs"] = [{"targets": [f"127.0.0.1:{ports.pop(job['job_name'])}"]}]
        assert not ports
        path = self._folder / "prometheus.yml"
        path.write_text(yaml.safe_dump(shipped))
        return path

    @property
    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RESONANT_")}
        home = {"RESONANT_HOME": str(self._folder / "home")}
        return kept | home | {"RESONANT_DATABASE_URL": f"sqlite:///{self.database}"}

    def start(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        with (self._folder / f"{Path(command[0]).name}.log").open("a") as log:
            process = subprocess.Popen(
                command, stdout=log, **{"stderr": log} | options, text=True, env=self._environment
            )
        self._stack.callback(_stop, process)
        return process

    def run(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "resonant", *arguments]
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def serve(self) -> None:
        """Start `resonant prometheus --serve`, or restart it."""
        if self._serving is not None:
            _stop(self._serving)
        command = (sys.executable, "-m", "resonant", "prometheus", "--serve", str(self._port))
        self._serving = self.start(*command, stderr=subprocess.PIPE)
        assert self._serving.stderr is not None
        assert "serving" in self._serving.stderr.readline()

    def is_scraped(self, since: float) -> bool:
        """Return whether both jobs have scraped the store's figures since this time."""
        exported = {
            each["metric"]["job"]: float(each["value"][1]) for each in self.prometheus.query(EXPORTED_AT)
        }
        return exported.keys() == {SERVED, TEXTFILE} and min(exported.values()) >= since

    def scrape(self) -> None:
        """Write the textfile, and wait until Prometheus has read it and scraped the server."""
        since = time.time()
        self.run("prometheus", "--output", str(self.textfile))
        wait_until(lambda: self.is_scraped(since))

    def look(self, *, old_dead_letters: int) -> Moment:
        """Scrape, then read the same figures from the store and from Prometheus.

        Args:
            old_dead_letters: the number of exporters for which to await the alert about an old dead letter.
        """
        self.scrape()
        moment = Moment(facts(self.database), json.loads(self.run("status", "--json")))
        is_old = 'ALERTS{alertname="ResonantDeadLetterOld"}'
        wait_until(lambda: len(self.prometheus.query(is_old)) == old_dead_letters)
        moment.old_dead_letters = {each["metric"]["endpoint"] for each in self.prometheus.query(is_old)}
        for job in (SERVED, TEXTFILE):
            ask = self.prometheus.samples
            moment.answers[job] = {name: ask(f'{name}{{job="{job}"}}') for name in (*COUNTERS, *GAUGES)}
            moment.sums[job] = {
                key: self.prometheus.number(expression.replace("JOB", f'job="{job}"'))
                for key, expression in SUMS.items()
            }
        return moment


# The balance, as PromQL.
SUMS = {
    "accepted": "sum(resonant_events_accepted_total{JOB})",
    "pending": 'sum(resonant_deliveries{JOB, status="pending"})',
    "retrying": 'sum(resonant_deliveries{JOB, status="retrying"})',
    "delivered": 'sum(resonant_deliveries{JOB, status="delivered"})',
    "dead_letter": "sum(resonant_dead_letters{JOB})",
    "purged": "sum(resonant_events_accepted_total{JOB}) - sum(resonant_deliveries{JOB})",
}


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stderr:
        process.stderr.close()
