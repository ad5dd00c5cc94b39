"""Alerts: their conditions, and the crossings at which an alert begins or ends.

================= ========= ================================================================== ======================
condition         value     begins when                                                        ends
================= ========= ================================================================== ======================
error_rate        part of 1 of the attempts of the last minutes too many failed                at half of it
dead_letters      number    too many deliveries were given up in the last hour, less those     at half of it
                            that were replayed
dead_letter_age   seconds   the oldest dead letter has waited too long                         when that one is gone
latency           factor    an attempt takes several times as long, on average, as in the same halfway back to 1
                            hour a day before
drain_silent      seconds   a delivery is overdue, and for as long no worker has claimed one   when one is claimed
retries           part of 1 over all endpoints: too many attempts are followed by a retry      at half of it
probing           seconds   the endpoint's gate has been probing for too long                  when it is not probing
gone              seconds   the endpoint answered 410 and was paused                           when an operator acts
held              part of 1 a gate holds a delivery, and half of its max_age has passed         when none is so old
================= ========= ================================================================== ======================

An alert on a rate or a count begins at its threshold and ends at half of it. In between it stays as it is, so it does not
come and go around the threshold. An age needs no such rule, since it grows until an operator acts.

``conditions`` judges counts and waiting deliveries, ``gate_conditions`` judges gates. The rules in
``deployments/prometheus`` use the same thresholds; ``docs/monitoring.md`` lists both.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from resonant.settings import Thresholds

ALL_ENDPOINTS = ""


class Condition(StrEnum):
    """The kinds of alerts."""

    ERROR_RATE = "error_rate"
    DEAD_LETTERS = "dead_letters"
    DEAD_LETTER_AGE = "dead_letter_age"
    LATENCY = "latency"
    DRAIN_SILENT = "drain_silent"
    RETRIES = "retries"
    PROBING = "probing"
    GONE = "gone"
    HELD = "held"


class Key(NamedTuple):
    """Condition and endpoint of an alert; ``ALL_ENDPOINTS`` if the condition concerns the whole store."""

    condition: Condition
    endpoint: str


@dataclass(frozen=True, slots=True)
class Finding:
    """The judgement of a condition; a condition without enough data has no finding.

    Attributes:
        value: see the table above.
        threshold: the value is compared with it.
        text: both in words, without secrets and ids.
    """

    key: Key
    is_bad: bool
    value: float
    threshold: float
    text: str


@dataclass(frozen=True, slots=True)
class Crossing:
    """An alert that began or ended; times are seconds since the epoch.

    Attributes:
        since: the beginning of the window in which the condition was first bad.
    """

    what: Literal["raised", "recovered"]
    condition: Condition
    endpoint: str
    value: float
    threshold: float
    text: str
    at: float
    since: float

    @property
    def key(self) -> Key:
        """The condition and endpoint."""
        return Key(self.condition, self.endpoint)

    def to_json(self) -> str:
        """Return the crossing as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Crossing:
        """Return the crossing that ``to_json`` wrote."""
        fields = json.loads(text)
        return cls(**fields | {"condition": Condition(fields["condition"])})


def crossings(
    findings: Iterable[Finding], raised_at: Mapping[Key, float], thresholds: Thresholds, now: float
) -> list[Crossing]:
    """Return the alerts that begin or end now.

    Args:
        findings: the current judgements.
        raised_at: when each raised alert began, seconds since the epoch.
        thresholds: with the window that rates look back.
        now: seconds since the epoch.
    """
    return [
        Crossing(
            "raised" if finding.is_bad else "recovered",
            *finding.key,
            finding.value,
            finding.threshold,
            finding.text,
            at=now,
            since=raised_at.get(finding.key, now) - thresholds.window,
        )
        for finding in findings
        if finding.is_bad != (finding.key in raised_at)
    ]
