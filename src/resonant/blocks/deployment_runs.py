"""Creates the flow runs of a deployment through Prefect's API, once per event and endpoint."""

import asyncio
import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import httpx
from prefect.telemetry.run_telemetry import LABELS_TRACEPARENT_KEY
from prefect.utilities.urls import url_for

from resonant.blocks.prefect_api import REASON_CHARACTERS, PrefectApi
from resonant.display import one_line
from resonant.errors import (
    DeploymentMissing,
    EndpointError,
    InvalidEvent,
    PrefectDenied,
    RunCancelled,
    RunCrashed,
    RunFailed,
    RunNotCompleted,
    RunOverdue,
    RunRefused,
    RunUnfinished,
    RunUnseen,
    UnexpectedStatus,
)
from resonant.events import Clock, Event, Lease, essence
from resonant.events.webhook_ids import webhook_id
from resonant.intake.sources.templates import FORM, form_fields
from resonant.local.paused import paused
from resonant.sinks.base import Receipt, attempt_lease, attempt_trace
from resonant.sinks.wire import message
from resonant.suggestions import did_you_mean

_FAILURES: dict[str, type[RunNotCompleted]] = {
    "FAILED": RunFailed,
    "CRASHED": RunCrashed,
    "CANCELLED": RunCancelled,
}
_CHARGED = "resonant.attempts"
# The next poll follows after a fifth of the wait so far: about 30 polls in an hour, 300 in a day.
_FIRST_LOOK_SECONDS, _LOOK_SHARE, _LAST_LOOK_SECONDS = 10.0, 0.2, 300.0
_RUNS_AT_ONCE = 20


class DeploymentRuns:
    """Creates runs. Use it in one event loop; it connects when needed.

    Args:
        name: of the endpoint, which the key of each run begins with.
        block: its ``DeploymentEndpoint``.
        clock: for the age of a run, in seconds since the epoch.
    """

    def __init__(self, name: str, block: Any, clock: Clock) -> None:
        self._name, self._block, self._clock = name, block, clock
        self._flow, _, self._deployment = block.deployment.partition("/")
        self._finding = asyncio.Lock()
        self._id: str | None = None
        lacks = f"has no deployment {block.deployment}: `prefect deployment ls` lists them"
        self._api = PrefectApi(name, block, refused=RunRefused, missing=DeploymentMissing, lacks=lacks)
        self.aclose = self._api.aclose

    async def send(self, event: Event) -> Receipt:
        """Create the run of an event, or find it; with ``wait``, look whether it has completed.

        Raises:
            RunNotCompleted: the run has not ended, or not with success.
            RunRefused, DeploymentMissing: Prefect refuses it for good.
            PrefectDenied: Prefect refuses the key.
            UnexpectedStatus: any other answer.
            TimeoutError: no answer in time.
            httpx.HTTPError: no answer.
        """
        if self._block.wait:
            return await self._poll(event)
        async with asyncio.timeout(self._block.timeout):
            wanted = self._run_of(event)
            refused: RunRefused | None = None
            try:
                status, run = await self._create(wanted)
            except PrefectDenied:
                raise
            except RunRefused as error:
                # An earlier attempt may have created it, since Prefect checks a run before it looks at its key.
                if not (found := await self._find([wanted["idempotency_key"]])):
                    self._add_form(error)
                    raise
                status, run, refused = None, found[0], error
        warning = None if refused is None else f"the run existed; its repeat was refused: {refused}"
        return Receipt(status, self._shown(run), warning=warning)

    # --- waiting -----------------------------------------------------------------------------------------------------

    async def _poll(self, event: Event) -> Receipt:
        try:
            async with asyncio.timeout(self._block.timeout):
                return await self._look_for(event)
        except RunRefused as error:
            self._add_form(error)
            raise
        except (UnexpectedStatus, TimeoutError, httpx.HTTPError) as error:
            # Attempts are counted for runs that fail, not for a Prefect that does not answer.
            status, excerpt = getattr(error, "status_code", None), getattr(error, "excerpt", "")
            raise RunUnseen("the run's state is unknown", status, excerpt, _FIRST_LOOK_SECONDS) from error

    async def _look_for(self, event: Event) -> Receipt:
        """Find or create the run; after a failed run, create a new one. Return a receipt if it has completed.

        Runs are found by their idempotency keys, also if the creator was killed or got no answer. The label ``resonant.attempts``
        has the round and the charged attempts before the run. If both are unchanged, the failure of the run is not recorded yet.

        Raises:
            RunNotCompleted: the run has not ended, or not with success.
        """
        lease = attempt_lease.get()
        charged = "1.0" if lease is None else f"{lease.round}.{lease.round_attempts}"
        key, status = self._key(event), int(httpx.codes.OK)
        number, run = await self._latest(key)
        if run is None or _is_recorded(run, lease, charged):
            wanted = self._run_of(event)
            wanted["idempotency_key"] = _numbered(key, number + 1)
            wanted["labels"][_CHARGED] = charged
            status, run = await self._create(wanted)
        state, shown = run["state_type"], self._shown(run)
        if state == "COMPLETED":
            return Receipt(status, shown)
        if failure := _FAILURES.get(state):
            said = one_line((run.get("state") or {}).get("message") or "")
            raise failure(f"the run is {run['state_name']}{f': {said}' if said else ''}", status, shown)
        since = datetime.fromisoformat(run["created"]).timestamp()
        age = self._clock() - (since if lease is None else max(since, lease.round_started_at))
        if age >= self._block.wait_at_most:
            said = f"the run is {run['state_name']} after {self._block.wait_at_most:g} s, the longest wait"
            raise RunOverdue(said, status, shown)
        wait = min(max(_FIRST_LOOK_SECONDS, age * _LOOK_SHARE), _LAST_LOOK_SECONDS)
        raise RunUnfinished(f"the run is {run['state_name']}", status, shown, wait)

    async def _latest(self, key: str) -> tuple[int, dict[str, Any] | None]:
        """Return the last run of a delivery and its number; 0 and None without one."""
        number, latest, first = 0, None, 1
        while number >= first - 1:
            numbers = {_numbered(key, each): each for each in range(first, first + _RUNS_AT_ONCE)}
            first += _RUNS_AT_ONCE
            for run in await self._find(list(numbers)):
                if numbers[run["idempotency_key"]] > number:
                    number, latest = numbers[run["idempotency_key"]], run
        return number, latest

    def _shown(self, run: dict[str, Any]) -> str:
        with self._api.settings():
            url = url_for("flow-run", obj_id=run["id"])
        return f"flow run {run['id']}{f': {url}' if url else ''}"

    async def verify(self) -> list[str]:
        """Compare the configuration with the deployment; return warnings.

        Raises:
            EndpointError: they do not fit, or Prefect does not answer.
        """
        return await self._api.checked(self._verify())

    async def _verify(self) -> list[str]:
        deployment = await self._read()
        self._check_parameters(deployment)
        return [each async for each in self._look_at(deployment)]

    def _add_form(self, refused: RunRefused) -> None:
        """End a reason of Prefect with the link of the form that starts a run by hand; shorten it, so that both are stored."""
        with self._api.settings():
            url = url_for("deployment", obj_id=self._id) if self._id else None
        if url is not None and type(refused) is RunRefused:
            form = f"; start it by hand: {url}/run"
            refused.reason = refused.reason[: REASON_CHARACTERS - len(form)] + form

    # --- one run -----------------------------------------------------------------------------------------------------

    def _run_of(self, event: Event) -> dict[str, Any]:
        """Return a request for a run."""
        block = self._block
        labels = {
            "resonant.endpoint": self._name,
            "resonant.event.id": event.id,
            "resonant.event.source": event.source,
            "resonant.event.type": event.type,
        }
        trace = attempt_trace.get()
        if traceparent := trace.traceparent if trace else event.traceparent:
            labels[LABELS_TRACEPARENT_KEY] = traceparent
        return {
            "idempotency_key": self._key(event),
            "name": event.id,
            "state": {"type": "SCHEDULED"},
            "parameters": self._parameters_of(event),
            # No tags from the event: through a limit on a tag, a producer could delay other runs.
            "tags": block.tags,
            "labels": labels,
            **({"work_queue_name": block.work_queue} if block.work_queue else {}),
        }

    def _key(self, event: Event) -> str:
        return f"{self._name}/{event.webhook_id or webhook_id(event.identity, is_taken=False)}"

    def _parameters_of(self, event: Event) -> dict[str, Any]:
        """Return the parameters as JSON text, which Prefect parses without rendering it."""
        try:
            document = json.loads(message(event, "structured")[1])
            inside = document
            is_form = essence(event.datacontenttype or "") == FORM
            if is_form and any(each.startswith("/data/") for each in self._pointers.values()):
                inside = document | {"data": form_fields(event.body)}
            given = {
                name: json.dumps(value, allow_nan=False)
                for name, pointer in self._pointers.items()
                for value in _values_at(inside if pointer.startswith("/data/") else document, pointer)
            }
        except (ValueError, RecursionError, InvalidEvent) as error:
            raise RunRefused(f"the event cannot be a parameter: {one_line(str(error))}") from None
        if self._block.as_text:
            given = {name: json.dumps(text) for name, text in given.items()}
        # Even in plain data, the run itself would load the block that `$ref` names.
        elif name := next((name for name, text in given.items() if _has_reference(json.loads(text))), None):
            raise RunRefused(
                f"parameter {name!r} would contain the key $ref, which Prefect replaces by a block: map single values, or "
                "use --as-text"
            )
        return {name: {"__prefect_kind": "json", "value": text} for name, text in given.items()}

    @property
    def _pointers(self) -> dict[str, str]:
        return self._block.parameters or {"event": ""}

    async def _create(self, run: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Create a run, unless one has its key; return the status and the run."""
        known = self._id
        place = {"id": await self._find_deployment()}
        answer = await self._api.ask("POST", "/deployments/{id}/create_flow_run", json=run, **place)
        if answer.status_code == httpx.codes.NOT_FOUND and known is not None:
            self._id = None  # it may have been deleted and created again
            return await self._create(run)
        return answer.status_code, self._api.content(answer)

    async def _find(self, keys: list[str]) -> list[dict[str, Any]]:
        """Return the runs with these keys."""
        wanted = {
            "flows": {"name": {"any_": [self._flow]}},
            "flow_runs": {"idempotency_key": {"any_": keys}},
        }
        found: list[dict[str, Any]] = self._api.content(
            await self._api.ask("POST", "/flow_runs/filter", json=wanted)
        )
        return found

    async def _find_deployment(self) -> str:
        async with self._finding:
            if self._id is None:
                self._id = (await self._read())["id"]
            return self._id

    async def _read(self) -> dict[str, Any]:
        place = {"flow_name": self._flow, "deployment_name": self._deployment}
        found: dict[str, Any] = self._api.content(
            await self._api.ask("GET", "/deployments/name/{flow_name}/{deployment_name}", **place)
        )
        return found

    # --- checks ------------------------------------------------------------------------------------------------------

    def _check_parameters(self, deployment: dict[str, Any]) -> None:
        schema = deployment.get("parameter_openapi_schema") or {}
        known, wanted = schema.get("properties", {}), self._pointers
        how = "map its parameters by --parameter NAME=POINTER"
        for name in wanted:
            if name not in known:
                raise EndpointError(
                    f"endpoint {self._name!r}: flow {self._flow!r} has no parameter {name!r}{did_you_mean(name, known)}; {how}"
                )
        given = {*wanted, *deployment.get("parameters", {})}
        if missing := [name for name in schema.get("required", []) if name not in given]:
            raise EndpointError(
                f"endpoint {self._name!r}: flow {self._flow!r} needs the parameter {missing[0]!r}; {how}"
            )

    async def _look_at(self, deployment: dict[str, Any]) -> Any:
        """Yield warnings."""
        block, pool = self._block, deployment.get("work_pool_name")
        queue = block.work_queue or deployment.get("work_queue_name")
        strategy = (deployment.get("concurrency_options") or {}).get("collision_strategy")
        if deployment.get("global_concurrency_limit") and strategy == "CANCEL_NEW":
            result = "become dead letters" if block.wait else "count as delivered"
            yield f"deployment {block.deployment} cancels new runs above its concurrency limit, although their events {result}"
        if pool is None:
            if block.work_queue:
                raise EndpointError(
                    f"endpoint {self._name!r}: deployment {block.deployment} has no work pool, so its runs have no work queue"
                )
            for warning in paused(deployment, block.deployment):
                yield warning
            return
        found = self._api.content(await self._api.ask("GET", "/work_pools/{name}", name=pool))
        place = {"work_pool_name": pool, "name": queue}
        answer = await self._api.ask("GET", "/work_pools/{work_pool_name}/queues/{name}", **place)
        if answer.status_code == httpx.codes.NOT_FOUND:
            raise EndpointError(
                f"endpoint {self._name!r}: work pool {pool} has no work queue {queue!r}: "
                f"`prefect work-queue create {queue} --pool {pool}` creates it"
            )
        for warning in paused(deployment, block.deployment, found, self._api.content(answer)):
            yield warning


def _is_recorded(run: dict[str, Any], lease: Lease | None, charged: str) -> bool:
    """Return whether a run failed, and its failure is recorded or older than this round."""
    if run["state_type"] not in _FAILURES or lease is None:
        return False
    before: str = run["labels"].get(_CHARGED, "")
    if before.startswith(f"{lease.round}."):
        return before != charged
    return datetime.fromisoformat(run["state"]["timestamp"]).timestamp() < lease.round_started_at


def _numbered(key: str, number: int) -> str:
    """Return the key of a delivery's run with this number. A webhook-id has no dot, but it may have a slash."""
    return key if number == 1 else f"{key}.{number}"


def _values_at(document: Any, pointer: str) -> Iterator[Any]:
    """Yield the value that a JSON pointer points to, if there is one."""
    value = document
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isascii() and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            return
    yield value


def _has_reference(value: Any) -> bool:
    rest = [value]
    while rest:
        each = rest.pop()
        if isinstance(each, dict):
            if "$ref" in each:
                return True
            rest += each.values()
        elif isinstance(each, list):
            rest += each
    return False
