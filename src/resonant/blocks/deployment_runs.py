"""Creates the flow runs of a deployment through Prefect's API, once per event and endpoint."""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from typing import Any, Literal
from urllib.parse import quote

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.context import SettingsContext, get_settings_context
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_KEY,
    PREFECT_API_URL,
    PREFECT_CLIENT_CUSTOM_HEADERS,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_CLIENT_RETRY_EXTRA_CODES,
    PREFECT_UI_URL,
)
from prefect.telemetry.run_telemetry import LABELS_TRACEPARENT_KEY
from prefect.utilities.urls import url_for

from resonant.display import one_line
from resonant.errors import (
    DeploymentMissing,
    EndpointError,
    PrefectDenied,
    RunRefused,
    SendFailed,
    UnexpectedStatus,
)
from resonant.events import Event
from resonant.events.webhook_ids import webhook_id
from resonant.local.paused import paused
from resonant.sinks.base import Receipt, attempt_trace
from resonant.sinks.redaction import Redactor
from resonant.sinks.wire import message
from resonant.suggestions import did_you_mean

_TIMEOUT = httpx.codes.REQUEST_TIMEOUT
# Prefect refuses these for what they ask, not for who asks or when.
_REFUSALS = {400, 409, 413, 422}
_DENIALS = {401, 403}
_EXPIRED_TOKEN = "Invalid CSRF token"  # noqa: S105 - a text of Prefect
# Of a reason, which a store keeps with each attempt.
_REASON_CHARACTERS = 250


class DeploymentRuns:
    """Creates runs. Use it in one event loop; it connects when needed.

    Args:
        name: of the endpoint, which the key of each run begins with.
        block: its ``DeploymentEndpoint``.
    """

    def __init__(self, name: str, block: Any) -> None:
        self._name, self._block = name, block
        self._flow, _, self._deployment = block.deployment.partition("/")
        self._opening, self._finding = asyncio.Lock(), asyncio.Lock()
        self._client: PrefectClient | None = None
        self._settings: SettingsContext | None = None
        self._id: str | None = None

    async def aclose(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.__aexit__(None, None, None)

    async def send(self, event: Event) -> Receipt:
        """Create the run of an event, or find it.

        Raises:
            RunRefused, DeploymentMissing: Prefect refuses it for good.
            PrefectDenied: Prefect refuses the key.
            UnexpectedStatus: any other answer.
            TimeoutError: no answer in time.
            httpx.HTTPError: no answer.
        """
        async with asyncio.timeout(self._block.timeout):
            wanted = self._run_of(event)
            refused: RunRefused | None = None
            try:
                status, run = await self._create(wanted)
            except PrefectDenied:
                raise
            except RunRefused as error:
                # An earlier attempt may have created it, since Prefect checks a run before it looks at its key.
                if (found := await self._find(wanted["idempotency_key"])) is None:
                    self._add_form(error)
                    raise
                status, run, refused = None, found, error
        with self._with_settings():
            url = url_for("flow-run", obj_id=run)
        return Receipt(
            status,
            f"flow run {run}{f': {url}' if url else ''}",
            warning=None if refused is None else f"the run existed; its repeat was refused: {refused}",
        )

    async def verify(self) -> list[str]:
        """Compare the configuration with the deployment; return warnings.

        Raises:
            EndpointError: they do not fit, or Prefect does not answer.
        """
        try:
            async with asyncio.timeout(self._block.timeout):
                deployment = await self._read()
                self._check_parameters(deployment)
                return [each async for each in self._look_at(deployment)]
        except EndpointError:
            raise
        except Exception as error:  # noqa: BLE001 - its text may contain a secret
            secrets = (self._block.api_key, self._block.auth_string)
            redactor = Redactor(each.get_secret_value() for each in secrets if each)
            reason = redactor.line(str(error)) if isinstance(error, SendFailed) else redactor.message(error)
            raise EndpointError(f"endpoint {self._name!r}: {reason}") from None

    def _add_form(self, refused: RunRefused) -> None:
        """End a reason of Prefect with the link of the form that starts a run by hand; shorten it, so that both are stored."""
        with self._with_settings():
            url = url_for("deployment", obj_id=self._id) if self._id else None
        if url is not None and not isinstance(refused, DeploymentMissing):
            form = f"; start it by hand: {url}/run"
            refused.reason = refused.reason[: _REASON_CHARACTERS - len(form)] + form

    # --- one run -----------------------------------------------------------------------------------------------------

    def _run_of(self, event: Event) -> dict[str, Any]:
        """Return a request for a run."""
        block = self._block
        identity = event.webhook_id or webhook_id(event.identity, is_taken=False)
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
            "idempotency_key": f"{self._name}/{identity}",
            "name": event.id,
            "state": {"type": "SCHEDULED"},
            "parameters": self._parameters_of(event),
            # None of the event's: a limit on a tag would let a producer delay other runs.
            "tags": block.tags,
            "labels": labels,
            **({"work_queue_name": block.work_queue} if block.work_queue else {}),
        }

    def _parameters_of(self, event: Event) -> dict[str, Any]:
        """Return the parameters in a form that Prefect takes as they are: it renders other values with ``__prefect_kind``."""
        try:
            document = json.loads(message(event, "structured")[1])
            given = {
                name: json.dumps(value, allow_nan=False)
                for name, pointer in self._pointers.items()
                for value in _values_at(document, pointer)
            }
        except (ValueError, RecursionError) as error:
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

    async def _create(self, run: dict[str, Any]) -> tuple[int, str]:
        """Create a run, unless one has its key; return the status and the run's id."""
        known = self._id
        place = {"id": await self._find_deployment()}
        answer = await self._ask("POST", "/deployments/{id}/create_flow_run", json=run, **place)
        if answer.status_code == httpx.codes.NOT_FOUND and known is not None:
            self._id = None  # it may have been deleted and created again
            return await self._create(run)
        return answer.status_code, self._content(answer)["id"]

    async def _find(self, key: str) -> str | None:
        """Return the id of the run with this key; None if there is none."""
        wanted = {
            "flows": {"name": {"any_": [self._flow]}},
            "flow_runs": {"idempotency_key": {"any_": [key]}},
            "limit": 1,
        }
        found = self._content(await self._ask("POST", "/flow_runs/filter", json=wanted))
        return found[0]["id"] if found else None

    async def _find_deployment(self) -> str:
        async with self._finding:
            if self._id is None:
                self._id = (await self._read())["id"]
            return self._id

    async def _read(self) -> dict[str, Any]:
        place = {"flow_name": self._flow, "deployment_name": self._deployment}
        found: dict[str, Any] = self._content(
            await self._ask("GET", "/deployments/name/{flow_name}/{deployment_name}", **place)
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
            yield f"deployment {block.deployment} cancels new runs above its concurrency limit, although they count as delivered"
        if pool is None:
            if block.work_queue:
                raise EndpointError(
                    f"endpoint {self._name!r}: deployment {block.deployment} has no work pool, so its runs have no work queue"
                )
            for warning in paused(deployment, block.deployment):
                yield warning
            return
        found = self._content(await self._ask("GET", "/work_pools/{name}", name=pool))
        place = {"work_pool_name": pool, "name": queue}
        answer = await self._ask("GET", "/work_pools/{work_pool_name}/queues/{name}", **place)
        if answer.status_code == httpx.codes.NOT_FOUND:
            raise EndpointError(
                f"endpoint {self._name!r}: work pool {pool} has no work queue {queue!r}: "
                f"`prefect work-queue create {queue} --pool {pool}` creates it"
            )
        for warning in paused(deployment, block.deployment, found, self._content(answer)):
            yield warning

    # --- requests ----------------------------------------------------------------------------------------------------

    async def _ask(
        self, method: Literal["GET", "POST"], path: Any, *, json: Any = None, **place: str
    ) -> httpx.Response:
        """Make one request; return its answer, unless Prefect's client would repeat the request."""
        client = await self._open()
        quoted = {name: quote(value, safe="") for name, value in place.items()}
        for _ in range(2):
            with self._with_settings():
                try:
                    return await client.request(method, path, path_params=quoted, json=json)
                except httpx.HTTPStatusError as error:
                    answer = error.response
            if _EXPIRED_TOKEN not in answer.text:
                break  # otherwise the client has fetched a new one
        return answer

    def _content(self, answer: httpx.Response) -> Any:
        """Return the JSON of a success; raise what another answer means."""
        status, url = answer.status_code, self._url
        if answer.is_success:
            try:
                return answer.json()
            except ValueError:
                raise DeploymentMissing(
                    f"{url} is not the URL of Prefect's API, which ends with /api"
                ) from None
        reason = _reason_of(answer)
        if status in _DENIALS:
            raise PrefectDenied(f"Prefect on {url} refuses the API key or password: {reason}", status)
        if status == httpx.codes.NOT_FOUND:
            raise DeploymentMissing(
                f"Prefect on {url} has no deployment {self._block.deployment}: `prefect deployment ls` lists them",
                status,
            )
        if status in _REFUSALS:
            raise RunRefused(f"Prefect refuses the run: {reason}", status)
        raise UnexpectedStatus(status, answer.headers.get("retry-after"), reason)

    @property
    def _url(self) -> str:
        return self._block.api_url or PREFECT_API_URL.value() or ""

    async def _open(self) -> PrefectClient:
        async with self._opening:
            if self._client is None:
                self._client = await self._new_client().__aenter__()
            return self._client

    def _new_client(self) -> PrefectClient:
        block = self._block
        if not self._url:
            raise EndpointError(f"endpoint {self._name!r}: set PREFECT_API_URL, or its api_url")
        current = get_settings_context()
        # With these, Prefect's client sends a request once.
        changes: dict[Any, Any] = {PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_CLIENT_RETRY_EXTRA_CODES: set()}
        if block.api_url is None:
            key, password = PREFECT_API_KEY.value(), PREFECT_API_AUTH_STRING.value()
            settings = current.settings.copy_with_update(updates=changes)
        else:
            # The other server gets no secret of this one.
            changes[PREFECT_API_URL] = block.api_url
            key, password = _text(block.api_key), _text(block.auth_string)
            settings = current.settings.copy_with_update(
                updates=changes, restore_defaults={PREFECT_UI_URL, PREFECT_CLIENT_CUSTOM_HEADERS}
            )
        self._settings = SettingsContext(profile=current.profile, settings=settings)
        with self._with_settings():
            return PrefectClient(
                self._url,
                api_key=key,
                auth_string=password,
                httpx_settings={
                    "event_hooks": {"response": [_raise_at_once]},
                    "follow_redirects": False,
                    "limits": httpx.Limits(max_connections=None, max_keepalive_connections=16),
                    "timeout": block.timeout,
                },
            )

    @contextlib.contextmanager
    def _with_settings(self) -> Iterator[None]:
        if self._settings is None:
            yield
            return
        with SettingsContext(profile=self._settings.profile, settings=self._settings.settings):
            yield


async def _raise_at_once(response: httpx.Response) -> None:
    """Raise for each status that Prefect's client would wait for and repeat, even without retries."""
    if response.status_code in {_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS} or response.is_server_error:
        await response.aread()
        raise httpx.HTTPStatusError("", request=response.request, response=response)


def _reason_of(answer: httpx.Response) -> str:
    """Return Prefect's reason on one line."""
    try:
        found = answer.json()
    except ValueError:
        found = answer.text
    if isinstance(found, dict):
        found = found.get("detail") or found.get("exception_detail") or found
    if isinstance(found, list):  # of pydantic; the rest of each entry repeats the request
        found = "; ".join(str(each["msg"]) for each in found if isinstance(each, dict) and "msg" in each)
    text = found if isinstance(found, str) else json.dumps(found)
    return one_line(text)[:_REASON_CHARACTERS] or f"status {answer.status_code}"


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


def _text(secret: Any) -> str | None:
    return None if secret is None else secret.get_secret_value()
