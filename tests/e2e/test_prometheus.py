"""A real Prometheus reads a store in both ways, and its answers are the store's own numbers, over a purge and a restart."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import sqlite3
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from resonant.dead_letters import operations
from resonant.delivery.retry import GiveUp, Park, Retry
from resonant.events import Attempt, Event
from resonant.local.server import free_port
from resonant.store import Outcome, open_store
from resonant.store.counters import BUCKETS
from resonant.store.selection import Selection
from resonant.testing import FixedClock
from support.programs import need
from support.waiting import wait_until

PROJECT = Path(__file__).parents[2]
RULES = PROJECT / "deployments" / "prometheus"
DASHBOARD = json.loads((PROJECT / "deployments" / "grafana" / "resonant.json").read_text())

DAY = 86_400
# The ways to scrape, as the example configuration names them.
SERVED, TEXTFILE = "resonant", "node"
HISTOGRAMS = (
    "resonant_delivery_attempt_duration_seconds",
    "resonant_delivery_end_to_end_duration_seconds",
    "resonant_delivery_retry_delay_seconds",
)
COUNTERS = (
    "resonant_events_accepted_total",
    "resonant_delivery_outcomes_total",
    "resonant_delivery_attempts_total",
    "resonant_dead_letter_replays_total",
    "resonant_dead_letter_purges_total",
    *(f"{name}_{part}" for name in HISTOGRAMS for part in ("bucket", "count", "sum")),
)
GAUGES = (
    "resonant_delivery_latency_percentile_seconds",
    "resonant_deliveries",
    "resonant_dead_letters",
    "resonant_oldest_due_timestamp_seconds",
    "resonant_last_claim_timestamp_seconds",
    "resonant_dead_letter_oldest_timestamp_seconds",
)
EXPORTED_AT = "resonant_last_export_timestamp_seconds"

Samples = dict[frozenset[tuple[str, Any]], float]


class Prometheus:
    """Its HTTP API."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=30)

    def get(self, path: str, **parameters: Any) -> Any:
        answer = self._client.get(f"/api/v1/{path}", params=parameters).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        return self.get("query", query=expression)["result"]

    def samples(self, expression: str) -> Samples:
        """Ask for the values of now, by their labels without those of the target; 0 is left out."""
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
    """What producers, workers and an operator do to a store, at the time its clock says."""

    def __init__(self, url: str) -> None:
        self.clock = FixedClock(time.time() - 4 * DAY)
        self._url = url

    def do(self, work):
        async def run():
            store = await open_store(self._url, clock=self.clock)
            try:
                await work(store)
            finally:
                await store.close()

        asyncio.run(run())

    async def four_days_ago(self, store):
        """One is delivered, one given up: what the purge will take."""
        await self.accept(store, "billing", 2)
        delivered, refused = await self.claim(store, "billing")
        await self.deliver(store, delivered, 0.3)
        await self.fail(store, refused, GiveUp("permanent"), 0.1, category="permanent", code="http_400")

    async def now(self, store):
        """Do a little of everything; what each number is after it was done twice, the tests say."""
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
            operations.replay,
            Selection(ids=(replayed.event.id,)),
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


def facts(database: Path) -> dict[str, Samples]:
    """Compute every metric from the tables, by other means than the exposition; 0 is left out."""
    with closing(sqlite3.connect(database)) as connection:

        def read(labels: str, value: str, rest: str) -> Samples:
            names = labels.split(", ")
            rows = connection.execute(f"SELECT {value}, {labels} FROM {rest} GROUP BY {labels}")
            return {
                frozenset(zip(names, row[1:], strict=True)): row[0] for row in rows if row[0] not in (0, None)
            }

        def count(labels: str, condition: str) -> Samples:
            return read(labels, "SUM(count)", f"resonant_rollups WHERE {condition}")

        found = {
            "resonant_events_accepted_total": read(
                "endpoint",
                "SUM(accepted)",
                "(SELECT name AS endpoint, accepted FROM resonant_endpoints "
                "UNION ALL SELECT endpoint, count FROM resonant_acceptances)",
            ),
            "resonant_delivery_outcomes_total": {
                frozenset({("endpoint", endpoint), ("outcome", result)}): number
                for endpoint, result, number in connection.execute(
                    "SELECT endpoint, result, SUM(count) FROM resonant_rollups WHERE measure = 'delivery' "
                    "GROUP BY endpoint, result"
                )
            },
            # Prometheus has no empty label: one that is empty is not there.
            "resonant_delivery_attempts_total": {
                frozenset(pair for pair in key if pair[1]): number
                for key, number in count("endpoint, result, category, code", "measure = 'attempt'").items()
            },
            "resonant_dead_letter_replays_total": count("endpoint", "measure = 'replay'"),
            "resonant_dead_letter_purges_total": count(
                "endpoint", "measure = 'purge' AND result = 'dead_letter'"
            ),
            "resonant_deliveries": read("endpoint, status", "COUNT(*)", "resonant_deliveries"),
            "resonant_dead_letters": read(
                "endpoint, category, reason", "COUNT(*)", "resonant_deliveries WHERE status = 'dead_letter'"
            ),
            "resonant_oldest_due_timestamp_seconds": read(
                "endpoint", "MIN(next_attempt_at)", "resonant_deliveries WHERE finished_at IS NULL"
            ),
            "resonant_last_claim_timestamp_seconds": read(
                "endpoint", "MAX(last_claim_at)", "resonant_claims"
            ),
            "resonant_dead_letter_oldest_timestamp_seconds": read(
                "endpoint", "MIN(finished_at)", "resonant_deliveries WHERE status = 'dead_letter'"
            ),
            "resonant_delivery_latency_percentile_seconds": _percentiles(connection),
        }
        conditions = (
            "measure = 'attempt' AND result <> 'lost'",
            "measure = 'delivery' AND result = 'delivered'",
            "measure = 'retry_delay'",
        )
        for name, condition in zip(HISTOGRAMS, conditions, strict=True):
            found[f"{name}_count"] = count("endpoint", condition)
            found[f"{name}_sum"] = read("endpoint", "SUM(total)", f"resonant_rollups WHERE {condition}")
            found[f"{name}_bucket"] = {
                key | {("le", math.inf)}: number for key, number in found[f"{name}_count"].items()
            }
            for bound in BUCKETS[:-1]:
                below = count("endpoint", f"{condition} AND le <= {bound}")
                found[f"{name}_bucket"] |= {key | {("le", bound)}: number for key, number in below.items()}
    return found


def _percentiles(connection: sqlite3.Connection) -> Samples:
    rows = connection.execute(
        "SELECT endpoint, duration FROM resonant_attempts a JOIN resonant_deliveries d ON d.id = a.delivery_id "
        "WHERE a.result <> 'lost' AND NOT late AND a.started_at > ?",
        (time.time() - DAY,),
    ).fetchall()
    return {
        frozenset({("endpoint", endpoint), ("percentile", f"p{rank}")}): float(
            np.percentile([duration for name, duration in rows if name == endpoint], rank)
        )
        for endpoint in {name for name, _ in rows}
        for rank in (50, 95, 99)
    }


@dataclass
class Moment:
    """What the store and what Prometheus said when nothing moved."""

    facts: dict[str, Samples]
    status: dict[str, Any]
    answers: dict[str, dict[str, Samples]] = field(default_factory=dict)
    sums: dict[str, dict[str, float]] = field(default_factory=dict)
    old_dead_letters: set[str] = field(default_factory=set)


class Site:
    """A machine with a store, its two exporters, and a Prometheus that knows the shipped rules."""

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
        """Return the shipped example, but faster, and with the ports that are free here."""
        shipped = yaml.safe_load((RULES / "prometheus.yml").read_text())
        shipped["global"] = {"scrape_interval": "500ms", "evaluation_interval": "1s"}
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
        """Start `resonant prometheus --serve`, again if it runs."""
        if self._serving is not None:
            _stop(self._serving)
        command = (sys.executable, "-m", "resonant", "prometheus", "--serve", str(self._port))
        self._serving = self.start(*command, stderr=subprocess.PIPE)
        assert self._serving.stderr is not None
        assert "serving" in self._serving.stderr.readline()

    def is_scraped(self, since: float) -> bool:
        """Tell whether both ways have brought what the store held at this moment."""
        exported = {
            each["metric"]["job"]: float(each["value"][1]) for each in self.prometheus.query(EXPORTED_AT)
        }
        return exported.keys() == {SERVED, TEXTFILE} and min(exported.values()) >= since

    def scrape(self) -> None:
        """Write the textfile, and wait until Prometheus has read it and has asked the server."""
        since = time.time()
        self.run("prometheus", "--output", str(self.textfile))
        wait_until(lambda: self.is_scraped(since))

    def look(self, *, old_dead_letters: int) -> Moment:
        """Scrape, then ask the store and Prometheus the same.

        Args:
            old_dead_letters: for how many exporters the alert about an old dead letter is awaited.
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


@dataclass
class Story:
    began_at: float
    site: Site
    before: Moment
    after: Moment

    @property
    def prometheus(self) -> Prometheus:
        return self.site.prometheus


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """Work that Prometheus sees grow; then a purge of what is old and a restart of the server."""
    programs = (need("prometheus"), need("prometheus-node-exporter"))
    began_at = time.time()
    with ExitStack() as stack:
        site = Site(tmp_path_factory.mktemp("site"), stack, programs)
        site.shop.do(site.shop.four_days_ago)
        site.shop.do(site.shop.now)
        site.serve()
        site.scrape()
        site.shop.do(site.shop.now)
        before = site.look(old_dead_letters=2)
        site.run("purge", "--older-than", "1", "--delivered-older-than", "1")
        site.serve()
        after = site.look(old_dead_letters=0)
        yield Story(began_at, site, before, after)


@pytest.mark.parametrize("job", [SERVED, TEXTFILE])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", [*COUNTERS, *GAUGES])
def test_each_metric_is_the_stores_own_number(story, name, when, job):
    moment = getattr(story, when)
    assert moment.answers[job][name] == pytest.approx(moment.facts[name], rel=1e-9)
    if (name, when) != ("resonant_dead_letter_purges_total", "before"):
        assert moment.facts[name], "nothing was compared"


def test_every_metric_is_compared(story):
    served = story.prometheus.get("label/__name__/values", **{"match[]": '{__name__=~"resonant_.+"}'})
    assert sorted(served) == sorted([*COUNTERS, *GAUGES, EXPORTED_AT])


@pytest.mark.parametrize("job", [SERVED, TEXTFILE])
def test_the_balance_holds_in_promql(story, job):
    nothing_purged = {"accepted": 22, "pending": 2, "retrying": 4, "delivered": 11, "dead_letter": 5}
    assert story.before.sums[job] == nothing_purged | {"purged": 0}
    assert story.after.sums[job] == nothing_purged | {"purged": 2, "delivered": 10, "dead_letter": 4}
    for moment in (story.before, story.after):
        assert moment.status["balanced"]
        assert {key: moment.status[key] for key in SUMS} == moment.sums[job]


@pytest.mark.parametrize("job", [SERVED, TEXTFILE])
def test_no_counter_falls_over_a_purge_and_a_restart(story, job):
    for name in COUNTERS:
        assert story.prometheus.samples(f'resets({name}{{job="{job}"}}[1h])') == {}
    changed = {name for name in COUNTERS if story.before.answers[job][name] != story.after.answers[job][name]}
    assert changed == {"resonant_dead_letter_purges_total"}
    assert story.after.answers[job]["resonant_dead_letter_purges_total"] == {
        frozenset({("endpoint", "billing")}): 1
    }


def test_prometheus_saw_what_was_done_between_two_scrapes(story):
    increase = story.prometheus.samples(
        f'max_over_time(resonant_events_accepted_total{{job="{SERVED}"}}[1h])'
        f' - min_over_time(resonant_events_accepted_total{{job="{SERVED}"}}[1h])'
    )
    assert increase == {
        frozenset({("endpoint", endpoint)}): count
        for endpoint, count in (("billing", 6), ("crm", 3), ("quiet", 1))
    }


def test_an_endpoint_to_which_nothing_was_sent_has_counters_at_0(story):
    of_quiet = f'{{job="{SERVED}", endpoint="quiet"}}'
    for name in set(COUNTERS) - {"resonant_events_accepted_total"}:
        assert {float(each["value"][1]) for each in story.prometheus.query(name + of_quiet)} == {0}, name


@pytest.mark.parametrize("job", [SERVED, TEXTFILE])
def test_the_time_of_the_export_is_now(story, job):
    exported_at = story.prometheus.number(f'{EXPORTED_AT}{{job="{job}"}}')
    assert story.began_at <= exported_at <= time.time()


def test_the_alert_about_an_old_dead_letter_ends_with_the_purge(story):
    assert story.before.old_dead_letters == {"billing"}
    assert story.after.old_dead_letters == set()


def test_all_rules_are_evaluated_without_error_and_what_is_recorded_is_there(story):
    def evaluated():
        groups = story.prometheus.get("rules")["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        return rules if all(rule["health"] != "unknown" for rule in rules) else None

    rules = wait_until(evaluated)
    shipped = [yaml.safe_load((RULES / file).read_text()) for file in ("recording.yml", "alerts.yml")]
    assert len(rules) == sum(len(group["rules"]) for each in shipped for group in each["groups"])
    assert [rule for rule in rules if rule["health"] != "ok" or rule.get("lastError")] == []
    for recorded in (rule["name"] for rule in rules if rule["type"] == "recording"):
        assert {series["metric"]["job"] for series in story.prometheus.query(recorded)} == {SERVED, TEXTFILE}


PANELS = [
    pytest.param(job, target, id=f"{panel['id']} {panel['title']} {target['refId']}, {job}")
    for job in (SERVED, TEXTFILE)
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", ())
]


@pytest.mark.parametrize(("job", "target"), PANELS)
def test_each_query_of_the_dashboard_returns_data(story, job, target):
    expression = chosen(story.prometheus, job, target["expr"])
    if target["instant"]:
        values = [series["value"] for series in story.prometheus.query(expression)]
    else:
        end = time.time()
        window = {"start": end - 60, "end": end, "step": 1}
        found = story.prometheus.get("query_range", query=expression, **window)["result"]
        values = [value for series in found for value in series["values"]]
    assert any(math.isfinite(float(value)) for _, value in values)


def test_the_choices_of_the_dashboard_are_the_exporters_and_the_endpoints(story):
    queries = {each["name"]: each["query"] for each in DASHBOARD["templating"]["list"]}

    def choices(name):
        query = chosen(story.prometheus, SERVED, queries[name])
        match, label = re.fullmatch(r"label_values\((.+), (\w+)\)", query).groups()
        return story.prometheus.get(f"label/{label}/values", **{"match[]": match})

    targets = story.prometheus.query(EXPORTED_AT)
    assert choices("exporter") == sorted(each["metric"]["instance"] for each in targets)
    assert choices("endpoint") == ["billing", "crm", "quiet"]


def chosen(prometheus, job, expression):
    """Put in what Grafana would: this exporter, all endpoints, and windows that fit the life of this Prometheus."""
    [target] = prometheus.query(f'{EXPORTED_AT}{{job="{job}"}}')
    values = {"exporter": target["metric"]["instance"], "endpoint": ".+"}
    values |= {"__rate_interval": "10m", "__range": "10m"}
    replaced = re.sub(r"\$(\w+)", lambda match: values[match[1]], expression)
    assert "$" not in replaced
    return replaced
