"""What needs a person: one card for each incident, the most urgent first."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlencode

from resonant.console.asked import path
from resonant.dead_letters.triage import DeadLetterGroup
from resonant.display import counted, duration, some
from resonant.events import rfc3339
from resonant.gate.words import advice, described, word
from resonant.metrics.alerts import DEFINITIONS, AlertCondition, Key
from resonant.overview import Overview
from resonant.store.views.endpoint_status import EndpointStatus
from resonant.store.views.reads import StoreStatus

LATE_SECONDS = 60.0
_RUNBOOK = "https://github.com/resonant-events/resonant/blob/main/docs/runbook.md#"
_HEADINGS = {each.condition: each.runbook for each in DEFINITIONS}
_OURS, _THEIRS = "ours (local)", "the endpoint's"
_A = AlertCondition
_OF_DEAD = frozenset({_A.DEAD_LETTERS, _A.DEAD_LETTER_AGE})
_OF_OUTAGE = frozenset(_A) - _OF_DEAD - {_A.CLOCKS, _A.RETRIES}
# A rate that concerns all endpoints is explained by any card about failures.
_RATES = frozenset({_A.ERROR_RATE, _A.RETRIES})


@dataclass(slots=True)
class Card:
    """An incident. ``covers`` are the alerts that only repeat it; commands are in backticks."""

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
        since = None if self.since is None else rfc3339(self.since)
        return {name: value for name, value in asdict(self).items() if name != "covers"} | {"since": since}


def states_of(
    found: StoreStatus, sent: Collection[str], shown: Iterable[EndpointStatus], *, now: float
) -> dict[str, tuple[str, str]]:
    """Return the level and the word of each endpoint's state; a live run sends to those of ``sent``."""
    problems = {each.endpoint for each in found.endpoint_problems}
    states = {}
    for each in shown:
        level, said = word(each.gate, now)
        if each.name in problems:
            level, said = "bad", "cannot be opened"
        elif level == "ok" and each.name not in sent:
            level, said = "bad" if each.due else "warn", "no drain"
        states[each.name] = level, said
    return states


def find_cards(read: Overview, groups: Iterable[DeadLetterGroup], *, now: float) -> list[Card]:
    """Return the incidents of a store; ``groups`` are its dead letters by cause, of which acknowledged ones are left out."""
    found, left = read.found, {each.fingerprint: each for each in groups if not each.acknowledged}
    of = {each.name: each for each in found.endpoints}
    cards: list[Card] = []
    if read.unsafe:
        cards.append(Card("warn", "The database may lose commits", read.unsafe, _OURS))
    if not found.balanced:
        why = f"{found.accepted:,} were accepted, and the other counts are not as many in all"
        cards.append(
            Card(
                "bad",
                "The balance is wrong",
                why,
                _OURS,
                steps=["keep a copy of the database and report this"],
            )
        )
        cards[0].links = _runbook("The balance is wrong")
    problems = {each.endpoint: each for each in found.endpoint_problems}
    openable = [each for each in found.endpoints if each.name not in problems]
    cards += _unsent([each for each in openable if each.name not in read.sent], now)
    for name, each in problems.items():
        waiting = counted(of[name].pending + of[name].retrying, "delivery waits", "deliveries wait")
        step = f"repair its configuration (`resonant endpoint update {name}`); drains then open it at once"
        cards.append(
            Card("bad", f"{name} cannot be opened: {waiting}", each.reason, _OURS, each.since, [step], [name])
        )
        cards[-1].links, cards[-1].covers = _runbook("An endpoint cannot be opened"), _OF_OUTAGE
    gates = [_of_gate(each, left, each.name in read.sent, now) for each in openable if each.is_held]
    cards += sorted(gates, key=lambda card: card.level != "bad")
    cards += _of_dead_letters(left.values())
    cards += _late([each for each in openable if each.name in read.sent and each.due > each.held], now)
    cards += _of_alerts(read, cards)
    for card in cards:
        card.links |= {name: path("endpoints", name) for name in card.endpoints[:3]}
    return cards


def _unsent(endpoints: list[EndpointStatus], now: float) -> Iterator[Card]:
    """Yield the card of the endpoints without a live drain; nothing is sent to a paused one anyway."""
    if waiting := [each for each in endpoints if each.due and each.gate.state != "paused"]:
        names, due = [each.name for each in waiting], sum(each.due for each in waiting)
        oldest = min(each.oldest_due_at or now for each in waiting)
        title = f"Nothing has been sent for {duration(now - oldest)}: {due:,} due, for {some(names, 3)}"
        why = "no live drain sends to " + counted(
            len(names), "endpoint with due deliveries", "endpoints with due deliveries"
        )
        steps = [
            "start `resonant up`, or a run of the deployment `drain`; `resonant emit` sends once what is due"
        ]
        links, covers = _runbook("Nothing is sent"), frozenset({_A.DRAIN_SILENT, _A.HELD})
        yield Card("bad", title, why, _OURS, oldest, steps, names, links, covers=covers)


def _of_gate(of: EndpointStatus, left: dict[str, DeadLetterGroup], is_sent: bool, now: float) -> Card:
    """Return the card of an endpoint whose gate holds deliveries, and take the dead letters of the same outage from ``left``."""
    gate, failing = of.gate, of.gate.failing_at(now)
    level, fault, since, steps = "bad", _THEIRS, gate.since, [advice(gate, now)]
    if gate.is_gone:
        said = f"{of.name} has been gone (410)"
    elif gate.state == "paused":
        level, fault, said = "warn", f"none: {gate.paused_by} paused it", f"{of.name} has been paused"
    elif gate.state == "probing":
        since, said = gate.down_since, f"{of.name} has not worked"
    elif gate.governs_at(now):
        level, said = "warn", f"{of.name} has limited the rate"
        steps.append(
            f"`resonant advise {of.name}` proposes a rate for `resonant endpoint update {of.name} --rate N`"
        )
    else:
        since, said = (
            min(each.since for each in failing.values()),
            f"{some(sorted(failing), 3)} has failed at {of.name}",
        )
    title = f"{said} for {duration(now - since)}: {of.held:,} held"
    why = described(gate, held=of.held, now=now, is_sent=is_sent)
    card = Card(level, title, why, fault, since, steps, [of.name], covers=_OF_OUTAGE | _RATES)
    failures = " ".join([gate.reason or "", *(each.failure for each in failing.values())])
    for group in [each for each in left.values() if each.endpoint == of.name]:
        is_down = gate.state in ("probing", "paced") and group.category == "transient"
        is_gone = gate.is_gone and group.code == "http_410"
        if is_down or is_gone or (group.code and group.code.replace("_", " ") in failures):
            del left[group.fingerprint]
            what = f"{counted(group.count, 'dead letter')} with {group.code or group.reason}"
            card.steps.append(f"{what}: {group.advice}")
            card.links[what], card.covers = path("dead-letters", group.fingerprint), card.covers | _OF_DEAD
    return card


def _of_dead_letters(groups: Iterable[DeadLetterGroup]) -> Iterator[Card]:
    """Yield a card for each endpoint and code: its causes differ only in the text of the error."""
    alike: dict[tuple[str, str], list[DeadLetterGroup]] = {}
    for each in groups:
        if each.reason != "cancelled":
            alike.setdefault((each.endpoint, each.code or each.fingerprint), []).append(each)
    numbers = {key: sum(each.count for each in members) for key, members in alike.items()}
    for (endpoint, code), number in sorted(numbers.items(), key=lambda item: -item[1]):
        members = alike[endpoint, code]
        first = members[0]
        one, many = (
            path("dead-letters", first.fingerprint),
            f"/dead-letters?{urlencode({'endpoint': endpoint, 'code': code})}",
        )
        title = f"{counted(number, 'dead letter')} to {endpoint}: {first.code or first.reason}"
        why = f"{first.reason}: {first.error}" if first.error else first.reason
        fault = {"local": _OURS, "endpoint": _THEIRS}.get(first.blame or "")
        first_at = min(each.first_at for each in members)
        links = {counted(len(members), "cause"): one if len(members) == 1 else many}
        yield Card(
            "bad", title, why, fault, first_at, [first.advice], [endpoint], links, covers=_OF_DEAD | _RATES
        )


def _late(endpoints: list[EndpointStatus], now: float) -> Iterator[Card]:
    oldest = {each.name: each.oldest_not_held_at or now for each in endpoints}
    if late := [each for each in endpoints if now - oldest[each.name] > LATE_SECONDS]:
        names, since = [each.name for each in late], min(oldest[each.name] for each in late)
        title = f"Deliveries to {some(names, 3)} are late by {duration(now - since)}: {sum(each.due for each in late):,} due"
        why = "a drain sends, but more slowly than deliveries become due"
        steps = [
            f"raise what the endpoint gets (`resonant endpoint update {names[0]} --concurrency N`), or start more drains"
        ]
        links, covers = _runbook("Events arrive late"), frozenset({_A.DRAIN_SILENT, _A.LATENCY})
        yield Card("warn", title, why, None, since, steps, names, links, covers=covers)


def _of_alerts(read: Overview, cards: list[Card]) -> list[Card]:
    """Return a card for each alert that no other card explains, and add the other alerts to the cards."""
    own = []
    for key, at in sorted(read.raised.items(), key=lambda item: item[1]):
        text = read.alert_texts[key]
        if (
            " of 0 attempts " in text
        ):  # nothing was sent since, so it does not show whether the failures go on
            continue
        if covering := next((each for each in cards if _covers(each, key)), None):
            covering.alerts.append(f"{key.condition}: {text}")
            continue
        title, names = (
            f"Alert {key.condition} for {key.endpoint or 'all endpoints'}",
            list(filter(None, [key.endpoint])),
        )
        own.append(Card("warn", title, text, None, at, [], names, _runbook(_HEADINGS[key.condition])))
    return own


def _covers(card: Card, key: Key) -> bool:
    return key.condition in card.covers and (not key.endpoint or key.endpoint in card.endpoints)


def _runbook(heading: str) -> dict[str, str]:
    return {f"runbook: {heading}": f"{_RUNBOOK}{heading.lower().replace(' ', '-')}"}
