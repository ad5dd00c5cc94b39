"""The step of the purge flow, and its report."""

from dataclasses import replace
from typing import Any

from prefect.artifacts import acreate_table_artifact
from prefect.logging import get_run_logger

from resonant.dead_letters.purge import Retention, archive_path, purge, time_of_purge
from resonant.display import markdown, visible
from resonant.events import rfc3339
from resonant.settings import Settings
from resonant.store import WorkerStore
from tasks.replay import who_runs_this

PURGE_ARTIFACT = "purge-report"
_NO_ARCHIVE = "none"


async def purge_final_deliveries(
    store: WorkerStore,
    settings: Settings,
    *,
    older_than_days: float | None,
    delivered_older_than_days: float | None,
    archive: str | None,
    dry_run: bool,
) -> str:
    """Purge deliveries older than their retention, or only count them; write a report and return it as one line."""
    days = {"dead_letters": older_than_days, "delivered": delivered_older_than_days}
    given: dict[str, Any] = {name: value for name, value in days.items() if value is not None}
    retention = replace(Retention.of_settings(settings), **given)
    now = await time_of_purge(store)
    path = None if dry_run or archive == _NO_ARCHIVE else archive_path(archive, settings, now)
    report = await purge(store, retention, who=who_runs_this(), now=now, archive=path, dry_run=dry_run)
    said = str(report)
    if report.purged and not dry_run:
        said += f"; archived in {report.archive}" if report.archive else "; no archive"
    get_run_logger().info("%s", visible(said))
    row = {
        "at": rfc3339(now),
        "dry run": dry_run,
        "would be purged" if dry_run else "purged": report.purged,
        "kept": report.kept,
        "dead letters older than (days)": retention.dead_letters,
        "delivered older than (days)": "never" if retention.delivered is None else retention.delivered,
        "archive": markdown(str(report.archive or "none")),
    }
    description = (
        "Permanently removed deliveries. The settings define the retention by reason and by endpoint."
    )
    await acreate_table_artifact(key=PURGE_ARTIFACT, table=[row], description=description)
    return said
