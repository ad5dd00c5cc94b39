"""docs/retries.md: each row of its table is one command, and the command gives the row's figures."""

from pathlib import Path

import pytest

from benches import simulations

ROWS = [
    line
    for line in Path("docs/retries.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("|") and simulations.COMMAND in line
]


def test_the_table_has_every_simulation():
    cells = [row.strip("| ").split(" | ") for row in ROWS]
    commands = {f"{simulations.COMMAND} {options}".rstrip() for _, options in simulations.ROWS}
    assert {each[0] for each in cells} == {name for name, _ in simulations.ROWS}
    assert {each[-1].strip("`") for each in cells} == commands


@pytest.mark.slow
@pytest.mark.parametrize("row", [ROWS[0], ROWS[9]], ids=lambda row: row.split("|")[1].strip())
def test_a_command_gives_the_figures_of_its_row(row):
    name = row.strip("| ").split(" | ")[0]
    assert simulations.line(name, dict(simulations.ROWS)[name]) == row
