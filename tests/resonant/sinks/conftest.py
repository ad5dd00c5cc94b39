"""Both event loops, and no garbage of earlier tests in tests in which a warning is an error."""

import gc
import warnings

import pytest

from resonant.testing import Authority
from support.event_loops import LOOP_FACTORIES

# Flow runs use uvloop; other programs may use either. The other files test what does not depend on the loop.
ON_BOTH_LOOPS = (
    "test_client_certificate.py",
    "test_faults.py",
    "test_http.py",
    "test_proxy.py",
    "test_security_doors.py",
)


def pytest_generate_tests(metafunc):
    if "anyio_backend" in metafunc.fixturenames and metafunc.definition.path.name in ON_BOTH_LOOPS:
        metafunc.parametrize("anyio_backend", LOOP_FACTORIES, indirect=True, scope="module")


@pytest.fixture(scope="module")
def anyio_backend(request):
    return "asyncio", {"loop_factory": getattr(request, "param", None)}


@pytest.fixture(autouse=True, scope="module")
def without_earlier_garbage():
    """Collect garbage now. A socket or database that an earlier test left open warns when it is collected."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


@pytest.fixture(scope="session")
def authority():
    return Authority()


@pytest.fixture(scope="session")
def ca_file(authority, tmp_path_factory):
    return authority.write_to(tmp_path_factory.mktemp("ca") / "ca.pem")
