"""A killed exporter or a full disk leaves the last good file."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from resonant.events import Attempt, Event
from resonant.store import Outcome, WorkerStore
from support.prometheus_text import samples
from support.waiting import wait_until

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[2]

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

    def _command(self):
        return [sys.executable, "-m", "resonant", "prometheus", "--output", str(self.textfile)]

    def _environment(self, **more):
        # Coverage's files would have the same faults.
        left_out = ("RESONANT_", "COVERAGE_PROCESS_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
        names = {"RESONANT_DATABASE_URL": self.url, "RESONANT_HOME": str(self.folder / "home")}
        return kept | names | {"PYTHONPATH": str(PROJECT)} | more

    def export(self, **options):
        return subprocess.run(
            self._command(),
            env=self._environment(),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            **options,
        )

    def kill_where(self, module, function):
        """Start an export, and kill it with SIGKILL when it calls this function."""
        site, reached = self.folder / f"site-{function}", self.folder / f"reached-{function}"
        site.mkdir()
        stop = STOP.format(function=function, module=module, reached=reached)
        (site / "sitecustomize.py").write_text(stop)
        environment = self._environment(PYTHONPATH=os.pathsep.join([str(site), str(PROJECT)]))
        process = subprocess.Popen(self._command(), env=environment, cwd=self.folder)
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


def outcomes(text):
    """Return the delivered events of each endpoint."""
    name = "resonant_delivery_outcomes_total"
    return {key[1]: value for key, value in samples(text).items() if key[::2] == (name, "delivered")}


@pytest.mark.parametrize(
    ("module", "function"), [("os", "fsync"), ("Path", "replace")], ids=["in the middle", "before its place"]
)
def test_an_exporter_killed_between_computing_and_writing_leaves_the_last_file(exporter, module, function):
    before = exporter.textfile.read_text()
    exporter.work()

    exporter.kill_where(module, function)

    assert exporter.textfile.read_text() == before
    # A node exporter reads only names that end in .prom.
    assert [path.name for path in exporter.textfile.parent.glob("*.prom")] == ["metrics.prom"]
    assert exporter.export().returncode == 0
    assert outcomes(before) == {"orders": 1}
    assert outcomes(exporter.textfile.read_text()) == {"orders": 2}


def no_large_files():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    size = 40_000  # more than SQLite's own files need, less than the metrics of ten endpoints
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_an_export_that_exceeds_the_limit_of_file_sizes_leaves_the_last_file(exporter):
    before = exporter.textfile.read_text()
    for number in range(9):
        exporter.work(f"endpoint-{number}")
    done = exporter.export(preexec_fn=no_large_files)
    assert done.returncode == 1
    assert "metrics.prom: File too large" in done.stderr.splitlines()[-1]
    assert exporter.textfile.read_text() == before
    assert [path.name for path in exporter.textfile.parent.iterdir()] == ["metrics.prom"]
