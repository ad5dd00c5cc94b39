import pytest

from support.posting import posting


@pytest.fixture
def client(desk):
    with posting(desk) as client:
        yield client
