"""What each HTTP status means, by the table ``classification.json``."""

import json
from pathlib import Path

import httpx
import pytest
import requests

from resonant.delivery.verdict import Verdict
from support.misbehaving import by_aiohttp, by_sink, judge

HERE = Path(__file__)
TABLE = json.loads(HERE.with_name("classification.json").read_text())
FAMILIES = {
    "1xx (as final)": [100, 101, 103, 199],
    "other 4xx": [417, 418, 424, 451, 499],
    "other 5xx (520-530 CDN, 509)": [507, 509, 520, 530, 599],
}
STATUSES = [
    pytest.param(status, row, id=str(status))
    for row in TABLE["http"]
    if row["category"] != "success"  # a 2xx is the sink's: it raises nothing
    for status in FAMILIES.get(row["status"], [row["status"]])
]


def by_httpx(status, retry_after=None):
    headers = {"retry-after": retry_after} if retry_after else {}
    request = httpx.Request("POST", "http://receiver.example/")
    return httpx.HTTPStatusError("", request=request, response=httpx.Response(status, headers=headers))


def by_requests(status, retry_after=None):
    response = requests.Response()
    response.status_code = status
    if retry_after:
        response.headers["retry-after"] = retry_after
    return requests.HTTPError("", response=response)


each_library = pytest.mark.parametrize(
    "answered", [by_sink, by_httpx, by_requests, by_aiohttp], ids=lambda f: f.__name__
)


@each_library
@pytest.mark.parametrize(("status", "row"), STATUSES)
def test_a_status_is_judged_as_its_row_says(answered, status, row):
    verdict = judge(answered(status))
    assert verdict.category == row["category"]
    assert verdict.maybe_processed == row["may_have_been_processed"]
    assert verdict.retry_after is None
    assert verdict.code == ("throttled" if status == 429 else f"http_{status}")
    assert verdict.blame == ("local" if status in {407, 511} else "endpoint")
    assert verdict.gone == (status == 410)


@each_library
@pytest.mark.parametrize(("status", "row"), STATUSES)
def test_retry_after_counts_where_its_row_says(answered, status, row):
    verdict = judge(answered(status, "120"))
    if row["retry_after"]:
        assert (verdict.category, verdict.retry_after) == ("transient", 120.0)
        assert not verdict.gone
    else:
        assert (verdict.category, verdict.retry_after) == (row["category"], None)


@pytest.mark.parametrize(("status", "row"), STATUSES)
def test_a_retry_after_that_is_nonsense_changes_nothing(status, row):
    assert judge(by_sink(status, "soon")) == judge(by_sink(status))


def test_a_locked_resource_is_worth_a_retry():
    assert judge(by_sink(423)).category == "transient"


@pytest.mark.parametrize("status", [-1, 0, 99, 600, 999, 10**9])
def test_a_status_that_is_none_does_not_widen_the_set_of_codes(status):
    assert judge(by_sink(status)) == Verdict("unknown", "http_other", maybe_processed=True)


def test_a_retry_after_date_is_compared_to_the_clock_given():
    assert judge(by_sink(503, "Mon, 03 Jun 2019 11:30:12 GMT")).retry_after == 1812


def test_a_requests_error_without_a_response_is_a_transport_error():
    assert judge(requests.HTTPError("no response")).code == "transport_error"


@pytest.mark.parametrize("category", ["transient", "permanent", "unknown"])
@pytest.mark.parametrize("status", [302, 404, 429, 500])
def test_an_override_decides_the_category_alone(status, category):
    plain, verdict = judge(by_sink(status)), judge(by_sink(status, "120"), overrides={status: category})
    assert verdict.category == category
    assert verdict.retry_after == (None if category == "permanent" else 120.0)
    assert (verdict.code, verdict.maybe_processed, verdict.blame) == (
        plain.code,
        plain.maybe_processed,
        plain.blame,
    )


def test_an_override_for_another_status_changes_nothing():
    assert judge(by_sink(404), overrides={403: "transient"}) == judge(by_sink(404))


def test_an_endpoint_whose_410_is_overridden_is_not_flagged_gone():
    assert not judge(by_sink(410), overrides={410: "transient"}).gone
