"""The plan of a round, drawn from a seed: the same seed and number give the same round."""

import random
from dataclasses import dataclass
from typing import Literal, Self

Kind = Literal["emit", "auto", "replay", "purge", "archive", "collect", "export", "enqueue"]
KINDS: tuple[Kind, ...] = ("emit", "auto", "replay", "archive", "export", "purge", "collect", "enqueue")
SENDING = frozenset({"emit", "auto", "replay"})
PURGING = frozenset({"purge", "archive"})
Signal = Literal["SIGKILL", "SIGTERM", "SIGINT", "SIGSTOP"]
SIGNALS: tuple[Signal, ...] = ("SIGKILL", "SIGSTOP", "SIGINT", "SIGTERM")
# For a second command, while the first one is killed; commands that send are the most important.
_OTHER_SIGNALS = SIGNALS[1:]
_OTHER_KINDS: tuple[Kind, ...] = ("emit", "auto", "replay", "enqueue", "collect")
# A worker that crashed before the round, as its leases say.
GHOST = "ghost"
# In seconds after the work has begun; it rarely takes longer.
LATEST: dict[Kind, float] = {
    "emit": 1.0,
    "auto": 1.0,
    "replay": 0.8,
    "purge": 0.2,
    "archive": 0.3,
    "collect": 0.2,
    "export": 1.5,
    "enqueue": 0.3,
}


@dataclass(frozen=True)
class Victim:
    """A process that is to be hit.

    Attributes:
        kind: ``emit`` is an emission in the task lane, ``auto`` one in the lane auto, ``archive`` a purge that archives.
        signal: SIGSTOP is followed by SIGCONT after another process has taken over its leases.
        delay: seconds from the beginning of its work.
        progress: how many dead letters a purge must have removed before it is hit: it has few transactions, so that a delay
            alone would rarely hit one.
        pauses: the seed of a slow store; None for the normal store.
    """

    kind: Kind
    signal: Signal
    delay: float
    pauses: int | None = None
    progress: int = 0


@dataclass(frozen=True)
class Plan:
    """A round.

    Attributes:
        way: ``domain`` runs the operations without Prefect, ``commands`` the command line and the flows.
        compressed: whether the archive is compressed.
        delivered_too: whether a purge also removes delivered events.
        by_owner: whether leases are rescued from owners known to be dead; otherwise they expire.
    """

    number: int
    seed: str
    database: Literal["sqlite", "postgresql"]
    way: Literal["domain", "commands"]
    victims: tuple[Victim, ...]
    compressed: bool
    delivered_too: bool
    by_owner: bool

    @classmethod
    def draw(cls, seed: int, number: int, way: Literal["domain", "commands"]) -> Self:
        """Draw a round. The database, the first victim and its signal take turns; the rest is random."""
        own_seed = f"{seed}:{way}:{number}"
        rng = random.Random(own_seed)
        draw_hits = _domain_hits if way == "domain" else _command_hits
        victims: list[Victim] = []
        for kind, signal in draw_hits(number, rng):
            # Commands have the normal store, and purge quickly.
            pauses = rng.randrange(1 << 32) if way == "domain" and rng.random() < 0.7 else None
            latest = LATEST[kind] * (1.0 if pauses is None else 2.0)
            progress = 0
            if kind in PURGING and (way == "commands" or rng.random() < 0.6):
                progress, latest = rng.randrange(1, 1500), 0.02
            victims.append(Victim(kind, signal, rng.uniform(0, latest), pauses, progress))
        return cls(
            number,
            own_seed,
            _database(number, way),
            way,
            tuple(victims),
            compressed=rng.random() < 0.5,
            delivered_too=rng.random() < 0.5,
            by_owner=rng.random() < 0.5,
        )

    @property
    def kinds(self) -> set[Kind]:
        return {victim.kind for victim in self.victims}

    def __str__(self) -> str:
        victims = ", ".join(f"{each.kind} {each.signal} after {each.delay:.2f} s" for each in self.victims)
        return f"round {self.seed} ({self.database}): {victims}"


def _database(number: int, way: Literal["domain", "commands"]) -> Literal["sqlite", "postgresql"]:
    """Alternate, with shifts, so that within 64 rounds each kind meets each signal on both databases."""
    turn, place = divmod(number, len(KINDS))
    shift = place // len(SIGNALS) + turn // len(SIGNALS) if way == "domain" else 0
    return "sqlite" if (place + turn + shift) % 2 else "postgresql"


def _domain_hits(number: int, rng: random.Random) -> list[tuple[Kind, Signal]]:
    """Return one to three hits; the first one's kind and signal take turns."""
    turn, place = divmod(number, len(KINDS))
    kinds = [KINDS[place], *rng.choices(KINDS, k=rng.choices((0, 1, 2), (3, 4, 3))[0])]
    # All purges archive, or none: otherwise some purged events would be in no archive.
    if purging := [kind for kind in kinds if kind in PURGING]:
        kinds = [purging[0] if kind in PURGING else kind for kind in kinds]
    hits: list[tuple[Kind, Signal]] = [(kinds[0], SIGNALS[(place + turn) % len(SIGNALS)])]
    for kind in kinds[1:]:
        signal = rng.choices(SIGNALS, (45, 25 if kind in SENDING else 10, 15, 15))[0]
        if signal == "SIGSTOP" and any(each == "SIGSTOP" for _, each in hits):
            signal = "SIGKILL"
        hits.append((kind, signal))
    return hits


def _command_hits(number: int, rng: random.Random) -> list[tuple[Kind, Signal]]:
    """Return two hits, since there are few such rounds: each kind in turn is killed, beside one that gets another signal."""
    first = KINDS[number % len(KINDS)]
    # Only one command that sends, since the owners of leases are unknown.
    beside = [kind for kind in _OTHER_KINDS if kind != first and not {kind, first} <= SENDING]
    return [(first, "SIGKILL"), (rng.choice(beside), _OTHER_SIGNALS[number % len(_OTHER_SIGNALS)])]
