"""A shop with a Prometheus that scrapes its metrics, and the figures of its store."""

import json
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import yaml
from prometheus_client.parser import text_string_to_metric_families as parse_text

from resonant.delivery.retry import Decision, GiveUp, Park
from resonant.events import Event, Lease
from resonant.store.shared.gates import FailingType, GateChange, change_gate, read_gate
from resonant.store.views.selection import Selection
from resonant.testing import FixedClock
from support import patient
from support.desk import Desk, opened_desk
from support.failures import show_on_failure
from support.machine import Machine
from support.ports import free_port
from support.waiting import PATIENCE_SECONDS, wait_until

PROJECT = Path(__file__).parents[2]
RULES = PROJECT / "deployments" / "prometheus"
# The names of the scrape jobs in the example configuration.
SERVED, TEXTFILE = "resonant", "node"
EXPORTED_AT = "resonant_last_export_timestamp_seconds"
DAY = 86_400
Samples = dict[frozenset[tuple[str, Any]], float]


def exposed(text: str, *kinds: str) -> dict[str, Samples]:
    """Return the samples of a text by name, of all metrics or of these kinds; zeros are omitted."""
    found: defaultdict[str, Samples] = defaultdict(dict)
    for family in parse_text(text):
        for sample in family.samples:
            if (not kinds or family.type in kinds) and sample.value:
                found[sample.name][frozenset(_labels(sample.labels).items())] = sample.value
    return found


class Prometheus:
    """The HTTP API of Prometheus.

    Attributes:
        at: the time of each query, in seconds since the epoch; None for now. After a failed scrape, a query for now finds
            nothing.
    """

    def __init__(self, url: str) -> None:
        self.at: float | None = None
        self._client = patient.Client(base_url=url)

    def get(self, path: str, **parameters: Any) -> Any:
        answer = self._client.get(f"/api/v1/{path}", params=parameters).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        at = {} if self.at is None else {"time": self.at}
        return self.get("query", query=expression, **at)["result"]

    def samples(self, expression: str) -> Samples:
        """Query the current values, keyed by labels without the target's labels; zeros are omitted."""
        return {
            frozenset(_labels(series["metric"]).items()): float(series["value"][1])
            for series in self.query(expression)
            if float(series["value"][1])
        }

    def jobs(self, expression: str) -> set[str]:
        return {series["metric"]["job"] for series in self.query(expression)}

    def rules(self) -> list[dict[str, Any]]:
        return [rule for group in self.get("rules")["groups"] for rule in group["rules"]]

    def number(self, expression: str) -> float:
        [series] = self.query(expression)
        return float(series["value"][1])

    def is_ready(self) -> bool:
        try:
            return self._client.get("/-/ready").is_success
        except httpx.TransportError:
            return False


def _labels(metric: dict[str, str]) -> dict[str, Any]:
    # Prometheus treats an empty label as absent.
    kept = {k: value for k, value in metric.items() if value and k not in ("__name__", "job", "instance")}
    # A node exporter writes the bound 1.0 as 1.
    return kept | ({"le": float(kept["le"])} if "le" in kept else {})


def accept(desk: Desk, endpoint: str, count: int) -> None:
    events = [Event(type="order.paid", source="/shop", data=n) for n in range(count)]
    desk.enqueue(*events, endpoint=endpoint)


def attempt(
    desk: Desk, lease: Lease, seconds: float, decision: Decision | None = None, **fields: Any
) -> None:
    """Make an attempt that takes this many seconds, and record it."""
    desk.begin(lease)
    values = {"started_at": desk.clock(), "duration": seconds} | fields
    desk.clock.advance(seconds)
    recorded = desk.delivered(lease, **values) if decision is None else desk.failed(lease, decision, **values)
    assert desk.record(recorded)


def write_gate(desk: Desk, endpoint: str, state: str, **fields: Any) -> None:
    before = desk.read(read_gate, endpoint)
    after = replace(before, state=state, since=desk.clock(), **fields)
    assert desk.write(change_gate, GateChange(before, after))


REFUSED = {"category": "permanent", "code": "http_400"}


def four_days_ago(desk: Desk) -> None:
    """Deliver one event and give up another, for the purge to remove."""
    accept(desk, "billing", 2)
    delivered, refused = desk.claim(endpoint="billing")
    attempt(desk, delivered, 0.3)
    attempt(desk, refused, 0.1, GiveUp("permanent"), **REFUSED)


def now(desk: Desk) -> None:
    """Perform some of every action; the tests assert the figures after two calls."""
    desk.clock.advance(max(0.0, time.time() - 300 - desk.clock()))
    accept(desk, "billing", 6)
    first, second, third, fourth, lost, _ = desk.claim(endpoint="billing")
    for lease, seconds in ((first, 0.02), (second, 0.3), (third, 1.0)):
        attempt(desk, lease, seconds)
    retry = desk.retry_in(2.0)
    attempt(desk, fourth, 0.7, retry)
    attempt(desk, desk.counted_on(fourth, retry), 0.09)
    desk.begin(lost)
    desk.clock.advance(61)
    desk.rescue()
    for lease in desk.claim(endpoint="billing"):
        assert lease.attempts == (lease.event.id == lost.event.id)
        attempt(desk, lease, 15.0, Park(4000.0, desk.clock() + 4000), code="timeout")

    accept(desk, "crm", 3)
    refused, exhausted, replayed = desk.claim(endpoint="crm")
    attempt(desk, refused, 0.04, GiveUp("permanent"), **REFUSED)
    attempt(desk, exhausted, 0.05, GiveUp("exhausted"))
    attempt(desk, replayed, 0.06, GiveUp("exhausted"))
    [lease] = desk.replay(Selection(ids=(replayed.event.id,)), died_before=desk.clock() + 1).leases
    attempt(desk, lease, 0.07)

    accept(desk, "quiet", 1)

    failing = FailingType("order.refunded", desk.clock(), "http_500", desk.clock(), desk.clock())
    write_gate(desk, "billing", "paced", pace=12.5, failing=(failing,))
    write_gate(desk, "crm", "paused", reason="it answered 410")
    write_gate(desk, "quiet", "probing", failing_since=desk.clock())


@dataclass
class Moment:
    """The figures of the textfile, of the store and of Prometheus at the same moment."""

    written: str
    status: dict[str, Any]
    answers: dict[str, dict[str, Samples]] = field(default_factory=dict)
    sums: dict[str, dict[str, float]] = field(default_factory=dict)
    old_dead_letters: set[str] = field(default_factory=set)


class Site:
    """A machine with a store, its two exporters, and a Prometheus with the shipped rules."""

    def __init__(self, folder: Path, stack: ExitStack, programs: tuple[str, str]) -> None:
        self.machine = Machine(folder)
        self.machine.database.parent.mkdir()
        self._stack = stack
        self._clock = FixedClock(time.time() - 4 * DAY)
        self._port = free_port()
        self._serving: subprocess.Popen[str] | None = None
        self.textfile = folder / "textfiles" / "resonant.prom"
        self.textfile.parent.mkdir()
        prometheus, node_exporter = programs
        node_port, port = free_port(), free_port()
        self._start(
            node_exporter,
            "--collector.disable-defaults",
            "--collector.textfile",
            f"--collector.textfile.directory={self.textfile.parent}",
            f"--web.listen-address=127.0.0.1:{node_port}",
        )
        self._start(
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
        path = self.machine.home / "prometheus.yml"
        path.write_text(yaml.safe_dump(shipped))
        return path

    def _start(self, *command: str) -> None:
        path = self.machine.home / f"{Path(command[0]).name}.log"
        show_on_failure(path.stem, path)
        with path.open("w") as log:
            self._stack.callback(_stop, subprocess.Popen(command, stdout=log, stderr=log))

    def work(self, work: Callable[[Desk], None]) -> None:
        """Act on the store, at the time of its clock."""
        with opened_desk(f"sqlite:///{self.machine.database}", self._clock) as desk:
            work(desk)

    def serve(self) -> None:
        """Start `resonant prometheus --serve`, or restart it."""
        if self._serving is not None:
            _stop(self._serving)
        self._serving = self.machine.start("prometheus", "--serve", str(self._port))
        self._stack.callback(_stop, self._serving)
        assert "serving" in self._serving.stderr.readline()

    def scrape(self) -> None:
        """Write the textfile, and wait until Prometheus has read it and scraped the server."""
        self._query_once(self._write_textfile())

    def _write_textfile(self) -> Callable[[], bool]:
        """Write the textfile; return a function that says whether Prometheus has both exporters' figures since then."""
        since = time.time()
        self.machine.do("prometheus", "--output", str(self.textfile))

        def is_scraped() -> bool:
            exported = {
                each["metric"]["job"]: float(each["value"][1]) for each in self.prometheus.query(EXPORTED_AT)
            }
            return exported.keys() == {SERVED, TEXTFILE} and min(exported.values()) >= since

        return is_scraped

    def _query_once(self, is_true: Callable[[], bool]) -> None:
        """Wait until this is true, and let later queries be for that moment."""

        def is_true_now() -> bool:
            self.prometheus.at = time.time()
            return is_true()

        wait_until(is_true_now)

    def look(self, *, old_dead_letters: int) -> Moment:
        """Scrape, then read the same figures from the textfile, the store and Prometheus.

        Args:
            old_dead_letters: the number of exporters for which to await the alert about an old dead letter.
        """
        is_scraped = self._write_textfile()
        is_old = 'ALERTS{alertname="ResonantDeadLetterOld"}'
        recorded = [rule["name"] for rule in self.prometheus.rules() if rule["type"] == "recording"]
        self._query_once(
            lambda: (
                is_scraped()
                and len(self.prometheus.query(is_old)) == old_dead_letters
                and all(len(self.prometheus.jobs(name)) == 2 for name in recorded)
            )
        )
        status = json.loads(self.machine.do("status", "--json").stdout)
        moment = Moment(self.textfile.read_text(), status)
        moment.old_dead_letters = {each["metric"]["endpoint"] for each in self.prometheus.query(is_old)}
        for job in (SERVED, TEXTFILE):
            ask = self.prometheus.samples
            moment.answers[job] = {name: ask(f'{name}{{job="{job}"}}') for name in exposed(moment.written)}
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
    process.communicate(timeout=PATIENCE_SECONDS)
