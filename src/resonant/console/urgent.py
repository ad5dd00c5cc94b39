"""What needs a person: one card for each incident, the most urgent first."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlencode

from resonant.console.asked import path
from resonant.dead_letters.triage import DeadLetterGroup
from resonant.display import counted, duration, some
from resonant.events import rfc3339
from resonant.gate.words import advice, described
from resonant.metrics.alerts import DEFINITIONS, AlertCondition, Key
from resonant.overview import Overview
from resonant.store.views.endpoint_status import EndpointStatus
from resonant.store.views.reads import StoreStatus

LATE_SECONDS = 60.0
_RUNBOOK = "https://github.com/resonant-events/resonant/blob/main/docs/runbook.md#"
_OURS, _THEIRS = "ours (local)", "the endpoint's"
_NOT_DEAD = frozenset(AlertCondition) - {
    AlertCondition.DEAD_LETTERS,
    AlertCondition.DEAD_LETTER_AGE,
    AlertCondition.CLOCKS,
}
_SILENT = frozenset({AlertCondition.DRAIN_SILENT, AlertCondition.HELD})
_DEAD = frozenset(
    {*frozenset(AlertCondition) - _NOT_DEAD, AlertCondition.ERROR_RATE, AlertCondition.RETRIES}
) - {AlertCondition.CLOCKS}


@dataclass(slots=True)
class Card:
    """An incident.

    Attributes:
        level: ``bad`` if deliveries fail or wait for a person, else ``warn``.
        title: what is broken, and how many deliveries wait.
        steps: sentences with commands in backticks, the next step first.
        links: pages by their names.
        covers: the alerts that only repeat this card.
    """

    level: str
    title: str
    why: str
    fault: str | None = None
    since: float | None = None
    steps: list[str] = field(default_factory=list)
    endpoints: list[str] = field(default_factory=list)
    links: dict[str, str] = field(default_factory=dict)
    alerts: list[str] = field(default_factory=list)
    covers: frozenset[AlertCondition] = frozenset()

    @property
    def document(self) -> dict[str, Any]:
        """The card as JSON values."""
        shown = {name: value for name, value in asdict(self).items() if name != "covers"}
        return shown | {"since": None if self.since is None else rfc3339(self.since)}


def _state_of(of: EndpointStatus, problem: str | None, *, is_sent: bool, now: float) -> tuple[str, str]:
    """Return the level and the word of an endpoint's state."""
    if problem is not None:
        return "bad", "cannot be opened"
    if of.gate.state != "normal":
        return (
            "bad" if of.gate.state == "probing" or of.gate.is_gone else "warn",
            "gone" if of.gate.is_gone else of.gate.state,
        )
    if of.gate.governs_at(now):
        return "warn", "waiting"
    if failing := len(of.gate.failing_at(now)):
        return "bad", counted(failing, "type fails", "types fail")
    if not is_sent:
        return ("bad" if of.due else "warn"), "no drain"
    return "ok", "normal"


def states_of(
    found: StoreStatus, sent: Collection[str], shown: Iterable[EndpointStatus], *, now: float
) -> dict[str, tuple[str, str]]:
    """Return the level and the word of the state of each endpoint; a live run sends to those of ``sent``."""
    problems = {each.endpoint: each.reason for each in found.endpoint_problems}
    return {
        each.name: _state_of(each, problems.get(each.name), is_sent=each.name in sent, now=now)
        for each in shown
    }


def find_cards(read: Overview, groups: Sequence[DeadLetterGroup], *, now: float) -> list[Card]:
    """Return the incidents.

    Args:
        read: the status of the whole store.
        groups: the dead letters by cause; acknowledged ones are left out.
        now: seconds since the epoch.
    """
    found, left = read.found, {each.fingerprint: each for each in groups if not each.acknowledged}
    cards: list[Card] = []
    if not found.balanced:
        why = f"{found.accepted:,} were accepted, and the other counts are not as many in all"
        steps = ["keep a copy of the database and report this"]
        cards.append(
            Card(
                "bad",
                "The balance is wrong",
                why,
                _OURS,
                steps=steps,
                links={"runbook": f"{_RUNBOOK}the-balance-is-wrong"},
            )
        )
    problems = {each.endpoint: each for each in found.endpoint_problems}
    cards += _unsent(
        [each for each in found.endpoints if each.name not in problems and each.name not in read.sent], now
    )
    for each in problems.values():
        waiting = sum(of.pending + of.retrying for of in found.endpoints if of.name == each.endpoint)
        title = f"{each.endpoint} cannot be opened: {counted(waiting, 'delivery waits', 'deliveries wait')}"
        steps = [
            f"repair its configuration: `resonant endpoint update {each.endpoint}` or `resonant endpoint add {each.endpoint} URL`; drains then open it at once"
        ]
        card = Card("bad", title, each.reason, _OURS, each.since, steps, [each.endpoint], covers=_NOT_DEAD)
        cards.append(_linked(card, {"runbook": f"{_RUNBOOK}an-endpoint-cannot-be-opened"}))
    gates = [
        _of_gate(each, left, is_sent=each.name in read.sent, now=now)
        for each in found.endpoints
        if each.is_held and each.name not in problems
    ]
    cards += sorted(filter(None, gates), key=lambda card: card.level != "bad")
    cards += list(_of_dead_letters(list(left.values())))
    late = [
        each
        for each in found.endpoints
        if each.name in read.sent
        and each.name not in problems
        and each.due > each.held
        and now - (each.oldest_not_held_at or now) > LATE_SECONDS
    ]
    cards += _late(late, now)
    return cards + _of_alerts(read, cards)


def _unsent(endpoints: list[EndpointStatus], now: float) -> Iterator[Card]:
    """Yield the card of the endpoints without a live drain; nothing is sent to a paused one anyway."""
    waiting = [each for each in endpoints if each.due and each.gate.state != "paused"]
    if waiting:
        names = [each.name for each in waiting]
        oldest = min(each.oldest_due_at or now for each in waiting)
        due = counted(sum(each.due for each in waiting), "delivery is", "deliveries are")
        title = f"Nothing is sent since {duration(now - oldest)}: {due} due, for {some(names, 3)}"
        why = "no live drain sends to " + counted(
            len(names), "endpoint with due deliveries", "endpoints with due deliveries"
        )
        steps = [
            "start `resonant up`, or a run of the deployment `drain`; `resonant emit` sends once what is due"
        ]
        card = Card("bad", title, why, _OURS, oldest, steps, names, covers=_SILENT)
        yield _linked(card, {"runbook": f"{_RUNBOOK}nothing-is-sent"})


def _of_gate(
    of: EndpointStatus, left: dict[str, DeadLetterGroup], *, is_sent: bool, now: float
) -> Card | None:
    """Return the card of an endpoint whose gate holds deliveries, and take the dead letters of the same outage from ``left``."""
    gate, held = of.gate, counted(of.held, "delivery", "deliveries")
    why = described(gate, held=of.held, now=now, is_sent=is_sent)
    failing = gate.failing_at(now)
    steps, level, fault, since = [advice(gate, now)], "bad", _THEIRS, gate.since
    if gate.is_gone:
        title = f"{of.name} answered 410, gone for good, {duration(now - since)} ago: {held} held"
    elif gate.state == "paused":
        title, level = (
            f"{of.name} is paused by {gate.paused_by} since {duration(now - since)}: {held} held",
            "warn",
        )
        fault = "none: an operator paused it"
    elif gate.state == "probing":
        since = gate.down_since
        title = f"{of.name} does not work since {duration(now - since)}: {held} held"
    elif gate.governs_at(now):
        title, level = f"{of.name} limits the rate: {held} held", "warn"
        steps.append(
            f"if it goes on, `resonant advise {of.name}` proposes a rate, and `resonant endpoint update {of.name} --rate N` sets it"
        )
    else:
        since = min(each.since for each in failing.values())
        title = (
            f"{some(sorted(failing), 3)} at {of.name}: all fail since {duration(now - since)}, {held} held"
        )
    card = Card(level, title, why, fault, since, steps, [of.name], covers=_NOT_DEAD)
    failures = " ".join([gate.reason or "", *(each.failure for each in failing.values())])
    for group in [each for each in left.values() if each.endpoint == of.name]:
        is_same = gate.state in ("probing", "paced") and group.category == "transient"
        if (
            is_same
            or (gate.is_gone and group.code == "http_410")
            or (group.code and group.code.replace("_", " ") in failures)
        ):
            del left[group.fingerprint]
            card.steps.append(
                f"{counted(group.count, 'dead letter')} with {group.code or group.reason}: {group.advice}"
            )
            card.links[f"dead letters {group.code or group.reason}"] = path("dead-letters", group.fingerprint)
            card.covers |= _DEAD
    return _linked(card, {})


def _of_dead_letters(groups: list[DeadLetterGroup]) -> Iterator[Card]:
    """Yield a card for each endpoint and code: its causes differ only in the text of the error."""
    alike: dict[tuple[str, str, str], list[DeadLetterGroup]] = {}
    for each in groups:
        if each.reason != "cancelled":
            alike.setdefault((each.endpoint, each.code, each.reason), []).append(each)
    for (endpoint, code, reason), members in alike.items():
        first, last_at = members[0], max(each.last_at for each in members)
        number = sum(each.count for each in members)
        fault = {"local": _OURS, "endpoint": _THEIRS}.get(first.blame or "")
        title = f"{counted(number, 'dead letter')} to {endpoint}: {code or reason}"
        why = f"{reason}: {first.error}" if first.error else reason
        card = Card("bad", title, why, fault, last_at, [first.advice], [endpoint], covers=_DEAD)
        of_code = f"/dead-letters?{urlencode({'endpoint': endpoint, 'code': code})}"
        causes = path("dead-letters", first.fingerprint) if len(members) == 1 or not code else of_code
        yield _linked(card, {"the cause" if len(members) == 1 else "the causes": causes})


def _late(endpoints: list[EndpointStatus], now: float) -> Iterator[Card]:
    if endpoints:
        oldest = min(each.oldest_not_held_at or now for each in endpoints)
        due = counted(sum(each.due for each in endpoints), "delivery is", "deliveries are")
        names = [each.name for each in endpoints]
        title = f"Deliveries to {some(names, 3)} are late by {duration(now - oldest)}: {due} due"
        steps = [
            f"if the endpoint can take more: `resonant endpoint update {names[0]} --concurrency N`; otherwise start more drains"
        ]
        card = Card(
            "warn",
            title,
            "a drain sends, but more slowly than deliveries become due",
            None,
            oldest,
            steps,
            names,
        )
        card.covers = frozenset({AlertCondition.DRAIN_SILENT, AlertCondition.LATENCY})
        yield _linked(card, {"runbook": f"{_RUNBOOK}events-arrive-late"})


def _of_alerts(read: Overview, cards: list[Card]) -> list[Card]:
    """Return a card for each alert that no other card explains, and add the other alerts to the cards."""
    own, runbooks = [], {each.condition: each.runbook for each in DEFINITIONS}
    for key, at in sorted(read.raised.items(), key=lambda item: item[1]):
        text = read.alert_texts[key]
        if " of 0 attempts " in text:  # nothing was sent since, which shows nothing
            continue
        if covering := next((each for each in cards if _covers(each, key)), None):
            covering.alerts.append(f"{key.condition}: {text}")
            continue
        title = f"Alert {key.condition} for {key.endpoint or 'all endpoints'}"
        card = Card("warn", title, text, None, at, endpoints=[key.endpoint] if key.endpoint else [])
        runbook = runbooks[key.condition]
        own.append(_linked(card, {f"runbook: {runbook}": f"{_RUNBOOK}{runbook.lower().replace(' ', '-')}"}))
    return own


def _covers(card: Card, key: Key) -> bool:
    return key.condition in card.covers and (not key.endpoint or key.endpoint in card.endpoints)


def _linked(card: Card, links: dict[str, str]) -> Card:
    card.links |= {name: path("endpoints", name) for name in card.endpoints[:3]} | links
    return card
