"""The parts of ``resonant status`` around the balance: each endpoint, alerts, gates, and the daily purge."""

from __future__ import annotations

import re
import textwrap
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from resonant import output
from resonant.dead_letters.purge import Forecast, Retention, forecast
from resonant.display import ago, counted, some
from resonant.gate.words import advice, described
from resonant.store.audit import AuditEntry, read_audit

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from resonant.metrics.alerts import Key
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


def alert_lines(raised: Mapping[Key, float], texts: Mapping[Key, str], *, now: float) -> Iterator[str]:
    """Yield a line about each active alert with its number, the longest active first."""
    from resonant.metrics.alerts import ALL_ENDPOINTS

    longest = sorted(raised.items(), key=lambda item: (item[1], item[0]))
    for key, at in longest[:_MOST_ROWS]:
        where = "all endpoints" if key.endpoint == ALL_ENDPOINTS else key.endpoint
        yield f"alert {key.condition} for {where}, raised {ago(now - at)}, now: {texts[key]}"
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


class Purges(NamedTuple):
    """A forecast of the daily purge, and the result of the last purge.

    Attributes:
        retention: the configured retention.
        forecast: the numbers of deliveries that would be removed now.
        kept: the number of final deliveries that would stay.
        archives: the folder of the daily purge's archives.
        last: the last purge, if any.
    """

    retention: Retention
    forecast: Forecast
    kept: int
    archives: Path
    last: AuditEntry | None

    def lines(self, *, now: float) -> Iterator[str]:
        """Yield the lines of the text output."""
        days = self.retention
        apart = " (or as set for their endpoint or reason)" if days.by_reason or days.by_endpoint else ""
        delivered = (
            "no delivered history"
            if days.delivered is None
            else f"{self.forecast.delivered:,} delivered older than {days.delivered:g} days"
        )
        yield (
            f"daily purge: {counted(self.forecast.dead_letters, 'dead letter')} older than {days.dead_letters:g} "
            f"days{apart} and {delivered} would be removed now; {self.kept:,} would stay"
        )
        if self.last is None:
            yield f"last purge: never; archives: {output.visible(str(self.archives))}"
        else:
            archive = self.last.selection.get("archive")
            where = f"archived in {output.visible(str(archive))}" if archive else "no archive"
            removed = f"{self.last.count:,} removed" + (f", {where}" if self.last.count else "")
            yield f"last purge: {ago(now - self.last.at)}, {removed}"
            if not self.last.count or Path(str(archive)).parent != self.archives:
                yield f"archives: {output.visible(str(self.archives))}"


def read_purges(connection: Connection, settings: Settings, found: StoreStatus, *, now: float) -> Purges:
    """Count the deliveries that the daily purge would remove now.

    Args:
        settings: provide the retention.
        found: the status of the whole store.
    """
    retention = Retention.of_settings(settings)
    expected = forecast(connection, retention, now=now)
    kept = found.delivered + found.dead_letter - expected.dead_letters - expected.delivered
    last = next(iter(read_audit(connection, limit=1, action="purge")), None)
    return Purges(retention, expected, kept, settings.archive_folder, last)
