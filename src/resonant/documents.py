"""The JSON documents of all commands. Their keys are a public contract; times are RFC 3339 in UTC."""

from __future__ import annotations

import contextlib
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from resonant import output
from resonant.errors import EndpointError
from resonant.events import Attempt, DeadLetter, Delivery, Event, given_attributes, rfc3339

if TYPE_CHECKING:
    from pathlib import Path

    from pandas import DataFrame
    from prometheus_client import CollectorRegistry

    from resonant.dead_letters.cancel import Cancellable
    from resonant.dead_letters.erase import ErasurePlan, ErasureReport, OutOfReach
    from resonant.dead_letters.purge import Forecast, PurgeReport, Retention
    from resonant.dead_letters.replay import ReplayPlan
    from resonant.dead_letters.triage import DeadLetterGroup
    from resonant.dispatch.counts import Counts
    from resonant.gate.pausing import OperatorChange
    from resonant.intake.sources.source import Source
    from resonant.lab.advise import Proposal
    from resonant.lab.comparison import Variant
    from resonant.lab.history import History
    from resonant.lab.scenario import Scenario
    from resonant.metrics.alerts import Finding, Key
    from resonant.metrics.statistics import Statistics
    from resonant.output import Document
    from resonant.routing import Subscription
    from resonant.store.audit import AuditEntry
    from resonant.store.shared.gates import Gate, GateState
    from resonant.store.shared.run_watches import RunWatch
    from resonant.store.shared.tokens import Token
    from resonant.store.views.endpoint_status import EndpointStatus, Governed
    from resonant.store.views.reads import DeadLetterHistory, Detail, StoreStatus
    from resonant.store.views.unfinished import Waiting, WaitingGroup

_DEAD_LETTER = (
    "event_id event_type source endpoint reason category code error_type error status_code attempts first_attempt_at "
    "dead_at replays replayed_to answer maybe_processed"
)
_DELIVERY = (
    "event_id event_type source endpoint status attempts replays accepted_at first_attempt_at next_attempt_at finished_at "
    "reason category code error_type error status_code leased_by lease_until backoff_until"
)
_ATTEMPT = (
    "number round started_at duration result status_code category code blame maybe_processed error_type error excerpt "
    "warning retry_after decision delay next_attempt_at owner task_run_id late early"
)
_BALANCE = "accepted pending retrying in_flight delivered dead_letter purged balanced by_category"
_ENDPOINT_COUNTS = (
    "pending retrying in_flight due parked delivered dead_letter delivered_last_hour failed_last_hour"
)

_FIGURES = ("attempts", "peak", "drain", "noticed", "busiest", "sends")


def _pick(row: object, names: str) -> Document:
    """Return the named attributes; the names of times end in ``_at`` or ``_until``."""
    found = {name: getattr(row, name) for name in names.split()}
    return {
        name: _moment(value) if name.endswith(("_at", "_until")) else value for name, value in found.items()
    }


def _moment(moment: float | None) -> str | None:
    return None if moment is None else rfc3339(moment)


# --- the store ---------------------------------------------------------------------------------------------------


def stored(summary: object) -> Document:
    """Return the numbers of stored, known, erased, bad and unrouted lines, of dropped traces, and of new deliveries by endpoint."""
    return _pick(summary, "stored known erased bad dropped_traces unrouted by_endpoint")


def status(found: StoreStatus, *, now: float) -> Document:
    """Return the balance, and each endpoint."""
    return {
        **_pick(found, _BALANCE),
        "endpoint_problems": [
            {"endpoint": each.endpoint, "reason": each.reason, "since": rfc3339(each.since)}
            for each in found.endpoint_problems
        ],
        "held": found.held,
        **_oldest_due(found),
        "oldest_dead_letter": _moment(found.oldest_dead_at),
        "endpoints": [_endpoint(each, now=now) for each in found.endpoints],
    }


def _endpoint(found: EndpointStatus, *, now: float) -> Document:
    return {
        "endpoint": found.name,
        **_pick(found, _ENDPOINT_COUNTS),
        **_oldest_due(found),
        "held": found.held,
        "gate": gate(found.gate, now=now),
    }


def _oldest_due(found: StoreStatus | EndpointStatus) -> Document:
    names = ("oldest_due", "oldest_due_backlog", "oldest_due_new")
    return dict(zip(names, map(_moment, (found.oldest_due_at, *found.oldest_due)), strict=True))


def alerts(raised: Mapping[Key, float], findings: Mapping[Key, Finding]) -> list[Document]:
    """Return the active alerts; an alert for all endpoints has a null endpoint."""
    return [
        {
            "condition": key.condition.value,
            "endpoint": key.endpoint or None,
            "since": rfc3339(at),
            "text": findings[key].text,
        }
        for key, at in sorted(raised.items(), key=lambda item: (item[1], item[0]))
    ]


def retention(
    days: Retention, forecast: Forecast, kept: int, archives: Path, last: AuditEntry | None
) -> Document:
    """Return a forecast of the daily purge, and the result of the last purge."""
    return {
        "dead_letters_days": days.dead_letters,
        "delivered_days": days.delivered,
        "bodies_days": days.bodies,
        "by_reason": dict(days.by_reason),
        "by_endpoint": dict(days.by_endpoint),
        "would_purge": _pick(forecast, "dead_letters delivered"),
        "would_keep": kept,
        "archive": str(archives),
        "last_purge": last
        and {"at": rfc3339(last.at), "count": last.count, "archive": last.selection.get("archive")},
    }


def gate(found: Gate, *, now: float) -> Document:
    """Return an endpoint's gate, with the types that fail at this time."""
    return {
        "state": found.state,
        # 0 if the gate has always been normal.
        "since": _moment(found.since or None),
        "reason": found.reason,
        "paused_by": found.paused_by,
        "pace": found.pace if found.state == "paced" else None,
        "failing_since": _moment(found.failing_since),
        "next_probe": _moment(found.probe_at),
        "not_before": _moment(found.not_before),
        "failing_types": [
            {
                "type": each.event_type,
                "since": _moment(each.since),
                "failure": each.failure,
                "next_probe": _moment(each.probe_at),
            }
            for each in found.failing_at(now).values()
        ],
    }


def gate_change(done: OperatorChange, *, now: float) -> Document:
    """Return an endpoint's gate after a pause or a resumption, and how many parked deliveries that made due."""
    return {
        "endpoint": done.after.endpoint,
        "changed": done.after != done.before,
        "gate": gate(done.after, now=now),
        "made_due": done.made_due,
    }


# --- endpoints ---------------------------------------------------------------------------------------------------


def endpoint(
    name: str, block: object, problem: str | None, found: Governed, subscriptions: int, *, now: float
) -> Document:
    """Return an endpoint's configuration and its gate.

    Args:
        block: its block, or the error if it has no valid one.
        problem: why it cannot be used; None if it can.
        found: its gate, and how many due deliveries it holds.
        subscriptions: their number.
        now: seconds since the epoch.
    """
    if isinstance(block, EndpointError):
        return {"name": name, "problem": problem}
    state = endpoint_state(problem, found, subscriptions, now=now)
    return {**endpoint_settings(name, block), **state}


def endpoint_state(problem: str | None, found: Governed, subscriptions: int, *, now: float) -> Document:
    """Return what the store knows of an endpoint; the arguments are those of ``endpoint``."""
    return {
        "problem": problem,
        "subscriptions": subscriptions,
        "gone_since": _moment(found.gate.since) if found.gate.is_gone else None,
        "gate": gate(found.gate, now=now),
        "held": found.held,
    }


def endpoint_settings(name: str, block: Any) -> Document:
    """Return an endpoint's configuration without its secrets."""
    from resonant.sinks.network.client_certificate import facts_of
    from resonant.sinks.network.proxy import DIRECT
    from resonant.sinks.oauth import without_query

    shown: Document = {"name": name, "type": type(block).get_block_type_slug()}
    for field in type(block).model_fields:
        value = getattr(block, field)
        if hasattr(value, "get_secret_value"):
            shown[field] = "set" if value.get_secret_value() else None
        else:
            shown[field] = value if isinstance(value, int | float | dict | list | None) else str(value)
    if shown.get("oauth_token_url"):
        shown["oauth_token_url"] = without_query(block.oauth_token_url.get_secret_value())
    else:  # otherwise it would show a default for a setting that has no effect
        shown |= {"oauth_authentication": None} if "oauth_authentication" in shown else {}
    if (host := _host(getattr(block, "url", None))) is not None:
        shown["host"] = host
    if hasattr(block, "public_keys"):
        shown |= block.public_keys()
    if shown.get("proxy") == "set":
        proxy = block.proxy.get_secret_value()
        shown["proxy"] = proxy if proxy == DIRECT else _host(block.proxy) or "set"
    if shown.get("client_certificate") == "set":
        with contextlib.suppress(ValueError):
            facts = facts_of(block.client_certificate.get_secret_value())
            shown["client_certificate"] = facts.subject
            shown["client_certificate_until"] = rfc3339(facts.ends.timestamp())
    return shown


def _host(url: Any) -> str | None:
    """Return scheme, host and port of a secret URL; the rest of it is not shown."""
    import httpx

    try:
        parsed = httpx.URL(url.get_secret_value())
        host = parsed.host
    except (httpx.InvalidURL, ValueError, AttributeError):
        return None
    port = "" if parsed.port is None else f":{parsed.port}"
    return f"{parsed.scheme}://{host}{port}" if host else None


def endpoint_test(name: str, made: Attempt) -> Document:
    """Return the outcome of a test event."""
    return {"endpoint": name, **attempt(made)}


# --- subscriptions -----------------------------------------------------------------------------------------------


def subscription(found: Subscription) -> Document:
    """Return a subscription."""
    return {"id": found.id, "endpoint": found.endpoint, **found.terms}


def subscriptions_removed(ids: Iterable[str], unfinished: Mapping[str, int], shared: int) -> Document:
    """Return the ids of removed subscriptions, and the commands that cancel their unfinished deliveries.

    ``shared`` counts those of types that other subscriptions match.
    """
    commands = [{"deliveries": number, "command": command} for command, number in unfinished.items()]
    return {"removed": list(ids), "unfinished": commands, "shared": shared}


def subscription_test(
    of: Event, endpoints: Iterable[str], explained: Iterable[tuple[Subscription, str | None]]
) -> Document:
    """Return the endpoints that an event goes to; each subscription has the reason if it does not match."""
    return {
        "event": {"id": of.id, "source": of.source, "type": of.type},
        "endpoints": list(endpoints),
        "subscriptions": [
            {"id": each.id, "endpoint": each.endpoint, "matches": why_not is None, "why_not": why_not}
            for each, why_not in explained
        ],
    }


# --- automations --------------------------------------------------------------------------------------------------


def run_watch(found: RunWatch, problem: str | None = None) -> Document:
    """Return the flows and the tag whose failed runs an endpoint gets, and the problem if none are reported."""
    return {
        "automation": "failed-runs",
        "endpoint": found.endpoint,
        "flow": found.flow or None,
        "tag": found.tag or None,
        "server": found.server or None,
        "enabled_at": rfc3339(found.created_at),
        "stored_until": rfc3339(found.watermark),
        "problem": problem,
    }


# --- deliveries --------------------------------------------------------------------------------------------------


def attempt(made: Attempt) -> Document:
    """Return an attempt."""
    return _pick(made, _ATTEMPT)


def dead_letter(found: DeadLetter, state: GateState | None = None) -> Document:
    """Return a dead letter as lists show it.

    Args:
        found: the dead letter.
        state: of its endpoint's gate, if not normal.
    """
    return {**_pick(found, _DEAD_LETTER), "endpoint_state": state or "normal"}


def dead_letter_history(found: DeadLetterHistory) -> Document:
    """Return a dead letter with its attempts, without the event's data."""
    return {
        **_pick(found.dead_letter, _DEAD_LETTER),
        "history": [attempt(each) for each in found.attempts],
    }


def dead_letter_group(group: DeadLetterGroup) -> Document:
    """Return a group of dead letters."""
    known = group.acknowledged
    return {
        **_pick(group, "fingerprint endpoint code reason category error count"),
        "first_dead_at": rfc3339(group.first_at),
        "last_dead_at": rfc3339(group.last_at),
        **_pick(group, "example example_source advice answer maybe_processed"),
        "acknowledged": None if known is None else {"at": rfc3339(known.at), **_pick(known, "by note")},
    }


def acknowledged(causes: Mapping[str, int], done: str) -> Document:
    """Return the acknowledged or reopened causes, with the numbers of their dead letters."""
    return {
        "done": done,
        "causes": [{"cause": each, "dead_letters": number} for each, number in causes.items()],
    }


def delivery(found: Delivery) -> Document:
    """Return a delivery."""
    return _pick(found, _DELIVERY)


def waiting(row: Waiting, *, now: float, is_held: bool) -> Document:
    """Return an unfinished delivery."""
    return {
        **delivery(row.delivery),
        "state": row.state(now),
        **_pick(row.answered, "answer maybe_processed"),
        "held": is_held,
    }


def waiting_group(group: WaitingGroup) -> Document:
    """Return a group of unfinished deliveries."""
    return {
        **_pick(group, "endpoint code count due in_flight parked"),
        "oldest_due": rfc3339(group.oldest_due_at),
        **_pick(group, "parked_until most_attempts example example_source error answer held"),
    }


def event(of: Event) -> Document:
    """Return an event's attributes, without its data."""
    return {
        "event_id": of.id,
        "event_type": of.type,
        **_pick(of, "source subject time datacontenttype dataschema"),
        "extensions": dict(of.extensions),
        **_pick(of, "traceparent tracestate webhook_id"),
    }


def detail(found: Detail) -> Document:
    """Return an event with its deliveries and their attempts, without its data."""
    return {
        **event(found.event),
        "accepted_at": rfc3339(found.accepted_at),
        "deliveries": [
            {**_pick(delivery, f"{_DELIVERY} replayed_to"), "history": [attempt(each) for each in attempts]}
            for delivery, attempts in found.deliveries
        ],
    }


def with_data(document: Document, event: Event) -> str:
    """Serialise a document with an event's data: ``data``, ``data_base64`` for bytes, or neither if it has none.

    If a stored event's data is gone, ``data_gone`` says why: ``removed`` or ``erased``.
    """
    match event.form:
        case "json":
            return output.with_raw(document, "data", event.body)
        case "text":
            return output.to_json({**document, "data": event.body.decode()})
        case "bytes":
            return output.to_json({**document, "data_base64": b64encode(event.body).decode()})
        case "absent":
            return output.to_json(document)
        case "removed" | "erased":
            return output.to_json({**document, "data_gone": event.form})


def report_head(found: StoreStatus, groups: Iterable[DeadLetterGroup], *, now: float) -> str:
    """Serialise the error report up to the array of its dead letters."""
    head = {
        "generated_at": rfc3339(now),
        "totals": status(found, now=now),
        "groups": [dead_letter_group(group) for group in groups],
    }
    return output.to_json(head)[:-1] + ', "dead_letters": '


def exported(path: str, count: int) -> Document:
    """Return the error report's file, and the number of its dead letters."""
    return {"path": path, "dead_letters": count}


def outcomes(counts: Counts, *more: str) -> Document:
    """Return the outcomes of deliveries; ``more`` names counts to add to the common ones."""
    return {
        **_pick(counts, " ".join(("delivered", "retried", "parked", "held", *more))),
        "dead_letter": counts.dead_letters.total(),
        "by_reason": dict(sorted(counts.dead_letters.items())),
    }


def emitted(summary: object, counts: Counts) -> Document:
    """Return the numbers of stored, known and bad lines, and the outcomes of their deliveries."""
    return {**stored(summary), **_own_outcomes(counts)}


def _own_outcomes(counts: Counts) -> Document:
    return outcomes(counts, "delivered_before", "purged", "unfinished")


# --- actions on dead letters -------------------------------------------------------------------------------------


def replay_plan(planned: ReplayPlan, *, dry_run: bool = True) -> Document:
    """Return the numbers of dead letters that a replay selects and leaves out."""
    return {
        "dry_run": dry_run,
        "selected": planned.selected,
        "to": planned.to,
        "left_out_permanent": planned.permanent,
        "left_out_by_rounds": planned.too_often,
        "left_out_erased": planned.erased,
        "left_out_by_limit": planned.beyond_limit,
        "left_out_existing": planned.existing,
    }


def replayed(planned: ReplayPlan, counts: Counts) -> Document:
    """Return the plan of a replay, and the outcomes of its deliveries."""
    return {**replay_plan(planned, dry_run=False), "replayed": counts.total, **_own_outcomes(counts)}


def cancellable(expected: Cancellable) -> Document:
    """Return how many deliveries would be given up."""
    return {"would_cancel": expected.number, "being_sent": expected.being_sent, "dry_run": True}


def cancelled(number: int) -> Document:
    """Return how many deliveries were given up."""
    return {"cancelled": number}


def erasure_plan(planned: ErasurePlan) -> Document:
    """Return the numbers of events and deliveries that would be erased."""
    return {**planned._asdict(), "dry_run": True}


def erased(report: ErasureReport, left: Iterable[OutOfReach]) -> Document:
    """Return the numbers of erased events and deliveries, and what the erasure could not reach."""
    return {
        **_pick(report, "events deliveries cancelled being_sent runs"),
        "out_of_reach": [each._asdict() for each in left],
        "dry_run": False,
    }


def purged(report: PurgeReport) -> Document:
    """Return the counts of a purge, and the archive that it wrote."""
    archive = None if report.archive is None else str(report.archive)
    return {**_pick(report, "purged kept bodies dry_run"), "archive": archive}


def audit_entry(entry: AuditEntry) -> Document:
    """Return an entry of the audit."""
    return {"at": rfc3339(entry.at), **_pick(entry, "who action selection count ended_at")}


def token(found: Token) -> Document:
    """Return a token, without its digest."""
    return _pick(found, "name source type endpoint rate can_read created_at last_used_at revoked_at")


# --- metrics -----------------------------------------------------------------------------------------------------


def metrics(found: Statistics) -> Document:
    """Return the statistics: rates are fractions; missing figures are null."""
    from resonant.metrics.report import by_most_events

    [overall] = _rows(found.overall).values()
    return {
        "events": _events(overall),
        "error_categories": found.count("category"),
        "error_types": found.count("error_type"),
        "latency_ms": _milliseconds(overall, "latency"),
        "end_to_end_ms": _milliseconds(overall, "end_to_end"),
        "first_attempt_ms": _milliseconds(overall, "first_attempt"),
        "retries": _retries(overall),
        "hourly": [
            {
                "hour": rfc3339(start),
                **{name: of[name] for name in ("success", "dead_letter", "attempts", "failed_attempts")},
                "latency_ms": _milliseconds(of, "latency"),
            }
            for start, of in _rows(found.hourly).items()
        ],
        "by_event_type": {
            name: {
                "events": _events(of),
                "attempts": {"total": of["attempts"], "failed": of["failed_attempts"]},
                "error_categories": found.count("category", name),
                "latency_ms": _milliseconds(of, "latency"),
                "retries": _retries(of),
            }
            for name, of in _rows(by_most_events(found.by_event_type)).items()
        },
    }


def _rows(table: DataFrame) -> dict[Any, Document]:
    """Return the rows of a table of statistics by their index; missing figures are None."""
    rows = table.astype(object).where(table.notna(), None).to_dict("index")
    return {name: {str(column): value for column, value in row.items()} for name, row in rows.items()}


def _events(of: Document) -> Document:
    names = ("success", "failed", "dead_letter", "success_rate")
    return {"total": of["events"], **{name: of[name] for name in names}}


def _retries(of: Document) -> Document:
    most = of["retries_max"]
    return {"total": of["retries"], "avg": of["retries_avg"], "max": None if most is None else int(most)}


def _milliseconds(of: Document, durations: str) -> Document:
    names = ("min", "avg", "p50", "p95", "p99", "max")
    seconds = {name: of[f"{durations}_{name}"] for name in names}
    return {name: None if value is None else round(1000 * value, 3) for name, value in seconds.items()}


def samples(registry: CollectorRegistry) -> list[Document]:
    """Return the samples of a registry."""
    return [_pick(sample, "name labels value") for family in registry.collect() for sample in family.samples]


# --- advice ------------------------------------------------------------------------------------------------------


def advice(history: History, proposals: Sequence[Proposal], command: str | None) -> dict[str, Any]:
    """Return an endpoint's history, the proposed settings, and the command that applies them."""
    durations = history.durations
    return {
        "endpoint": history.endpoint,
        "since": rfc3339(history.since),
        "until": rfc3339(history.until),
        "delivered": history.delivered,
        "failed": history.failed,
        "outages": [
            {"start": rfc3339(each.start), "end": rfc3339(each.end), "kind": each.kind}
            for each in history.outages
        ],
        "attempts_looked_at": len(history.attempts),
        "share_failed": round(history.share_failed, 4),
        **_pick(history, "throttled timeouts retry_after capacity"),
        "slowest": durations[-1] if durations else None,
        "proposals": [{**asdict(each), "is_change": each.is_change} for each in proposals],
        "command": command,
    }


def comparison(scenario: Scenario, variants: Iterable[Variant]) -> Document:
    """Return the figures of each policy with and without the gate; times are in seconds."""

    def figure(variant: Variant, name: str) -> Document:
        return {"mean": round(variant.mean(name), 4), "worst": round(variant.worst(name), 4)}

    return {
        "scenario": asdict(scenario) | {"shortest_drain": scenario.shortest_drain},
        "variants": [
            {
                "policy": each.policy,
                "gate": each.has_gate,
                "seeds": len(each.results),
                **{name: figure(each, name) for name in _FIGURES},
                "goodput": {"mean": round(each.mean("goodput"), 4)},
                **_pick(each, "given_up unfinished"),
            }
            for each in variants
        ],
    }


def endpoint_import(
    changes: Sequence[Any], written: Mapping[str, Mapping[str, str]], *, dry_run: bool
) -> Document:
    """Return the changes of an import; with ``dry_run``, it did not make them.

    Args:
        changes: one for each endpoint.
        written: where each endpoint sends, and its references, as written in the file.
    """
    names = {
        kind: [each.name for each in changes if each.kind == kind]
        for kind in ("added", "removed", "unchanged")
    }
    changed = {each.name: sorted(each.fields) for each in changes if each.kind == "changed"}
    return {**names, "changed": changed, "dry_run": dry_run, **({"references": written} if dry_run else {})}


def source(found: Source) -> Document:
    """Return a declared source, without its secrets."""
    return {
        "name": found.name,
        "verify": found.verify,
        "type": found.type.text,
        "source": found.source.text,
        "ids": [each.text for each in found.ids],
        "subject": found.subject.text if found.subject and found.subject.text else None,
        "endpoint": found.endpoint,
        "tolerance": found.tolerance if "tolerance" in found.scheme.takes else None,
        "rate": found.rate,
        "secrets": len(found.options.secrets),
    }


def source_test(event: Event) -> Document:
    """Return the event that a recorded request becomes."""
    return {**given_attributes(event), "form": event.form, "bytes": len(event.body)}
