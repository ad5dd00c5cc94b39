"""The store's file is deleted while a command has it open."""

from __future__ import annotations

import json
from pathlib import Path

from support.waiting import wait_until


def line(number: int) -> str:
    return json.dumps({"id": f"evt_{number}", "type": "t", "source": "/s", "data": number}) + "\n"


def test_a_write_to_a_deleted_file_is_not_a_success(resonant, url):
    path = Path(url.removeprefix("sqlite:///"))
    feed = resonant.start("enqueue", "-", "--endpoint", "billing", "--allow-unknown")
    feed.stdin.write(line(1))
    feed.stdin.flush()
    wait_until(lambda: resonant.json("status")["accepted"] == 1)
    for each in path.parent.glob(f"{path.name}*"):
        each.unlink()
    said, errors = feed.communicate(line(2), timeout=30)
    assert (feed.returncode, said) == (1, "")
    assert errors.startswith(f"resonant: {url}: the file or its -wal was deleted or replaced")
    assert errors.count("\n") == 1
    assert "which stay" not in errors
