"""Servers that may lose what they have committed."""

import pytest

from support.dispatching import opened

RISK = "a crash of its machine may lose or damage stored events; set them to on"


@pytest.fixture
def says_so(postgresql, postgresql_url):
    """The URL of a database on a server without fsync, where no one has accepted that."""
    with postgresql.without_accepted_risk():
        yield postgresql_url


@pytest.fixture
def partial_pages(postgresql):
    """Let the server write no full pages to its log."""
    postgresql.execute("ALTER SYSTEM SET full_page_writes = off")
    postgresql.reload()
    yield
    postgresql.execute("ALTER SYSTEM RESET full_page_writes")
    postgresql.reload()


async def test_a_server_that_may_lose_commits_is_named_with_the_remedy(says_so):
    async with opened(says_so) as store:
        assert store.durability_problem == f"PostgreSQL runs with fsync=off: {RISK}"


@pytest.mark.usefixtures("partial_pages")
async def test_all_unsafe_settings_are_named(says_so):
    async with opened(says_so) as store:
        assert store.durability_problem == f"PostgreSQL runs with fsync=off and full_page_writes=off: {RISK}"


async def test_a_server_whose_users_accept_the_risk_and_sqlite_are_not_warned_of(store_url):
    async with opened(store_url) as store:
        assert store.durability_problem is None
