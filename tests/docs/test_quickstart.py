"""The quickstarts, word for word, one after another with one `resonant up`: only their ports are replaced by free ones.

A block that keeps running has its own terminal; bash runs the other blocks, one after another.
"""

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from resonant.local.server import free_port
from support.pages import PROJECT, SHELLS, Page, blocks_of, commands
from support.prefect_database import give_prefect_database
from support.processes import clean_environment
from support.waiting import wait_until

README, QUICKSTART = Page(PROJECT / "README.md"), Page(PROJECT / "docs" / "quickstart.md")
HTTP = Page(PROJECT / "docs" / "how-to" / "http-intake.md")
# The beginning of a block that keeps running, and the text that it prints when it is ready.
UP, RECEIVER = "resonant up", "python -m resonant.testing"
READY = {UP: "Ctrl-C stops", RECEIVER: "http://127.0.0.1:"}
PATIENCE_SECONDS = 240
# Makes the store and the server as they were before the first page.
FORGET = """
resonant endpoint remove shop --yes
resonant token revoke shop-backend
resonant purge --older-than 0 --delivered-older-than 0 --yes
"""

pytestmark = pytest.mark.timeout(900)


def blocks(page, heading):
    return [block.text for block in blocks_of(page.section(heading)) if block.language in SHELLS]


class Reader:
    """A reader of a quickstart: a new user in whose shell Resonant is installed, with as many terminals as needed."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.ports = {port: str(free_port()) for port in ("9000", "4200", "8080")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = clean_environment() | {"HOME": str(home), "PATH": path, "COLUMNS": "120"}
        self.running: dict[str, tuple[subprocess.Popen, Path]] = {}

    def do(self, block: str, *, may_fail: bool = False) -> str:
        """Run a block, or start it in a terminal and wait until it is ready; return its output."""
        text = block.replace("9000", self.ports["9000"]).replace("8080", self.ports["8080"])
        text = text.replace(UP, f"{UP} --port {self.ports['4200']}")
        for program, ready in READY.items():
            if block.startswith(program):
                self.running[program] = self._start(text)
                wait_until(lambda: ready in self.shown(program), PATIENCE_SECONDS)  # noqa: B023 - waits here
                return self.shown(program)
        done = subprocess.run(
            ["bash", "-u", *([] if may_fail else ["-e"]), "-c", text],
            cwd=self.home,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert may_fail or done.returncode == 0, done.stdout
        return done.stdout

    def shown(self, program: str) -> str:
        """Return the text in the terminal of a program."""
        return self.running[program][1].read_text()

    def stop(self, program: str) -> None:
        """Press Ctrl-C in the terminal of a program."""
        process, _ = self.running.pop(program)
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE_SECONDS)

    def _start(self, text: str) -> tuple[subprocess.Popen, Path]:
        shown = self.home / f"terminal-{len(list(self.home.glob('terminal-*')))}"
        main, side = pty.openpty()
        with shown.open("w") as file:
            # Ends with its terminal, when the last program that writes to it has ended.
            subprocess.Popen(["cat"], stdin=main, stdout=file, stderr=subprocess.DEVNULL)
        process = subprocess.Popen(
            ["bash", "-c", f"exec {text}"],
            cwd=self.home,
            env=self.environment,
            stdin=side,
            stdout=side,
            stderr=side,
        )
        os.close(main)
        os.close(side)
        return process, shown


@pytest.fixture
def reader(tmp_path):
    reader = Reader(tmp_path)
    give_prefect_database(tmp_path / ".prefect")
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: [reader.stop(program) for program in reversed(list(reader.running))])
        yield reader


def received(reader):
    """Return the lines that the receiver has shown, without their times."""
    return [line.split("  ", 1)[1] for line in reader.shown(RECEIVER).splitlines()[1:]]


def beside(programs):
    """Leave out the blocks that keep running."""
    return [block for block in programs if not block.startswith(tuple(READY))]


def follow_readme(reader):
    """Follow the README, which delivers two events, and one over HTTP."""
    said = "".join(reader.do(block) for block in blocks(README, "Quickstart"))
    assert reader.running.keys() == READY.keys()
    assert "2 delivered, 0 retried, 0 parked, 0 dead-lettered\n" in said
    assert "balanced: yes" in said
    assert "no dead letters" in said
    assert 'order-2-paid  com.example.order.paid  try 1 -> 200  {"order":2,"total":"5.00"}' in received(
        reader
    )
    assert '"duplicate": false, "endpoints": ["shop"]' in said
    wait_until(lambda: len(received(reader)) == 3, PATIENCE_SECONDS)


def follow_quickstart(reader):
    """Follow the page after the README: the endpoint exists, and one of the events is known."""
    deliver = blocks(QUICKSTART, "Deliver two events")
    said = "".join(reader.do(block, may_fail=True) for block in beside(deliver))
    assert "endpoint 'shop' exists" in said
    assert "balanced: yes" in said

    enqueue, receive, resume = blocks(QUICKSTART, "See an outage")
    reader.stop(RECEIVER)
    said = reader.do(enqueue)
    assert said.count("order-3-paid") >= 2, said
    assert "refused" in said
    reader.do(receive)
    reader.do(resume)
    wait_until(lambda: any("order-3-paid" in line for line in received(reader)), PATIENCE_SECONDS)

    emit, replay = blocks(QUICKSTART, "See a dead letter")
    reader.stop(RECEIVER)
    said = reader.do(emit, may_fail=True)
    assert "1 dead-lettered" in said
    assert "connect_refused" in said
    reader.do(receive)
    said = reader.do(replay)
    assert "balanced: yes" in said
    assert any("order-4-paid" in line for line in received(reader))


def follow_http(reader):
    """Follow the page about HTTP, which delivers from curl to the receiver."""
    before = len(received(reader))
    said = "".join(reader.do(block) for block in beside(blocks(HTTP, "From curl to the receiver")))
    assert "HTTP/1.1 202" in said
    assert '"duplicate": false, "endpoints": ["shop"]' in said
    wait_until(lambda: any("order-1-paid" in line for line in received(reader)), PATIENCE_SECONDS)

    for block in blocks(HTTP, "Ways to send events"):
        reader.do(block)
    wait_until(lambda: len(received(reader)) == before + 4, PATIENCE_SECONDS)


def test_the_line_that_the_readme_shows_is_one_of_the_receiver():
    [example] = [block for block in blocks_of(README.section("Quickstart")) if block.language == "text"]
    assert re.fullmatch(r"\d\d:\d\d:\d\d  order-2-paid  [^\n]* try 1 -> 200  \{[^\n]*\}\n", example.text)


def test_the_quickstart_and_the_page_about_http_begin_as_the_readme_does():
    """Therefore it is enough to follow these pages after the README."""

    def read(page, heading):
        every = blocks_of(page.section(heading))
        return [words for block in every if block.language in SHELLS for words in commands(block)]

    readme = read(README, "Quickstart")
    deliver = read(QUICKSTART, "Deliver two events")
    assert deliver[0] == ["resonant", "up"]
    assert readme[0][:2] == ["resonant", "up"]
    assert deliver[1:] == readme[1:7]
    assert read(HTTP, "From curl to the receiver")[:2] == readme[:2]


@pytest.mark.engine
@pytest.mark.own_server
@pytest.mark.slow
def test_the_pages_deliver_events_survive_an_outage_and_replay_a_dead_letter(reader):
    follow_readme(reader)
    follow_quickstart(reader)
    reader.do(FORGET)
    follow_http(reader)
