"""Locks whole tables on PostgreSQL without holding up others."""

import logging
import time
from collections.abc import Callable

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from resonant.store.engine.database_errors import sqlstate

logger = logging.getLogger(__name__)

_LOCK_MILLISECONDS = 300
_PAUSE_SECONDS = 0.7
_WARN_SECONDS, _WARN_AGAIN_SECONDS = 2.0, 60.0
_LOCK_NOT_AVAILABLE, _DEADLOCK = "55P03", "40P01"


def run_between_others(connection: Connection, operation: Callable[[Connection], None]) -> None:
    """Run an operation that locks whole tables on PostgreSQL, once no other transaction is in its way.

    Others would have to wait behind it while it waits. So it gives up soon, and tries again.

    Args:
        connection: in a transaction.
        operation: is undone, and runs again, if it does not get a lock soon.
    """
    get_patience = text("SELECT current_setting('lock_timeout')")
    set_patience = text("SELECT set_config('lock_timeout', :patience, true)")
    patience = connection.execute(get_patience).scalar_one()
    warn_at = time.monotonic() + _WARN_SECONDS
    while True:
        try:
            with connection.begin_nested():
                connection.execute(set_patience, {"patience": f"{_LOCK_MILLISECONDS}ms"})
                operation(connection)
                connection.execute(set_patience, {"patience": patience})
        except DBAPIError as error:
            if sqlstate(error) not in (_LOCK_NOT_AVAILABLE, _DEADLOCK):
                raise
        else:
            return
        if time.monotonic() > warn_at:
            warn_at = time.monotonic() + _WARN_AGAIN_SECONDS
            logger.warning("the upgrade of the store waits until a transaction of another process ends")
        # On the server, so that the event loop does not wait.
        connection.exec_driver_sql(f"SELECT pg_sleep({_PAUSE_SECONDS})")
