"""The duration of command processes while `resonant up` runs, against a process that imports Prefect's client."""

import asyncio
import contextlib
import itertools
import subprocess
import sys
from collections.abc import Callable

from benches.comparing import Comparison, Round, Stopwatch, all_in_turn
from benches.processes import python
from benches.surroundings import (
    ENDPOINT,
    empty_home,
    running_up,
    save_endpoint,
    shipped_receiver,
    write_lines,
)

EVENTS, ROUNDS = 1, 10
_READING, _ENDPOINT, _EMIT = 0.4, 1.2, 2.0


def run(count: int, rounds: int) -> list[Comparison]:
    """Measure, and return the results."""
    with contextlib.ExitStack() as stack:
        settings = stack.enter_context(empty_home())
        folder = settings.home.parent
        url = stack.enter_context(shipped_receiver(folder / "journal.jsonl", folder / "receiver.log"))
        stack.enter_context(running_up(settings))
        asyncio.run(save_endpoint(url))
        numbers = itertools.count()

        def new_file() -> str:
            return str(write_lines(folder / f"{next(numbers)}.jsonl", count))

        def new_endpoint() -> list[str]:
            return ["endpoint", "add", f"e{next(numbers)}", url, "--allow-private"]

        # Each command, its arguments, and its target in seconds.
        commands: tuple[tuple[str, Callable[[], list[str]], float | None], ...] = (
            ("status", lambda: ["status"], _READING),
            ("dlq", lambda: ["dlq"], _READING),
            ("failed", lambda: ["failed"], _READING),
            ("retry-candidates", lambda: ["retry-candidates"], _READING),
            ("endpoint list", lambda: ["endpoint", "list"], _ENDPOINT),
            ("endpoint show", lambda: ["endpoint", "show", ENDPOINT], _ENDPOINT),
            ("endpoint add", new_endpoint, _ENDPOINT),
            ("enqueue", lambda: ["enqueue", new_file(), "--endpoint", ENDPOINT], None),
            ("emit", lambda: ["emit", new_file(), "--endpoint", ENDPOINT], _EMIT),
            ("metrics", lambda: ["metrics"], None),
        )
        sides = [_timed(given) for _, given, _ in commands]
        *ours, imports = asyncio.run(all_in_turn([*sides, _import_prefect], rounds))
    return [
        Comparison(
            f"`resonant {name}`", "s", seconds, imports, "to import Prefect's client", ours_at_most=target
        )
        for (name, _, target), seconds in zip(commands, ours, strict=True)
    ]


def _timed(given: Callable[[], list[str]]) -> Round:
    async def run_command() -> float:
        return _seconds(python("resonant", *given()))

    return run_command


async def _import_prefect() -> float:
    return _seconds([sys.executable, "-c", "import prefect.client.orchestration"])


def _seconds(command: list[str]) -> float:
    with Stopwatch() as watch:
        subprocess.run(command, capture_output=True, check=True)
    return watch.seconds
