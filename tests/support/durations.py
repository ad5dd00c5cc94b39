"""The order of the test files, and the shard of each, by the seconds that it took when last recorded."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

# By file below tests/. A file that is missing here took less than ``_SLOW_SECONDS``, or is new.
_DURATIONS = Path(__file__).parents[1] / "durations.json"
_SLOW_SECONDS = 5.0
_OTHER_SECONDS = 1.0


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("record_durations") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Recorder())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the files of the shard, and run first what takes longest, a file or a group, so that all processes end together."""
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
        mine = _files_of_shard(config.getoption("shard"), sorted(set(files.values())), seconds)
        config.hook.pytest_deselected(items=[item for item in items if files[item] not in mine])
        items[:] = [item for item in items if files[item] in mine]
    engine = {files[item] for item in items if item.get_closest_marker("engine")}
    items.sort(key=lambda item: (-seconds.get(files[item], 0), files[item] not in engine))


def _files_of_shard(shard: str, files: list[str], seconds: dict[str, float]) -> set[str]:
    """Return the files of a shard such as ``1/3``: each file, the slowest first, goes to the shard with the least to do.

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
    for file in sorted(files, key=lambda file: -seconds.get(file, _OTHER_SECONDS)):
        chosen = min(loads, key=loads.__getitem__)
        loads[chosen] += seconds.get(file, _OTHER_SECONDS)
        if chosen == number:
            mine.add(file)
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
