"""``resonant advise``: propose settings for an endpoint."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from resonant import output
from resonant.cli import endpoint_options as given
from resonant.cli import options

if TYPE_CHECKING:
    import typer

    from resonant.lab.advise import Prediction, Proposal
    from resonant.lab.history import History
    from resonant.output import Document


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("advise", rich_help_panel=options.LOOK, epilog="Example: resonant advise billing")(advise)


def advise(name: given.Name, as_json: options.Json = False) -> None:
    """Propose a retry policy, a rate and a timeout for an endpoint, from up to 30 days of its history.

    Each proposal has a reason and a predicted effect. The prediction simulates the endpoint's own outages, failures
    and latencies. The command changes nothing.
    """
    import asyncio

    from resonant.cli.running import load_endpoint, on_prefect, run_with_store
    from resonant.lab import advise as laboratory
    from resonant.lab.history import read_history

    name = options.endpoint_name(name)
    with on_prefect() as settings:
        block = asyncio.run(load_endpoint(name))
    current = laboratory.Current(
        policy=block.policy or settings.default_policy,
        timeout=block.timeout,
        rate=block.rate,
        policies=settings.known_policies,
    )
    options.known_policy(current.policy, settings)
    now = time.time()
    history = run_with_store(lambda store: store.read(read_history, name, now=now), settings)
    proposals = laboratory.advise(history, current)
    if as_json:
        output.write(output.to_json(advice_document(history, proposals)) + "\n")
        return
    output.write_paragraph(_summary(history), indent=2)
    if not proposals:
        fewest = laboratory.FEWEST_ATTEMPTS
        output.write_paragraph(
            f"advice needs {fewest} attempts, including at least one delivery: until then, `resonant simulate` "
            "shows what to expect",
            indent=2,
        )
        return
    _write(name, proposals)


def advice_document(history: History, proposals: list[Proposal]) -> Document:
    """Return the object of ``resonant advise --json``."""
    from dataclasses import asdict

    from resonant.events import rfc3339

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
        "throttled": history.throttled,
        "timeouts": history.timeouts,
        "retry_after": history.retry_after,
        "capacity": history.capacity,
        "slowest": durations[-1] if durations else None,
        "proposals": [{**asdict(each), "is_change": each.is_change} for each in proposals],
        "command": _command(history.endpoint, proposals),
    }


def _summary(history: History) -> str:
    from resonant.lab.advise import span

    made = history.delivered + history.failed
    if not made:
        return f"{history.endpoint}: no attempts recorded"
    parts = [
        f"{history.endpoint}: {output.counted(made, 'attempt')} in {span(history.until - history.since)}",
        f"{history.failed / made:.1%} failed",
        output.counted(len(history.outages), "outage"),
    ]
    if history.outages:
        parts.append(f"{history.share_failed:.1%} of the other attempts failed at random")
    if history.retry_after:
        parts.append(f"Retry-After of {history.retry_after:g} s")
    return ", ".join(parts)


def _write(name: str, proposals: list[Proposal]) -> None:
    rows = [
        (
            each.setting,
            each.now,
            each.then if each.is_change else "keep",
            *(_effect(each, what) for what in ("given_up", "attempts", "drain")),
        )
        for each in proposals
    ]
    output.write_table(("setting", "now", "advice", "given up", "attempts", "drain"), rows)
    for each in proposals:
        simulated = f"; simulated: {each.scenario}" if each.scenario else ""
        output.write_paragraph(f"{each.setting}: {each.reason}{simulated}", indent=2)
    if command := _command(name, proposals):
        output.write_paragraph(f"to apply: {command}", indent=2)


def _effect(proposal: Proposal, what: str) -> str:
    """Return a predicted figure for the current setting and for the proposed one."""
    if proposal.before is None:
        return "-"
    before, after = (_number(each, what) for each in (proposal.before, proposal.after))
    return f"{before} -> {after}" if proposal.is_change else before


def _number(prediction: Prediction | None, what: str) -> str:
    value = getattr(prediction, what)
    return f"{value:.0f} s" if what == "drain" else f"{value:,}"


def _command(name: str, proposals: list[Proposal]) -> str | None:
    wanted = [
        f"--{each.setting} {each.then.removesuffix('/s').removesuffix(' s')}"
        for each in proposals
        if each.is_change
    ]
    return f"resonant endpoint update {name} {' '.join(wanted)}" if wanted else None
