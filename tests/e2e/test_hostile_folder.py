"""A command in somebody else's folder, such as a cloned repository: Prefect's settings there have no effect and run no code.

test_up_password.py has a `resonant up` in such a folder.
"""

import pytest

from resonant.local.project import MARKS
from support.hostile_folder import make_hostile
from support.machine import Machine

pytestmark = pytest.mark.engine

REQUEST_TIMEOUT = """
from pathlib import Path
from resonant.local.compatibility import import_prefect
here = Path.cwd()
import_prefect()
from prefect.settings import PREFECT_API_REQUEST_TIMEOUT
print(PREFECT_API_REQUEST_TIMEOUT.value(), Path.cwd() == here)
"""


def test_a_command_ignores_the_settings_files_and_the_profile_that_they_name(machine):
    has_run = make_hostile(machine)
    machine.succeed("emit")
    assert not has_run()


@pytest.mark.parametrize(("is_project", "timeout"), [(True, "77.0"), (False, "60.0")])
def test_settings_of_the_folder_count_if_it_is_a_project(is_project, timeout, tmp_path):
    machine = Machine(tmp_path)
    (tmp_path / ".env").write_text("PREFECT_API_REQUEST_TIMEOUT=77\n")
    for mark in MARKS if is_project else ():
        (tmp_path / mark).parent.mkdir(exist_ok=True)
        (tmp_path / mark).touch()
    done = machine.run_code(REQUEST_TIMEOUT)
    assert (done.stdout, done.stderr) == (f"{timeout} True\n", "")
