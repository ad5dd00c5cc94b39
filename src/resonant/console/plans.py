"""Plans: what an operator has seen before an action that cannot be undone. The action changes only what existed then."""

import base64
import hmac
import json
import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple

from resonant.intake.problems import Problem

SECONDS = 600.0


class Plan(NamedTuple):
    """What was planned.

    Attributes:
        what: the action's parameters, as JSON values.
        counts: what the operator saw.
        moment: when, in seconds since the epoch, by the store's clock.
    """

    what: dict[str, Any]
    counts: dict[str, Any]
    moment: float


class Plans:
    """Makes plans, as opaque values that nobody else can make. They end with the process, or after ten minutes."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes()

    def make(self, action: str, what: Mapping[str, Any], counts: Mapping[str, Any], *, now: float) -> str:
        """Return the value of a plan for an action."""
        text = json.dumps([action, what, counts, now]).encode()
        return base64.urlsafe_b64encode(hmac.digest(self._key, text, "sha256") + text).decode()

    def read(self, action: str, value: object, *, now: float) -> Plan:
        """Return the plan of a value.

        Raises:
            Problem: 409, it has ended; 422, it is not a plan for this action.
        """
        try:
            raw = base64.b64decode(str(value or ""), altchars=b"-_", validate=True)
        except ValueError:
            raw = b""
        signature, text = raw[:32], raw[32:]
        if not hmac.compare_digest(signature, hmac.digest(self._key, text, "sha256")):
            raise Problem(422, "plan: not a plan of this console: ask for a new one with GET")
        of, what, counts, moment = json.loads(text)
        if of != action:
            raise Problem(422, f"plan: it is for {of}, not for {action}")
        if not moment <= now <= moment + SECONDS:
            raise Problem(409, "the plan is older than ten minutes: ask for a new one")
        return Plan(what, counts, moment)


def changed(counts: Mapping[str, Any]) -> Problem:
    """Return the refusal of a plan whose counts have changed."""
    now = ", ".join(f"{name} {value}" for name, value in counts.items() if value)
    return Problem(409, f"the plan no longer holds, nothing was done; now: {now or 'nothing is selected'}")
