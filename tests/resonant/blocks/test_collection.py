"""Our blocks have the form that Prefect asks of a collection: description, logo, page, and code examples that run."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from prefect.testing.standard_test_suites import blocks as standard_suite
from pydantic import SecretStr

import resonant.blocks
from resonant.blocks import DeploymentEndpoint, PrefectEventEndpoint, ResonantNotification, WebhookEndpoint
from support.machine import Machine
from support.pages import PROJECT, Page

sys.path.append(str(PROJECT / "examples" / "spool_sink"))
from spool_sink import SpoolEndpoint

REPOSITORY = "https://raw.githubusercontent.com/resonant-events/resonant/main/"
PAGES = "https://github.com/resonant-events/resonant/blob/main/"
OURS = [
    kind
    for kind in (getattr(resonant.blocks, name) for name in dir(resonant.blocks))
    if inspect.isclass(kind) and not inspect.isabstract(kind)
]
BLOCKS = {
    WebhookEndpoint: WebhookEndpoint(url=SecretStr("https://hooks.example.com")),
    ResonantNotification: ResonantNotification(endpoint="shop"),
    DeploymentEndpoint: DeploymentEndpoint(deployment="retrain/main"),
    PrefectEventEndpoint: PrefectEventEndpoint(),
}


@pytest.fixture(params=[*OURS, SpoolEndpoint], ids=lambda kind: kind.__name__)
def block(request):
    return request.param


class TestEveryBlockIsAProperBlock(BlockStandardTestSuite):
    @pytest.fixture
    def block(self, block):
        return block

    @pytest.fixture(autouse=True)
    def logos_of_this_checkout(self, monkeypatch):
        """The repository's files are at this address once they are pushed."""
        monkeypatch.setattr(
            standard_suite, "urlopen", lambda url: (PROJECT / url.removeprefix(REPOSITORY)).open("rb")
        )


def test_the_page_of_a_block_exists(block):
    assert (PROJECT / str(block._documentation_url).removeprefix(PAGES)).is_file()


def snippet(kind) -> str:
    """Return the code that Prefect's UI shows for a block named ``shop``."""
    [code] = re.findall(r"```python(.*?)```", kind.get_code_example(), re.DOTALL)
    return code.replace("BLOCK_NAME", "shop", 1).strip()


def test_the_list_of_our_blocks_is_complete():
    assert set(OURS) == set(BLOCKS)


def test_the_page_has_the_code_example_of_each_block():
    shown = Page(PROJECT / "docs" / "how-to" / "blocks.md").text
    for kind in OURS:
        assert snippet(kind) in shown
        assert len(snippet(kind).splitlines()) <= 10


@pytest.mark.engine
def test_prefects_command_registers_the_blocks_of_an_installed_package(prefect_api, tmp_path):
    command = [str(Path(sys.executable).with_name("prefect")), "block", "register", "-m", "resonant.blocks"]
    environment = os.environ | {"PREFECT_API_URL": prefect_api, "HOME": str(tmp_path)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Successfully registered 4 blocks" in done.stdout
    assert {kind.get_block_type_name() for kind in OURS} <= set(re.split(r" *│ *|\n", done.stdout))


@pytest.mark.engine
def test_the_code_examples_of_the_blocks_run_in_any_folder(prefect_api, tmp_path):
    machine = Machine(tmp_path, prefect_api)
    with temporary_settings({PREFECT_API_URL: prefect_api}):
        for block in BLOCKS.values():
            block.save("shop", overwrite=True)
    ran = machine.run_code("\n".join(map(snippet, BLOCKS)))
    assert ran.returncode == 0, ran.stderr
    stored = machine.query("SELECT endpoint FROM resonant_deliveries ORDER BY id")
    kinds = ("", "", "resonant-deployment/", "resonant-prefect-event/")
    assert [each["endpoint"] for each in stored] == [f"{kind}shop" for kind in kinds]
