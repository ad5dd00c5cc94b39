"""Flow runs whose states a test sets through the API of a Prefect server."""

from uuid import uuid4

import httpx

FAILED = {"type": "FAILED", "name": "Failed", "message": "no disk"}
CRASHED = {"type": "CRASHED", "name": "Crashed", "message": "killed"}
TIMED_OUT = {"type": "FAILED", "name": "TimedOut", "message": "took too long"}
LATE = {"type": "SCHEDULED", "name": "Late"}
COMPLETED = {"type": "COMPLETED", "name": "Completed"}


def new_flow_name() -> str:
    """Return a name that no other test uses: they share a server."""
    return f"import-{uuid4().hex[:12]}"


def run_with(server: httpx.Client, flow: str, *states: dict, tags: tuple[str, ...] = ()) -> dict:
    """Create a run of a flow, which may be new, set its states one after the other, and return it."""
    flow_id = server.post("/flows/", json={"name": flow}).json()["id"]
    run = server.post("/flow_runs/", json={"flow_id": flow_id, "tags": [*tags]}).json()
    for state in states:
        server.post(f"/flow_runs/{run['id']}/set_state", json={"state": state, "force": True})
    return server.get(f"/flow_runs/{run['id']}").json()
