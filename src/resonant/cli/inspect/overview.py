"""The parts of ``resonant status`` around the balance: each endpoint, alerts and gates."""

from __future__ import annotations

import re
import textwrap
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from resonant import output
from resonant.display import ago, counted, some
from resonant.gate.words import advice, described

if TYPE_CHECKING:
    from resonant.metrics.alerts import Finding, Key
    from resonant.settings import Settings
    from resonant.store.views.endpoint_problems import EndpointProblem
    from resonant.store.views.endpoint_status import EndpointStatus, Governed
    from resonant.store.views.reads import StoreStatus

ENDPOINT_COLUMNS = (
    *("endpoint", "delivered\nlast hour", "attempts\nfailed\nlast hour"),
    *("due", "parked", "dead\nletters", "oldest\ndue"),
)
_MOST_ROWS = 20
_MILLION = 1_000_000
_NAME_WIDTH = 22


def endpoint_rows(
    endpoints: Sequence[EndpointStatus], *, now: float, on_terminal: bool
) -> list[tuple[str, ...]]:
    """Return a row for each endpoint, most failures in the last hour first."""
    ranked = sorted(endpoints, key=lambda each: (-(each.failed_last_hour or 0), -each.due, each.name))
    rows = [
        (
            "\n".join(textwrap.wrap(each.name, _NAME_WIDTH)) if on_terminal else each.name,
            _count(each.delivered_last_hour),
            _count(each.failed_last_hour),
            _count(each.due),
            _count(each.parked),
            _count(each.dead_letter),
            "-" if each.oldest_due_at is None else ago(now - each.oldest_due_at).removesuffix(" ago"),
        )
        for each in ranked[:_MOST_ROWS]
    ]
    return [(row[0], *map(_right, row[1:], ENDPOINT_COLUMNS[1:])) for row in rows]


def page_lines(settings: Settings, found: StoreStatus) -> Iterator[str]:
    """Yield the page in Prefect's UI that shows the dead letters or, without any, the held deliveries."""
    from resonant.local.artifacts import GATES_ARTIFACT, TRIAGE_ARTIFACT, known_page

    if found.dead_letter or found.held:
        artifact = TRIAGE_ARTIFACT if found.dead_letter else GATES_ARTIFACT
        if url := known_page(settings, artifact):
            what = "dead letters" if found.dead_letter else "held deliveries"
            yield f"Prefect's UI shows the {what}: {url}"


def gate_lines(held: Sequence[Governed], *, now: float, sent: Collection[str]) -> Iterator[str]:
    """Yield a line about each endpoint whose gate is not normal; ``sent`` are the endpoints to which a live run sends."""
    for gate, number in held[:_MOST_ROWS]:
        said = described(gate, held=number, now=now, is_sent=gate.endpoint in sent)
        line = output.visible(f"{gate.endpoint} is {said}")
        if gate.is_gone:
            yield f"{line}; `resonant endpoint show {gate.endpoint}` says what to do"
        else:
            yield f"{line}; {advice(gate, now)}" if gate.state == "paused" else line
    yield from _line_of_others(held, "endpoint is not normal", "endpoints are not normal")


def problem_lines(problems: Sequence[EndpointProblem], *, now: float) -> Iterator[str]:
    """Yield a line for each reason why endpoints cannot be opened or get no deliveries."""
    alike: defaultdict[str, list[EndpointProblem]] = defaultdict(list)
    for each in problems:
        # The reason begins with the problem; a suggestion or the answer of a server follows.
        alike[re.split("[:;]", each.reason.replace(repr(each.endpoint), ""))[0]].append(each)
    for found in list(alike.values())[:_MOST_ROWS]:
        first, number = found[0], len(found)
        reason, since = output.visible(first.reason), ago(now - min(each.since for each in found))
        if number == 1:
            yield f"deliveries to {first.endpoint} wait: {reason} (first seen {since})"
        else:
            what = "have no token" if reason.startswith("no OAuth token") else "cannot be opened"
            yield f"{number:,} endpoints {what}, for example {first.endpoint}: {reason} (first seen {since})"
    yield from _line_of_others(list(alike), "problem of endpoints", "problems of endpoints")


def paused_lines(warnings: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield a line about each part of Prefect that is paused, with the endpoints whose runs it concerns."""
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for endpoint, found in warnings.items():
        for warning in found:
            alike[warning].append(endpoint)
    for warning, endpoints in list(alike.items())[:_MOST_ROWS]:
        yield output.visible(f"{some(endpoints, 3)}: {warning}")
    yield from _line_of_others(list(alike), "warning", "warnings")


def alert_lines(raised: Mapping[Key, float], findings: Mapping[Key, Finding], *, now: float) -> Iterator[str]:
    """Yield a line about each active alert with its number, the longest active first."""
    from resonant.metrics.alerts import ALL_ENDPOINTS

    longest = sorted(raised.items(), key=lambda item: (item[1], item[0]))
    for key, at in longest[:_MOST_ROWS]:
        where = "all endpoints" if key.endpoint == ALL_ENDPOINTS else key.endpoint
        yield f"alert {key.condition} for {where}, raised {ago(now - at)}, now: {findings[key].text}"
    yield from _line_of_others(longest, "alert is active", "alerts are active")


def _line_of_others(every: Sequence[object], one: str, many: str) -> Iterator[str]:
    if (more := len(every) - _MOST_ROWS) > 0:
        yield f"{counted(more, f'more {one}', f'more {many}')}: --json lists all"


def _count(number: int | None) -> str:
    if number is None:
        return "-"
    return f"{number:,}" if number < _MILLION else f"{number / _MILLION:,.1f}M"


def _right(cell: str, column: str) -> str:
    return cell.rjust(max(map(len, column.split("\n"))))
