"""Proposes settings for an endpoint from its history, with their effects predicted by simulation."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from statistics import median, quantiles
from typing import Literal

from resonant.delivery.retry import RetryPolicy
from resonant.display import duration
from resonant.lab.history import History
from resonant.lab.scenario import Scenario
from resonant.lab.simulation import simulate

AdvisedSetting = Literal["policy", "rate", "timeout"]

# The minimum number of attempts for advice.
FEWEST_ATTEMPTS = 100
_FEWEST_THROTTLED = 20
_NIGHT = 8 * 3600.0
_MOST_EVENTS, _FEWEST_EVENTS = 1_000, 100
_TIMEOUTS = (3.0, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0)
# A proposed timeout is at least this many times the slowest answer.
_SPARE = 3.0
_NEAR = 0.8
_RATE_SHARE = 0.95


@dataclass(frozen=True, slots=True)
class Current:
    """An endpoint's current settings.

    Attributes:
        policy: the name of the endpoint's policy.
        timeout: the deadline of one attempt, in seconds.
        rate: sends per second; None for no limit.
        policies: all known policies, keyed by name.
    """

    policy: str
    timeout: float
    rate: float | None
    policies: Mapping[str, RetryPolicy]


@dataclass(frozen=True, slots=True)
class Prediction:
    """The predicted outcome of a scenario with given settings.

    Attributes:
        attempts: attempts per event.
        given_up: the number of dead letters among ``events``.
        drain: seconds from the endpoint's recovery to the last delivery.
    """

    events: int
    attempts: float
    given_up: int
    drain: float


@dataclass(frozen=True, slots=True)
class Proposal:
    """A proposed value for a setting, with its reason.

    Attributes:
        now, then: the current and the proposed value; equal if nothing should change.
        reason: the evidence in the history.
        scenario: the simulated scenario, in words.
        before, after: the predictions with each value; None if nothing was simulated.
    """

    setting: AdvisedSetting
    now: str
    then: str
    reason: str
    scenario: str = ""
    before: Prediction | None = None
    after: Prediction | None = None

    @property
    def is_change(self) -> bool:
        """Whether the proposal differs from the current value."""
        return self.now != self.then


def advise(history: History, current: Current) -> list[Proposal]:
    """Return a proposal for each setting; an empty list if the history is too short."""
    if len(history.attempts) < FEWEST_ATTEMPTS or not history.durations:
        return []
    policy = _policy(history, current)
    # Simulate the other settings with the proposed policy, so that each prediction shows one effect.
    advised = replace(current, policy=policy.then)
    return [policy, _rate(history, advised), _timeout(history, advised)]


def scenario_of(history: History, current: Current, outage: float) -> Scenario:
    """Return a scenario with an outage of this length and the endpoint's own latency, failures and traffic."""
    longest = history.longest_outage
    events = math.ceil(history.per_second * outage)
    return Scenario(
        events=min(max(events, _FEWEST_EVENTS), _MOST_EVENTS),
        over=outage,
        outage=outage,
        outage_kind="503" if longest is None else longest.kind,
        capacity=history.capacity or 0.0,
        overload="429" if history.throttled else "503",
        retry_after=history.retry_after or 0.0,
        failures=round(min(history.share_failed, 0.9), 3),
        latency=max(0.001, median(history.durations)),
        timeout=current.timeout,
    )


def _policy(history: History, current: Current) -> Proposal:
    longest = history.longest_outage
    if longest is None:
        outage, reason = _NIGHT, "no outage is on record"
    else:
        outage, number = longest.seconds, len(history.outages)
        which = f"the longest of {number} outages" if number > 1 else "the only outage"
        reason = f"{which} lasted {duration(outage)}"
    scenario = scenario_of(history, current, outage)
    words = f"{'an 8 h outage' if longest is None else 'the same outage'}, with {scenario.events} events"

    predicted = {name: _predict(scenario, policy) for name, policy in current.policies.items()}
    # Keep the current policy unless another gives up fewer events. Fewer attempts alone are not a reason to change it.
    names = [current.policy, *current.policies]
    best = min(names, key=lambda name: predicted[name].given_up)
    return Proposal("policy", current.policy, best, reason, words, predicted[current.policy], predicted[best])


def _rate(history: History, current: Current) -> Proposal:
    now, capacity = _per_second(current.rate), history.capacity
    if history.throttled < _FEWEST_THROTTLED or capacity is None:
        reason = f"{history.throttled} of the last {len(history.attempts)} attempts were answered with 429"
        return Proposal("rate", now, now, reason)
    wanted = _RATE_SHARE * capacity
    reason = f"it answered 429 to {history.throttled} attempts while it accepted {capacity:g} per second"
    if current.rate is not None and current.rate <= wanted:
        return Proposal("rate", now, now, reason)
    scenario = replace(scenario_of(history, current, 0.0), events=_MOST_EVENTS, over=0.0)
    policy = current.policies[current.policy]
    limited = replace(scenario, rate=float(f"{wanted:.3g}"))
    return Proposal(
        *("rate", now, _per_second(limited.rate), reason, f"{scenario.events} events due at once"),
        before=_predict(replace(scenario, rate=current.rate or 0.0), policy),
        after=_predict(limited, policy),
    )


def _timeout(history: History, current: Current) -> Proposal:
    durations = history.durations
    slowest, timeout = durations[-1], current.timeout
    reason = f"99 % of {len(durations)} answers took at most {_percentile(durations):.2g} s, the slowest {slowest:.2g} s"
    if history.timeouts and slowest > _NEAR * timeout:
        wanted = _at_least(2 * timeout)
        reason += f", and {history.timeouts} attempts timed out"
    else:
        wanted = min(timeout, _at_least(_SPARE * slowest))
    if wanted == timeout:
        return Proposal("timeout", f"{timeout:g} s", f"{timeout:g} s", reason)
    policy = current.policies[current.policy]
    before = replace(scenario_of(history, current, 600.0), outage_kind="hang")
    after = replace(before, timeout=wanted)
    return Proposal(
        *("timeout", f"{timeout:g} s", f"{wanted:g} s", reason),
        scenario=f"ten minutes without answers, with {before.events} events",
        before=_predict(before, policy),
        after=_predict(after, policy),
    )


@cache
def _predict(scenario: Scenario, policy: RetryPolicy) -> Prediction:
    result = simulate(scenario, policy)
    return Prediction(scenario.events, round(result.attempts, 2), result.given_up, round(result.drain, 1))


def _percentile(durations: list[float]) -> float:
    return quantiles(durations, n=100)[98] if len(durations) > 1 else durations[0]


def _at_least(seconds: float) -> float:
    return next((each for each in _TIMEOUTS if each >= seconds), _TIMEOUTS[-1])


def _per_second(rate: float | None) -> str:
    return "none" if rate is None else f"{rate:g}/s"
