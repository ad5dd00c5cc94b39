"""``python -m benches webhook_runs``: webhooks that start flow runs, over an outage of Prefect's API; the table of docs/webhook-runs.md.

Four receivers get the same webhooks, one after the other, each with a new Prefect server on SQLite: Prefect's automation with the action *Run deployment*; an app that calls ``run_deployment`` (``webhook_app``), without
and with an idempotency key; and ``resonant serve`` with an endpoint that is a deployment. The sender repeats a fifth of the
webhooks after two seconds, and nothing else, as GitHub does. No worker runs: counted are the runs that Prefect has at the end.
"""

import argparse
import asyncio
import contextlib
import hashlib
import hmac
import json
import math
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import httpx

from benches.comparing import apart, is_chosen, say
from benches.processes import kept, python
from benches.surroundings import empty_home
from benches.tables import print_table
from resonant.local.server import api_url_at, configure_prefect, free_port, kept_server
from resonant.settings import Settings
from resonant.store import open_store
from resonant.store.views.known_names import remember_endpoints

AUTOMATION, APP, APP_WITH_KEY, OURS = "automation", "app", "app-with-key", "resonant"
_LABELS = {
    AUTOMATION: "automation: *Run deployment*",
    APP: "app: `run_deployment`",
    APP_WITH_KEY: "the same with an idempotency key",
    OURS: "Resonant",
}
_ENDPOINT = "resonant-deployment/bench"
_SECRET = "It is only a bench"
_REPEAT_AFTER_SECONDS = 2.0
_GITHUB_WAITS_SECONDS = 10.0
_CATCH_UP_SECONDS = 1_200.0
_QUIET_SECONDS = 15.0


def main(argv: Sequence[str]) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser("python -m benches webhook_runs", description=__doc__)
    parser.add_argument("--rate", type=float, default=2.0, metavar="N", help="webhooks per second")
    parser.add_argument("--outage", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument(
        "--around", type=float, default=30.0, metavar="SECONDS", help="before and after the outage, each"
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="PART", help=f"of {', '.join(_LABELS)}"
    )
    options = parser.parse_args(argv)
    rows = []
    for name in (each for each in _LABELS if is_chosen(each, options.only)):
        say(name)
        rows.append(apart(_run, name, options.rate, options.outage, options.around))
    headings = ("receiver", "webhooks", "away", "accepted", "runs", "lost", "twice", "last run of the outage")
    print_table(headings, headings[1:], rows)


def _run(name: str, rate: float, outage: float, around: float) -> list[str]:
    """Measure a receiver; return the cells of its row."""
    with empty_home() as settings:
        return asyncio.run(_measure(name, settings, rate, outage, around))


async def _measure(name: str, settings: Settings, rate: float, outage: float, around: float) -> list[str]:
    port, folder = free_port(), settings.home.parent
    configure_prefect()
    os.environ["PREFECT_API_URL"] = api_url_at(port)
    server = contextlib.ExitStack()
    server.enter_context(kept_server(settings, port=port, ui=False))
    with server, contextlib.ExitStack() as stack:
        await _deploy(name)
        await _prepare(settings, folder)
        send = Sender(port, *stack.enter_context(_receivers(name, folder)), name)
        # In a thread, since starting a server blocks this one.
        webhooks = asyncio.create_task(asyncio.to_thread(asyncio.run, send.all(rate)))
        await asyncio.sleep(around)
        server.close()
        began = time.time()
        await asyncio.sleep(outage)
        server.enter_context(kept_server(settings, port=port, ui=False))
        back_at = time.time()
        send.ends_at = time.monotonic() + around
        await webhooks
        await _catch_up(settings)
        sent = f"{send.distinct:,} + {send.repeats:,} again"
        return [_LABELS[name], sent, f"{back_at - began:.0f} s", *await _count(name, send, back_at)]


# --- before ------------------------------------------------------------------------------------------------------------


async def _deploy(name: str) -> None:
    """Save the deployment of a receiver, and the automation."""
    from prefect.automations import Automation, EventTrigger
    from prefect.client.orchestration import get_client
    from prefect.events.actions import RunDeployment
    from prefect.events.schemas.automations import Posture

    schema = {"type": "object", "properties": {"event": {}}, "required": ["event"]}
    async with get_client() as client:
        await client.request("POST", "/work_pools/", json={"name": "bench", "type": "process"})
        made = await client.create_deployment(
            await client.create_flow_from_name(name),
            "main",
            work_pool_name="bench",
            parameter_openapi_schema=schema,
        )
    if name == AUTOMATION:
        template = {"__prefect_kind": "jinja", "template": "{{ event.payload.id }}"}
        action = RunDeployment(
            source="selected", deployment_id=made, parameters={"event": {"id": template}}, job_variables=None
        )
        trigger = EventTrigger(expect={"webhook"}, posture=Posture.Reactive, threshold=1)
        await Automation(name="bench", trigger=trigger, actions=[action]).acreate()


async def _prepare(settings: Settings, folder: Path) -> None:
    """Save the endpoint and the source."""
    from resonant.blocks import DeploymentEndpoint

    await DeploymentEndpoint(deployment=f"{OURS}/main").asave("bench", overwrite=True)
    async with open_store(settings.store_url) as store:
        await store.write(remember_endpoints, [_ENDPOINT])
    (folder / "secret").write_text(_SECRET)
    source = {"name": "github", "verify": "github", "secret": "file:secret", "endpoint": _ENDPOINT}
    (folder / "sources.yaml").write_text(json.dumps({"sources": [source]}))


@contextlib.contextmanager
def _receivers(name: str, folder: Path) -> Iterator[tuple[str, str]]:
    """Run the app, or the intake and a drain; yield the URL of the app and that of the intake."""
    app, intake = free_port(), free_port()
    uvicorn = ["--port", str(app), "--log-level", "warning", "benches.webhook_app:app"]
    serve = ["serve", "--port", str(intake), "--no-auth", "--sources", str(folder / "sources.yaml")]
    drain = {"BENCH_LANE": "auto", "BENCH_ENDPOINT": ""}
    with contextlib.ExitStack() as stack:
        if name == OURS:
            stack.enter_context(kept(python("resonant", *serve), log=folder / "serve.log"))
            worker = python("benches.contenders.workers.drain")
            stack.enter_context(kept(worker, log=folder / "drain.log", variables=drain))
        elif name != AUTOMATION:
            stack.enter_context(kept(python("uvicorn", *uvicorn), log=folder / "app.log"))
        time.sleep(_QUIET_SECONDS)  # until all have started
        yield f"http://127.0.0.1:{app}", f"http://127.0.0.1:{intake}"


# --- the sender --------------------------------------------------------------------------------------------------------


class Sender:
    """Sends webhooks to a receiver, and counts those that it has accepted.

    Args:
        port: of Prefect's server.
        app, intake: URLs.
        name: of the receiver.
    """

    def __init__(self, port: int, app: str, intake: str, name: str) -> None:
        self.distinct = self.repeats = self.accepted = 0
        self.sent_at: dict[str, float] = {}
        self.ends_at = math.inf
        posts: dict[str, Callable[[str], Awaitable[httpx.Response]]] = {
            AUTOMATION: partial(self._post_event, f"{api_url_at(port)}/events"),
            OURS: partial(self._post_signed, f"{intake}/sources/github"),
        }
        self._post = posts.get(name) or partial(self._post_plain, f"{app}/{name}")

    async def all(self, rate: float) -> None:
        """Send at this rate, in webhooks per second, until ``ends_at``, and wait for the answers."""
        self._client = httpx.AsyncClient(timeout=_GITHUB_WAITS_SECONDS, trust_env=False)
        began, tasks = time.monotonic(), []
        for number in count():
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            if time.monotonic() > self.ends_at:
                break
            self.distinct += 1
            self.sent_at[f"webhook-{number}"] = time.time()
            is_repeated = number % 5 == 0
            self.repeats += is_repeated
            tasks.append(asyncio.create_task(self._send(f"webhook-{number}", is_repeated)))
        await asyncio.gather(*tasks)
        await self._client.aclose()

    async def _send(self, each: str, is_repeated: bool) -> None:
        answers = [await self._once(each)]
        if is_repeated:
            await asyncio.sleep(_REPEAT_AFTER_SECONDS)
            answers.append(await self._once(each))
        self.accepted += any(answers)

    async def _once(self, each: str) -> bool:
        try:
            return (await self._post(each)).is_success
        except httpx.HTTPError:
            return False

    async def _post_plain(self, url: str, each: str) -> httpx.Response:
        return await self._client.post(url, content=_body(each))

    async def _post_event(self, url: str, each: str) -> httpx.Response:
        """Post an event of Prefect, with an id of its own for each webhook, which is the best that a sender can do."""
        event: dict[str, Any] = {
            "id": str(uuid5(NAMESPACE_URL, each)),
            "occurred": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "event": "webhook",
            "resource": {"prefect.resource.id": "webhook"},
            "payload": {"id": each},
        }
        return await self._client.post(url, json=[event])

    async def _post_signed(self, url: str, each: str) -> httpx.Response:
        body = _body(each)
        headers = {
            "content-type": "application/json",
            "x-github-event": "push",
            "x-github-delivery": each,
            "x-hub-signature-256": f"sha256={hmac.new(_SECRET.encode(), body, hashlib.sha256).hexdigest()}",
        }
        return await self._client.post(url, content=body, headers=headers)


def _body(each: str) -> bytes:
    return json.dumps({"id": each}).encode()


# --- after -------------------------------------------------------------------------------------------------------------


async def _catch_up(settings: Settings) -> None:
    """Wait until Resonant has no unfinished delivery, and the automation had its time; print what is left."""
    await asyncio.sleep(_QUIET_SECONDS)
    give_up_at = time.monotonic() + _CATCH_UP_SECONDS
    async with open_store(settings.store_url) as store:
        while time.monotonic() < give_up_at:
            status = await store.status()
            if not status.pending + status.retrying:
                break
            await asyncio.sleep(1.0)
        if status.pending + status.retrying + status.dead_letter:
            say(f"  {status.pending} pending, {status.retrying} retrying, {status.dead_letter} dead letters")
        for dead in await store.dead_letters():
            say(f"  {dead.reason} {dead.code}: {dead.error}")


async def _count(name: str, sent: Sender, back_at: float) -> list[str]:
    """Return the cells of a receiver; the last is when its last run of a webhook that was sent before ``back_at`` was created."""
    runs: Counter[str] = Counter()
    last = 0.0
    wanted = {"flows": {"name": {"any_": [name]}}, "sort": "EXPECTED_START_TIME_ASC", "limit": 200}
    async with httpx.AsyncClient(
        base_url=os.environ["PREFECT_API_URL"], trust_env=False, timeout=60
    ) as client:
        while page := (await client.post("/flow_runs/filter", json=wanted | {"offset": runs.total()})).json():
            for run in page:
                event = run["parameters"]["event"]
                runs[each := event.get("data", event)["id"]] += 1
                if sent.sent_at[each] < back_at:
                    last = max(last, datetime.fromisoformat(run["created"]).timestamp() - back_at)
    lost, twice = sent.distinct - len(runs), sum(number - 1 for number in runs.values())
    return [f"{sent.accepted:,}", f"{runs.total():,}", f"{lost:,}", f"{twice:,}", f"{last:.0f} s after"]
