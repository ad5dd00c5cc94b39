"""A Prefect flow of your own that sends its result as an event, and an event about itself if it fails.

Both events are stored in the store of RESONANT_DATABASE_URL, and a drain delivers them, such as those of ``resonant up``.
``PREFECT_API_URL`` is the server that shows the runs, such as that of ``resonant up``::

    resonant endpoint add reports https://hooks.example.com/reports
    resonant endpoint add operations https://hooks.example.com/operations
    export PREFECT_API_URL=http://127.0.0.1:4200/api
    python examples/in_your_flow.py
    resonant deliveries
"""

import sys

from prefect import flow
from prefect.settings import PREFECT_API_URL

from resonant.prefect import emit, store_event_on

tell_operations = store_event_on("operations")


@flow(name="nightly-sales", on_failure=[tell_operations], on_crashed=[tell_operations])
def nightly_sales(amounts: list[int]) -> None:
    """Send the sum of the sales to the endpoint ``reports``, or fail if there are none."""
    if not amounts:
        raise ValueError("the file of sales is empty")
    data = {"sales": sum(amounts)}
    emit({"type": "com.example.sales.counted", "source": "/flows/nightly-sales", "data": data}, "reports")


if __name__ == "__main__":
    if PREFECT_API_URL.value() is None:
        # Prefect would start a server of its own, on the same database as that of `resonant up`.
        sys.exit("set PREFECT_API_URL: the server of `resonant up` is at http://127.0.0.1:4200/api")
    nightly_sales([19, 5, 42])
    nightly_sales([], return_state=True)
