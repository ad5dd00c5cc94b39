"""The answers to refused requests: ``application/problem+json`` (RFC 9457)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from resonant.intake.answers import json_answer

MEDIA_TYPE = "application/problem+json"
# The status if each refused event of a request has this code; 422 for all others.
_STATUS = {"not_json": 400, "forbidden": 403, "conflict": 409, "too_large": 413}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why one event of a request was refused.

    Attributes:
        index: the position of the event in the request, from 0.
        detail: the reason, in the words of the command line.
        code: the kind of the reason; it does not change between releases.
        pointer: the JSON Pointer (RFC 6901) of the member with the problem; empty for the whole event.
    """

    index: int
    detail: str
    code: str
    pointer: str = ""

    def document(self) -> dict[str, Any]:
        """Return the error as a part of an answer."""
        return {"index": self.index, "pointer": self.pointer, "code": self.code, "detail": self.detail}


class Problem(Exception):
    """A request is refused.

    Args:
        status: the status of the answer, 400 to 599.
        detail: one line with the reason and the next step, for the client's developer; it contains no secret.
        errors: the refused events, in the order of the request.
        headers: more headers of the answer, such as ``Retry-After``.
        limit: the limit that the request exceeds, in bytes or events.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        errors: Sequence[Refusal] = (),
        headers: Mapping[str, str] | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors
        self.headers = headers
        self.limit = limit

    def response(self) -> Response:
        """Return the answer."""
        document: dict[str, Any] = {
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        }
        if self.limit is not None:
            document["limit"] = self.limit
        if self.errors:
            document["errors"] = [error.document() for error in self.errors]
        return json_answer(document, self.status, headers=self.headers, media_type=MEDIA_TYPE)


def refused(errors: Sequence[Refusal], of: int) -> Problem:
    """Return the problem of a request with refused events; nothing of it is stored.

    Args:
        errors: at least one.
        of: the number of events in the request.
    """
    codes = {error.code for error in errors}
    status = _STATUS.get(codes.pop(), 422) if len(codes) == 1 else 422
    detail = errors[0].detail
    if of > 1:
        detail = (
            f"{len(errors):,} of {of:,} events refused, nothing is stored: event {errors[0].index}: {detail}"
        )
    return Problem(status, detail, errors=errors)
