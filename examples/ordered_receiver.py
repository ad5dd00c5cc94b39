"""A receiver that applies events in order, although they are delivered at least once and in any order.

The producer gives each event a ``partitionkey``, such as the customer's number, and a ``sequence``, which counts the events of
this key from 1, without gaps. The receiver stores an event that comes too early, and applies it after its predecessors::

    python examples/ordered_receiver.py received.db 9000
"""

import sqlite3
import sys
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

TABLES = """
CREATE TABLE IF NOT EXISTS events (source, key, sequence INTEGER, data, applied, PRIMARY KEY (source, key, sequence));
CREATE TABLE IF NOT EXISTS work (number INTEGER PRIMARY KEY, key, data);
"""


def receive(path: str, source: str, key: str, sequence: int, data: bytes) -> None:
    """Store an event, and apply the events whose turn has come, in one transaction."""
    event, of_key = (source, key, sequence, data), (source, key)
    with closing(sqlite3.connect(path, timeout=10, isolation_level="IMMEDIATE")) as database, database:
        # This begins the transaction: other requests wait. A duplicate changes nothing.
        database.execute("INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, FALSE)", event)
        query = "SELECT coalesce(max(sequence), 0) FROM events WHERE source = ? AND key = ? AND applied"
        [last] = database.execute(query, of_key).fetchone()
        take = "UPDATE events SET applied = TRUE WHERE source = ? AND key = ? AND sequence = ? RETURNING data"
        while found := database.execute(take, (*of_key, last + 1)).fetchall():
            last += 1
            apply(database, key, *found[0])


def apply(database: sqlite3.Connection, key: str, data: bytes) -> None:
    """Stand for your own work. It belongs to the transaction, so it is done once."""
    database.execute("INSERT INTO work (key, data) VALUES (?, ?)", (key, data))


class Handler(BaseHTTPRequestHandler):
    """Answers 204 after the commit; without an answer, Resonant sends the event again."""

    path_of_database = ""

    def do_POST(self) -> None:
        """Receive one event. If the endpoint has a secret, verify ``webhook-signature`` first."""
        data = self.rfile.read(int(self.headers.get("content-length", 0)))
        try:
            source, key = unquote(self.headers["ce-source"]), unquote(self.headers["ce-partitionkey"])
            sequence = int(self.headers["ce-sequence"])
        except (TypeError, ValueError):
            sequence = 0
        if not 0 < sequence < 1 << 63:  # the turn of another one would never come
            self.send_error(422, "ce-source, ce-partitionkey or ce-sequence is missing or invalid")
            return
        receive(self.path_of_database, source, key, sequence, data)
        self.send_response(204)
        self.end_headers()


def main(path: str, port: int) -> None:
    """Print the URL, and serve on this machine."""
    Handler.path_of_database = path
    with closing(sqlite3.connect(path)) as database:
        database.executescript(TABLES)
    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        sys.stdout.write(f"http://127.0.0.1:{server.server_port}/\n")
        sys.stdout.flush()
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
