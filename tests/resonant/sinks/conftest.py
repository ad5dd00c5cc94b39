"""Both event loops, and no garbage of earlier tests in tests in which a warning is an error."""

import gc
import warnings

import pytest

from support.event_loops import LOOP_FACTORIES


@pytest.fixture(autouse=True, scope="module")
def without_earlier_garbage():
    """Collect garbage now. A socket or database that an earlier test left open warns when it is collected."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


@pytest.fixture(scope="module", params=LOOP_FACTORIES)
def anyio_backend(request):
    """Run each test on both event loops. Flow runs use uvloop; other programs may use either."""
    return "asyncio", {"loop_factory": request.param}
