"""``resonant advise``: propose settings for an endpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resonant import documents, output
from resonant.cli import options
from resonant.cli.command_store import load_endpoint, on_prefect, run_async
from resonant.display import counted, duration

if TYPE_CHECKING:
    from resonant.lab.advise import Prediction, Proposal
    from resonant.lab.history import History


def advise(name: options.EndpointName, as_json: options.Json = False) -> None:
    """Propose a retry policy, a rate and a timeout for an endpoint, from up to 30 days of its history.

    Each proposal has a reason and a predicted effect. The prediction simulates the endpoint's own outages, failures
    and latencies. The command changes nothing.
    """
    from resonant.lab import advise as laboratory
    from resonant.lab.history import read_history

    name = options.endpoint_name(name)
    with on_prefect(named=not as_json, exists=True) as store:
        block, settings = run_async(load_endpoint(name)), store.settings
        current = laboratory.Current(
            policy=options.known_policy(block.policy, settings) or settings.default_policy,
            timeout=block.timeout,
            rate=block.rate,
            policies=settings.known_policies,
        )
        history = store.read(read_history, name, now=store.now())
    proposals = laboratory.advise(history, current)
    if as_json:
        document = documents.advice(history, proposals, _command(name, proposals))
        output.write(output.to_json(document) + "\n")
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


def _summary(history: History) -> str:

    made = history.delivered + history.failed
    if not made:
        return f"{history.endpoint}: no attempts recorded"
    parts = [
        f"{history.endpoint}: {counted(made, 'attempt')} in {duration(history.until - history.since)}",
        f"{history.failed / made:.1%} failed",
        counted(len(history.outages), "outage"),
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
