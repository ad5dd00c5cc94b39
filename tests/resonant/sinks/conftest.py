"""Keep the garbage of earlier tests out of tests in which a warning is an error."""

import gc
import warnings

import pytest


@pytest.fixture(autouse=True, scope="module")
def without_earlier_garbage():
    """Collect garbage now. A socket or database that an earlier test left open warns when it is collected."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()
