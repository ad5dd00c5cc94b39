"""The small app of the bench ``webhook_runs``: a webhook calls ``run_deployment``, with its id as the key or without a key."""

from prefect.deployments import arun_deployment
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


async def _start(request: Request) -> Response:
    body = await request.json()
    name = request.path_params["name"]
    key = body["id"] if name == "app-with-key" else None
    await arun_deployment(f"{name}/main", parameters={"event": body}, timeout=0, idempotency_key=key)
    return Response(status_code=202)


app = Starlette(routes=[Route("/{name}", _start, methods=["POST"])])
