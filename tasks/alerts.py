"""The step of the metrics flow that raises and ends alerts, and sends Prefect events about them for automations to act on."""

from prefect.logging import get_run_logger

from resonant.blocks.policies import known_policy, policy_of
from resonant.metrics.alerts import crossings, read_raised, record_crossings
from resonant.metrics.conditions import evaluate, read_activity
from resonant.metrics.totals import Totals
from resonant.settings import Settings
from resonant.store import WorkerStore
from tasks.announcements import announce


async def announce_alerts(store: WorkerStore, totals: Totals, settings: Settings) -> None:
    """Decide which alerts begin and end now, and send an event for each at least once.

    Raises:
        StoreUnavailable: the store became unavailable.
        ResonantError: Prefect's server did not accept an event, or its feed could not be read; the next run tries again.
    """
    now = totals.taken_at
    activity = await store.read(read_activity, now=now, window=settings.alert_window_seconds)
    raised_at = await store.read(read_raised)
    findings = evaluate(totals, activity, settings, now, await _max_ages(totals, settings))
    crossed = crossings(findings, raised_at, settings.alert_window_seconds, now)
    for crossing in await store.write(record_crossings, crossed):
        get_run_logger().warning("Alert %s: %s", crossing.what, crossing.text)
    # Also sends what earlier runs and commands have stored.
    await announce(store)


async def _max_ages(totals: Totals, settings: Settings) -> dict[tuple[str, str | None], float]:
    """Return the ``max_age`` in seconds of deliveries that a gate holds, keyed by (endpoint, producer's policy).

    The ``--policy`` of a run is not stored, so it is unknown here.
    """
    governed = {name for name, gate in totals.gates.items() if gate.holds_at(totals.taken_at)}
    keys = [key for key in totals.oldest_round_at if key[0] in governed]
    of_endpoint = {name: await policy_of(name) for name in {name for name, _ in keys}}
    return {
        (name, policy): settings.policy(known_policy(policy or of_endpoint[name], settings)).max_age
        for name, policy in keys
    }
