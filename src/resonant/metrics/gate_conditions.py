"""The conditions of an endpoint's gate: long probing, a pause after a 410, and deliveries held for a long time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resonant.metrics.alerts import Condition, Finding, Key
from resonant.store.gates import Gate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from resonant.metrics.totals import Totals
    from resonant.settings import Thresholds

_MINUTE, _HOUR = 60, 3600
# Seconds. An endpoint that has been paced for less time has not recovered.
_SETTLED = 60.0


def of_gate(
    endpoint: str,
    totals: Totals,
    thresholds: Thresholds,
    now: float,
    max_ages: Mapping[tuple[str, str | None], float],
) -> Iterator[Finding | None]:
    """Evaluate the conditions of an endpoint's gate; see ``conditions.evaluate`` for the arguments."""
    gate = totals.gates.get(endpoint) or Gate(endpoint)
    waiting = sum(totals.deliveries.get((endpoint, status), 0) for status in ("pending", "retrying"))
    yield _probing(gate, waiting, thresholds, now)
    yield _gone(gate, totals.held.get(endpoint, 0), now)
    yield _held(gate, totals.oldest_round_at, thresholds, now, max_ages)


def overdue(gate: Gate | None, due_at: float | None, now: float) -> float:
    """Return for how many seconds a delivery has been overdue, excluding the time that its gate held it.

    Args:
        gate: the endpoint's gate, or None.
        due_at: when the delivery was due; None if no delivery is waiting.
        now: seconds since the epoch.
    """
    if due_at is None or (gate is not None and gate.state == "paused"):
        return 0.0
    if gate is None:
        return now - due_at
    return now - max(due_at, gate.since, gate.not_before or 0.0, gate.probe_at or 0.0)


def gets_only_probes(gate: Gate | None) -> bool:
    """Return whether an endpoint gets only probes."""
    return gate is not None and gate.state in ("probing", "paused")


def _probing(gate: Gate, waiting: int, thresholds: Thresholds, now: float) -> Finding | None:
    if gate.state == "paced" and now - gate.since < _SETTLED:
        return None
    down = 0.0
    text = f"{gate.endpoint}: it is not down, its gate is {gate.state}"
    if gate.state == "probing" and not waiting:
        text = f"{gate.endpoint}: no delivery is waiting, so the next one is the probe"
    elif gate.state == "probing":
        down = now - gate.down_since
        text = (
            f"{gate.endpoint}: it has been down for {down / _MINUTE:.0f} minutes and gets only probes, "
            f"the limit is {thresholds.probing / _MINUTE:g}"
        )
    is_bad = down > thresholds.probing
    return Finding(Key(Condition.PROBING, gate.endpoint), is_bad, down, thresholds.probing, text)


def _gone(gate: Gate, held: int, now: float) -> Finding:
    paused = 0.0
    text = f"{gate.endpoint}: it is not paused because of a 410"
    if gate.is_gone:
        paused = now - gate.since
        text = (
            f"{gate.endpoint}: it answered 410 Gone, so it is paused until an operator resumes it; "
            f"deliveries held: {held}"
        )
    return Finding(Key(Condition.GONE, gate.endpoint), gate.is_gone, paused, 0.0, text)


def _held(
    gate: Gate,
    oldest_round_at: Mapping[tuple[str, str | None], float],
    thresholds: Thresholds,
    now: float,
    max_ages: Mapping[tuple[str, str | None], float],
) -> Finding | None:
    key = Key(Condition.HELD, gate.endpoint)
    of_gate = {each: at for each, at in oldest_round_at.items() if each[0] == gate.endpoint}
    if not gate.governs_at(now) or not of_gate:
        return Finding(key, False, 0.0, thresholds.held, f"{gate.endpoint}: its gate holds no deliveries")
    ages = [(now - at, max_ages[each]) for each, at in of_gate.items() if each in max_ages]
    if not ages:
        return None
    age, max_age = max(ages, key=lambda each: _part(*each))
    text = (
        f"{gate.endpoint}: its gate is {gate.state}, and its oldest delivery has waited {age / _HOUR:.1f} of the "
        f"{max_age / _HOUR:.3g} hours of its max_age; the limit is {thresholds.held:.0%}"
    )
    value = _part(age, max_age)
    return Finding(key, value > thresholds.held, value, thresholds.held, text)


def _part(age: float, max_age: float) -> float:
    return age / max_age if max_age > 0 else 0.0
