"""The quickstart of the README, word for word: only its ports are replaced by free ones.

A block that runs for long gets a terminal of its own; bash runs the other blocks, one after another.
"""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from resonant.local.server import free_port
from support.machine import clean_environment
from support.pages import PROJECT, SHELLS, Page, blocks_of
from support.waiting import wait_until

SECTION = Page(PROJECT / "README.md").section("Quickstart")
BLOCKS = [block.text for block in blocks_of(SECTION) if block.language in SHELLS]
# How a block that runs for long begins, and what it prints once it is ready.
READY = {"resonant up": "Ctrl-C stops", "python -m resonant.testing": "http://127.0.0.1:"}
PATIENCE_SECONDS = 180


@pytest.fixture
def environment(tmp_path):
    """A new user's environment, in a shell where Resonant is installed."""
    here = str(Path(sys.executable).parent)
    path = f"{here}{os.pathsep}{os.environ['PATH']}"
    return clean_environment() | {"HOME": str(tmp_path), "PATH": path, "TERM": "dumb", "COLUMNS": "120"}


@pytest.fixture
def terminal(tmp_path, environment):
    """Start a block in a terminal of its own, and return the file of what it shows."""
    with contextlib.ExitStack() as stack:

        def start(text):
            number = len(list(tmp_path.glob("terminal-*")))
            shown = tmp_path / f"terminal-{number}"
            main, side = pty.openpty()
            process = subprocess.Popen(
                ["bash", "-c", f"exec {text}"],
                cwd=tmp_path,
                env=environment,
                stdin=side,
                stdout=side,
                stderr=side,
            )
            os.close(side)
            recorder = subprocess.Popen(
                ["cat"], stdin=main, stdout=shown.open("w"), stderr=subprocess.DEVNULL
            )
            os.close(main)

            def stop():
                process.terminate()
                process.wait(PATIENCE_SECONDS)
                recorder.kill()
                recorder.wait()

            stack.callback(stop)
            return shown

        yield start


def ready_text(block):
    return next((text for start, text in READY.items() if block.startswith(start)), None)


@pytest.mark.engine
def test_the_quickstart_delivers_to_the_receiver(tmp_path, environment, terminal):
    port = str(free_port())
    shown = {}
    said = ""
    for block in BLOCKS:
        text = block.replace("9000", port).replace("resonant up", f"resonant up --port {free_port()}")
        if ready := ready_text(block):
            shown[ready] = terminal(text)
            wait_until(lambda file=shown[ready], words=ready: words in file.read_text(), PATIENCE_SECONDS)
            continue
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        said += done.stdout
        assert done.returncode == 0, said

    assert shown.keys() == set(READY.values())
    assert "2 delivered, 0 retried, 0 parked, 0 dead-lettered\n" in said
    assert "balanced: yes" in said
    assert "no dead letters" in said
    received = [line.split("  ", 1)[1] for line in shown["http://127.0.0.1:"].read_text().splitlines()[1:]]
    assert 'order-2-paid  com.example.order.paid  try 1 -> 200  {"order":2,"total":"5.00"}' in received
    assert len(received) == 2


def test_the_shown_line_of_the_receiver_is_a_line_of_the_quickstart():
    [example] = [block.text for block in blocks_of(SECTION) if block.language == "text"]
    assert re.fullmatch(r"\d\d:\d\d:\d\d  order-2-paid  [^\n]* try 1 -> 200  \{[^\n]*\}\n", example)
