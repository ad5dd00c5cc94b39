"""Bad input is refused with one line that says how to correct it, and no partial effect."""

import json

import pytest

pytestmark = pytest.mark.engine

GOOD = {"type": "t", "source": "/s", "data": {"n": 1}}


@pytest.fixture
def hooks(machine, start_receiver):
    """An endpoint that answers, with a new name in this session's Prefect server."""
    receiver = start_receiver("resonant.testing:always_ok")
    name = f"hooks-{machine.home.name.replace('_', '-')[:40]}".lower()
    machine.save_endpoint(name, receiver.url)
    return name


def assert_one_line(finished, *fragments: str) -> None:
    assert "Traceback" not in finished.stderr
    lines = [line for line in finished.stderr.splitlines() if line.startswith("resonant: ")]
    assert len(lines) == 1, finished.stderr
    for fragment in fragments:
        assert fragment in lines[0]


@pytest.mark.parametrize(
    ("endpoint", "fragments"),
    [
        (("--endpoint", "nowhere"), ("no endpoint is named 'nowhere'", "endpoint add nowhere URL")),
        ((), ("--endpoint is missing",)),
        (("--endpoint", "http://x:99999/"), ("URL",)),
        (("--endpoint", "http://127.0.0.1:9/"), ("private", "--allow-private")),
    ],
    ids=["unknown name", "no name", "malformed URL", "private address"],
)
def test_an_unusable_endpoint_is_refused_before_anything_is_stored(machine, endpoint, fragments):
    finished = machine.do("emit", machine.write_events("e.jsonl", [GOOD]), *endpoint, code=2)

    assert_one_line(finished, *fragments)
    assert not machine.database.exists() or machine.read("status")["accepted"] == 0


def test_a_server_that_does_not_answer_is_an_error_before_anything_is_stored(machine):
    machine.prefect_api = "http://127.0.0.1:1/api"

    finished = machine.do("emit", machine.write_events("e.jsonl", [GOOD]), "--endpoint", "hooks", code=1)

    assert_one_line(finished, "no Prefect server answers at http://127.0.0.1:1/api", "PREFECT_API_URL")
    assert not machine.database.exists()


@pytest.mark.parametrize(
    ("url", "fragment", "commands"),
    [
        ("postgresql://user:swordfish@127.0.0.1:1/nothing", "no database server answers", ["status", "emit"]),
        ("mysql://x/y", "sqlite:///PATH or postgresql://", ["status", "emit"]),
        ("sqlite:////proc/nowhere/x.db", "check its path and mode", ["emit"]),
        ("sqlite:////proc/nowhere/x.db", "no such file", ["status"]),
    ],
)
def test_an_unreachable_database_is_reported_in_one_line_without_its_password(
    machine, url, fragment, commands
):
    machine.variables["RESONANT_DATABASE_URL"] = url
    # An emission waits a third of it for the database.
    machine.variables["RESONANT_LEASE_SECONDS"] = "1"

    for command in commands:
        finished = machine.do(command, code=1)

        assert_one_line(finished, fragment)
        assert "swordfish" not in finished.stderr


def test_bad_lines_are_reported_and_the_good_ones_are_delivered(machine, hooks):
    path = machine.home / "mixed.jsonl"
    lines = [
        json.dumps(GOOD | {"id": "good-1"}),
        "{not json",
        json.dumps({"type": "t", "data": 1}),
        json.dumps(GOOD | {"id": "big", "data": "x" * 10_000_000}),
        "",
        json.dumps(GOOD | {"id": "good-2"}),
        json.dumps(GOOD | {"id": "good-1", "data": {"n": 2}}),
    ]
    path.write_text("\n".join(lines))

    finished = machine.do("emit", str(path), "--endpoint", hooks, code=1)

    assert f"{path}:2: not JSON" in finished.stderr
    assert f"{path}:3: source is missing" in finished.stderr
    assert f"{path}:4: " in finished.stderr
    assert "RESONANT_MAX_EVENT_BYTES" in finished.stderr or "limit" in finished.stderr
    assert f"{path}:7: id 'good-1' of source '/s' already exists with different content" in finished.stderr
    assert '{"n":2}' in finished.stderr
    assert '{"n":1}' in finished.stderr
    status = machine.read("status")
    assert (status["accepted"], status["delivered"], status["balanced"]) == (2, 2, True)
