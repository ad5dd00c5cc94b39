"""Redacting error texts in tests."""

from resonant.sinks.endpoint import Endpoint
from resonant.sinks.redaction import Redactor


def safe_message(error: BaseException, *endpoints: Endpoint) -> str:
    """Describe an error on one line, without the secrets of these endpoints."""
    return Redactor.of(*endpoints).message(error)
