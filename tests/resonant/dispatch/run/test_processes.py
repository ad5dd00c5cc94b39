"""Processes have names, by which others recognise that they have ended."""

import os
import subprocess
import sys

import pytest

from resonant.dispatch.run.processes import has_ended, this_process

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux names processes")
_SAY_NAME = """
import sys
from resonant.dispatch.run.processes import this_process
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


def test_this_process_has_not_ended():
    assert not has_ended(this_process())
    assert this_process() == this_process()


def test_a_process_has_ended_once_it_is_killed(ended):
    name, before, as_zombie = ended
    assert (before, as_zombie, has_ended(name)) == (False, True, True)


def test_a_process_has_ended_if_another_one_has_its_id():
    machine, pid, started_at = this_process().rsplit(" ", 2)
    assert has_ended(f"{machine} {pid} {int(started_at) - 1}")


def test_a_process_of_another_machine_or_container_may_run(ended):
    name, *_ = ended
    boot, namespace, pid, started_at = name.split(" ")
    assert not has_ended(f"other-boot {namespace} {pid} {started_at}")
    assert not has_ended(f"{boot} pid:[1] {pid} {started_at}")
