"""The content of the store, read by plain SQL without Resonant, and its invariants at every moment."""

import asyncio
import contextlib
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from typing import Any, Self

import asyncpg

from resonant.store.counts.counters import Tally
from resonant.store.counts.sketches import EVER, Packed, add_up
from resonant.store.queue.rescue import LOST_LEASES_BEFORE_GIVING_UP
from support.store_rows import DELIVERIES

Row = dict[str, Any]
Snapshot = Callable[..., list[list[Row]]]


@dataclass(frozen=True)
class Database:
    """A store's database; ``url`` is the URL that Resonant uses."""

    url: str

    @property
    def kind(self) -> str:
        return self.url.partition(":")[0]

    @contextmanager
    def opened(self) -> Iterator[Snapshot]:
        """Yield a function that runs statements in one snapshot."""
        if self.kind == "sqlite":
            path = self.url.removeprefix("sqlite:///")
            with contextlib.closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as connection:
                connection.row_factory = sqlite3.Row

                def read(*statements: str) -> list[list[Row]]:
                    connection.execute("BEGIN")
                    try:
                        return [list(map(dict, connection.execute(each))) for each in statements]
                    finally:
                        connection.execute("ROLLBACK")

                yield read
            return
        with asyncio.Runner() as runner:
            connection = runner.run(_connected(self.url))
            try:
                yield lambda *statements: runner.run(_read(connection, statements))
            finally:
                runner.run(connection.close())

    def read(self, *statements: str) -> list[list[Row]]:
        with self.opened() as snapshot:
            return snapshot(*statements)

    def query(self, statement: str) -> list[Row]:
        [rows] = self.read(statement)
        return rows

    def event_ids(self, statement: str) -> set[str]:
        return {row["event_id"] for row in self.query(statement)}

    def note_removals(self) -> None:
        """Let the database record each removed delivery, in the same transaction."""
        if self.kind == "sqlite":
            path = self.url.removeprefix("sqlite:///")
            with contextlib.closing(sqlite3.connect(path, timeout=30)) as connection:
                connection.executescript(_NOTE_ON_SQLITE)
        else:
            asyncio.run(_execute(self.url, _NOTE_ON_POSTGRESQL))

    def removed(self) -> list[Row]:
        """Return the event id and the last status of each delivery removed since ``note_removals``."""
        return self.query("SELECT event_id, status FROM chaos_removed")


_NOTE_ON_SQLITE = """
    CREATE TABLE chaos_removed (event_id TEXT NOT NULL, status TEXT NOT NULL);
    CREATE TRIGGER chaos_note_removed AFTER DELETE ON resonant_deliveries BEGIN
        INSERT INTO chaos_removed SELECT id, OLD.status FROM resonant_events WHERE key = OLD.event_key;
    END;"""
_NOTE_ON_POSTGRESQL = """
    CREATE TABLE chaos_removed (event_id TEXT NOT NULL, status TEXT NOT NULL);
    CREATE FUNCTION chaos_note_removed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO chaos_removed SELECT id, OLD.status FROM resonant_events WHERE key = OLD.event_key;
        RETURN NULL;
    END $$;
    CREATE TRIGGER chaos_note_removed AFTER DELETE ON resonant_deliveries
        FOR EACH ROW EXECUTE FUNCTION chaos_note_removed();"""


async def _execute(url: str, statements: str) -> None:
    connection = await _connected(url)
    try:
        await connection.execute(statements)
    finally:
        await connection.close()


async def _connected(url: str) -> asyncpg.Connection:
    return await asyncpg.connect(url)


async def _read(connection: asyncpg.Connection, statements: tuple[str, ...]) -> list[list[Row]]:
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        return [list(map(dict, await connection.fetch(each))) for each in statements]


_EVER = f"SELECT entries, buckets FROM resonant_sketches WHERE minute = {EVER}"
_TALLIES = "SELECT minute, entries, seconds FROM resonant_tallies"
_LEDGERS = """
    SELECT coalesce(sum(accepted), 0) AS accepted, coalesce(sum(purged), 0) AS purged
    FROM (SELECT accepted, purged FROM resonant_endpoints
          UNION ALL SELECT count, 0 FROM resonant_acceptances) AS ledgers"""
_STATUSES = (
    "SELECT status, count(*) AS number, sum(round - 1) AS replays FROM resonant_deliveries GROUP BY status"
)
_ATTEMPTS = """
    SELECT result, count(*) AS number, count(delay) AS delays
    FROM resonant_attempts WHERE NOT late AND NOT (early AND code = 'run_unfinished') GROUP BY result"""
_AUDIT = "SELECT action, sum(count) AS number FROM resonant_audit GROUP BY action"


@dataclass(frozen=True)
class Look:
    """The sums of one snapshot."""

    counters: dict[tuple[Any, ...], int]
    accepted: int
    purged: int
    statuses: Counter[str]
    replays: int
    attempts: Counter[str]
    delays: int
    audited: Counter[str]

    @classmethod
    def at(cls, snapshot: Snapshot) -> Self:
        ever, tallies, [ledgers], statuses, attempts, audit = snapshot(
            _EVER, _TALLIES, _LEDGERS, _STATUSES, _ATTEMPTS, _AUDIT
        )
        packed = [Packed(EVER, row["entries"], row["buckets"]) for row in ever]
        for row in tallies:
            tally = Tally(row["minute"])
            tally.add_row(row["entries"], row["seconds"])
            packed += [each for each in tally.rows() if each.minute == EVER]
        counted = {
            (*labels, bound): number
            for labels, sketch in add_up(packed).items()
            for bound, number in sketch.by_bound().items()
        }
        return cls(
            counted,
            int(ledgers["accepted"]),
            int(ledgers["purged"]),
            Counter({row["status"]: row["number"] for row in statuses}),
            int(sum(row["replays"] for row in statuses)),
            Counter({row["result"]: row["number"] for row in attempts}),
            sum(row["delays"] for row in attempts),
            Counter({row["action"]: int(row["number"]) for row in audit}),
        )

    def counted(self, measure: str, result: str | None = None) -> int:
        return sum(
            number
            for (of_measure, _, _, of_result, *_), number in self.counters.items()
            if of_measure == measure and result in (None, of_result)
        )

    def problems(self) -> list[str]:
        """Return the sums that differ: those written in one transaction agree in every snapshot."""
        of_rows, purged = self.statuses, self.purged
        replays, delivered_purged = self.counted("replay"), self.counted("purge", "delivered")
        must_agree = {
            "accepted = pending + retrying + delivered + dead_letter + purged": (
                self.accepted,
                of_rows.total() + purged,
            ),
            "purged is counted": (self.counted("purge"), purged),
            "purged is in the audit": (self.audited["purge"], purged),
            "replayed is in the audit": (self.audited["replay"], replays),
            "delivered is counted": (
                self.counted("delivery", "delivered"),
                of_rows["delivered"] + delivered_purged,
            ),
            "dead letters are counted": (
                self.counted("delivery", "dead_letter"),
                of_rows["dead_letter"] + self.counted("purge", "dead_letter") + replays,
            ),
        }
        if not purged:
            must_agree["rounds are replays"] = (self.replays, replays)
            must_agree["delays are counted"] = (self.counted("delay"), self.delays)
            for result in ("delivered", "failed", "lost"):
                must_agree[f"attempts {result} are counted"] = (
                    self.counted("attempt", result),
                    self.attempts[result],
                )
        return [f"{name}: {one} against {other}" for name, (one, other) in must_agree.items() if one != other]

    def fallen_since(self, before: Self) -> list[str]:
        """Return the counters that are lower than before."""
        return [
            f"counter {key} fell from {number} to {self.counters.get(key, 0)}"
            for key, number in before.counters.items()
            if self.counters.get(key, 0) < number
        ]


@dataclass(frozen=True)
class History:
    """A delivery and its attempts, from the store or from the archive of a purge."""

    delivery: Row
    attempts: list[Row]
    is_purged: bool = False

    @property
    def event_id(self) -> str:
        return self.delivery["event_id"]

    @property
    def recorded(self) -> list[Row]:
        """The attempts with a recorded outcome."""
        return [each for each in self.attempts if not each["late"] and each["result"] != "lost"]

    def lost_by(self, owner: str) -> int:
        return sum(each["result"] == "lost" and each["owner"] == owner for each in self.attempts)

    @property
    def came_too_soon(self) -> list[int]:
        """The numbers of the attempts that were made before the end of the receiver's Retry-After."""
        kept = sorted((each for each in self.attempts if not each["late"]), key=lambda each: each["number"])
        return [
            then["number"]
            for before, then in pairwise(kept)
            if before["round"] == then["round"]
            and before["retry_after"] is not None
            and before["started_at"] + before["retry_after"] > then["started_at"]
        ]

    def problems(self) -> list[str]:
        """Return the contradictions: attempts and rounds are in order, and the row agrees with its history."""
        row = self.delivery
        kept = sorted((each for each in self.attempts if not each["late"]), key=lambda each: each["number"])
        of_round = [each for each in kept if each["round"] == row["round"]]
        lost = sum(each["result"] == "lost" for each in of_round)
        early = sum(bool(each["early"]) for each in of_round)
        rounds = [each["round"] for each in kept]
        must_agree = {
            "attempt numbers": ([each["number"] for each in kept], [*range(1, row["attempts"] + 1)]),
            "rounds in order": (rounds, sorted(rounds)),
            "attempts of the round": (row["round_attempts"], len(of_round) - lost - early),
            "crashes of the round": (row["crashes"], lost),
            "given up as crashed": (
                row["reason"] == "crashed",
                row["crashes"] >= LOST_LEASES_BEFORE_GIVING_UP,
            ),
            "is final": (row["status"] in ("delivered", "dead_letter"), True),
            "lease": ((row["lease_owner"], bool(row["sending"]), row["available_at"]), (None, False, None)),
        }
        if row["status"] == "delivered":
            must_agree["delivered by its last attempt"] = (kept[-1]["result"] if kept else None, "delivered")
        deliveries = sum(each["result"] == "delivered" for each in kept)
        must_agree["came too soon after Retry-After"] = (self.came_too_soon, [])
        must_agree["delivered once"] = (deliveries, int(row["status"] == "delivered"))
        return [
            f"{self.event_id}: {name}: {one} against {other}"
            for name, (one, other) in must_agree.items()
            if one != other
        ]


def histories(database: Database) -> dict[str, History]:
    """Read every delivery that is in the store, by event id."""
    deliveries, attempts = database.read(
        f"SELECT * FROM {DELIVERIES}", "SELECT * FROM resonant_attempts ORDER BY id"
    )
    by_delivery: dict[int, list[Row]] = {}
    for each in attempts:
        by_delivery.setdefault(each["delivery_id"], []).append(each)
    return {row["event_id"]: History(row, by_delivery.get(row["id"], [])) for row in deliveries}


def sent_beyond_records(known: Mapping[str, History], received: Mapping[str, list[Row]]) -> dict[str, int]:
    """Return how often each event was received in addition to its recorded attempts."""
    more = {each: len(received.get(each, ())) - len(history.recorded) for each, history in known.items()}
    return {event_id: number for event_id, number in more.items() if number > 0}


def problems_of_journal(
    known: Mapping[str, History],
    received: Mapping[str, list[Row]],
    body_of: Callable[[str], bytes | None],
    purged: Collection[str] = (),
) -> Iterator[str]:
    """Yield the differences of the receiver's journal and the histories; ``body_of`` returns an enqueued body, if any."""
    for event_id, entries in received.items():
        given = body_of(event_id)
        if given is None:
            yield f"{event_id} was received, but never enqueued"
        elif any(entry["sha256"] != sha256(given).hexdigest() for entry in entries):
            yield f"{event_id} was received with another body"
        elif event_id not in known and event_id not in purged:
            yield f"{event_id} was received, and is not in the store"
    for event_id, history in known.items():
        answered = Counter(each["status_code"] for each in history.attempts if each["status_code"])
        answers = Counter(entry["status"] for entry in received.get(event_id, ()))
        if not answered <= answers:
            yield f"{event_id}: its history says {dict(answered)}, the receiver {dict(answers)}"
