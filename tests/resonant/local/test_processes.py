"""Processes that are kept: Ctrl-C while one is ended kills it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import psutil

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
ENDING = """
import os, subprocess, sys, time
from pathlib import Path
from resonant.local.supervisor import end, keep
log = Path(sys.argv[1])
with log.open("wb") as file:
    kept = keep([sys.executable, "-c", sys.argv[2]], dict(os.environ), file, patience=600.0)
while not log.read_text():
    time.sleep(0.01)
print("ending", flush=True)
end(kept)
"""


def test_ctrl_c_kills_a_process_that_is_slow_to_end(tmp_path):
    command = [sys.executable, "-c", ENDING, str(tmp_path / "log"), STUBBORN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as ending:
        assert ending.stdout.readline() == "ending\n"
        family = psutil.Process(ending.pid).children(recursive=True)
        assert len(family) == 2, "the supervisor and the process"
        time.sleep(0.1)  # it waits for the supervisor
        ending.send_signal(signal.SIGINT)
        ending.wait(60)
    gone, alive = psutil.wait_procs(family, timeout=60)
    assert (len(gone), alive) == (2, [])
