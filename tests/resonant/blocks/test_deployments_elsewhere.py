"""An endpoint whose deployment is on a Prefect server of its own, with a password and CSRF tokens."""

import asyncio

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

from resonant.blocks import DeploymentEndpoint
from resonant.errors import EndpointError, PrefectDenied, ServerError
from resonant.events import Event
from resonant.local.paused import ask_what_is_paused
from resonant.settings import load_settings
from support.prefect import running_server
from support.waiting import PATIENCE_SECONDS

# A server with a password and CSRF protection, which the shared one does not have.
pytestmark = [pytest.mark.engine, pytest.mark.own_server]

NAME = "resonant-deployment/elsewhere"
PASSWORD = "me:s3cret-word"
EVENT = Event(type="order.paid", source="/shop", data={"n": 1})


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """The URL of the server's API."""
    variables = {
        "PREFECT_SERVER_API_AUTH_STRING": PASSWORD,
        "PREFECT_API_AUTH_STRING": PASSWORD,
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
    }
    with running_server(tmp_path_factory.mktemp("elsewhere"), **variables) as (api_url, _):
        yield api_url


@pytest.fixture
async def deployment(elsewhere):
    """A deployment on that server."""
    settings = {PREFECT_API_URL: elsewhere, PREFECT_API_AUTH_STRING: PASSWORD}
    with temporary_settings(settings):
        async with get_client() as client:
            flow = await client.create_flow_from_name("elsewhere")
            schema = {"type": "object", "properties": {"event": {}}, "required": ["event"]}
            await client.create_deployment(flow, "main", parameter_openapi_schema=schema)
    return "elsewhere/main"


async def send(block: DeploymentEndpoint):
    destination = block.open(NAME)
    try:
        return await destination.sink.send(EVENT)
    finally:
        await destination.close()


async def test_a_run_is_created_with_the_password_and_a_token(elsewhere, deployment):
    me, url = ("me", "s3cret-word"), f"{elsewhere}/flow_runs/filter"
    without_token = httpx.post(url, json={}, auth=me, timeout=PATIENCE_SECONDS)
    assert without_token.status_code == 403
    block = DeploymentEndpoint(deployment=deployment, api_url=elsewhere, auth_string=SecretStr(PASSWORD))
    assert await block.verify(NAME) == []
    receipts = [await send(block) for _ in range(2)]
    assert [each.status_code for each in receipts] == [201, 200]
    assert receipts[0].excerpt == receipts[1].excerpt
    assert f"{elsewhere.removesuffix('/api')}/runs/flow-run/" in receipts[0].excerpt


async def test_the_process_that_sends_has_the_password_of_its_own_server(elsewhere, deployment):
    block = DeploymentEndpoint(deployment=deployment)
    with temporary_settings({PREFECT_API_URL: elsewhere, PREFECT_API_AUTH_STRING: PASSWORD}):
        assert (await send(block)).status_code in {200, 201}


@pytest.mark.parametrize("password", [None, "me:wrong-word"])
async def test_a_wrong_password_is_refused_without_showing_it(elsewhere, deployment, password):
    block = DeploymentEndpoint(
        deployment=deployment, api_url=elsewhere, auth_string=password and SecretStr(password)
    )
    with pytest.raises(PrefectDenied, match="refuses the API key or password"):
        await send(block)
    with pytest.raises(EndpointError) as refused:
        await block.verify(NAME)
    assert "wrong-word" not in str(refused.value)


async def test_status_asks_for_pauses_with_the_password(elsewhere, deployment, monkeypatch):
    with temporary_settings({PREFECT_API_URL: elsewhere, PREFECT_API_AUTH_STRING: PASSWORD}):
        await DeploymentEndpoint(deployment=deployment).asave("elsewhere", overwrite=True)
        async with get_client() as client:
            await client.pause_deployment((await client.read_deployment_by_name(deployment)).id)
    monkeypatch.setenv("PREFECT_API_URL", elsewhere)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", PASSWORD)
    found = await asyncio.to_thread(ask_what_is_paused, load_settings(), [NAME, f"{NAME}-gone"])
    assert found == {
        NAME: [
            f"deployment {deployment} is paused: events still create runs, which wait if no process or worker runs them"
        ]
    }
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "me:wrong-word")
    with pytest.raises(ServerError, match=r"it answered 401$"):
        await asyncio.to_thread(ask_what_is_paused, load_settings(), [NAME])
