"""The start of our Prefect server."""

import subprocess
import sys
from pathlib import Path

import pytest

from support.machine import clean_environment

LACKS_A_NAME = """
from prefect.server.utilities.messaging import memory
del memory.Consumer
from deployments.server import main
main()
"""


@pytest.mark.slow
def test_a_server_whose_prefect_lacks_a_name_ends_with_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LACKS_A_NAME],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=Path(__file__).parents[2],
        env=clean_environment() | {"PREFECT_HOME": str(tmp_path)},
    )
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("resonant: Prefect ")
    assert " has no Consumer, which Resonant " in line
