"""``OPTIONS /events``: the handshake of CloudEvents webhooks (abuse protection): a sender asks for permission to send.

``WebHook-Request-Callback`` is ignored: the server calls no URL that a request names.
"""

from collections.abc import Awaitable, Callable, Collection

from starlette.requests import Request
from starlette.responses import Response

from resonant.intake.problems import Problem

_ALLOW = "OPTIONS, POST"


def handshake(allowed_origins: Collection[str]) -> Callable[[Request], Awaitable[Response]]:
    """Return the handler, which allows these origins: names of hosts, as senders give them in ``WebHook-Request-Origin``."""
    allowed = {origin.lower() for origin in allowed_origins}

    async def answer(request: Request) -> Response:
        origin = request.headers.get("webhook-request-origin")
        if origin is None:
            return Response(status_code=204, headers={"Allow": _ALLOW})
        if origin.lower() not in allowed:
            raise Problem(403, "this origin may not send: `resonant serve --allow-origin` allows it")
        # A token's rate limits it, and the handshake has no token.
        permission = {"WebHook-Allowed-Origin": origin, "WebHook-Allowed-Rate": "*"}
        return Response(headers={"Allow": _ALLOW, **permission})

    return answer
