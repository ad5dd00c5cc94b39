"""Judges what an endpoint's gate does: how long it has been probing, whether a 410 paused it, what it has held for long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resonant.metrics.alerts import Condition, Finding, Key
from resonant.store.gates import Gate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from resonant.metrics.totals import Totals
    from resonant.settings import Thresholds

_MINUTE, _HOUR = 60, 3600
# Seconds. A probe that works by chance paces the endpoint for a moment, which does not end an alert.
_SETTLED = 60.0
# Part of max_age. The other half is left to do something about it.
_HELD_FOR_LONG = 0.5


def of_gate(
    endpoint: str,
    totals: Totals,
    thresholds: Thresholds,
    now: float,
    max_ages: Mapping[tuple[str, str | None], float],
) -> Iterator[Finding | None]:
    """Judge the conditions of an endpoint's gate; see ``conditions.evaluate`` for the arguments."""
    gate = totals.gates.get(endpoint) or Gate(endpoint)
    yield _probing(gate, thresholds, now)
    yield _gone(gate, totals.held.get(endpoint, 0), now)
    yield _held(gate, totals.oldest_round_at, now, max_ages)


def overdue(gate: Gate | None, due_at: float | None, now: float) -> float:
    """Return for how long a delivery could have been sent, in seconds; what a gate held until now was not overdue before.

    Args:
        gate: of its endpoint; None where there is none.
        due_at: when the delivery was due; None where there is none.
        now: seconds since the epoch.
    """
    if due_at is None or (gate is not None and gate.state == "paused"):
        return 0.0
    # While an endpoint is probing or paced, a worker claims deliveries again and again: so the state needs no look.
    free_at = due_at if gate is None else max(due_at, gate.since, gate.not_before or 0.0)
    return now - free_at


def gets_only_probes(gate: Gate | None) -> bool:
    """Tell whether an endpoint gets nothing but probes."""
    return gate is not None and gate.state in ("probing", "paused")


def _probing(gate: Gate, thresholds: Thresholds, now: float) -> Finding | None:
    if gate.state == "paced" and now - gate.since < _SETTLED:
        return None
    began_at = gate.since if gate.failing_since is None else gate.failing_since
    down = now - began_at if gate.state == "probing" else 0.0
    return Finding(
        Key(Condition.PROBING, gate.endpoint),
        down > thresholds.probing,
        down,
        thresholds.probing,
        f"{gate.endpoint}: it has been down for {down / _MINUTE:.0f} minutes and gets only probes, "
        f"the limit is {thresholds.probing / _MINUTE:g}",
    )


def _gone(gate: Gate, held: int, now: float) -> Finding:
    return Finding(
        Key(Condition.GONE, gate.endpoint),
        gate.is_gone,
        now - gate.since if gate.is_gone else 0.0,
        0.0,
        f"{gate.endpoint}: it answered 410 Gone, so it is paused until an operator resumes it; deliveries held: {held}",
    )


def _held(
    gate: Gate,
    oldest_round_at: Mapping[tuple[str, str | None], float],
    now: float,
    max_ages: Mapping[tuple[str, str | None], float],
) -> Finding | None:
    of_gate = {key: at for key, at in oldest_round_at.items() if key[0] == gate.endpoint}
    if not gate.governs_at(now) or not of_gate:
        ages = [(0.0, 0.0)]
    else:
        ages = [(now - at, max_ages[key]) for key, at in of_gate.items() if key in max_ages]
    if not ages:
        return None
    age, max_age = max(ages, key=lambda each: _part(*each))
    return Finding(
        Key(Condition.HELD, gate.endpoint),
        _part(age, max_age) > _HELD_FOR_LONG,
        _part(age, max_age),
        _HELD_FOR_LONG,
        f"{gate.endpoint}: it is {gate.state}, and its oldest delivery has waited {age / _HOUR:.1f} of the "
        f"{max_age / _HOUR:g} hours after which it is given up; the limit is {_HELD_FOR_LONG:.0%}",
    )


def _part(age: float, max_age: float) -> float:
    return age / max_age if max_age > 0 else 0.0
