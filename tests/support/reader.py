"""A reader of the quickstarts, who follows them word for word: only their ports are replaced by free ones."""

import os
import pty
import signal
import subprocess
from pathlib import Path

from support.machine import Up
from support.pages import PROJECT, SHELLS, Page, blocks_of
from support.ports import free_port
from support.waiting import wait_until

README, QUICKSTART = Page(PROJECT / "README.md"), Page(PROJECT / "docs" / "quickstart.md")
HTTP = Page(PROJECT / "docs" / "how-to" / "http-intake.md")
# The beginnings of the blocks that keep running.
UP, RECEIVER = "resonant up", "python -m resonant.testing"
PATIENCE_SECONDS = 240
# Makes the store and the server as they were before the first page.
FORGET = (
    "endpoint remove shop --yes",
    "token revoke shop-backend",
    "purge --older-than 0 --delivered-older-than 0 --yes",
)


def blocks(page: Page, heading: str) -> list[str]:
    return [block.text for block in blocks_of(page.section(heading)) if block.language in SHELLS]


class Reader:
    """A new user in whose shell Resonant is installed, beside a running `resonant up`. The receiver has a terminal."""

    def __init__(self, up: Up, intake: str, environment: dict[str, str]) -> None:
        self.home = Path(environment["HOME"])
        self.environment = environment
        self.ports = {"9000": str(free_port()), "4200": str(up.port), "8080": intake}
        self.receiver: subprocess.Popen[bytes] | None = None
        self.terminal = self.home / "terminal"

    def do(self, block: str, *, may_fail: bool = False) -> str:
        """Run a block, and return its output. Start the receiver in a terminal, and wait until it is ready."""
        for port, free in self.ports.items():
            block = block.replace(port, free)
        if block.startswith(RECEIVER):
            self.receiver = self._start(block)
            wait_until(lambda: "http://127.0.0.1:" in self.shown, PATIENCE_SECONDS)
            return self.shown
        done = subprocess.run(
            ["bash", "-u", *([] if may_fail else ["-e"]), "-c", block],
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

    @property
    def shown(self) -> str:
        """The text in the terminal of the receiver."""
        return self.terminal.read_text()

    def stop_receiver(self) -> None:
        """Press Ctrl-C in its terminal."""
        if self.receiver:
            self.receiver.send_signal(signal.SIGINT)
            self.receiver.wait(PATIENCE_SECONDS)
            self.receiver = None

    def _start(self, text: str) -> subprocess.Popen[bytes]:
        main, side = pty.openpty()
        with self.terminal.open("w") as file:
            # Ends with its terminal, when the last program that writes to it has ended.
            subprocess.Popen(["cat"], stdin=main, stdout=file, stderr=subprocess.DEVNULL)
        command = ["bash", "-c", f"exec {text}"]
        process = subprocess.Popen(
            command, cwd=self.home, env=self.environment, stdin=side, stdout=side, stderr=side
        )
        os.close(main)
        os.close(side)
        return process


def received(reader: Reader) -> list[str]:
    """Return the lines that the receiver has shown, without their times."""
    return [line.split("  ", 1)[1] for line in reader.shown.splitlines()[1:]]


def beside(programs: list[str]) -> list[str]:
    """Leave out the blocks that keep running."""
    return [block for block in programs if not block.startswith((UP, RECEIVER))]


def follow_readme(reader: Reader) -> None:
    """Follow the README, which delivers two events, and one over HTTP."""
    up, *others = blocks(README, "Quickstart")
    assert up == f"{UP} --serve 8080\n", "the fixture `up` has this option"
    said = "".join(reader.do(block) for block in others)
    assert "2 delivered, 0 retried, 0 parked, 0 dead-lettered\n" in said
    assert "balanced: yes" in said
    assert "no dead letters" in said
    assert 'order-2-paid  com.example.order.paid  try 1 -> 200  {"order":2,"total":"5.00"}' in received(
        reader
    )
    assert '"duplicate": false, "endpoints": ["shop"]' in said
    wait_until(lambda: len(received(reader)) == 3, PATIENCE_SECONDS)


def follow_quickstart(reader: Reader) -> None:
    """Follow the page after the README, whose steps it repeats at first."""
    enqueue, receive, resume = blocks(QUICKSTART, "See an outage")
    reader.stop_receiver()
    said = reader.do(enqueue)
    assert said.count("order-3-paid") >= 2, said
    assert "refused" in said
    reader.do(receive)
    reader.do(resume)
    wait_until(lambda: any("order-3-paid" in line for line in received(reader)), PATIENCE_SECONDS)

    emit, replay = blocks(QUICKSTART, "See a dead letter")
    reader.stop_receiver()
    said = reader.do(emit, may_fail=True)
    assert "1 dead-lettered" in said
    assert "connect_refused" in said
    reader.do(receive)
    said = reader.do(replay)
    assert "balanced: yes" in said
    assert any("order-4-paid" in line for line in received(reader))


def follow_http(reader: Reader) -> None:
    """Follow the page about HTTP, which delivers from curl to the receiver."""
    before = len(received(reader))
    said = "".join(reader.do(block) for block in beside(blocks(HTTP, "From curl to the receiver")))
    assert "HTTP/1.1 202" in said
    assert '"duplicate": false, "endpoints": ["shop"]' in said
    wait_until(lambda: any("order-1-paid" in line for line in received(reader)), PATIENCE_SECONDS)

    for block in blocks(HTTP, "Ways to send events"):
        reader.do(block)
    wait_until(lambda: len(received(reader)) == before + 4, PATIENCE_SECONDS)
