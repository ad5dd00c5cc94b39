"""What a round does, drawn from a seed: the same seed and number give the same round."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import Literal

Kind = Literal["emit", "bulk", "replay", "purge", "archive", "collect", "export", "enqueue"]
KINDS: tuple[Kind, ...] = ("emit", "bulk", "replay", "archive", "export", "purge", "collect", "enqueue")
SENDING = frozenset({"emit", "bulk", "replay"})
PURGING = frozenset({"purge", "archive"})
Signal = Literal["SIGKILL", "SIGTERM", "SIGINT", "SIGSTOP"]
SIGNALS: tuple[Signal, ...] = ("SIGKILL", "SIGSTOP", "SIGINT", "SIGTERM")
# A worker that crashed before the round, as its leases say.
GHOST = "ghost"
# In seconds from when the work is seen to have begun: hardly any of it takes longer.
LATEST: dict[Kind, float] = {
    "emit": 1.0,
    "bulk": 1.0,
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
        kind: ``bulk`` is an emission with a chunk size, ``archive`` a purge that archives.
        signal: SIGSTOP is followed by SIGCONT when its leases have gone to another.
        delay: seconds from the beginning of its work.
        progress: how many letters a purge has to have removed before: it does so in few transactions, each of which a
            moment after a commit meets.
        pauses: the seed of a slow store; None for one as it is.
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
        way: ``domain`` runs the operations by themselves, ``commands`` the command line and the flows, in Prefect.
        compressed: whether the archive is.
        delivered_too: whether a purge takes what is delivered, too.
        by_owner: whether leases are taken back from owners known to be over, or run out.
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
    def draw(cls, seed: int, number: int, way: Literal["domain", "commands"]) -> Plan:
        """Draw a round. Databases, and the first victim's kind and signal, take turns; all else is chance."""
        own_seed = f"{seed}:{way}:{number}"
        rng = random.Random(own_seed)
        kinds: list[Kind] = [KINDS[number % len(KINDS)]]
        # Each command is seconds of imports.
        more = rng.choices((0, 1, 2), (3, 4, 3) if way == "domain" else (5, 4, 1))[0]
        while len(kinds) < 1 + more:
            kind = rng.choice(KINDS)
            # One sending command at a time: there it cannot be told whose leases are whose.
            if way == "commands" and (kind in kinds or (kind in SENDING and SENDING & set(kinds))):
                continue
            # All archive, or none: what is purged beside an archive is in no file.
            kinds.append("archive" if kind in PURGING and "archive" in kinds else kind)
        if "archive" in kinds:
            kinds = ["archive" if kind in PURGING else kind for kind in kinds]
        victims: list[Victim] = []
        for kind in kinds:
            signal = rng.choices(SIGNALS, (45, 25 if kind in SENDING else 10, 15, 15))[0]
            if not victims:
                signal = SIGNALS[(number + number // len(KINDS)) % len(SIGNALS)]
            elif signal == "SIGSTOP" and any(each.signal == "SIGSTOP" for each in victims):
                signal = "SIGKILL"
            pauses = rng.randrange(1 << 32) if rng.random() < 0.7 else None
            latest = LATEST[kind] * (1.0 if pauses is None else 2.0)
            progress = 0
            if kind in PURGING and rng.random() < 0.6:
                progress, latest = rng.randrange(1, 1500), 0.02
            victims.append(Victim(kind, signal, rng.uniform(0, latest), pauses, progress))
        return cls(
            number,
            own_seed,
            "sqlite" if (number + number // len(KINDS)) % 2 else "postgresql",
            way,
            tuple(victims),
            compressed=rng.random() < 0.5,
            delivered_too=rng.random() < 0.5,
            by_owner=rng.random() < 0.5,
        )

    @property
    def kinds(self) -> set[Kind]:
        return {victim.kind for victim in self.victims}

    def as_dict(self) -> dict[str, object]:
        return asdict(self)

    def __str__(self) -> str:
        victims = ", ".join(f"{each.kind} {each.signal} after {each.delay:.2f} s" for each in self.victims)
        return f"round {self.seed} ({self.database}): {victims}"
