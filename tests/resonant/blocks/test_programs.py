"""Programs that have Resonant installed know its block types, beside a ``blocks`` package of their own."""

import subprocess
import sys

import pytest

from support.processes import clean_environment

LOOK_UP = "from prefect.blocks.core import Block; Block.get_block_class_from_key('webhook-endpoint')"


def run(code: str, folder) -> str:
    """Run a program that must succeed; return what it prints."""
    environment = clean_environment() | {"HOME": str(folder)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_any_program_can_look_up_our_block_types_and_no_other_name_becomes_importable(tmp_path):
    said = run(
        f"{LOOK_UP}\nimport sys, importlib.util\n"
        "assert not importlib.util.find_spec('blocks')\nassert not importlib.util.find_spec('tasks')",
        tmp_path,
    )
    assert said == ""


@pytest.mark.parametrize("file", ["__init__.py", "mine.py"], ids=["package", "folder"])
def test_a_program_with_its_own_blocks_has_them_and_ours(tmp_path, file):
    (tmp_path / "blocks").mkdir()
    (tmp_path / "blocks" / file).write_text("theirs = True")
    theirs = "blocks" if file == "__init__.py" else "blocks.mine"
    said = run(
        f"{LOOK_UP}\nimport {theirs}\nassert {theirs}.theirs\n"
        "from resonant.blocks import SinkBlock, WebhookEndpoint, load_endpoint\n"
        "assert Block.get_block_class_from_key('webhook-endpoint') is WebhookEndpoint\n"
        "assert load_endpoint.__module__ == 'resonant.blocks.loading'",
        tmp_path,
    )
    assert said == "", "Prefect would print a warning"


def test_in_a_process_that_runs_our_flows_the_classes_are_those_of_the_project(tmp_path):
    run(
        "from resonant.local.project import make_flows_importable\nmake_flows_importable()\n"
        "from resonant.blocks import SinkBlock, WebhookEndpoint\nimport blocks\n"
        "assert SinkBlock is blocks.SinkBlock and WebhookEndpoint is blocks.WebhookEndpoint",
        tmp_path,
    )


def test_a_pickled_block_can_be_loaded_in_another_process(tmp_path):
    block = "WebhookEndpoint(url=SecretStr('https://example.com'))"
    run(
        "import cloudpickle\nfrom pydantic import SecretStr\nfrom resonant.blocks import WebhookEndpoint\n"
        f"open('block', 'wb').write(cloudpickle.dumps({block}))",
        tmp_path,
    )
    run(
        "import cloudpickle, prefect\nblock = cloudpickle.loads(open('block', 'rb').read())\n"
        "from resonant.blocks import WebhookEndpoint\nassert isinstance(block, WebhookEndpoint)",
        tmp_path,
    )
