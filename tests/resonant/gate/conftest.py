"""Processes that share a gate."""

import pytest

from support.gate_processes import Process, Row


@pytest.fixture
def row():
    return Row()


@pytest.fixture
def process(row):
    return Process(row)


@pytest.fixture
def other(row):
    return Process(row, "two")
