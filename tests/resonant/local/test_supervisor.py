"""The supervisor: no descendant outlives the process that started it, in any session."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from resonant.local.supervisor import keep, kill
from support.processes import alive
from support.waiting import wait_until

# Starts a process in a session of its own, as Prefect's worker does, and says its id.
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {child!r}], start_new_session=True, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""
OBEDIENT = "import time; print(flush=True); time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {OBEDIENT}"
# Says that it was asked to end, and continues.
REFUSING = f"""
import signal
signal.signal(signal.SIGTERM, lambda *_: print("asked to end", flush=True))
{OBEDIENT}
"""


@contextlib.contextmanager
def kept(child: str = OBEDIENT, *, patience: float = 30.0):
    """Run the parent in a supervisor; give the supervisor, the parent and the child."""
    command = [sys.executable, "-c", PARENT.format(child=child)]
    supervisor = subprocess.Popen(
        [sys.executable, "-m", "resonant.local.supervisor", str(patience), *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        grandchild = psutil.Process(int(supervisor.stdout.readline()))
        yield supervisor, grandchild.parent(), grandchild
    finally:
        supervisor.stdin.close()
        supervisor.stdout.close()
        supervisor.wait(30)


@pytest.mark.parametrize(
    ("end", "number"),
    [
        (lambda each: each.stdin.close(), signal.SIGTERM),
        (lambda each: each.send_signal(signal.SIGTERM), signal.SIGTERM),
        (lambda each: each.send_signal(signal.SIGHUP), signal.SIGHUP),
    ],
    ids=["standard input", "SIGTERM", "SIGHUP"],
)
def test_all_processes_end_with_standard_input_and_on_signals(end, number):
    with kept() as (supervisor, *family):
        end(supervisor)
        assert supervisor.wait(60) == 128 + number
        assert not alive(family)


def test_a_process_that_ignores_sigterm_is_killed_after_its_time():
    with kept(STUBBORN, patience=0.5) as (supervisor, *family):
        started_at = time.monotonic()
        supervisor.stdin.close()
        supervisor.wait(60)
        assert time.monotonic() - started_at >= 0.5
        assert not alive(family)


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere the orphans of a killed process have no way back"
)
def test_orphans_of_a_killed_process_are_ended():
    with kept() as (supervisor, parent, child):
        parent.kill()
        assert supervisor.wait(60) == 128 + signal.SIGKILL
        assert not alive([child])


def test_the_exit_code_is_that_of_the_process():
    finished = subprocess.run(
        [sys.executable, "-m", "resonant.local.supervisor", "1", sys.executable, "-c", "raise SystemExit(7)"],
        stdin=os.pipe()[0],
        check=False,
    )
    assert finished.returncode == 7


def test_a_process_that_is_killed_before_its_command_starts_never_starts_it(tmp_path):
    started = tmp_path / "started"
    with (tmp_path / "log").open("wb") as log:
        command = [sys.executable, "-c", f"open({str(started)!r}, 'w')"]
        kept_one = keep(command, dict(os.environ), log)
    kill(kept_one)
    assert kept_one.wait(60) == -signal.SIGKILL
    assert not started.exists()


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
    log = tmp_path / "log"
    command = [sys.executable, "-c", ENDING, str(log), REFUSING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as ending:
        assert ending.stdout.readline() == "ending\n"
        family = psutil.Process(ending.pid).children(recursive=True)
        assert len(family) == 2, "the supervisor and the process"
        wait_until(lambda: "asked to end" in log.read_text())
        ending.send_signal(signal.SIGINT)
        ending.wait(60)
    gone, alive = psutil.wait_procs(family, timeout=60)
    assert (len(gone), alive) == (2, [])
