"""How many pages a statement reads on PostgreSQL, whatever the load of the machine."""

import json

from support.sqlite import listening


def buffers_of(desk, operation, *args, **options):
    """Run an operation, then run its statements again, and return the number of pages that they read."""
    executed = []

    def record(_connection, _cursor, statement, parameters, _context, _is_many):
        executed.append((statement, parameters))

    with listening("before_cursor_execute", record):
        desk.write(operation, *args, **options)
    return desk.write(lambda connection: sum(_buffers(connection, *each) for each in executed))


def _buffers(connection, statement, parameters):
    plan = connection.exec_driver_sql(
        f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters
    ).scalar()
    [found] = json.loads(plan) if isinstance(plan, str) else plan
    return found["Plan"]["Shared Hit Blocks"] + found["Plan"]["Shared Read Blocks"]
