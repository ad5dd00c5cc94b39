"""Creates and revokes tokens. The audit records each change."""

import base64
import secrets
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection

from resonant.intake.access.tokens import TOKEN_PREFIX, digest_of
from resonant.store.audit import record_change
from resonant.store.shared.tokens import Token, add_token, revoke_token

_RANDOM_BYTES = 20  # 32 characters
_SCOPES = ("source", "type", "endpoint", "rate", "can_read")


def create(connection: Connection, name: str, *, who: str, now: float, **scopes: Any) -> str | None:
    """Create a token; it may have the name of a revoked one.

    Args:
        connection: in a write transaction.
        name: of the token.
        scopes: fields of ``Token``.

    Returns:
        Its text, which cannot be read again; None if a valid token has this name.
    """
    text = TOKEN_PREFIX + base64.b32encode(secrets.token_bytes(_RANDOM_BYTES)).decode().lower()
    token = Token(name, digest_of(text), created_at=now, **scopes)
    if not add_token(connection, token):
        return None
    selection = {"token": name, **_given(token)}
    record_change(connection, at=now, who=who, action="token create", selection=selection)
    return text


def revoke(connection: Connection, name: str, *, who: str, now: float) -> bool:
    """Revoke a token; return False if no valid one has this name. The arguments are those of ``create``."""
    if not revoke_token(connection, name, now=now):
        return False
    record_change(connection, at=now, who=who, action="token revoke", selection={"token": name})
    return True


def _given(token: Token) -> dict[str, object]:
    return {name: value for name, value in asdict(token).items() if name in _SCOPES and value}
