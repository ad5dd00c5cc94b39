"""The log counts refused requests; test_server has the limits."""

from resonant.intake.serving.admission import RefusalLog


async def test_a_minute_of_refused_requests_is_one_line(caplog):
    refusals = RefusalLog()
    for status in (202, 503, 401, 503):
        refusals.note(status)
    refusals._log()
    assert caplog.messages == ["refused requests in the last minute: 1 with 401, 2 with 503"]
