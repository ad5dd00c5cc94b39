"""`resonant serve` on SQLite: signed webhooks of sources against plain single events, and the answers to webhooks while Prefect is away.

Rounds alternate between both sides, with a server of their own for each part. The clients keep their connections open and send
requests that were made before the round. For the outage, a drain runs beside it, and the events go to a deployment: Prefect's
server works, then hangs (it accepts connections and never answers), then refuses connections. ``--only PART`` selects by a part of
the name.
"""

import asyncio
import contextlib
import os
import statistics
import time
from collections.abc import Sequence

import httpx

from benches.comparing import Comparison, apart, is_chosen, say
from benches.processes import Tree, child_of, kept, python
from benches.surroundings import ENDPOINT, empty_home
from benches.webhooks import SCHEMES, latencies_at, measured_rate, serving
from resonant.local.server import api_url_at, configure_prefect, free_port, kept_server
from resonant.settings import Settings
from resonant.store import WorkerStore

EVENTS, ROUNDS = 1_000, 15
_RATIO_AT_LEAST = 0.9
_WARM_UP_EVENTS = 500
_AWAY = ("hangs", "refuses connections")
_DEPLOYMENT, _OF_DEPLOYMENT = "bench/main", "resonant-deployment/bench"
_P99_AT_MOST_MS = 50.0
_DELIVERING_SECONDS = 120.0


def run(count: int, rounds: int, only: Sequence[str] = ()) -> list[Comparison]:
    """Measure, and return the results.

    Args:
        count: events of each side and round.
        rounds: rounds of each part.
        only: parts of names; empty for all.
    """
    found: list[Comparison] = []
    if chosen := [each for each in SCHEMES if is_chosen(each, only)]:
        with empty_home() as settings, serving(settings, ENDPOINT) as port:
            found += [asyncio.run(_compare(each, port, count, rounds)) for each in chosen]
    if is_chosen("outage of Prefect", only):
        found += apart(_measure_outage, count, rounds)
    return found


async def _compare(verify: str, port: int, count: int, rounds: int) -> Comparison:
    ours, plain = [], []
    await measured_rate(port, "plain", _WARM_UP_EVENTS)
    await measured_rate(port, verify, _WARM_UP_EVENTS)
    for _ in range(rounds):
        plain.append(await measured_rate(port, "plain", count))
        ours.append(await measured_rate(port, verify, count))
        say(f"  {verify}: {ours[-1]:,.0f}/s signed, {plain[-1]:,.0f}/s plain")
    return Comparison(
        f"signed single events, {verify}", "/s", ours, plain, "for plain ones", ratio_at_least=_RATIO_AT_LEAST
    )


def _measure_outage(count: int, rounds: int) -> list[Comparison]:
    p99s: dict[str, list[float]] = {each: [] for each in ("works", *_AWAY)}
    with contextlib.ExitStack() as stack:
        settings = stack.enter_context(empty_home())
        folder, api_port = settings.home.parent, free_port()
        configure_prefect()
        os.environ["PREFECT_API_URL"] = api_url_at(api_port)  # before kept_server imports Prefect
        port = stack.enter_context(serving(settings, _OF_DEPLOYMENT))
        prefect = stack.enter_context(contextlib.ExitStack())
        server = prefect.enter_context(kept_server(settings, port=api_port, ui=False))
        asyncio.run(_save_deployment())
        drain = python("benches.contenders.workers.drain")
        variables = {"BENCH_ENDPOINT": _OF_DEPLOYMENT, "BENCH_LANE": "auto"}
        stack.enter_context(kept(drain, log=folder / "drain.log", variables=variables))
        asyncio.run(measured_rate(port, "github", _WARM_UP_EVENTS))
        for _ in range(rounds):
            asyncio.run(_when_delivering(settings))
            rate = asyncio.run(measured_rate(port, "github", count)) / 2

            def measure(state: str, rate: float = rate) -> None:
                seconds = asyncio.run(latencies_at(port, "github", count, rate))
                p99s[state].append(statistics.quantiles(seconds, n=100)[98] * 1000)

            measure("works")
            # Not the supervisor, which ends the server even if this process is killed meanwhile.
            with Tree([child_of(server.supervisor)]).stopped(lambda: True):
                measure("hangs")
            prefect.close()
            measure("refuses connections")
            server = prefect.enter_context(kept_server(settings, port=api_port, ui=False))
            say(f"  {rate:,.0f}/s: p99 in ms " + ", ".join(f"{name} {p99s[name][-1]:.0f}" for name in p99s))
    return [
        Comparison(
            f"p99 of the answers to webhooks at half the rate, outage of Prefect: it {each}",
            "ms",
            p99s[each],
            p99s["works"],
            "while it works",
            ours_at_most=_P99_AT_MOST_MS,
        )
        for each in _AWAY
    ]


async def _save_deployment() -> None:
    """Save a deployment, whose runs nothing executes, and its endpoint."""
    from resonant.blocks import DeploymentEndpoint

    flow, _, name = _DEPLOYMENT.partition("/")
    async with httpx.AsyncClient(base_url=os.environ["PREFECT_API_URL"], trust_env=False) as api:
        flow_id = (await api.post("/flows/", json={"name": flow})).json()["id"]
        schema = {"type": "object", "properties": {"event": {}}}
        new = {"name": name, "flow_id": flow_id, "parameter_openapi_schema": schema}
        (await api.post("/deployments/", json=new)).raise_for_status()
    await DeploymentEndpoint(deployment=_DEPLOYMENT).asave(_OF_DEPLOYMENT.partition("/")[2])


async def _when_delivering(settings: Settings) -> None:
    """Wait until the drain starts runs: it starts, or Prefect's server is new."""
    store = await WorkerStore.open(settings.store_url)
    try:
        before, give_up_at = (await store.status()).delivered, time.monotonic() + _DELIVERING_SECONDS
        while (await store.status()).delivered == before:
            if time.monotonic() > give_up_at:
                raise RuntimeError("the drain starts no runs")
            await asyncio.sleep(0.25)
    finally:
        await store.close()
