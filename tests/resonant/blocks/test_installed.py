"""Sinks of other packages are found by their entry points and by ``RESONANT_SINKS``; a broken one stops no other."""

import logging
import sys

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

from resonant.blocks import WebhookEndpoint, load_endpoint, loading
from resonant.blocks.catalog import remove_endpoint
from resonant.blocks.loading import installed_sinks, load_endpoints
from resonant.errors import SettingsError
from support.file_endpoint import FileEndpoint

SINK = """
from resonant.blocks import SinkBlock

class {name}(SinkBlock):
    async def deliver(self, event):
        pass
"""


@pytest.fixture(autouse=True)
def packages(tmp_path, monkeypatch):
    """A folder of installed packages, none of which another test has loaded."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("RESONANT_SINKS", raising=False)
    before = set(sys.modules)
    forget()
    yield tmp_path
    forget()
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def forget() -> None:
    loading._of_packages.cache_clear()
    loading._of_setting.cache_clear()


def install(folder, module: str, source: str, *, entry: str = "") -> None:
    (folder / f"{module}.py").write_text(source)
    if entry:
        metadata = folder / f"{module}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[resonant.sinks]\nmine = {entry}\n")


def names() -> list[str]:
    return [kind.__name__ for kind in installed_sinks()]


def test_an_entry_point_names_a_class_or_a_module_and_a_setting_names_modules(packages, monkeypatch):
    install(packages, "sink_by_class", SINK.format(name="ByClass"), entry="sink_by_class:ByClass")
    install(packages, "sink_by_module", SINK.format(name="ByModule"), entry="sink_by_module")
    install(packages, "sink_one", SINK.format(name="One"))
    install(packages, "sink_two", SINK.format(name="Two"))
    monkeypatch.setenv("RESONANT_SINKS", "sink_one, sink_two")
    assert {"ByClass", "ByModule"} <= set(names())
    assert names()[-2:] == ["One", "Two"]
    assert "SinkBlock" not in names()


def test_a_broken_package_is_logged_once_and_the_others_are_found(packages, caplog):
    install(packages, "sink_broken", "import no_such_library", entry="sink_broken:Broken")
    install(packages, "sink_none", "class Other: pass", entry="sink_none:Other")
    install(packages, "sink_whole", SINK.format(name="Whole"), entry="sink_whole:Whole")
    with caplog.at_level(logging.WARNING, "resonant.blocks"):
        assert "Whole" in names()
        assert "Other" not in names()
    [record] = [each for each in caplog.records if "sink_broken" in each.getMessage()]
    assert record.getMessage() == (
        "sink mine (sink_broken:Broken) is not available: No module named 'no_such_library'"
    )
    assert caplog.text.count("it has no subclass of SinkBlock") == 1


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("sink_mistyped", "No module named 'sink_mistyped'"),
        ("sink_empty", "it has no subclass of SinkBlock"),
    ],
)
def test_a_wrong_name_in_the_setting_is_an_error_that_names_it(packages, monkeypatch, module, reason):
    install(packages, "sink_empty", "")
    monkeypatch.setenv("RESONANT_SINKS", module)
    with pytest.raises(SettingsError, match=f"^RESONANT_SINKS: {module}: {reason}$"):
        installed_sinks()


@pytest.mark.engine
async def test_a_wrong_name_in_the_setting_does_not_affect_webhook_endpoints(
    prefect_api, monkeypatch, tmp_path
):
    monkeypatch.setenv("RESONANT_SINKS", "sink_mistyped")
    with temporary_settings({PREFECT_API_URL: prefect_api}):
        await WebhookEndpoint(url=SecretStr("https://example.com")).asave("unaffected", overwrite=True)
        await FileEndpoint(path=tmp_path / "log").asave("affected", overwrite=True)
        assert isinstance(await load_endpoint("unaffected"), WebhookEndpoint)
        with pytest.raises(SettingsError, match="sink_mistyped"):
            await load_endpoint("file-endpoint/affected")
        found = await load_endpoints()
        assert isinstance(found["unaffected"], WebhookEndpoint)
        assert "sink_mistyped" in str(found["file-endpoint/affected"])
        await remove_endpoint("unaffected")
        await remove_endpoint("file-endpoint/affected")
