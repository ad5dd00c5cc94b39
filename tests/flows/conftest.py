"""Flow runs against a Prefect server and an empty store."""

import pytest
from prefect.artifacts import Artifact
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from resonant.store import WorkerStore


@pytest.fixture
def url(prefect_api, tmp_path, monkeypatch):
    """The URL of an empty store that flow runs use; a Prefect server runs."""
    url = f"sqlite:///{tmp_path}/store.db"
    monkeypatch.setenv("RESONANT_DATABASE_URL", url)
    monkeypatch.setenv("RESONANT_HOME", str(tmp_path / "home"))
    with temporary_settings({PREFECT_API_URL: prefect_api}):
        yield url


@pytest.fixture
async def store(url):
    """That store, open."""
    store = await WorkerStore.open(url)
    yield store
    await store.close()


@pytest.fixture
def read_artifact():
    """Read the newest artifact with a key, and check which flow run wrote it."""

    async def read(key, state):
        async with get_client() as client:
            artifact = await Artifact.aget(key, client=client)
        assert artifact.flow_run_id == state.state_details.flow_run_id
        return artifact

    return read
