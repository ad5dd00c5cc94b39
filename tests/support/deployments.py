"""Deployments on a Prefect server, made through its API."""

from typing import Any
from uuid import uuid4

import httpx

from resonant.blocks import DeploymentEndpoint
from resonant.testing import reset_before_response, respond
from support import patient
from support.prefect import patient_client

EVENT_ONLY = {"properties": {"event": {"title": "event"}}, "required": ["event"]}


class Deployments:
    """Makes deployments of new flows, each with a work pool of its own, and reads their runs."""

    def __init__(self, api_url: str) -> None:
        self.api_url = api_url
        self.api = patient_client(api_url)

    def make(self, schema: dict[str, Any] = EVENT_ONLY, *, flow: str | None = None, **fields: Any) -> str:
        """Save a deployment whose flow has these parameters; return FLOW/DEPLOYMENT."""
        flow = flow or f"flow-{uuid4().hex[:12]}"
        flow_id = self.api.post("/flows/", json={"name": flow}).json()["id"]
        pool = f"pool-of-{flow}"
        with patient.Client(base_url=self.api_url) as api:  # it may exist
            api.post("/work_pools/", json={"name": pool, "type": "process"})
        new = {
            "name": "main",
            "flow_id": flow_id,
            "work_pool_name": pool,
            "enforce_parameter_schema": True,
            "parameter_openapi_schema": {"type": "object", "title": "Parameters"} | schema,
        }
        self.api.post("/deployments/", json=new | fields)
        return f"{flow}/main"

    def read(self, name: str) -> dict[str, Any]:
        return self.api.get(f"/deployments/name/{name}").json()

    def remove(self, name: str) -> None:
        self.api.delete(f"/deployments/{self.read(name)['id']}")

    def start(self, name: str) -> None:
        """Set the only run of a deployment's flow to Running."""
        [run] = self.runs(name)
        self.api.post(f"/flow_runs/{run['id']}/set_state", json={"state": {"type": "RUNNING"}, "force": True})

    def runs(self, name: str) -> list[dict[str, Any]]:
        """Return the runs of a deployment's flow."""
        wanted = {"flows": {"name": {"any_": [name.partition("/")[0]]}}, "sort": "ID_DESC"}
        found: list[dict[str, Any]] = []
        while page := self.api.post("/flow_runs/filter", json=wanted | {"offset": len(found)}).json():
            found += page
        return found


def endpoint_of(deployment: str, **fields: Any) -> DeploymentEndpoint:
    """Return an endpoint of a deployment that is not saved."""
    return DeploymentEndpoint(deployment=deployment, **fields)


class LossyRelay:
    """A script for a receiver that passes requests on to Prefect, and loses the first answer that a run was created.

    Attributes:
        lost: the id of that run, once it exists.
    """

    def __init__(self, api_url: str) -> None:
        self._server = api_url.removesuffix("/api")
        self.lost: list[str] = []

    def __call__(self, request: Any) -> Any:
        kind = {"content-type": "application/json"}
        url = self._server + request.path
        answer = httpx.request(request.method, url, headers=kind, content=request.body, timeout=30)
        if answer.status_code == httpx.codes.CREATED and not self.lost:
            self.lost.append(answer.json()["id"])
            return reset_before_response()
        return respond(answer.status_code, kind, body=answer.content)
