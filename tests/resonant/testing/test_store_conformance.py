"""The contract of the store holds on every database, and the checks notice if it does not."""

import pytest

from resonant.testing import store_conformance

DATABASES = ["sqlite", "postgresql", pytest.param("pgbouncer", marks=pytest.mark.program)]


@pytest.fixture(params=DATABASES)
def url(request):
    """The URL of an empty database, of one kind after the other."""
    return request.getfixturevalue(f"{request.param}_url")


async def test_a_database_keeps_the_contract_of_the_store(url):
    assert len(await store_conformance(url)) == 17


BROKEN = {
    "resonant.store.queue.locked_rows.is_held": (True, "a process that has lost its lease changes only the"),
    "resonant.store.queue.rescue.ExpiryWatch.may_rescue": (True, "only a process that has watched takes"),
    "resonant.store.counts.counters.fold": (0, "folding changes no count: what is not folded is"),
}


@pytest.mark.parametrize("part", BROKEN)
async def test_a_broken_store_fails_with_one_line_for_each_check(sqlite_url, monkeypatch, part):
    answer, line = BROKEN[part]
    monkeypatch.setattr(part, lambda *_, **__: answer)
    with pytest.raises(AssertionError) as failure:
        await store_conformance(sqlite_url)
    [found] = str(failure.value).splitlines()
    assert found.startswith(line)
