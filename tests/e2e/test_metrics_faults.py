"""A killed exporter, a full disk, a damaged file, a clock set back: the last good file stays, or the error is clear."""

from __future__ import annotations

import asyncio
import itertools
import os
import resource
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text

from resonant.delivery.retry import Retry
from resonant.events import Attempt, Event
from resonant.metrics.prometheus import registry_of, to_text
from resonant.metrics.totals import measure
from resonant.store import Outcome, WorkerStore, schema
from resonant.store.counts.counters import read_ever
from resonant.testing import FixedClock
from support.waiting import wait_until

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[2]
EXPORTED_AT = "resonant_last_export_timestamp_seconds"
HOUR, DAY = 3600.0, 86_400.0

# The child process loads this first: it reports its position, and stops there.
STOP = """
import os, pathlib, time
real = getattr(os, "{function}") if "{module}" == "os" else getattr(pathlib.Path, "{function}")
def stop(*arguments, **options):
    if "metrics.prom" in str(arguments) or "{function}" == "fsync":
        pathlib.Path("{reached}").touch()
        time.sleep(600)
    return real(*arguments, **options)
setattr(os if "{module}" == "os" else pathlib.Path, "{function}", stop)
"""

# The two steps of the flow that read and write; Prefect opens none of our files.
STEPS = """
import asyncio, logging
from resonant.configured import open_configured_store
from tasks import metrics
metrics.get_run_logger = lambda: logging.getLogger("run")

async def main():
    async with open_configured_store() as store:
        totals, found = await metrics.measure_store(store, window_hours=None)
        metrics.write_textfile(totals, found, {path!r})

asyncio.run(main())
"""


@dataclass
class Exporter:
    """A store with some history, and its exports in their own processes."""

    folder: Path

    @property
    def url(self):
        return f"sqlite:///{self.folder}/resonant.db"

    @property
    def textfile(self):
        return self.folder / "out" / "metrics.prom"

    def command(self, way, path=None):
        path = str(path or self.textfile)
        if way == "command":
            return [sys.executable, "-m", "resonant", "prometheus", "--output", path]
        return [sys.executable, "-c", STEPS.format(path=path)]

    def environment(self, **more):
        # Coverage's files would have the same faults.
        left_out = ("RESONANT_", "COVERAGE_PROCESS_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
        names = {"RESONANT_DATABASE_URL": self.url, "RESONANT_HOME": str(self.folder / "home")}
        return (
            kept | names | {"PYTHONPATH": str(PROJECT), "PREFECT_HOME": str(self.folder / "prefect")} | more
        )

    def export(self, way="command", path=None, **options):
        return subprocess.run(
            self.command(way, path),
            env=self.environment(),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            **options,
        )

    def kill_where(self, function, way, module="os"):
        """Start an export, and kill it with SIGKILL when it calls this function."""
        site, reached = self.folder / f"site-{function}", self.folder / f"reached-{function}"
        site.mkdir()
        stop = STOP.format(function=function, module=module, reached=reached)
        (site / "sitecustomize.py").write_text(stop)
        environment = self.environment(PYTHONPATH=os.pathsep.join([str(site), str(PROJECT)]))
        process = subprocess.Popen(self.command(way), env=environment, cwd=self.folder)
        try:
            wait_until(reached.exists)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()

    def work(self, endpoint="orders"):
        """Deliver one more event, so that the next export differs."""
        asyncio.run(self._work(endpoint))

    async def _work(self, endpoint):
        store = await WorkerStore.open(self.url)
        await store.enqueue([Event(type="order.paid", source="/shop", data=1)], endpoint)
        leases = await store.claim(endpoint, owner="worker", limit=10)
        await store.begin(leases)
        attempts = [Attempt(1, 1, started_at=store.clock(), duration=0.1, result="delivered") for _ in leases]
        await store.record(
            [Outcome(lease, attempt, None) for lease, attempt in zip(leases, attempts, strict=True)]
        )
        await store.close()


@pytest.fixture
def exporter(tmp_path):
    """An exporter that has written one good file."""
    made = Exporter(tmp_path)
    made.textfile.parent.mkdir()
    made.work()
    done = made.export()
    assert done.returncode == 0, done.stderr
    return made


def samples(text, *kinds):
    """Return the samples of the families of these types, or of all."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in parse_text(text)
        for sample in family.samples
        if not kinds or family.type in kinds
    }


def counters(text):
    return samples(text, "counter", "histogram")


def delivered(path):
    return samples(path.read_text())[
        "resonant_delivery_outcomes_total", ("endpoint", "orders"), ("outcome", "delivered")
    ]


def assert_no_counter_fell(before, after):
    assert before
    assert [key for key, value in before.items() if after.get(key, -1) < value] == []


WAYS = pytest.mark.parametrize("way", ["command", "flow"])


@WAYS
@pytest.mark.parametrize(
    ("module", "function"), [("os", "fsync"), ("Path", "replace")], ids=["in the middle", "before its place"]
)
def test_an_exporter_killed_between_computing_and_writing_leaves_the_last_file(
    exporter, way, module, function
):
    before = exporter.textfile.read_text()
    exporter.work()

    exporter.kill_where(function, way, module)

    assert exporter.textfile.read_text() == before
    # A node exporter reads only names that end in .prom.
    assert [path.name for path in exporter.textfile.parent.glob("*.prom")] == ["metrics.prom"]
    assert exporter.export(way).returncode == 0
    assert delivered(exporter.textfile) == 2
    assert_no_counter_fell(counters(before), counters(exporter.textfile.read_text()))


def no_large_files():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    size = 40_000  # more than SQLite's own files need, less than the metrics of ten endpoints
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@WAYS
def test_a_file_that_may_not_grow_so_large_leaves_the_last_one(exporter, way):
    before = exporter.textfile.read_text()
    for number in range(9):
        exporter.work(f"endpoint-{number}")
    done = exporter.export(way, preexec_fn=no_large_files)
    assert done.returncode == 1
    assert "metrics.prom: File too large" in done.stderr.splitlines()[-1]
    assert exporter.textfile.read_text() == before
    assert [path.name for path in exporter.textfile.parent.iterdir()] == ["metrics.prom"]


@WAYS
@pytest.mark.parametrize("spoil", [b"", b"# HELP resonant_del", b"\xff\x00\xfe}{", None], ids=str)
def test_a_damaged_file_is_replaced_as_a_whole(exporter, way, spoil):
    whole = exporter.textfile.read_bytes()
    exporter.textfile.write_bytes(whole[: len(whole) // 2] if spoil is None else spoil)
    (exporter.textfile.parent / ".metrics.prom.killed").write_text("# HELP half a fi")

    assert exporter.export(way).returncode == 0

    assert counters(exporter.textfile.read_text()) == counters(whole.decode())


@WAYS
@pytest.mark.parametrize("path", ["a folder", "/proc/metrics.prom"])  # not even root may write below /proc
def test_an_impossible_path_is_one_clear_line(exporter, way, path):
    if path == "a folder":
        exporter.textfile.unlink()
        exporter.textfile.mkdir()
        path = None
    done = exporter.export(way, path)
    assert done.returncode == 1
    said = f"{path}: " if path else f"{exporter.textfile} is not a regular file"
    assert said in done.stderr.splitlines()[-1]


def test_a_folder_that_is_missing_is_one_clear_line_of_the_command_and_made_by_the_flow(exporter):
    elsewhere = exporter.folder / "not" / "there" / "metrics.prom"
    done = exporter.export("command", elsewhere)
    assert done.returncode == 1
    assert done.stderr == f"resonant: {elsewhere}: No such file or directory\n"
    assert exporter.export("flow", elsewhere).returncode == 0
    assert delivered(elsewhere) == 1


class Desk(SimpleNamespace):
    """A store with a clock that a test sets."""

    async def deliver(self, fails=False):
        store, clock = self.store, self.clock
        await store.enqueue([Event(type="order.paid", source="/shop", data=1)], "orders")
        [lease] = await store.claim("orders", owner="worker", limit=1)
        await store.begin([lease])
        if fails:
            attempt = Attempt(
                1, 1, started_at=clock(), duration=0.3, result="failed", category="transient", code="http_503",
                decision="retry", delay=1.0, next_attempt_at=clock() + 1,
            )  # fmt: skip
            await store.record([Outcome(lease, attempt, Retry(1.0, clock() + 1))])
            lease = replace(lease, attempts=1, round_attempts=1)
        clock.advance(self.during)
        attempt = Attempt(lease.attempts + 1, 1, started_at=clock(), duration=0.1, result="delivered")
        await store.record([Outcome(lease, attempt, None)])

    async def text(self):
        return to_text(registry_of(*await measure(self.store, hours=24)))


@pytest.mark.parametrize("during", [0.0, -HOUR], ids=["between deliveries", "while one is sent"])
async def test_a_clock_that_jumps_back_an_hour_lowers_no_counter(store_url, during):
    clock = FixedClock(1_700_000_000.0)
    store = await WorkerStore.open(store_url, clock=clock)
    desk = Desk(store=store, clock=clock, during=0.0)
    await desk.deliver()
    await desk.deliver(fails=True)
    told = [await desk.text()]
    if during:
        desk.during = during
    else:
        clock.advance(-HOUR)
    await desk.deliver(fails=True)
    told.append(await desk.text())
    desk.during = 0.0
    await desk.deliver()
    told.append(await desk.text())
    clock.advance(3 * DAY)
    await store.compact()
    told.append(await desk.text())
    counted = await store.read(read_ever)
    [claim] = await store.read(lambda c: c.execute(schema.claims.select()).mappings().all())
    await store.close()

    for before, after in itertools.pairwise(told):
        assert_no_counter_fell(counters(before), counters(after))
    assert min(each.total for each in counted.values()) >= 0
    assert claim["last_claim_at"] == 1_700_000_000.0, "the latest, as it was seen"
    # The exporter's own clock.
    at = [samples(text)[EXPORTED_AT,] for text in told]
    assert at == [
        1_700_000_000.0,
        1_700_000_000.0 - HOUR,
        1_700_000_000.0 - HOUR,
        1_700_000_000.0 - HOUR + 3 * DAY,
    ]
    assert (
        samples(told[-1])[
            "resonant_delivery_outcomes_total", ("endpoint", "orders"), ("outcome", "delivered")
        ]
        == 4
    )
