"""Requests to Prefect's API for an endpoint: each is sent once, and its failures have the classes of ``resonant.errors``."""

import asyncio
import contextlib
import json
import random
from collections.abc import Awaitable, Iterator
from typing import Any, Literal, TypeVar
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

from resonant.display import one_line
from resonant.errors import EndpointError, PrefectDenied, RunRefused, SendFailed, UnexpectedStatus
from resonant.sinks.redaction import Redactor

_T = TypeVar("_T")

_TIMEOUT = httpx.codes.REQUEST_TIMEOUT
# Statuses of permanent refusals: they depend on the request, not on credentials or time.
_REFUSALS = {400, 409, 413, 422}
_DENIALS = {401, 403}
_EXPIRED_TOKEN = "Invalid CSRF token"  # noqa: S105 - a text of Prefect
# Prefect answers 503 with this text if its SQLite database is locked. That is no outage: most transactions end within milliseconds.
_LOCKED = '"exception_message":"Service Unavailable"'
_LOCKED_PAUSES_SECONDS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 1.6)
# Of a reason, which a store keeps with each attempt.
REASON_CHARACTERS = 250


class PrefectApi:
    """Makes requests. Use it in one event loop; it connects when needed.

    Args:
        name: of the endpoint.
        block: its ``PrefectEndpoint``.
        refused: the error class for permanent refusals.
        missing: the error class for a 404, and for an answer that another server sent.
        lacks: the end of the message for a 404, after "Prefect on URL".
    """

    def __init__(
        self, name: str, block: Any, *, refused: type[RunRefused], missing: type[RunRefused], lacks: str
    ) -> None:
        self._name, self._block = name, block
        self._refused, self._missing, self._lacks = refused, missing, lacks
        self._opening = asyncio.Lock()
        self._client: PrefectClient | None = None
        self._settings: SettingsContext | None = None

    async def aclose(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.__aexit__(None, None, None)

    @property
    def url(self) -> str:
        """The URL of the API; empty if it is unknown."""
        return self._block.api_url or PREFECT_API_URL.value() or ""

    async def ask(
        self, method: Literal["GET", "POST"], path: Any, *, json: Any = None, **place: str
    ) -> httpx.Response:
        """Make one request, and return the answer, of any status. While another transaction locks Prefect's database, repeat it.

        Raises:
            httpx.HTTPError: no answer.
        """
        client = await self._open()
        for pause in _LOCKED_PAUSES_SECONDS:
            answer = await self._ask_once(client, method, path, json, place)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or _LOCKED not in answer.text:
                return answer
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))
        return await self._ask_once(client, method, path, json, place)

    async def _ask_once(
        self,
        client: PrefectClient,
        method: Literal["GET", "POST"],
        path: Any,
        json: Any,
        place: dict[str, str],
    ) -> httpx.Response:
        """Make one request. An expired CSRF token is replaced, and the request repeated once."""
        quoted = {name: quote(value, safe="") for name, value in place.items()}
        for _ in range(2):
            with self.settings():
                try:
                    return await client.request(method, path, path_params=quoted, json=json)
                except httpx.HTTPStatusError as error:
                    answer = error.response
                except ValueError:  # from the client's own request for a token
                    raise self._not_prefect() from None
            if _EXPIRED_TOKEN not in answer.text:
                break  # otherwise the client has fetched a new one
        return answer

    def content(self, answer: httpx.Response) -> Any:
        """Return the JSON of a successful answer; None if it is empty.

        Raises:
            PrefectDenied: 401 or 403.
            RunRefused: another permanent refusal, or a 404.
            UnexpectedStatus: any other status.
        """
        status, url = answer.status_code, self.url
        if answer.is_success:
            try:
                return answer.json() if answer.content else None
            except ValueError:
                raise self._not_prefect() from None
        reason = _reason_of(answer)
        if status in _DENIALS:
            raise PrefectDenied(f"Prefect on {url} refuses the API key or password: {reason}", status)
        if status == httpx.codes.NOT_FOUND:
            raise self._missing(f"Prefect on {url} {self._lacks}", status)
        if status in _REFUSALS:
            raise self._refused(f"Prefect refuses {self._refused.what}: {reason}", status)
        raise UnexpectedStatus(status, answer.headers.get("retry-after"), reason)

    def _not_prefect(self) -> RunRefused:
        return self._missing(f"{self.url} is not the URL of Prefect's API, which ends with /api")

    async def checked(self, check: Awaitable[_T]) -> _T:
        """Await a check within the endpoint's deadline.

        Raises:
            EndpointError: it failed; the message has no secret.
        """
        try:
            async with asyncio.timeout(self._block.timeout):
                return await check
        except EndpointError:
            raise
        except Exception as error:  # noqa: BLE001 - its text may contain a secret
            secrets = (self._block.api_key, self._block.auth_string)
            redactor = Redactor(each.get_secret_value() for each in secrets if each)
            reason = redactor.line(str(error)) if isinstance(error, SendFailed) else redactor.message(error)
            raise EndpointError(f"endpoint {self._name!r}: {reason}") from None

    async def _open(self) -> PrefectClient:
        async with self._opening:
            if self._client is None:
                self._client = await self._new_client().__aenter__()
            return self._client

    def _new_client(self) -> PrefectClient:
        block = self._block
        if not self.url:
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
        with self.settings():
            return PrefectClient(
                self.url,
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
    def settings(self) -> Iterator[None]:
        """Apply the settings of the API's server within a ``with``."""
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
    return one_line(text)[:REASON_CHARACTERS] or f"status {answer.status_code}"


def _text(secret: Any) -> str | None:
    return None if secret is None else secret.get_secret_value()
