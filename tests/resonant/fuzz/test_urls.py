"""Any text as an endpoint URL either opens or raises an ``EndpointError`` that does not quote it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from resonant.blocks import WebhookEndpoint
from resonant.blocks.catalog import name_from_url
from resonant.errors import EndpointError

fuzzed = settings.get_profile("fuzz")

labels = (
    st.text(
        st.sampled_from("abcxyz0189-_~!$&'()*+,;=%:@[]\u05d0\u0627\u200d\u00df\u0131\U0001f4a9"), max_size=8
    )
    | st.text(max_size=8)
    | st.text(st.sampled_from("abcdz0189-"), max_size=10).map("xn--{}".format)
)
hosts = st.lists(labels, min_size=1, max_size=3).map(".".join) | st.sampled_from(
    ["[::1]", "[fe80::1%25eth0]", "[", "]", "127.1", "0x7f000001", "", "[v1.a]"]
)
users = st.sampled_from(["", "", "", "user@", "user:s3cret-word@", ":@", "@"])
ports = st.sampled_from(["", "", ":80", ":0", ":65536", ":a", ":-1", ":"])
paths = st.sampled_from(["", "/", "/in?key=t0ken-t0ken", "?a=%zz", "#x", "/%"]) | st.text(max_size=5)
urls = st.builds(
    "{}{}{}{}{}".format,
    st.sampled_from(["http://", "https://", "HTTP://", "ftp://", ""]),
    users,
    hosts,
    ports,
    paths,
)


@fuzzed
@given(urls | st.text())
async def test_any_url_opens_or_is_refused_in_one_line_that_does_not_quote_it(url):
    try:
        target = WebhookEndpoint(url=SecretStr(url), allow_private=True).open("billing")
    except EndpointError as refused:
        said = str(refused)
    else:
        assert target.name == "billing"
        assert target.describe(ValueError("no")) == "ValueError: no"
        await target.close()
        return
    assert said.startswith("endpoint 'billing': ")
    assert "\n" not in said
    assert len(url) < 12 or url not in said


@fuzzed
@given(urls | st.text())
def test_any_url_gives_a_name_or_is_refused(url):
    try:
        name = name_from_url(url)
    except EndpointError:
        return
    assert name
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


@pytest.mark.parametrize(
    "url", ["http://xn--a.example/", "http://xn--/", "http://xn--ls8h.la/", "http://xn--0.com/"]
)
def test_a_host_with_an_invalid_a_label_is_no_well_formed_url(url):
    with pytest.raises(EndpointError, match="its URL is not well-formed"):
        WebhookEndpoint(url=SecretStr(url)).open("billing")
    with pytest.raises(EndpointError, match="the URL is not well-formed"):
        name_from_url(url)
