"""The first page."""


def test_the_first_page_shows_the_balance(pages):
    assert "accepted" in pages.html("/")


def test_the_status_is_that_of_the_command(pages):
    assert pages.json("/status")["balanced"] is True
