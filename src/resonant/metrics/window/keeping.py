"""The data of a window, kept on disk from one export to the next."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from resonant.files import atomic_file, make_private_folder
from resonant.metrics import snapshot
from resonant.metrics.window.segments import Codes, Names, Segment, merged
from resonant.metrics.window.watching import Sight, Watch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from resonant.metrics.window.segments import Floats

_FORMAT = 3
# Unlisted files of this age are removed. Younger ones may belong to another exporter that has not saved its list yet.
_LEFT_OVER_SECONDS = 3600
_MANIFEST = "window.json"


@dataclass(slots=True)
class Kept:
    """The kept data of a store.

    Attributes:
        store: its name.
        since: attempts and ends before this time are not included; seconds since the epoch.
        purged: the ledger; if it has changed, some rows that were read are gone.
        read_at: when everything was last read from the store, seconds since the epoch.
        mark: the last attempt that was read; if the store does not have it, it is another store.
        delivered: the number of delivered rows, by endpoint.
        watch: the ids among which more may appear.
    """

    store: str
    since: float
    purged: int
    read_at: float
    mark: snapshot.Mark | None = None
    delivered: Counter[str] = field(default_factory=Counter)
    names: Names = field(default_factory=Names.empty)
    segments: list[Segment] = field(default_factory=list)
    watch: Watch = field(default_factory=Watch)

    def put_away(self, folder: Path) -> None:
        """Write past hours to disk, and map them from there: a whole day would take much memory.

        Raises:
            OSError: a file cannot be written.
        """
        newest = max((each.hour for each in self.segments), default=0)
        for place, each in enumerate(self.segments):
            if each.file is None and each.hour != newest:
                each.file = _write_arrays(folder, each.arrays())
                self.segments[place] = Segment.load(folder, each.to_document())

    def drop_ends(self, deliveries: Sequence[int]) -> None:
        """Drop the ends of these deliveries, which have been replayed since."""
        if deliveries:
            ids = np.array(deliveries, dtype=np.float64)
            self.segments = [each.without(ids) for each in self.segments]

    def add(self, segments: Iterable[Segment]) -> None:
        """Add new segments, and merge small ones: an hour has few segments, each much smaller than the one before."""
        newest = max((each.hour for each in self.segments), default=0)
        for new in segments:
            of_hour = [each for each in self.segments if each.hour == new.hour]
            joined = [new]
            while of_hour and of_hour[-1].size <= 2 * sum(each.size for each in joined):
                joined.append(of_hour.pop())
            others = [each for each in self.segments if each.hour != new.hour]
            self.segments = [*others, *of_hour, merged(joined)]
        if newest < max((each.hour for each in self.segments), default=0):
            # An hour is over, and will hardly grow: merge its segments.
            by_hour: defaultdict[int, list[Segment]] = defaultdict(list)
            for each in self.segments:
                by_hour[each.hour].append(each)
            self.segments = [merged(of_hour) for of_hour in by_hour.values()]


def load(folder: Path, store: str) -> Kept | None:
    """Return the kept data of this store; None if it is missing or unusable."""
    try:
        document = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        if (document["format"], document["store"]) != (_FORMAT, store):
            return None
        return Kept(
            store,
            document["since"],
            document["purged"],
            document["read_at"],
            snapshot.Mark(*document["mark"]) if document["mark"] else None,
            Counter(document["delivered"]),
            Names(*(Codes(document["names"][name]) for name in Names._fields)),
            [Segment.load(folder, each) for each in document["segments"]],
            Watch(
                document["settled"],
                [snapshot.Run(*each) for each in document["runs"]],
                [Sight(*each) for each in document["sights"]],
            ),
        )
    except (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError):
        return None


def save(folder: Path, kept: Kept) -> None:
    """Write new segments to files, and then replace the list of all files in one step.

    Raises:
        OSError, ResonantError: a file cannot be written; the data on disk is unchanged.
    """
    for segment in kept.segments:
        if segment.file is None:
            segment.file = _write_arrays(folder, segment.arrays())
    document = {
        "format": _FORMAT,
        "store": kept.store,
        "since": kept.since,
        "purged": kept.purged,
        "read_at": kept.read_at,
        "mark": kept.mark,
        "delivered": kept.delivered,
        "names": {name: list(codes) for name, codes in kept.names._asdict().items()},
        "settled": kept.watch.settled,
        "runs": kept.watch.runs,
        "sights": kept.watch.sights,
        "segments": [each.to_document() for each in kept.segments],
    }
    make_private_folder(folder)
    with atomic_file(folder / _MANIFEST) as write:
        write(json.dumps(document))
    files = {segment.file for segment in kept.segments}
    old = time.time() - _LEFT_OVER_SECONDS
    for path in folder.glob("*.npy"):
        with contextlib.suppress(FileNotFoundError):
            if path.name not in files and path.stat().st_mtime < old:
                path.unlink()


def _write_arrays(folder: Path, arrays: Sequence[Floats]) -> str:
    make_private_folder(folder)
    name = f"{secrets.token_hex(8)}.npy"
    fd = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(fd, "wb") as file:  # noqa: PTH123 - a descriptor
            np.save(file, np.concatenate(arrays), allow_pickle=False)
            file.flush()
            os.fsync(fd)
    except BaseException:
        (folder / name).unlink(missing_ok=True)
        raise
    return name
