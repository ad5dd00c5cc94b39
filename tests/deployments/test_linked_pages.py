"""The artifacts that commands link exist from the first bootstrap on."""

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from resonant.local.artifacts import PAGES, create_missing

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("key", PAGES)
def test_a_linked_page_exists_before_the_first_run_that_writes_it(server, key):
    page = server.get(f"/artifacts/{key}/latest")
    assert page.status_code == 200, page.text
    if page.json()["flow_run_id"] is None:  # no other test of this server has run the flow
        assert page.json()["description"] == page.json()["data"]
        assert page.json()["data"].startswith("Nothing yet: the next run of ")


async def test_another_bootstrap_leaves_a_page_as_it_is(server, ready_api):
    def written():
        of_key = {"artifacts": {"key": {"any_": [*PAGES]}}}
        return {each["id"] for each in server.post("/artifacts/filter", json=of_key).json()}

    before = written()
    with temporary_settings({PREFECT_API_URL: ready_api}):
        await create_missing()
    assert written() == before
