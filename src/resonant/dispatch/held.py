"""Says at the end of a run which deliveries wait: for a retry, for a gate, or since nothing can be sent to their endpoints."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice

from resonant.dispatch.counts import Counts
from resonant.display import counted, duration, some, visible
from resonant.gate.words import advice, described
from resonant.store import WorkerStore
from resonant.store.shared.drains import are_drained, sent_to
from resonant.store.views.endpoint_status import governed
from resonant.store.views.standing import Parked

# The maximum number of endpoints, or of failures, in the final message of a run.
_MOST_NAMED = 5


async def count_held(
    store: WorkerStore, counts: Counts, endpoint: str | None, *, ended: str | None = None
) -> list[str]:
    """Add the due deliveries that gates hold to the counts; return a line about each of their endpoints.

    Args:
        endpoint: only this endpoint; None for all.
        ended: the owner of the run that ends now: it sends no probe.
    """
    now = store.clock()
    gates = await store.read(governed, now=now)
    holding = [each for each in gates if each.held and endpoint in (None, each.gate.endpoint)]
    counts.held = sum(each.held for each in holding)
    names = [each.gate.endpoint for each in holding[:_MOST_NAMED]]
    sent = await store.read(sent_to, names, now=now, ended=ended)
    lines = [
        f"{gate.endpoint} is {described(gate, held=held, now=now, is_sent=gate.endpoint in sent)}; next: {advice(gate, now)}"
        for gate, held in holding[:_MOST_NAMED]
    ]
    if len(holding) > len(lines):
        lines.append(f"{len(holding) - len(lines)} more endpoints hold deliveries: `resonant status`")
    return list(map(visible, lines))


async def say_parked(store: WorkerStore, parked: Sequence[Parked]) -> str:
    """Return a line that says why and how long parked deliveries wait, and what sends them; empty without any."""
    if not parked:
        return ""
    now = store.clock()
    codes = Counter[str]()
    for each in parked:
        codes[each.code or ""] += each.number
    failures = some([visible(code) for code, _ in codes.most_common() if code], _MOST_NAMED)
    is_sent = await store.read(are_drained, {each.endpoint for each in parked}, now=now)
    parts = [
        f"{counted(codes.total(), 'delivery waits', 'deliveries wait')} for a retry",
        failures and f"last failure: {failures}",
        f"the next is due in {duration(min(each.due_at for each in parked) - now)}",
        "a running drain sends what is due"
        if is_sent
        else "no drain runs: start `resonant up`, or run `resonant emit` then",
    ]
    return "; ".join(filter(None, parts))


def say_problems(problems: Mapping[str, str]) -> list[str]:
    """Return a line about each endpoint that nothing can be sent to, given the reasons by name; at most five and a rest."""
    lines = [f"deliveries to {name} wait: {why}" for name, why in islice(problems.items(), _MOST_NAMED)]
    if len(problems) > len(lines):
        lines.append(f"{len(problems) - len(lines)} more endpoints wait: `resonant status`")
    return list(map(visible, lines))
