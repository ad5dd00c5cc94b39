"""A failing test prints what it waited for, the last lines of its processes, and the load of the machine."""

from types import SimpleNamespace

import pytest

from support.failures import pytest_runtest_logstart, pytest_runtest_makereport, show_on_failure
from support.waiting import until, wait_until


def test_a_condition_that_does_not_come_true_is_described_with_its_values():
    found = [1, 2]
    with pytest.raises(AssertionError) as failed:
        wait_until(lambda: len(found) == 3 and not found[0], 0)
    assert str(failed.value) == "waited 0 s for: len(found) == 3 and (not found[0])\n  len(found) = 2"


async def test_a_condition_in_the_event_loop_is_described_too():
    async def is_settled():
        return []

    with pytest.raises(AssertionError, match=r"waited 0\.01 s for: is_settled\(\)\n  its last value = \[\]$"):
        await until(lambda: is_settled(), 0.01)  # noqa: PLW0108 - as most calls are
    with pytest.raises(AssertionError, match=r"waited 0\.01 s for: .*is_settled\n"):
        await until(is_settled, 0.01)


async def test_a_timeout_within_a_condition_is_not_taken_for_the_timeout_of_the_wait():
    async def slow():
        raise TimeoutError("of the condition")

    with pytest.raises(TimeoutError, match="of the condition"):
        await until(slow)


def sections_of(*, failed):
    report = SimpleNamespace(failed=failed, sections=[])
    made = pytest_runtest_makereport()
    next(made)
    with pytest.raises(StopIteration):
        made.send(report)
    return dict(report.sections)


def test_a_failure_shows_the_machine_and_the_last_lines_of_its_processes(tmp_path):
    for name, text in (("server", "started\n" * 99 + "it crashed\n"), ("silent", "")):
        (tmp_path / name).write_text(text)
        show_on_failure(name, tmp_path / name)
    show_on_failure("removed", tmp_path / "removed")

    found = sections_of(failed=True)
    assert found["The machine"].startswith("load ")
    assert found["The last lines of server"].splitlines()[-2:] == ["started", "it crashed"]
    assert "The last lines of silent" not in found
    assert "The last lines of removed" not in found
    assert sections_of(failed=False) == {}

    pytest_runtest_logstart()
    assert "The last lines of server" not in sections_of(failed=True), "it wrote during an earlier test"
