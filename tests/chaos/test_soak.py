"""An hour at a steady rate, while one attempt in ten fails: memory, descriptors, the store's size and the lag stay flat.

In the long form alone (``RESONANT_CHAOS=long``). ``RESONANT_CHAOS_SOAK_MINUTES`` is another length than an hour,
``RESONANT_CHAOS_SOAK_RATE`` another rate than 50 events a second. Beside ``RESONANT_CHAOS_REPORT`` are the samples, as CSV.
"""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import soak_worker
from faults import long_form_only, note_figures
from soak import Samples, accounts
from soak_worker import Orders

from resonant.store import WorkerStore
from support.failures import show_on_failure
from support.receivers import started_receiver

_MINUTES = float(os.environ.get("RESONANT_CHAOS_SOAK_MINUTES", "60"))
_RATE = float(os.environ.get("RESONANT_CHAOS_SOAK_RATE", "50"))
_SAMPLE_SECONDS = min(10.0, _MINUTES)
# Unfinished deliveries wait for their retries.
_LAST_SECONDS = 180.0


@long_form_only("this takes an hour")
@pytest.mark.timeout(_MINUTES * 60 + 600)
async def test_memory_descriptors_store_and_lag_stay_flat(tmp_path, sqlite_url):
    with started_receiver(tmp_path / "receiver", "support.receiver_scripts:ten_per_cent") as receiver:
        ends_at = time.time() + _MINUTES * 60
        # So that the first purge is in the first quarter.
        orders = Orders(sqlite_url, receiver.url, str(tmp_path), ends_at, _RATE, keep_minutes=_MINUTES / 8)
        await (await WorkerStore.open(sqlite_url)).close()
        processes = {role: start(role, orders, tmp_path) for role in ("produce", "drain", "keep")}
        try:
            samples = Samples(Path(sqlite_url.removeprefix("sqlite:///")), processes)
            while time.time() + _SAMPLE_SECONDS < ends_at:
                await asyncio.sleep(_SAMPLE_SECONDS)
                for role, process in processes.items():
                    assert process.poll() is None, f"{role} has ended"
                samples.take()
            for role, process in processes.items():
                assert process.wait(_LAST_SECONDS) == 0, role
        finally:
            for process in processes.values():
                process.kill()
                process.wait()
        produced = int((tmp_path / "produced").read_text())
        figures, problems = accounts(produced, sqlite_url, tmp_path, receiver)
    if report := os.environ.get("RESONANT_CHAOS_REPORT"):
        samples.write(Path(report).with_name(f"{Path(report).stem}-soak.csv"))
    note_figures("soak", {"minutes": _MINUTES, "events/s": _RATE} | figures | {"medians": samples.figures()})
    problems += [
        *samples.problems(),
        *(f"{role} complained: {text[:300]}" for role in processes if (text := complaints(role, tmp_path))),
    ]
    assert not problems, "\n".join(problems[:20])


def start(role: str, orders: Orders, folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, soak_worker.__file__, role, orders.to_json()]
    path = folder / f"{role}.errors"
    show_on_failure(role, path)
    with path.open("wb") as errors:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)


def complaints(role: str, folder: Path) -> str:
    """Return the errors of a process, without the warnings about the receiver's invalid Retry-After."""
    lines = (folder / f"{role}.errors").read_text().splitlines(keepends=True)
    expected = ("ignored a Retry-After", "a Retry-After of more than 24 hours")
    return "".join(line for line in lines if not line.startswith(expected))
