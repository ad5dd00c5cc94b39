"""Redacting error texts in tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resonant.sinks.redaction import Redactor

if TYPE_CHECKING:
    from resonant.sinks.endpoint import Endpoint


def safe_message(error: BaseException, *endpoints: Endpoint) -> str:
    """Describe an error on one line, without the secrets of these endpoints."""
    return Redactor.of(*endpoints).message(error)
