"""The flow ``report_failed_runs``: stores an event for each failed flow run that an endpoint watches."""

from prefect import State, flow
from prefect.logging import get_run_logger
from prefect.states import Completed

from flows.failing import fail_with_message
from flows.naming import named
from resonant.configured import open_configured_store
from resonant.settings import load_settings
from tasks.reports import store_failed_runs


@flow(flow_run_name=named("report failed runs"), persist_result=False)
@fail_with_message
async def report_failed_runs() -> State[None]:
    """Store an event for each failed, crashed and late flow run, as `resonant automation enable failed-runs` set it up.

    The run reads the flow runs that have failed since the last time from Prefect, never those of Resonant itself.
    """
    async with open_configured_store(load_settings(), patient=True) as store:
        return Completed(message=await store_failed_runs(store, get_run_logger().warning))
