"""Flows that pause and resume an endpoint."""

from prefect import State, flow
from prefect.states import Completed

from flows.failing import fail_with_message
from flows.naming import named
from resonant.blocks.documents import endpoint_documents
from resonant.configured import open_configured_store
from resonant.gate.pausing import pause, resume
from resonant.settings import load_settings
from resonant.storing import require_known
from tasks.replay import who_runs_this


@flow(flow_run_name=named("pause", "endpoint"), persist_result=False)
@fail_with_message
async def pause_endpoint(endpoint: str, reason: str | None = None) -> State[None]:
    """Pause an endpoint until it is resumed. Its deliveries wait; requests in flight are completed.

    Args:
        endpoint: Name of the endpoint.
        reason: One line that is shown with the endpoint's state.
    """
    async with open_configured_store(load_settings()) as store:
        await require_known(store, endpoint, endpoint_documents)
        return Completed(message=(await pause(store, endpoint, who=who_runs_this(), reason=reason)).text)


@flow(flow_run_name=named("resume", "endpoint"), persist_result=False)
@fail_with_message
async def resume_endpoint(endpoint: str, now: bool = False) -> State[None]:
    """Resume a paused endpoint: send its deliveries again.

    If the endpoint was failing before the pause, or answered 410, a probe is sent first.

    Args:
        endpoint: Name of the endpoint.
        now: Also make its parked deliveries due now.
    """
    async with open_configured_store(load_settings()) as store:
        await require_known(store, endpoint, endpoint_documents)
        resumed = await resume(store, endpoint, who=who_runs_this(), send_parked=now)
        return Completed(message=resumed.text)
