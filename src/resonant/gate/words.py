"""Describe an endpoint's gate: its state, the reason, and advice for operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resonant.display import counted, duration
from resonant.store.shared.gates import LAST_FAILURE

if TYPE_CHECKING:
    from resonant.store.shared.gates import Gate

# Without a probe or a renewed pilot for a minute, no run is sending to the endpoint: drains overlap, and look more often.
_UNATTENDED_SECONDS = 60.0
_RESUME = "`resonant endpoint resume {endpoint}` sends again"
_GONE = (
    "if the endpoint is gone for good, remove it (`resonant endpoint remove {endpoint}`) and cancel its deliveries "
    "(`resonant cancel --endpoint {endpoint}`); otherwise `resonant endpoint resume {endpoint}` sends again"
)
_PROBING = ": once a probe of a run succeeds, the deliveries are sent; `resonant endpoint resume {endpoint}` makes a probe due now"
_REPAIR_RECEIVER = "repair the receiver"
_FIX_URL = "fix the endpoint's URL (`resonant endpoint update {endpoint} --url URL`)"
# By the last failure, if the cause may be on this side.
_REPAIRS = {
    "endpoint error": (
        "correct the setting that `resonant endpoint test {endpoint}` names, such as --ca-file to a readable file "
        "(`resonant endpoint update {endpoint} --ca-file FILE`)"
    ),
    "tls client certificate": (
        "set a client certificate that is valid and that the receiver accepts (`resonant endpoint update {endpoint} "
        "--client-cert FILE --client-key FILE`; `resonant endpoint show {endpoint}` says when the saved one expires)"
    ),
    "tls certificate": (
        "ask for a certificate that is valid and has the right name, or trust its authority "
        "(`resonant endpoint update {endpoint} --ca-file FILE`)"
    ),
    "address refused": (
        "fix the endpoint's URL, or allow private addresses "
        "(`resonant endpoint update {endpoint} --url URL` or --allow-private)"
    ),
    "dns not found": (
        "check the name in the endpoint's URL (`resonant endpoint update {endpoint} --url URL`) and this machine's resolver"
    ),
    "deployment missing": (
        "deploy the flow, or name its deployment "
        "(`resonant endpoint add {endpoint} --deployment FLOW/DEPLOYMENT --overwrite`)"
    ),
    **dict.fromkeys(("invalid url", "unsupported protocol"), _FIX_URL),
}
_FAILING = (
    "fix the receiver's handler of these events: once a probe of a type succeeds, its deliveries are sent; "
    "`resonant endpoint resume {endpoint}` makes the probes due now"
)
_NO_RUN = "no run is sending to it: start `resonant up`"
# The most failing types that a line names.
_MOST_TYPES = 3
_WAITING = "nothing: the endpoint requested this pause, and the deliveries are sent afterwards"
_PACED = "nothing: the pace grows while the endpoint keeps up"


def word(gate: Gate, now: float) -> tuple[str, str]:
    """Return how bad an endpoint's state is (``ok``, ``warn`` or ``bad``), and the state in a word or two."""
    if gate.is_gone:
        return "bad", "gone"
    if gate.governs_at(now):
        return "bad" if gate.state == "probing" else "warn", gate.state.replace("normal", "waiting")
    failing = len(gate.failing_at(now))
    return ("bad", counted(failing, "type fails", "types fail")) if failing else ("ok", "normal")


def described(gate: Gate, *, held: int, now: float, is_sent: bool = True) -> str:
    """Describe a gate on one line: state, duration, pace, reason, next probe, and number of held deliveries.

    Args:
        gate: the endpoint's gate.
        held: the number of deliveries that are due and held.
        now: seconds since the epoch.
        is_sent: whether a run is alive. Without one, no probe is announced.
    """
    types = _types(gate, now, is_probed=is_sent and gate.state in ("normal", "paced"))
    if not gate.governs_at(now):
        if types and held:
            types += [f"{held:,} held"] if is_sent else [f"{held:,} held", _NO_RUN]
        return "; ".join(["normal", *types])
    wait = max(0.0, (gate.not_before or 0.0) - now)
    until = f"for {duration(wait)} more, as its Retry-After requested"
    parts = [_state(gate, now) if gate.state != "normal" else f"waiting {until}"]
    probe_at = next_probe_at(gate)
    if probe_at is not None and is_sent:
        due = "a probe is due" if held else "the next delivery is the probe"
        parts.append(f"next probe in {duration(probe_at - now)}" if probe_at > now else due)
    elif gate.state == "paced" and wait:
        parts.append(f"nothing is sent {until}")
    if held:
        parts.append(f"{held:,} held")
    expected_at = gate.pilot_until or gate.since if gate.state == "paced" else probe_at
    is_unattended = expected_at is not None and now - expected_at > _UNATTENDED_SECONDS
    if held and (is_unattended or not (is_sent or gate.state == "paused")):
        parts.append(_NO_RUN)
    return "; ".join([*parts, *types])


def _types(gate: Gate, now: float, *, is_probed: bool) -> list[str]:
    """Describe the types that fail while others work, the longest failing first."""
    failing = sorted(gate.failing_at(now).values(), key=lambda each: each.since)
    lines = []
    for each in failing[:_MOST_TYPES]:
        probe = f"next probe in {duration(each.probe_at - now)}" if each.probe_at > now else "a probe is due"
        said = f"{each.event_type} has failed for {duration(now - each.since)} ({each.failure})"
        lines.append(f"{said}, {probe}" if is_probed else said)
    more = len(failing) - len(lines)
    return [*lines, f"{counted(more, 'more type fails', 'more types fail')}"] if more else lines


def _state(gate: Gate, now: float) -> str:
    since = gate.down_since if gate.state == "probing" else gate.since
    by = f" by {gate.paused_by}" if gate.paused_by else ""
    rate = f" at {pace(gate)}" if pace(gate) else ""
    reason = gate.reason or ""
    # Failures of probes are not counted: the number is that of the beginning.
    joint = ", after " if gate.state == "probing" and "in a row" in reason else ": "
    return joint.join(filter(None, (f"{gate.state} for {duration(now - since)}{by}{rate}", reason)))


def advice(gate: Gate, now: float) -> str:
    """Return advice about an endpoint whose gate holds deliveries back; empty if it holds none back."""
    if not gate.governs_at(now):
        return _FAILING.format(endpoint=gate.endpoint) if gate.failing_at(now) else ""
    repair = _REPAIRS.get((gate.reason or "").partition(LAST_FAILURE)[2], _REPAIR_RECEIVER)
    by_state = {"paused": _GONE if gate.is_gone else _RESUME, "probing": repair + _PROBING, "paced": _PACED}
    return by_state.get(gate.state, _WAITING).format(endpoint=gate.endpoint)


def next_probe_at(gate: Gate) -> float | None:
    """Return when the next probe is due, seconds since the epoch; None if the gate is not probing."""
    if gate.state != "probing" or gate.probe_at is None:
        return None
    return max(gate.probe_at, gate.not_before or 0.0)


def pace(gate: Gate) -> str | None:
    """Describe the pace of a gate; return None if it is not paced."""
    return f"{gate.pace:.3g} per second" if gate.state == "paced" and gate.pace is not None else None
