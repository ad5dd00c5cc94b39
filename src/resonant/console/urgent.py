"""What needs a person: one card for each incident, the most urgent first."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

from resonant.console.asked import path
from resonant.dead_letters.triage import DeadLetterGroup
from resonant.display import counted, duration, some
from resonant.events import rfc3339
from resonant.gate.words import advice, described, word
from resonant.metrics.alerts import DEFINITIONS, AlertCondition, Key
from resonant.overview import Overview
from resonant.store.shared.gates import Gate
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


@dataclass(frozen=True, slots=True)
class Card:
    """An incident. ``covers`` are the alerts that only repeat it; commands are in backticks."""

    level: str
    title: str
    why: str
    fault: str | None = None
    since: float | None = None
    steps: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    alerts: tuple[str, ...] = ()
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
    left = {
        each.fingerprint: each for each in groups if not (each.acknowledged or each.reason == "cancelled")
    }
    problems = {each.endpoint for each in read.found.endpoint_problems}
    openable = [each for each in read.found.endpoints if each.name not in problems]
    gates = [_of_gate(each, left, each.name in read.sent, now) for each in openable if each.is_held]
    cards = [
        *_of_store(read),
        *_unsent([each for each in openable if each.name not in read.sent], now),
        *_unopened(read.found),
        *sorted(gates, key=lambda card: card.level != "bad"),
        *_of_dead_letters(left.values()),
        *_late([each for each in openable if each.name in read.sent and each.due > each.held], now),
    ]
    return [
        replace(card, links={**card.links, **{name: path("endpoints", name) for name in card.endpoints[:3]}})
        for card in _with_alerts(cards, read)
    ]


def _of_store(read: Overview) -> Iterator[Card]:
    if read.unsafe:
        yield Card("warn", "The database may lose commits", read.unsafe, _OURS)
    if not read.found.balanced:
        title, steps = "The balance is wrong", ("keep a copy of the database and report this",)
        why = f"{read.found.accepted:,} were accepted, and the other counts are not as many in all"
        yield Card("bad", title, why, _OURS, steps=steps, links=_runbook(title))


def _unopened(found: StoreStatus) -> Iterator[Card]:
    of, links = {each.name: each for each in found.endpoints}, _runbook("An endpoint cannot be opened")
    for each in found.endpoint_problems:
        name = each.endpoint
        waiting = counted(of[name].pending + of[name].retrying, "delivery waits", "deliveries wait")
        title = f"{name} cannot be opened: {waiting}"
        step = f"repair its configuration (`resonant endpoint update {name}`); drains then open it at once"
        yield Card("bad", title, each.reason, _OURS, each.since, (step,), (name,), links, covers=_OF_OUTAGE)


def _unsent(endpoints: list[EndpointStatus], now: float) -> Iterator[Card]:
    """Yield the card of the endpoints without a live drain; nothing is sent to a paused one anyway."""
    if waiting := [each for each in endpoints if each.due and each.gate.state != "paused"]:
        names, due = tuple(each.name for each in waiting), sum(each.due for each in waiting)
        oldest = min(each.oldest_due_at or now for each in waiting)
        title = f"Nothing has been sent for {duration(now - oldest)}: {due:,} due, for {some(names, 3)}"
        why = "no live drain sends to " + counted(
            len(names), "endpoint with due deliveries", "endpoints with due deliveries"
        )
        step = (
            "start `resonant up`, or a run of the deployment `drain`; `resonant emit` sends once what is due"
        )
        links, covers = _runbook("Nothing is sent"), frozenset({_A.DRAIN_SILENT, _A.HELD})
        yield Card("bad", title, why, _OURS, oldest, (step,), names, links, covers=covers)


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
    links, covers = {}, _OF_OUTAGE | _RATES
    for group in [each for each in left.values() if each.endpoint == of.name and _is_of(gate, each, now)]:
        del left[group.fingerprint]
        what = f"{counted(group.count, 'dead letter')} with {group.code or group.reason}"
        steps.append(f"{what}: {group.advice}")
        links[what], covers = path("dead-letters", group.fingerprint), covers | _OF_DEAD
    return Card(level, title, why, fault, since, tuple(steps), (of.name,), links, covers=covers)


def _is_of(gate: Gate, group: DeadLetterGroup, now: float) -> bool:
    """Return whether the dead letters of a group have the same cause as the failures that the gate noticed."""
    if gate.is_gone:
        return group.code == "http_410"
    if gate.state in ("probing", "paced") and group.category == "transient":
        return True
    is_of_outage = gate.state == "probing" and group.last_at >= gate.down_since and group.blame == "endpoint"
    return is_of_outage or group.code in {each.code for each in gate.failing_at(now).values() if each.code}


def _of_dead_letters(groups: Iterable[DeadLetterGroup]) -> Iterator[Card]:
    """Yield a card for each endpoint and code: its causes differ only in the text of the error."""
    alike: dict[tuple[str, str], list[DeadLetterGroup]] = {}
    for each in groups:
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
            "bad", title, why, fault, first_at, (first.advice,), (endpoint,), links, covers=_OF_DEAD | _RATES
        )


def _late(endpoints: list[EndpointStatus], now: float) -> Iterator[Card]:
    oldest = {each.name: each.oldest_not_held_at or now for each in endpoints}
    if late := [each for each in endpoints if now - oldest[each.name] > LATE_SECONDS]:
        names, since = tuple(each.name for each in late), min(oldest[each.name] for each in late)
        title = f"Deliveries to {some(names, 3)} are late by {duration(now - since)}: {sum(each.due for each in late):,} due"
        why = "a drain sends, but more slowly than deliveries become due"
        step = f"raise what the endpoint gets (`resonant endpoint update {names[0]} --concurrency N`), or start more drains"
        links, covers = _runbook("Events arrive late"), frozenset({_A.DRAIN_SILENT, _A.LATENCY})
        yield Card("warn", title, why, None, since, (step,), names, links, covers=covers)


def _with_alerts(cards: list[Card], read: Overview) -> list[Card]:
    """Return the cards with the alerts that they explain, and a card for each other alert."""
    explained, own = defaultdict[int, list[str]](list), []
    for key, at in sorted(read.raised.items(), key=lambda item: item[1]):
        finding = read.findings[key]
        if not finding.is_measured:
            continue
        covering = next((number for number, each in enumerate(cards) if _covers(each, key)), None)
        if covering is not None:
            explained[covering].append(f"{key.condition}: {finding.text}")
            continue
        title = f"Alert {key.condition} for {key.endpoint or 'all endpoints'}"
        names, links = tuple(filter(None, [key.endpoint])), _runbook(_HEADINGS[key.condition])
        own.append(Card("warn", title, finding.text, None, at, endpoints=names, links=links))
    return [*(replace(each, alerts=tuple(explained[number])) for number, each in enumerate(cards)), *own]


def _covers(card: Card, key: Key) -> bool:
    return key.condition in card.covers and (not key.endpoint or key.endpoint in card.endpoints)


def _runbook(heading: str) -> dict[str, str]:
    return {f"runbook: {heading}": f"{_RUNBOOK}{heading.lower().replace(' ', '-')}"}
