"""The step of a purge, and its report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prefect.artifacts import acreate_table_artifact
from prefect.logging import get_run_logger

from resonant.events import rfc3339
from resonant.purging import Retention, purge
from resonant.settings import load_settings
from tasks.replay import who_runs_this

if TYPE_CHECKING:
    from resonant.store import Store

PURGE_ARTIFACT = "purge-report"


async def purge_final_deliveries(
    store: Store,
    *,
    older_than_days: float,
    delivered_older_than_days: float | None,
    archive: str | None,
    dry_run: bool,
) -> str:
    """Purge what is older than its retention, or count it; write the report, and return it in one line."""
    settings = load_settings()
    retention = Retention(
        dead_letters=older_than_days,
        delivered=delivered_older_than_days,
        by_reason=settings.retention_by_reason,
        by_endpoint=settings.retention_by_endpoint,
    )
    report = await purge(
        store,
        retention,
        who=who_runs_this(),
        archive=Path(archive) if archive else None,
        dry_run=dry_run,
    )
    get_run_logger().info("%s", report)
    await acreate_table_artifact(
        key=PURGE_ARTIFACT,
        table=[
            {
                "at": rfc3339(store.clock()),
                "dry run": dry_run,
                "would be purged" if dry_run else "purged": report.purged,
                "kept": report.kept,
                "dead letters older than (days)": older_than_days,
                "delivered older than (days)": delivered_older_than_days,
                "archive": archive or "none",
            }
        ],
        description="Deliveries removed for good. Retention by reason and by endpoint is in the settings.",
    )
    return str(report)
