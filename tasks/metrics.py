"""The steps of the metrics flow."""

from base64 import b64encode
from pathlib import Path

from pandas import DataFrame
from prefect.artifacts import acreate_markdown_artifact
from prefect.logging import get_run_logger

from resonant.blocks.policies import known_policy, policy_of
from resonant.delivery.retry import RetryPolicy
from resonant.display import markdown, markdown_table, visible
from resonant.errors import ResonantError
from resonant.files import READABLE_BY_ALL, atomic_file
from resonant.local.artifacts import METRICS_ARTIFACT
from resonant.metrics.alerts import read_raised
from resonant.metrics.conditions import read_activity
from resonant.metrics.prometheus import registry_of, to_text
from resonant.metrics.report import Table, health_lines, summary, tables
from resonant.metrics.statistics import Statistics
from resonant.metrics.totals import Totals
from resonant.settings import Settings
from resonant.store import WorkerStore

_MOST_POLICIES = 3


def write_textfile(totals: Totals, found: Statistics, textfile: str | None, settings: Settings) -> None:
    """Replace the Prometheus text file atomically.

    Args:
        found: the window's statistics.
        textfile: a file on the worker's machine; None uses the setting.

    Raises:
        ResonantError: the file cannot be written; the previous file is unchanged.
    """
    path = settings.textfile if textfile is None else Path(textfile).expanduser()
    try:
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.parent.chmod(0o755)  # readable for the node exporter, regardless of the umask
    except OSError as error:
        raise ResonantError(f"{path.parent}: {error.strerror}") from None
    with atomic_file(path, mode=READABLE_BY_ALL) as write:
        write(to_text(registry_of(totals, found)))
    get_run_logger().info("Prometheus text written to %s", visible(str(path)))


async def compact_counts(store: WorkerStore) -> None:
    """Merge old counts, so that they are fast to read; this is not part of the purge, which may never run."""
    if merged := await store.compact():
        get_run_logger().info("%d rows of counts merged", merged)


async def show_statistics(store: WorkerStore, totals: Totals, found: Statistics, settings: Settings) -> None:
    """Write the metrics artifact: the health of each endpoint, charts and tables. The UI shows its history."""
    from resonant.metrics import charts  # noqa: PLC0415 - imports matplotlib, which is slow and only needed here

    delays = await _delays_by_policy(found, settings)
    images = [
        _image("Duration of attempts by hour", charts.latency(found)),
        _image("Delivered events and dead letters by hour", charts.outcomes(found)),
        _image("Dead letters by reason", charts.dead_letters(found)),
        *(
            _image("Retry delays and the curve of the policy", charts.retry_delays(rows, name, policy))
            for name, policy, rows in delays
        ),
    ]
    parts = [
        *await _health(store, totals, settings),
        f"{summary(found)}.",
        *images,
        *map(_markdown, tables(found)),
    ]
    await acreate_markdown_artifact(
        key=METRICS_ARTIFACT,
        markdown="\n\n".join(filter(None, parts)),
        description="Outcomes of events, failed attempts, and durations.",
    )


async def _health(store: WorkerStore, totals: Totals, settings: Settings) -> list[str]:
    """Return a Markdown list of the endpoints' health; empty without endpoints."""
    now, window = totals.taken_at, settings.alert_window_seconds
    activity = await store.read(read_activity, now=now, window=window)
    lines = [
        f"- {f'**{markdown(name)}**' if name else 'all endpoints'}: {health}"
        for name, health in health_lines(totals, activity, await store.read(read_raised))
    ]
    return ["\n".join(lines)] if lines else []


async def _delays_by_policy(
    found: Statistics, settings: Settings
) -> list[tuple[str, RetryPolicy, DataFrame]]:
    """Return the retry delays of the policies with the most retries, grouped by policy.

    A delivery's policy is the producer's choice or else the endpoint's current policy, as for a worker. A run's
    ``--policy`` is not stored, so the delays of such a run do not match the curve.
    """
    of_endpoint = {name: await policy_of(name) for name in found.delays["endpoint"].unique()}
    names = [
        known_policy(policy or of_endpoint[endpoint], settings)
        for endpoint, policy in zip(found.delays["endpoint"], found.delays["policy"], strict=True)
    ]
    by_policy = found.delays.assign(policy=names).groupby("policy")
    most = by_policy["count"].sum().sort_values(ascending=False, kind="stable").index[:_MOST_POLICIES]
    return [(name, settings.policy(name), by_policy.get_group(name)) for name in most]


def _image(alt: str, svg: str | None) -> str:
    # Prefect's UI strips the styles from inline SVG, but not from an image.
    return f"![{alt}](data:image/svg+xml;base64,{b64encode(svg.encode()).decode()})" if svg else ""


def _markdown(table: Table) -> str:
    return f"### {table.title}\n\n{markdown_table(table.header, table.rows)}"
