"""The README's quickstart ends in visible deliveries."""

from __future__ import annotations

import os
import pty
import re
import shlex
import sys
from pathlib import Path

import pytest

from resonant.local.server import free_port

README = (Path(__file__).parents[2] / "README.md").read_text()
STEPS = README.partition("## Quickstart")[2].partition("\n## ")[0]


@pytest.fixture
def terminal():
    """Run a program on a terminal, and return its output as a file of lines."""
    opened = []

    def run(*argv: str):
        pid, fd = pty.fork()
        if pid == 0:
            os.execv(argv[0], argv)
        opened.append((pid, fd))
        return os.fdopen(os.dup(fd), errors="replace")

    yield run
    for pid, fd in opened:
        os.kill(pid, 15)
        os.waitpid(pid, 0)
        os.close(fd)


@pytest.mark.engine
def test_the_commands_of_the_quickstart_deliver_to_the_receiver(machine, terminal):
    port = str(free_port())
    [receiver] = re.findall(r"^python -m resonant.testing.*$", STEPS, re.MULTILINE)
    _, *arguments = shlex.split(receiver.replace("9000", port))
    shown = terminal(sys.executable, *arguments)
    assert shown.readline().strip() == f"http://127.0.0.1:{port}"

    events = re.search(r"cat > (\S+) <<'END'\n(.*?)END\n", STEPS, re.DOTALL)
    (machine.home / events[1]).write_text(events[2])
    commands = [
        line for line in STEPS.splitlines() if line.startswith("resonant ") and "resonant up" not in line
    ]
    assert len(commands) == 5
    said = {}
    for command in commands:
        _, *words = shlex.split(command.replace("9000", port), comments=True)
        words = [str(machine.home / word) if word == events[1] else word for word in words]
        done = machine.do(*words)
        said[words[0]] = done.stdout + done.stderr

    assert said["emit"].startswith("2 delivered, 0 retried, 0 parked, 0 dead-lettered\n")
    assert "balanced: yes" in said["status"]
    assert "no dead letters" in said["dlq"]
    lines = sorted(shown.readline().strip().split("  ", 1)[1] for _ in range(2))
    assert any(
        line == 'order-2-paid  com.example.order.paid  try 1 -> 200  {"order":2,"total":"5.00"}'
        for line in lines
    ), lines
    machine.do("endpoint", "remove", "shop", "--yes")
