"""Both event loops, and no garbage of earlier tests in tests in which a warning is an error."""

import gc
import warnings

import pytest


@pytest.fixture(autouse=True, scope="module")
def without_earlier_garbage():
    """Collect garbage now. A socket or database that an earlier test left open warns when it is collected."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


@pytest.fixture(scope="module", params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request):
    """Run each test on both event loops: the flow runs of Prefect use uvloop, other programs what they choose."""
    if request.param:
        pytest.importorskip("uvloop", reason="uvloop is not available for this Python")
    return "asyncio", {"use_uvloop": request.param}
