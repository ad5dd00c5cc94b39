"""``GET /events/{source}/{id}``: the deliveries of an event. Source and id are percent-encoded, including slashes."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import unquote_to_bytes

from starlette.requests import Request
from starlette.responses import Response

from resonant.events import Delivery, rfc3339
from resonant.intake.access.tokens import Access
from resonant.intake.answers import json_answer
from resonant.intake.problems import Problem
from resonant.store import Store
from resonant.store.views.reads import read_deliveries_of

_TIMES = ("first_attempt_at", "next_attempt_at", "finished_at")
_FIELDS = ("endpoint", "status", "attempts", "replays", "reason", "category", "code", "status_code")


def lookup(store: Store, access: Access) -> Callable[[Request], Awaitable[Response]]:
    """Return the handler. A token sees only deliveries within its scopes; it gets 404 for all others."""

    async def answer(request: Request) -> Response:
        grant = await access.authorize(request)
        grant.require_read()
        deliveries = await _read(store, request)
        seen = [each for each in deliveries if grant.may_see(each)]
        if not seen:
            raise Problem(
                404,
                "no such event, or not for this token; percent-encode its source and id (/events/%2Fshop/ID)",
            )
        return json_answer(_document(seen), headers={"Cache-Control": "no-store"})

    return answer


async def _read(store: Store, request: Request) -> Sequence[Delivery]:
    # The server has decoded the path, so slashes in names cannot be told from those between them.
    names = request.scope["raw_path"].split(b"/")[2:]
    try:
        source, event_id = (unquote_to_bytes(name).decode() for name in names)
    except ValueError:  # other than two names, or not UTF-8
        return ()
    if "\0" in source + event_id:  # which databases cannot store
        return ()
    return await store.read(read_deliveries_of, event_id, source)


def _document(deliveries: Sequence[Delivery]) -> dict[str, Any]:
    first = deliveries[0]
    return {
        "id": first.event_id,
        "source": first.source,
        "type": first.event_type,
        "accepted_at": rfc3339(min(each.accepted_at for each in deliveries)),
        "deliveries": [_delivery(each) for each in deliveries],
    }


def _delivery(found: Delivery) -> dict[str, Any]:
    times = {name: getattr(found, name) for name in _TIMES}
    return {name: getattr(found, name) for name in _FIELDS} | {
        name: None if at is None else rfc3339(at) for name, at in times.items()
    }
