"""The order of the test files, and the shard of each, by the seconds that it took when last recorded.

Files that share a Prefect server are a group, which one process runs: its SQLite takes one writer at a time, and tests use the
same names of endpoints and deployments. They are two groups, since one would take longer than all other files. Those that share a
``resonant up`` are another group.
"""

import json
import re
from collections import Counter
from functools import cache
from pathlib import Path
from random import Random

import pytest

# By file below tests/. A file that is missing here took less than ``_SLOW_SECONDS``, or is new.
_DURATIONS = Path(__file__).parents[1] / "durations.json"
_SLOW_SECONDS = 5.0
_OTHER_SECONDS = 1.0
# Their files take about as long as the others that share a Prefect server.
_PARTS_OF_PREFECT = ("deployments/", "flows/", "resonant/blocks/")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("record_durations") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Recorder())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the files of the shard, and run first what takes longest, a file or a group, so that all processes end together.

    With ``--order``, the order is random: of the groups that take about as long, of the files in a group, and of the tests in a file.
    """
    unmarked = [
        each.nodeid
        for each in items
        if "prefect_api" in getattr(each, "fixturenames", ()) and not each.get_closest_marker("engine")
    ]
    if unmarked:
        raise pytest.UsageError(
            f"tests that use the Prefect server of the session lack the mark engine: {unmarked}"
        )
    recorded = json.loads(_DURATIONS.read_text())
    units = {item.path: unit_of(item.path) for item in items}
    seconds: Counter[str] = Counter()
    for path, unit in units.items():
        seconds[unit] += recorded.get(path.relative_to(_DURATIONS.parent).as_posix(), _OTHER_SECONDS)
    if config.getoption("shard"):
        mine = _units_of_shard(config.getoption("shard"), seconds)
        config.hook.pytest_deselected(items=[item for item in items if units[item.path] not in mine])
        items[:] = [item for item in items if units[item.path] in mine]
    order = config.getoption("order")

    def draw(name: object) -> float:
        return Random(f"{order} {name}").random() if order else 1.0

    def rank(item: pytest.Item) -> tuple[float, str, float, float]:
        unit = units[item.path]
        return -seconds[unit] * draw(unit), unit, draw(item.path), draw(item.nodeid)

    items.sort(key=rank)


@cache
def unit_of(path: Path) -> str:
    """Return the name of the group of a file, or the file's own if it is in no group."""
    text = path.read_text()
    if "mark.shared_up" in text:
        return "the files that share a resonant up"
    if "mark.engine" in text and "mark.own_server" not in text:
        is_of_parts = path.relative_to(_DURATIONS.parent).as_posix().startswith(_PARTS_OF_PREFECT)
        return f"the files that share a Prefect server{', of its parts' if is_of_parts else ''}"
    return str(path)


def _units_of_shard(shard: str, seconds: dict[str, float]) -> set[str]:
    """Return the files and groups of a shard such as ``1/3``: each, the slowest first, goes to the shard with the least to do.

    Raises:
        pytest.UsageError: the shard is not a number, a slash and the number of shards.
    """
    parts = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", shard)
    number, shards = map(int, parts.groups()) if parts else (1, 0)
    if number > shards:
        raise pytest.UsageError(
            f"invalid shard {shard!r}: give its number and the number of shards, such as 1/3"
        )
    loads = Counter(dict.fromkeys(range(1, shards + 1), 0.0))
    mine = set()
    for unit in sorted(seconds, key=lambda unit: (-seconds[unit], unit)):
        chosen = min(loads, key=loads.__getitem__)
        loads[chosen] += seconds[unit]
        if chosen == number:
            mine.add(unit)
    return mine


class _Recorder:
    """Adds up the durations of each file in all processes, and replaces the recorded ones of the files that ran."""

    def __init__(self) -> None:
        self._seconds: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[report.location[0].removeprefix("tests/")] += report.duration

    def pytest_sessionfinish(self) -> None:
        recorded = json.loads(_DURATIONS.read_text()) | self._seconds
        files = [
            each
            for each in recorded
            if recorded[each] >= _SLOW_SECONDS and (_DURATIONS.parent / each).exists()
        ]
        files.sort(key=lambda each: -recorded[each])
        _DURATIONS.write_text(json.dumps({each: round(recorded[each]) for each in files}, indent=1) + "\n")
