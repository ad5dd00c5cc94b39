"""The kill suite's seed, its receiver and its report.

``RESONANT_CHAOS=long`` is the long form (``make chaos``), ``RESONANT_CHAOS_ROUNDS=20,3`` any number of rounds, by themselves
and in Prefect. ``RESONANT_CHAOS_SEED`` repeats a run, ``RESONANT_CHAOS_REPORT`` names a file for the figures.
"""

import json
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

# This folder is no package: its modules are found by their names alone, here and in the processes that it starts.
sys.path.insert(0, str(Path(__file__).parent))

from faults import DATABASE

from support.postgresql import started_postgresql
from support.receivers import started_receiver

_SUITE = pytest.StashKey["Suite"]()
# `tests/e2e/test_crashes.py` kills commands in the short form.
_ROUNDS = {"short": "4,0", "long": "96,10"}


@dataclass
class Suite:
    """The rounds to run, and their results."""

    seed: int
    domain_rounds: int
    command_rounds: int
    started_at: float = field(default_factory=time.time)
    rounds: list[dict] = field(default_factory=list)

    def report(self) -> dict[str, object]:
        return {
            "seed": self.seed,
            "rounds": len(self.rounds),
            "failed": sum(bool(each["problems"]) for each in self.rounds),
            "seconds": round(time.time() - self.started_at, 1),
            "processors": os.cpu_count(),
            "total": dict(summary(self.rounds)),
            "each": self.rounds,
        }


def summary(rounds: list[dict]) -> Counter[str]:
    """Return the sums of the rounds' reports."""
    total: Counter[str] = Counter()
    for each in rounds:
        for name in ("accepted", "purged", "lost", "duplicates", "in_flight", "late", "attempts", "looks"):
            total[name] += each[name]
        for victim in each["victims"]:
            if not victim["came_too_late"]:
                total["hits"] += 1
                total[victim["signal"]] += 1
                total[f"{victim['kind']} hit"] += 1
                total[f"hits on {each['database']}"] += 1
    return total


def _suite(config: pytest.Config) -> Suite:
    if _SUITE not in config.stash:
        rounds = os.environ.get("RESONANT_CHAOS_ROUNDS", _ROUNDS[os.environ.get("RESONANT_CHAOS", "short")])
        domain, commands = map(int, rounds.split(","))
        config.stash[_SUITE] = Suite(int(os.environ["RESONANT_CHAOS_SEED"]), domain, commands)
    return config.stash[_SUITE]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "domain_round" in metafunc.fixturenames:
        # `make test` runs one round.
        slow = {"marks": pytest.mark.slow}
        rounds = range(_suite(metafunc.config).domain_rounds)
        metafunc.parametrize("domain_round", [pytest.param(n, **slow if n else {}) for n in rounds])
    if "command_round" in metafunc.fixturenames:
        rounds = range(_suite(metafunc.config).command_rounds)
        long_form = pytest.param(0, marks=pytest.mark.skip("RESONANT_CHAOS=long kills commands in Prefect"))
        metafunc.parametrize("command_round", rounds or [long_form])


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    suite = config.stash.get(_SUITE, None)
    if suite is None or not suite.rounds:
        return
    total = summary(suite.rounds)
    terminalreporter.write_line(
        f"chaos: RESONANT_CHAOS_SEED={suite.seed}: {len(suite.rounds)} rounds, {total['hits']} processes hit, "
        f"{total['accepted']} events, {total['lost']} lost, {total['duplicates']} received twice "
        f"of {total['in_flight']} in flight"
    )
    if path := os.environ.get("RESONANT_CHAOS_REPORT"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(suite.report(), indent=1))


@pytest.fixture(scope="session")
def suite(pytestconfig) -> Suite:
    return _suite(pytestconfig)


@pytest.fixture(scope="session")
def journal(tmp_path_factory):
    """The receiver of all rounds."""
    with started_receiver(tmp_path_factory.mktemp("receiver"), "chaos_receiver:by_type") as started:
        yield started


@pytest.fixture(scope="module")
def receiver(tmp_path_factory):
    """The receiver of the fault suite, which delivers everything."""
    with started_receiver(tmp_path_factory.mktemp("receiver"), "support.receiver_scripts:steady") as started:
        yield started


@pytest.fixture(scope="session")
def own_postgresql():
    """A PostgreSQL server that tests may stop and crash."""
    with started_postgresql() as started:
        yield started


@pytest.fixture
def shaken_url(own_postgresql):
    """The URL of an empty database on that server."""
    return own_postgresql.empty_database(DATABASE)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A Prefect server that a test may kill and start again."""
    # Here, since most suites need no Prefect, whose import takes a second.
    from faults_prefect import own_prefect

    with own_prefect(tmp_path_factory.mktemp("prefect")) as started:
        yield started
