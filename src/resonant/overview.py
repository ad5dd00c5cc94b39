"""What ``resonant status`` and the console say about the whole store."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from resonant import documents, output
from resonant.dead_letters.purge import Forecast, Retention, forecast
from resonant.display import ago, counted
from resonant.metrics.alerts import ALL_ENDPOINTS, Finding, Key, read_raised
from resonant.metrics.conditions import describe
from resonant.store.audit import AuditEntry, read_audit
from resonant.store.shared.drains import sent_to
from resonant.store.views import reads
from resonant.store.views.known_names import known_endpoints

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from resonant.output import Document
    from resonant.settings import Settings
    from resonant.store import Store
    from resonant.store.views.reads import StoreStatus


class Overview(NamedTuple):
    """The status of a store, or of one endpoint.

    Attributes:
        store: its URL, without the password.
        found: the balance, and each endpoint.
        purges: None for one endpoint.
        raised: the active alerts, and when they began.
        findings: their current numbers.
        sent: the endpoints to which a live run sends.
        known: the names of all endpoints, or the one.
        unsafe: why the database may lose commits; None if it keeps them.
    """

    store: str
    found: StoreStatus
    purges: Purges | None
    raised: dict[Key, float]
    findings: dict[Key, Finding]
    sent: set[str]
    known: Collection[str]
    unsafe: str | None

    def document(self, deployment_warnings: Mapping[str, Sequence[str]] | None, *, now: float) -> Document:
        """Return the document of ``resonant status --json``; the warnings are None if Prefect cannot be asked."""
        return {
            **documents.status(self.found, now=now),
            "store": self.store,
            "durability_problem": self.unsafe,
            "alerts": documents.alerts(self.raised, self.findings),
            "deployment_warnings": deployment_warnings,
            **({"retention": documents.retention(*self.purges)} if self.purges else {}),
        }


def read_overview(
    connection: Connection, store: Store, settings: Settings, *, now: float, endpoint: str | None = None
) -> Overview:
    """Read the status of a store, or of one endpoint.

    Args:
        store: the open store.
        settings: provide the retention, and the limits of alerts.
    """
    found = reads.status(connection, now=now, endpoint=endpoint)
    purges = None if endpoint else read_purges(connection, settings, found, now=now)
    places = (endpoint, ALL_ENDPOINTS)
    active = read_raised(connection).items()
    raised = {key: at for key, at in active if endpoint is None or key.endpoint in places}
    findings = describe(connection, raised, settings, now=now) if raised else {}
    known = known_endpoints(connection) if endpoint is None else {endpoint}
    sent = sent_to(connection, {*known, *(each.name for each in found.endpoints)}, now=now)
    return Overview(str(store), found, purges, raised, findings, sent, known, store.durability_problem)


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
