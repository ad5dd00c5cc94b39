"""The flow ``export_metrics``: writes Prometheus text, announces alerts, and shows statistics in an artifact."""

from contextlib import AsyncExitStack
from typing import Annotated

from prefect import State, flow
from prefect.states import Completed
from pydantic import Field

from flows.failing import fail_with_message
from flows.naming import named
from resonant.configured import open_configured_store
from resonant.metrics.report import summary
from resonant.metrics.totals import measure
from resonant.settings import load_settings
from tasks.alerts import announce_alerts
from tasks.metrics import compact_counts, show_statistics, write_textfile


@flow(flow_run_name=named("export metrics"), persist_result=False)
@fail_with_message
async def export_metrics(
    window_hours: Annotated[float | None, Field(gt=0, le=876_000, allow_inf_nan=False)] = None,
    textfile: str | None = None,
) -> State[None]:
    """Write the metrics for Prometheus, announce alerts that begin or end, and show the statistics of the last hours.

    Args:
        window_hours: Hours that the statistics cover. Empty: RESONANT_METRICS_WINDOW_HOURS, 24 by default.
        textfile: File on the worker's machine, in the folder that a node exporter's textfile collector reads. Empty:
            RESONANT_METRICS_TEXTFILE, metrics/resonant.prom in RESONANT_HOME by default.
    """
    settings = load_settings()
    # If a step fails, the rest still run, and then the flow run fails. Callbacks run in reverse order.
    async with open_configured_store(settings) as store, AsyncExitStack() as steps:
        try:
            await compact_counts(store)  # first, since the others then read fewer rows
        finally:
            totals, found = await measure(store, hours=window_hours or settings.metrics_window_hours)
            steps.push_async_callback(show_statistics, store, totals, found, settings)
            steps.push_async_callback(announce_alerts, store, totals, settings)
            write_textfile(totals, found, textfile, settings)
    return Completed(message=summary(found))
