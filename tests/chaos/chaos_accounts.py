"""The accounts of a round: accepted events, received requests, the store, and the differences that a kill explains."""

from __future__ import annotations

import base64
import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chaos_facts import (
    History,
    Look,
    Row,
    histories,
    problems_of_journal,
    sent_beyond_records,
)
from chaos_plan import GHOST, PURGING, SENDING
from chaos_receiver import REASONS
from chaos_struck import said_in
from chaos_watching import STALL_SECONDS
from chaos_worker import WIDTH

from resonant.dispatch.limiting.ahead import PrefetchWindow
from support.archives import complete_lines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from chaos_round import Round
    from chaos_struck import Struck

# The most sends of one process without a recorded outcome. A send frees its slot before its outcome is recorded, so a slot may
# have two: one that has ended, and the next. A chunk begins more, ahead of need.
_MOST_BEGUN = {"emit": 2 * WIDTH, "replay": 2 * WIDTH, "auto": (PrefetchWindow.MOST_BEGUN + 1) * WIDTH}


@dataclass
class Accounts:
    """The facts after a round.

    Attributes:
        stored: the deliveries in the store, by event id.
        archived: the deliveries that are only in the archive, by event id.
        removed: the removed deliveries, each with its last status.
        received: the receiver's journal, by event id.
        stalled: the longest pause of a watch, in seconds.
    """

    round: Round
    look: Look
    stored: dict[str, History]
    archived: dict[str, History]
    removed: list[Row]
    received: dict[str, list[Row]]
    bodies: dict[str, bytes]
    audit: list[Row]
    stalled: float

    @classmethod
    def of(cls, round_: Round, *, stalled: float) -> Accounts:
        database = round_.database
        with database.opened() as snapshot:
            look = Look.at(snapshot)
        stored = histories(database)
        archived = {}
        if round_.archive is not None:
            documents, _ = read_archives(round_.archive)
            archived = {
                each["delivery"]["event_id"]: History(each["delivery"], each["attempts"], is_purged=True)
                for each in documents
                if each["delivery"]["event_id"] not in stored
            }
        bodies = database.query("SELECT id, body FROM resonant_events")
        return cls(
            round_,
            look,
            stored,
            archived,
            database.removed(),
            round_.journal.received(),
            {row["id"]: bytes(row["body"]) for row in bodies},
            database.query("SELECT who, action, at, ended_at, count FROM resonant_audit ORDER BY id"),
            stalled,
        )

    @property
    def known(self) -> dict[str, History]:
        """All deliveries whose history is known: all except those purged without an archive."""
        return self.archived | self.stored

    @property
    def missing(self) -> set[str]:
        """Events that were certainly accepted and not purged, and are neither stored nor archived."""
        acknowledged = {
            event_id
            for lines in self._said.values()
            for line in lines
            for event_id in line.get("accepted", ())
        }
        later = {event_id for event_id in self.round.events if "-later-" in event_id}
        expected = self.round.events.keys() - later | acknowledged
        if not self.round.plan.kinds & PURGING:
            expected |= later
        return expected - self.known.keys() - self.purged

    @property
    def purged(self) -> set[str]:
        return {each["event_id"] for each in self.removed}

    @property
    def extra(self) -> dict[str, int]:
        """How often each event was received in addition to its recorded attempts."""
        return sent_beyond_records(self.known, self.received)

    @property
    def in_flight(self) -> int:
        """How many sends were in flight at the signals: the highest number of duplicates."""
        return sum(len(each.in_flight) + each.tolerated for each in self.round.struck)

    def as_dict(self) -> dict[str, object]:
        plan = self.round.plan
        return {
            "round": plan.seed,
            "database": plan.database,
            "way": plan.way,
            "victims": [each.as_dict() for each in self.round.struck],
            "accepted": self.look.accepted,
            "purged": self.look.purged,
            "attempts": sum(map(len, self.received.values())),
            "lost": len(self.missing),
            "duplicates": sum(self.extra.values()),
            "in_flight": self.in_flight,
            "late": sum(each["late"] for history in self.known.values() for each in history.attempts),
        }

    def problems(self) -> list[str]:
        """Return all problems at the end of a round."""
        return [
            *self.look.problems(),
            *self._problems_of_acceptance(),
            *self._problems_of_fates(),
            *(problem for history in self.known.values() for problem in history.problems()),
            *self._problems_of_journal(),
            *self._problems_of_duplicates(),
            *self._problems_of_charges(),
            *self._problems_of_acknowledgements(),
            *self._problems_of_audit(),
            *self._problems_of_purged(),
        ]

    def _problems_of_acceptance(self) -> Iterator[str]:
        if missing := self.missing:
            yield f"{len(missing)} accepted events are lost, as {sorted(missing)[:3]}"
        if unknown := self.known.keys() - self.round.events.keys():
            yield f"in the store, but never enqueued: {sorted(unknown)[:3]}"
        for event_id, body in self.bodies.items():
            if body != self.round.events.get(event_id):
                yield f"{event_id}: its body is not the one that was enqueued"

    def _problems_of_fates(self) -> Iterator[str]:
        """No kill makes a dead letter of an event that the receiver would have accepted."""
        for event_id, history in self.known.items():
            reason, type_ = history.delivery["reason"], history.delivery["event_type"]
            # If the machine stalls, the receiver's answers are late.
            if reason == "exhausted" and any(each["code"] == "timeout" for each in history.attempts):
                continue
            if reason not in (None, "cancelled", "crashed", REASONS.get(type_.rpartition(".")[2])):
                yield f"{event_id}, a {type_}, was given up: {reason}"

    def _problems_of_journal(self) -> Iterator[str]:
        yield from problems_of_journal(self.known, self.received, self.round.events.get, purged=self.purged)

    def _problems_of_duplicates(self) -> Iterator[str]:
        """Each send without a recorded outcome was in flight at a signal."""
        struck = self.round.struck
        stopped = [each for each in struck if each.victim.signal == "SIGSTOP"]
        beside = self._lost_beside_signals
        unexplained = {}
        for event_id, more in self.extra.items():
            explained = sum(event_id in each.in_flight for each in struck)
            explained += beside.get(event_id, 0)
            # A stopped process may claim the same delivery again when it continues, with a lease that is about to expire.
            explained += sum(max(0, self.known[event_id].lost_by(each.owner) - 1) for each in stopped)
            if more > explained:
                unexplained[event_id] = more - explained
        tolerated = sum(each.tolerated for each in struck)
        if sum(unexplained.values()) > tolerated:
            shown = dict(list(unexplained.items())[:3])
            yield f"{sum(unexplained.values())} received more often than the sends in flight explain, {tolerated} tolerated: {shown}"
        # Each send is in the history, lost and late ones too, except those that were handed back.
        unwritten = {
            event_id: more
            for event_id, history in self.known.items()
            if (more := len(self.received.get(event_id, ())) - len(history.attempts)) > 0
        }
        # The late outcome of a delivery that was purged meanwhile is not recorded.
        if self.look.purged:
            tolerated += sum(len(each.in_flight) for each in stopped)
        if sum(unwritten.values()) > tolerated:
            yield f"{sum(unwritten.values())} sends are in no history, {tolerated} tolerated: {list(unwritten)[:3]}"

    def _problems_of_charges(self) -> Iterator[str]:
        for struck in self.round.struck:
            kind = struck.victim.kind
            if kind not in SENDING:
                continue
            if struck.begun > _MOST_BEGUN[kind]:
                yield f"{struck.owner} had begun {struck.begun}, and may begin {_MOST_BEGUN[kind]}"
            charged = self._charged_to(struck)
            if struck.is_exact:
                expected = Counter(struck.in_flight & self.known.keys())
                if charged != expected:
                    both = f"{len(charged - expected)} wrongly, {len(expected - charged)} not"
                    yield f"{struck.owner} was killed with {expected.total()} in flight: charged {both}"
                continue
            # A command that shuts down still begins some sends; our workers hand back the deliveries they began.
            tolerated = 0 if self.round.commands is None else struck.tolerated
            if len(wrongly := charged.keys() - struck.in_flight) > tolerated:
                yield f"{struck.owner} is charged with sends that it did not make: {sorted(wrongly)[:3]}"
        ghost = Counter({each: n for each, h in self.known.items() if (n := h.lost_by(GHOST))})
        expected = Counter(self.round.begun_by_ghost & self.known.keys())
        if ghost != expected:
            yield f"a crashed worker had begun {expected.total()}, and is charged with {ghost.total()}"
        beside = self._lost_beside_signals
        stopped = any(each.victim.signal == "SIGSTOP" for each in self.round.struck)
        if beside and not (stopped or self.stalled > STALL_SECONDS):
            yield f"{sum(beside.values())} leases of processes that were not hit were lost, as of {sorted(beside)[:3]}"

    @property
    def _lost_beside_signals(self) -> Counter[str]:
        """Lost attempts of workers that were not hit: their leases expired while they, or the machine, stalled."""
        if self.round.commands is not None:
            return Counter()
        hit = {GHOST, *(each.owner for each in self.round.struck if not each.came_too_late)}
        return Counter(
            event_id
            for event_id, history in self.known.items()
            for each in history.attempts
            if each["result"] == "lost" and each["owner"] not in hit
        )

    def _charged_to(self, struck: Struck) -> Counter[str]:
        others = {GHOST, *self.round.helpers}
        found: Counter[str] = Counter()
        for event_id, history in self.known.items():
            for each in history.attempts:
                is_theirs = each["owner"] == struck.owner or (
                    self.round.commands is not None and each["owner"] not in others
                )
                found[event_id] += each["result"] == "lost" and is_theirs
        return +found

    def _problems_of_acknowledgements(self) -> Iterator[str]:
        """Every attempt that a process acknowledged is in the store."""
        for name, lines in self._said.items():
            for line in lines:
                for event_id, number in line.get("recorded", ()):
                    history = self.known.get(event_id)
                    if history is None:
                        if event_id not in self.purged:
                            yield f"{name} acknowledged an attempt of {event_id}, which is not in the store"
                    elif number not in {each["number"] for each in history.recorded}:
                        yield f"{name} acknowledged attempt {number} of {event_id}, which is not recorded"

    def _problems_of_audit(self) -> Iterator[str]:
        asked = [each for each in self.round.struck if each.victim.kind in PURGING | {"replay"}]
        killed = [each for each in asked if each.is_exact and not each.came_too_late]
        unended = [row for row in self.audit if row["ended_at"] is None]
        if self.round.commands is not None:
            # Some commands handle SIGTERM, some do not.
            may_have_no_end = [
                each for each in asked if each.victim.signal in ("SIGKILL", "SIGTERM") or each.is_cut_off
            ]
            if len(unended) > len(may_have_no_end):
                yield f"{len(unended)} audit rows without an end, of {len(may_have_no_end)} killed"
            return
        by_name = {row["who"]: row for row in self.audit}
        for struck in asked:
            row = by_name.get(struck.owner)
            if struck.is_cut_off:
                continue
            if row is None:
                yield f"{struck.owner} is not in the audit"
            elif struck in killed and not (row["ended_at"] is None or row["ended_at"] <= struck.ended_at):
                yield f"{struck.owner} was killed, and its audit row has an end"
            elif struck not in killed and row["ended_at"] is None:
                yield f"{struck.owner} has ended, and its audit row has no end"
        names = {each.owner for each in asked if each in killed or each.is_cut_off}
        for row in unended:
            if row["who"] not in names:
                yield f"the audit row of {row['who']} has no end"

    def _problems_of_purged(self) -> Iterator[str]:
        """Only final deliveries are removed, and they are counted; with an archive, the counters match it too."""
        if len(self.removed) != self.look.purged:
            yield f"{len(self.removed)} were removed, {self.look.purged} are counted as purged"
        may_be_removed = {"dead_letter", "delivered"} if self.round.plan.delivered_too else {"dead_letter"}
        if wrongly := [each for each in self.removed if each["status"] not in may_be_removed]:
            yield f"{len(wrongly)} were removed that no purge may remove, as {wrongly[0]}"
        if self.round.archive is None:
            return
        if (purged := self.purged - self.stored.keys()) != self.archived.keys():
            yield f"{len(purged)} were purged, {len(self.archived)} of them are archived"
        kept = [each for history in self.known.values() for each in history.attempts if not each["late"]]
        for result in ("delivered", "failed", "lost"):
            number = sum(each["result"] == result for each in kept)
            if self.look.counted("attempt", result) != number:
                yield f"{self.look.counted('attempt', result)} attempts {result} are counted, there were {number}"

    @property
    def _said(self) -> dict[str, list[Row]]:
        """The acknowledgements of each process of the round."""
        return {path.stem: said_in(path) for path in sorted(self.round.folder.glob("*.progress"))}

    def problems_of_archive(self, archive: Path) -> list[str]:
        """Return its problems after everything is purged: it has each dead letter completely, and once unless a purge was killed."""
        documents, torn = read_archives(archive)
        problems = []
        times = Counter(each["delivery"]["event_id"] for each in documents)
        if times.keys() != self.known.keys():
            problems.append(f"{len(self.known)} were purged, {len(times)} are in the archive")
        purges = [each for each in self.round.struck if each.victim.kind in PURGING]
        twice = [event_id for event_id, number in times.items() if number > 1]
        if all(each.came_too_late for each in purges):
            if twice:
                problems.append(
                    f"{len(twice)} are in the archive twice, and no purge was killed: {twice[:3]}"
                )
            if torn:
                problems.append(f"{len(torn)} bytes of archives are no document, and no purge was killed")
        for each in documents:
            event_id = each["delivery"]["event_id"]
            if base64.b64decode(each["event"]["body"]) != self.round.events.get(event_id):
                problems.append(f"{event_id}: its body in the archive is not the one that was enqueued")
        return problems


def read_archives(asked: Path) -> tuple[list[dict], bytes]:
    """Return the documents of all purges with this archive name, and the partial lines that killed purges left."""
    stem, dot, suffix = asked.name.partition(".")
    documents, torn = [], b""
    for path in sorted(asked.parent.glob(f"{stem}*{dot}{suffix}")):
        lines, rest = complete_lines(path)
        documents += map(json.loads, lines)
        torn += rest
    return documents, torn
