"""A small OAuth 2.0 server for tests: tokens by client credentials, which expire, and a receiver that checks them."""

import base64
import json
import time
import urllib.parse
from dataclasses import dataclass, field

from resonant.testing import respond

CLIENT, SECRET = "client:1", "oauth s3cret&/+%"


@dataclass
class OAuthServer:
    """The script of a token endpoint.

    Attributes:
        lifetime: of its tokens, in seconds.
        fails: returns whether to fail, given the number of the request from 1.
        answer: replaces its answer, as status and members of JSON.
        secret: the client secret that it accepts.
        requests: the form of each request, with the way of authentication.
        issued: the tokens, with the time when each expires.
    """

    lifetime: float = 300.0
    fails: object = staticmethod(lambda _number: False)
    answer: tuple[int, object] | None = None
    secret: str = SECRET
    delay: float = 0.0
    requests: list[dict[str, str]] = field(default_factory=list)
    issued: dict[str, float] = field(default_factory=dict)

    def __call__(self, request):
        form = dict(urllib.parse.parse_qsl(request.body.decode()))
        if scheme := request.headers.get("authorization"):
            given = base64.b64decode(scheme.removeprefix("Basic ")).decode().split(":")
            client, secret = map(urllib.parse.unquote_plus, given)
        else:
            client, secret = form["client_id"], form["client_secret"]
        self.requests.append(form | {"by": "basic" if scheme else "body"})
        if self.answer is not None:
            return self._json(*self.answer)
        if self.fails(len(self.requests)):
            return self._json(503, {})
        if (client, secret) != (CLIENT, self.secret):
            return self._json(401, {"error": "invalid_client", "error_description": f"wrong {secret}"})
        token = f"token-{len(self.requests)}.{time.monotonic_ns()}"
        self.issued[token] = time.monotonic() + self.lifetime
        return self._json(200, {"access_token": token, "token_type": "Bearer", "expires_in": self.lifetime})

    def _json(self, status, members):
        body = members if isinstance(members, bytes) else json.dumps(members).encode()
        return respond(status, {"content-type": "application/json"}, body, delay=self.delay)

    def receive(self, request):
        """Accept an event that has a valid token; the script of a receiver."""
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        is_valid = time.monotonic() < self.issued.get(token, 0.0)
        return respond(200 if is_valid else 401)
