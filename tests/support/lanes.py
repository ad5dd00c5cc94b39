"""Marks of tests that run in both lanes otherwise."""

import pytest

# The test emits each delivery alone, so it uses the fixture `lane` only once.
in_task_lane = pytest.mark.parametrize("lane", [0], indirect=True, ids=["task lane"])
