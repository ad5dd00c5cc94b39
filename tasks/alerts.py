"""The step of the metrics flow that raises and ends alerts, as Prefect events for automations to act on."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import NAMESPACE_URL, uuid5

from prefect.context import FlowRunContext
from prefect.events import Event, RelatedResource
from prefect.events.clients import get_events_client
from prefect.logging import get_run_logger

from resonant.errors import ResonantError
from resonant.metrics.alerts import (
    ALL_ENDPOINTS,
    crossings,
    note_announced,
    read_raised,
    read_unannounced,
    record_crossings,
)
from resonant.metrics.conditions import evaluate, read_activity
from resonant.settings import load_settings
from tasks.policies import known_policy, policy_of

if TYPE_CHECKING:
    from resonant.metrics.alerts import Crossing
    from resonant.metrics.totals import Totals
    from resonant.settings import Settings
    from resonant.store import WorkerStore

EVENT_RAISED = "resonant.alert.raised"
EVENT_RECOVERED = "resonant.alert.recovered"
_RECONNECTIONS = 3
# The server drops an event with an id that it has just seen, so an event sent again after a kill appears once.
_NAMESPACE = uuid5(NAMESPACE_URL, "resonant.alert")


async def announce_alerts(store: WorkerStore, totals: Totals) -> None:
    """Decide which alerts begin and end now, and send an event for each at least once.

    Raises:
        StoreUnavailable: the store became unavailable.
        ResonantError: Prefect's server did not accept an event; the next run sends it.
    """
    now = totals.taken_at
    settings = load_settings()
    activity = await store.read(read_activity, now=now, window=settings.alert_window_seconds)
    raised_at = await store.read(read_raised)
    findings = evaluate(totals, activity, settings, now, await _max_ages(totals, settings))
    crossed = crossings(findings, raised_at, settings.alert_window_seconds, now)
    await store.write(record_crossings, crossed)
    # Also sends the events that an earlier run stored but could not send before it was killed.
    await _announce(store)


async def _max_ages(totals: Totals, settings: Settings) -> dict[tuple[str, str | None], float]:
    """Return the ``max_age`` in seconds of deliveries that a gate holds, keyed by (endpoint, producer's policy).

    The ``--policy`` of a run is not stored, so it is unknown here.
    """
    governed = {name for name, gate in totals.gates.items() if gate.governs_at(totals.taken_at)}
    keys = [key for key in totals.oldest_round_at if key[0] in governed]
    of_endpoint = {name: await policy_of(name) for name in {name for name, _ in keys}}
    return {
        (name, policy): settings.policy(known_policy(policy or of_endpoint[name], settings)).max_age
        for name, policy in keys
    }


async def _announce(store: WorkerStore) -> None:
    pending = await store.read(read_unannounced)
    if not pending:
        return
    for crossing in pending:
        get_run_logger().warning("Alert %s: %s", crossing.what, crossing.text)
    try:
        # Not emit_event: it sends in a thread and only logs a failure.
        async with get_events_client(_RECONNECTIONS, checkpoint_every=1) as client:
            for crossing in pending:
                await client.emit(to_event(crossing))
    except Exception as error:  # noqa: BLE001 - a rejected token raises a bare Exception
        raise ResonantError(
            f"Prefect's server did not accept an event; the next run sends the alerts: {error}"
        ) from None
    await store.write(note_announced, pending)


def to_event(crossing: Crossing) -> Event:
    """Return the Prefect event of a crossing; the same crossing always has the same id."""
    is_of_all = crossing.endpoint == ALL_ENDPOINTS
    resource = {
        "prefect.resource.id": "resonant.store" if is_of_all else f"resonant.endpoint.{crossing.endpoint}",
        "prefect.resource.name": "all endpoints" if is_of_all else crossing.endpoint,
        "resonant.condition": crossing.condition.value,
    }
    fields = {
        "id": uuid5(_NAMESPACE, crossing.to_json()),
        "occurred": datetime.fromtimestamp(crossing.at, UTC),
        "event": EVENT_RAISED if crossing.what == "raised" else EVENT_RECOVERED,
        "resource": resource,
        "related": _this_run(),
        "payload": crossing.facts,
    }
    return Event.model_validate(fields)


def _this_run() -> list[RelatedResource]:
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return []
    return [
        RelatedResource(
            {
                "prefect.resource.id": f"prefect.flow-run.{context.flow_run.id}",
                "prefect.resource.role": "flow-run",
                "prefect.resource.name": context.flow_run.name,
            }
        )
    ]
