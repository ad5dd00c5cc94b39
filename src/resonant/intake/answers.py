"""Answers in JSON."""

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response


def json_answer(
    document: Any,
    status: int = 200,
    *,
    headers: Mapping[str, str] | None = None,
    media_type: str = "application/json",
) -> Response:
    """Return a JSON answer that ends with a line break."""
    return Response(json.dumps(document) + "\n", status, headers, media_type)
