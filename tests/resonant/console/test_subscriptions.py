"""Who gets what, and the trial of an event."""

import html
import json
from pathlib import Path
from urllib.parse import quote

from support.console import document_of
from support.subscriptions import subscribe


def tried(text):
    return f"/subscriptions?event={quote(text)}"


def test_the_list_is_that_of_the_command(pages):
    subscribe(pages.desk, "crm", "order.*", source="/<b>eu</b>/*")
    subscribe(pages.desk, "shop")
    assert pages.json("/subscriptions") == document_of(["subscription", "list"], pages)
    shown = pages.html("/subscriptions")
    assert "events of type order.* of source /&lt;b&gt;eu&lt;/b&gt;/*" in shown
    assert "every event" in shown


def test_an_event_shows_who_gets_it_and_why_the_others_do_not(pages, tmp_path):
    subscribe(pages.desk, "crm", "order.*")
    subscribe(pages.desk, "shop", "invoice.*")
    text = json.dumps({"id": "e1", "type": "order.paid", "source": "/shop"})
    (file := Path(tmp_path / "event.json")).write_text(text)
    assert pages.json(tried(text)) == document_of(["subscription", "test", str(file)], pages)
    shown = pages.html(tried(text))
    assert 'order.paid of /shop goes to <a href="/endpoints/crm">crm</a>.' in shown
    assert "does not match &#39;invoice.*&#39;" in shown
    assert pages.desk.status().accepted == 0


def test_a_bad_event_is_refused_beside_its_text(pages):
    text = '{"type": "</textarea><script>",\n "source": 1'
    shown = pages.html(tried(text), code=422)
    assert "Not an event: not JSON" in shown
    assert html.escape(text).replace("&quot;", "&#34;") in shown
    assert "not JSON" in pages.json(tried(text), code=422)["detail"]
    assert "no such value" in pages.json("/subscriptions?evnt=1", code=422)["detail"]
