"""A signed webhook of the demo, which arrives twice and starts one flow run."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from resonant.cli.demo.events import WEBHOOK
from resonant.files import atomic_file

if TYPE_CHECKING:
    from uuid import UUID

    from resonant.store import Store

_BLOCK, _ENDPOINT = "demo", "resonant-deployment/demo"
_SECRET_FILE = "github-secret"  # noqa: S105 - a file's name
_MOST_TRIES = 5
_BODY = json.dumps({"ref": "refs/heads/main", "repository": {"full_name": "octo/shop"}}).encode()


def declare_source(home: Path) -> Path:
    """Write a new secret and a file of sources into a folder; return the file of sources."""
    with atomic_file(home / _SECRET_FILE) as write:
        write(secrets.token_hex(16))
    row = {"name": "github", "verify": "github", "secret": f"file:{_SECRET_FILE}", "endpoint": _ENDPOINT}
    path = home / "sources.yaml"
    path.write_text(json.dumps({"sources": [row | {"type": f"demo.{WEBHOOK}"}]}, indent=1) + "\n")
    return path


async def deploy(store: Store) -> UUID:
    """Deploy the flow, and make it an endpoint; return the id of the deployment."""
    from prefect.client.orchestration import get_client
    from prefect.utilities.callables import parameter_schema

    from resonant.blocks import DeploymentEndpoint
    from resonant.cli.demo.greeting import greet
    from resonant.local.work_pool import WORK_POOL
    from resonant.store.views.known_names import remember_endpoints

    async with get_client() as client:
        deployment: UUID = await client.create_deployment(
            await client.create_flow(greet),
            "demo",
            work_pool_name=WORK_POOL,
            entrypoint=f"{greet.__module__}.greet",
            parameter_openapi_schema=parameter_schema(greet).model_dump_for_openapi(),
            job_variables={"working_dir": "."},
        )
    await DeploymentEndpoint(deployment="greet/demo").asave(_BLOCK, overwrite=True)
    await store.write(remember_endpoints, [_ENDPOINT])
    return deployment


async def send_twice(home: Path, port: int) -> list[bool]:
    """Send a push of GitHub twice, as after a lost answer; return whether each was known to the intake."""
    import httpx

    secret = (home / _SECRET_FILE).read_bytes()
    headers = {
        "content-type": "application/json",
        "x-github-event": "push",
        "x-github-delivery": str(uuid4()),
        "x-hub-signature-256": f"sha256={hmac.new(secret, _BODY, hashlib.sha256).hexdigest()}",
    }
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        url = f"http://127.0.0.1:{port}/sources/github"
        answers = [await client.post(url, content=_BODY, headers=headers) for _ in range(2)]
    return [each.raise_for_status().json()["duplicate"] for each in answers]


async def start_runs(store: Store, deployment: UUID) -> list[UUID]:
    """Send the stored webhooks before Prefect's SQLite is busy with other runs; return the ids of the deployment's runs."""
    from flows.emit import emit_events
    from resonant.local.prefect_log import show_prefect_log

    show_prefect_log(verbose=False)
    for _ in range(_MOST_TRIES):
        emission: Any = emit_events(endpoint=_ENDPOINT, lane="bulk", return_state=True)  # type: ignore[call-overload,unused-ignore]
        await emission
        if (await store.status(endpoint=_ENDPOINT)).delivered:
            break
    return await _read_runs(deployment)


async def _read_runs(deployment: UUID) -> list[UUID]:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import DeploymentFilter

    async with get_client() as client:
        of_deployment = DeploymentFilter.model_validate({"id": {"any_": [deployment]}})
        return [run.id for run in await client.read_flow_runs(deployment_filter=of_deployment)]
