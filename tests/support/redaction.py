"""An error's text, as it is stored and shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resonant.redact import Redactor

if TYPE_CHECKING:
    from resonant.sink import Endpoint


def safe_message(error: BaseException, *endpoints: Endpoint) -> str:
    """Say on one line what went wrong, without the secrets of these endpoints."""
    return Redactor.of(*endpoints).message(error)
