"""HTTP clients that wait as long as a server on a busy machine needs, and use no proxy of the environment."""

from functools import partial

import httpx

from support.waiting import PATIENCE_SECONDS

_OPTIONS = {"timeout": PATIENCE_SECONDS, "trust_env": False}

get = partial(httpx.get, **_OPTIONS)
post = partial(httpx.post, **_OPTIONS)
Client = partial(httpx.Client, **_OPTIONS)
AsyncClient = partial(httpx.AsyncClient, **_OPTIONS)
