"""An application that reads a request and answers 202: the baseline of ``serve``. Run it with ``python -m benches.bare_app PORT``."""

import json
import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_ANSWER = json.dumps({"events": [{"id": "1", "source": "/", "duplicate": False, "endpoints": ["bench"]}]})


async def _accept(request: Request) -> Response:
    await request.body()
    return Response(_ANSWER, 202, media_type="application/json")


app = Starlette(routes=[Route("/events", _accept, methods=["POST"]), Route("/readyz", _accept)])

if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), loop="asyncio", log_level="error", access_log=False)
