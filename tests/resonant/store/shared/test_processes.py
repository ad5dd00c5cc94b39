"""Processes have names, by which others recognise that they have ended."""

import mmap
import os
import subprocess
import sys

import pytest

from resonant.store.shared import processes
from resonant.store.shared.processes import has_ended, this_process

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux names processes")
_SAY_NAME = """
import sys
from resonant.store.shared.processes import this_process
print(this_process(), flush=True)
sys.stdin.read()"""


@pytest.fixture(scope="module")
def ended():
    """The name of a process that was killed, seen before its parent has asked for its result, and afterwards."""
    command = [sys.executable, "-c", _SAY_NAME]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        name = process.stdout.readline().strip()
        before = has_ended(name)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        as_zombie = has_ended(name)
    return name, before, as_zombie


def test_a_process_has_ended_once_it_is_killed(ended):
    assert not has_ended(this_process())
    assert this_process() == this_process()
    name, before, as_zombie = ended
    assert not before
    assert as_zombie
    assert has_ended(name)


def test_a_process_has_ended_if_another_one_has_its_id():
    machine, pid, started_at = this_process().rsplit(" ", 2)
    assert has_ended(f"{machine} {pid} {int(started_at) - 1}")


def test_a_process_whose_memory_grows_has_not_ended():
    name = this_process()
    with mmap.mmap(-1, 1 << 24):
        assert not has_ended(name)


def test_a_process_of_another_machine_container_or_version_has_not_ended(ended):
    name, *_ = ended
    parts = name.split(" ")
    for number in range(len(parts) - 2):
        assert not has_ended(" ".join([*parts[:number], "other", *parts[number + 1 :]])), parts[number]
    boot, pid_namespace, *_, pid, started_at = parts
    assert not has_ended(f"{boot} {pid_namespace} {pid} {started_at}")


def test_a_living_process_in_another_time_namespace_has_not_ended():
    inside = [*["unshare", "--time", "--boottime", "86400", "--fork"], sys.executable, "-c", _SAY_NAME]
    if subprocess.run([*inside[:5], "true"], check=False, capture_output=True).returncode:
        pytest.skip("only root may make a time namespace")
    with subprocess.Popen(inside, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        name = process.stdout.readline().strip()
        # Only the time is another one.
        assert name.split(" ")[:2] == this_process().split(" ")[:2]
        has_ended_meanwhile = has_ended(name)
        process.stdin.close()
    assert not has_ended_meanwhile
    assert not has_ended(name), "this process cannot tell"


def test_a_proc_of_another_namespace_names_no_process(ended, tmp_path, monkeypatch):
    """As in a container that mounts the host's."""
    (tmp_path / "self").symlink_to("1234567")
    monkeypatch.setattr(processes, "_PROC", tmp_path)
    assert this_process() is None
    assert not has_ended(ended[0])
