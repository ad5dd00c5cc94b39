"""Bad input is refused with one line that says how to correct it, and no partial effect.

Mistakes that are found before a server is asked are in tests/resonant/cli/test_refusals.py.
"""

import json

import pytest

pytestmark = pytest.mark.engine

GOOD = {"type": "t", "source": "/s", "data": {"n": 1}}


def test_an_endpoint_that_the_server_does_not_know_is_refused_before_anything_is_stored(machine):
    path = machine.write_events("e.jsonl", [GOOD])
    finished = machine.do("emit", path, "--endpoint", "nowhere", code=2)

    [line] = finished.stderr.splitlines()
    assert line.startswith("resonant: no endpoint is named 'nowhere'")
    assert "endpoint add nowhere URL" in line
    assert not machine.database.exists() or machine.read("status")["accepted"] == 0


def test_bad_lines_are_reported_and_the_good_ones_are_delivered(machine, start_receiver):
    machine.save_endpoint("hooks", start_receiver("resonant.testing:always_ok").url)
    path = machine.home / "mixed.jsonl"
    lines = [
        json.dumps(GOOD | {"id": "good-1"}),
        "{not json",
        json.dumps(GOOD | {"id": "big", "data": "x" * 10_000_000}),
        json.dumps(GOOD | {"id": "good-2"}),
        json.dumps(GOOD | {"id": "good-1", "data": {"n": 2}}),
    ]
    path.write_text("\n".join(lines))

    finished = machine.do("emit", str(path), "--endpoint", "hooks", code=1)

    assert f"{path}:2: not JSON" in finished.stderr
    assert f"{path}:3: " in finished.stderr
    assert "RESONANT_MAX_EVENT_BYTES" in finished.stderr
    assert f"{path}:5: id 'good-1' of source '/s' already exists with different content" in finished.stderr
    status = machine.read("status")
    assert (status["accepted"], status["delivered"], status["balanced"]) == (2, 2, True)


@pytest.mark.parametrize(
    ("url", "fragment", "commands"),
    [
        ("postgresql://user:swordfish@127.0.0.1:1/nothing", "no database server answers", ["status", "emit"]),
        ("mysql://x/y", "sqlite:///PATH or postgresql://", ["status", "emit"]),
        ("sqlite:////proc/nowhere/x.db", "check its path and mode", ["emit"]),
        ("sqlite:////proc/nowhere/x.db", "no such file", ["status"]),
    ],
    ids=["no server", "another database", "no folder to write", "no file to read"],
)
def test_an_unreachable_database_is_reported_in_one_line_without_its_password(
    machine, url, fragment, commands
):
    # An emission waits a third of a lease for the database.
    machine.variables |= {"RESONANT_DATABASE_URL": url, "RESONANT_LEASE_SECONDS": "1"}
    for command in commands:
        [line] = machine.do(command, code=1).stderr.splitlines()
        assert fragment in line
        assert "swordfish" not in line
