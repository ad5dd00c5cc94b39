"""A killed exporter or a full disk leaves the last good file."""

import resource
import signal
import time

import pytest

from resonant.testing import FixedClock
from support.desk import opened_desk
from support.machine import Machine, finished
from support.prometheus_site import accept, attempt
from support.prometheus_text import samples
from support.waiting import wait_until

pytestmark = pytest.mark.slow

# Python imports the module of this name first: it lets the process stop where it would give the file its name.
STOP = """
import pathlib, time
def stop(*arguments):
    pathlib.Path({reached!r}).touch()
    time.sleep(600)
pathlib.Path.replace = stop
"""


class Exporter(Machine):
    """A store with some history, and its exports in their own processes."""

    @property
    def environment(self):
        # Coverage's files would have the same faults.
        return {
            name: value
            for name, value in super().environment.items()
            if not name.startswith("COVERAGE_PROCESS_")
        }

    @property
    def textfile(self):
        return self.home / "out" / "metrics.prom"

    def export(self, **options):
        return self.start("prometheus", "--output", str(self.textfile), **options)

    def work(self, endpoint="orders"):
        """Deliver one more event, so that the next export differs."""
        with opened_desk(f"sqlite:///{self.database}", FixedClock(time.time())) as desk:
            accept(desk, endpoint, 1)
            [lease] = desk.claim(endpoint=endpoint)
            attempt(desk, lease, 0.1)


@pytest.fixture
def exporter(tmp_path):
    """An exporter that has written one good file."""
    made = Exporter(tmp_path)
    for each in (made.textfile, made.database):
        each.parent.mkdir()
    made.work()
    assert finished(made.export()).returncode == 0
    return made


def delivered(exporter):
    """Return the delivered events of each endpoint, as the file says."""
    found = samples(exporter.textfile.read_text())
    name = "resonant_delivery_outcomes_total"
    return {key[1]: value for key, value in found.items() if key[::2] == (name, "delivered")}


def test_an_exporter_killed_between_computing_and_writing_leaves_the_last_file(exporter):
    exporter.work()
    site, reached = exporter.home / "site", exporter.home / "reached"
    site.mkdir()
    (site / "sitecustomize.py").write_text(STOP.format(reached=str(reached)))
    exporting = exporter.export(env=exporter.environment | {"PYTHONPATH": str(site)})
    wait_until(reached.exists)
    exporting.kill()
    exporting.communicate()

    assert delivered(exporter) == {"orders": 1}
    # A node exporter reads only names that end in .prom.
    assert [path.name for path in exporter.textfile.parent.glob("*.prom")] == ["metrics.prom"]
    assert finished(exporter.export()).returncode == 0
    assert delivered(exporter) == {"orders": 2}


def no_large_files():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    size = 40_000  # more than SQLite's own files need, less than the metrics of ten endpoints
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_an_export_that_exceeds_the_limit_of_file_sizes_leaves_the_last_file(exporter):
    before = exporter.textfile.read_text()
    for number in range(9):
        exporter.work(f"endpoint-{number}")
    done = finished(exporter.export(preexec_fn=no_large_files))
    assert done.returncode == 1
    assert "metrics.prom: File too large" in done.stderr.splitlines()[-1]
    assert exporter.textfile.read_text() == before
    assert [path.name for path in exporter.textfile.parent.iterdir()] == ["metrics.prom"]
