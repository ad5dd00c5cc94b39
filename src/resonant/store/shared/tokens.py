"""The tokens of the HTTP intake, with their scopes. The store keeps a token's SHA-256 digest, never its text."""

from dataclasses import asdict, dataclass

from sqlalchemy import Connection, or_, select, update

from resonant.store import schema
from resonant.store.engine.sql import insert_into

USE_NOTED_EVERY_SECONDS = 60.0

_t = schema.tokens


@dataclass(frozen=True, slots=True)
class Token:
    """A token. Times are seconds since the Unix epoch.

    Attributes:
        digest: the SHA-256 digest of the text, in hexadecimal.
        source, type: globs for the sources and types of its events; None for all.
        endpoint: its events go to this endpoint, whatever the subscriptions are; None: they are routed.
        rate: events per second; None for no limit.
        can_read: whether it may read deliveries.
        last_used_at: at most a minute late; None if it was never used.
    """

    name: str
    digest: str
    source: str | None = None
    type: str | None = None
    endpoint: str | None = None
    rate: float | None = None
    can_read: bool = False
    created_at: float = 0.0
    last_used_at: float | None = None
    revoked_at: float | None = None


def add_token(connection: Connection, token: Token) -> bool:
    """Store a token. It may have the name of a revoked one, which it replaces; return False if a valid one has it."""
    row = asdict(token)
    new = insert_into(connection.dialect.name, _t).values(row)
    if_revoked = new.on_conflict_do_update(
        index_elements=[_t.c.name], set_=row, where=_t.c.revoked_at.is_not(None)
    )
    return bool(connection.execute(if_revoked).rowcount)


def revoke_token(connection: Connection, name: str, *, now: float) -> bool:
    """Revoke a token; return False if no valid one has this name."""
    valid = (_t.c.name == name, _t.c.revoked_at.is_(None))
    return bool(connection.execute(update(_t).where(*valid).values(revoked_at=now)).rowcount)


def read_tokens(connection: Connection) -> list[Token]:
    """Return all tokens, also revoked ones, sorted by name."""
    return [Token(**row) for row in connection.execute(select(_t).order_by(_t.c.name)).mappings()]


def valid_tokens(connection: Connection) -> dict[str, Token]:
    """Return the tokens that are not revoked, by their digests."""
    rows = connection.execute(select(_t).where(_t.c.revoked_at.is_(None))).mappings()
    return {row["digest"]: Token(**row) for row in rows}


def note_use(connection: Connection, digest: str, *, now: float) -> None:
    """Record that a token was used, unless another process did so within the last minute."""
    seen = _t.c.last_used_at
    is_old = or_(seen.is_(None), seen <= now - USE_NOTED_EVERY_SECONDS)
    connection.execute(update(_t).where(_t.c.digest == digest, is_old).values(last_used_at=now))
