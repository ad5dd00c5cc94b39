"""A real Prometheus reads a store in both ways, and has the store's numbers, also after a purge and a restart."""

import json
import math
import re
import time
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
import yaml

from support.programs import need
from support.prometheus_site import (
    EXPORTED_AT,
    PROJECT,
    RULES,
    SERVED,
    SUMS,
    TEXTFILE,
    Moment,
    Prometheus,
    Site,
    exposed,
    four_days_ago,
    now,
)
from support.waiting import wait_until

pytestmark = pytest.mark.program

DASHBOARD = json.loads((PROJECT / "deployments" / "grafana" / "dashboard.json").read_text())


@dataclass
class Story:
    began_at: float
    site: Site
    before: Moment
    after: Moment

    @property
    def prometheus(self) -> Prometheus:
        return self.site.prometheus

    @property
    def counters(self) -> set[str]:
        return set(exposed(self.after.written, "counter", "histogram"))


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """Growing work that Prometheus scrapes; then a purge of old deliveries and a restart of the server."""
    programs = (need("prometheus"), need("prometheus-node-exporter"))
    began_at = time.time()
    with ExitStack() as stack:
        site = Site(tmp_path_factory.mktemp("site"), stack, programs)
        site.work(four_days_ago)
        site.work(now)
        site.serve()
        site.scrape()
        site.work(now)
        before = site.look(old_dead_letters=2)
        site.machine.do("purge", "--older-than", "1", "--delivered-older-than", "1", "--yes")
        site.serve()
        after = site.look(old_dead_letters=0)
        yield Story(began_at, site, before, after)


@pytest.mark.parametrize("job", [SERVED, TEXTFILE])
@pytest.mark.parametrize("when", ["before", "after"])
def test_prometheus_has_each_number_of_the_textfile(story, when, job):
    moment = getattr(story, when)
    written = exposed(moment.written)
    for name in written.keys() - {EXPORTED_AT}:
        error = 0.01 if "percentile" in name else 1e-9
        assert moment.answers[job][name] == pytest.approx(written[name], rel=error), name


def test_every_metric_is_compared(story):
    served = story.prometheus.get("label/__name__/values", **{"match[]": '{__name__=~"resonant_.+"}'})
    assert sorted(served) == sorted(exposed(story.after.written))


@pytest.mark.parametrize("job", [SERVED, TEXTFILE])
def test_the_balance_holds_in_promql(story, job):
    nothing_purged = {"accepted": 22, "pending": 2, "retrying": 4, "delivered": 11, "dead_letter": 5}
    assert story.before.sums[job] == nothing_purged | {"purged": 0}
    assert story.after.sums[job] == nothing_purged | {"purged": 2, "delivered": 10, "dead_letter": 4}
    for moment in (story.before, story.after):
        assert moment.status["balanced"]
        assert {key: moment.status[key] for key in SUMS} == moment.sums[job]


@pytest.mark.parametrize("job", [SERVED, TEXTFILE])
def test_no_counter_falls_over_a_purge_and_a_restart(story, job):
    for name in story.counters:
        assert story.prometheus.samples(f'resets({name}{{job="{job}"}}[1h])') == {}
    before, after = (
        {name: each.answers[job].get(name, {}) for name in story.counters}
        for each in (story.before, story.after)
    )
    assert after == before | {"resonant_dead_letter_purges_total": {frozenset({("endpoint", "billing")}): 1}}


def test_prometheus_sees_the_changes_between_two_scrapes(story):
    increase = story.prometheus.samples(
        f'max_over_time(resonant_events_accepted_total{{job="{SERVED}"}}[1h])'
        f' - min_over_time(resonant_events_accepted_total{{job="{SERVED}"}}[1h])'
    )
    assert increase == {
        frozenset({("endpoint", endpoint)}): count
        for endpoint, count in (("billing", 6), ("crm", 3), ("quiet", 1))
    }


def test_an_endpoint_to_which_nothing_was_sent_has_counters_at_0(story):
    of_quiet = f'{{job="{SERVED}", endpoint="quiet"}}'
    for name in story.counters - {"resonant_events_accepted_total"}:
        assert {float(each["value"][1]) for each in story.prometheus.query(name + of_quiet)} == {0}, name


@pytest.mark.parametrize("job", [SERVED, TEXTFILE])
def test_the_time_of_the_export_is_now(story, job):
    exported_at = story.prometheus.number(f'{EXPORTED_AT}{{job="{job}"}}')
    assert story.began_at <= exported_at <= time.time()


def test_the_alert_about_an_old_dead_letter_ends_with_the_purge(story):
    assert story.before.old_dead_letters == {"billing"}
    assert story.after.old_dead_letters == set()


def test_all_rules_are_evaluated_without_error_and_recorded_series_exist(story):
    def evaluated():
        rules = story.prometheus.rules()
        return rules if all(rule["health"] != "unknown" for rule in rules) else None

    rules = wait_until(evaluated)
    shipped = [yaml.safe_load((RULES / file).read_text()) for file in ("recording.yml", "alerts.yml")]
    assert len(rules) == sum(len(group["rules"]) for each in shipped for group in each["groups"])
    assert [rule for rule in rules if rule["health"] != "ok" or rule.get("lastError")] == []
    for recorded in (rule["name"] for rule in rules if rule["type"] == "recording"):
        assert story.prometheus.jobs(recorded) == {SERVED, TEXTFILE}


PANELS = [
    pytest.param(job, target, id=f"{panel['id']} {panel['title']} {target['refId']}, {job}")
    for job in (SERVED, TEXTFILE)
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", ())
]


@pytest.mark.parametrize(("job", "target"), PANELS)
def test_each_query_of_the_dashboard_returns_data(story, job, target):
    expression = chosen(story.prometheus, job, target["expr"])
    if target["instant"]:
        values = [series["value"] for series in story.prometheus.query(expression)]
    else:
        end = story.prometheus.at
        window = {"start": end - 60, "end": end, "step": 1}
        found = story.prometheus.get("query_range", query=expression, **window)["result"]
        values = [value for series in found for value in series["values"]]
    assert any(math.isfinite(float(value)) for _, value in values)


def test_the_dashboard_shows_the_state_of_each_gate_in_words(story):
    [panel] = [panel for panel in DASHBOARD["panels"] if panel["title"] == "State"]
    [words] = [each["options"] for each in panel["fieldConfig"]["defaults"]["mappings"]]
    found = story.prometheus.query(chosen(story.prometheus, SERVED, panel["targets"][0]["expr"]))
    assert {each["metric"]["endpoint"]: words[each["value"][1]]["text"] for each in found} == {
        "billing": "paced",
        "crm": "paused, it answered 410",
        "quiet": "probing",
    }


def test_the_choices_of_the_dashboard_are_the_exporters_and_the_endpoints(story):
    queries = {each["name"]: each["query"] for each in DASHBOARD["templating"]["list"]}

    def choices(name):
        query = chosen(story.prometheus, SERVED, queries[name])
        match, label = re.fullmatch(r"label_values\((.+), (\w+)\)", query).groups()
        return story.prometheus.get(f"label/{label}/values", **{"match[]": match})

    targets = story.prometheus.query(EXPORTED_AT)
    assert choices("exporter") == sorted(each["metric"]["instance"] for each in targets)
    assert choices("endpoint") == ["billing", "crm", "quiet"]


def chosen(prometheus, job, expression):
    """Insert the values as Grafana does: this exporter, all endpoints, and windows as short as this Prometheus has run."""
    [target] = prometheus.query(f'{EXPORTED_AT}{{job="{job}"}}')
    values = {"exporter": target["metric"]["instance"], "endpoint": ".+"}
    values |= {"__rate_interval": "10m", "__range": "10m"}
    replaced = re.sub(r"\$(\w+)", lambda match: values[match[1]], expression)
    assert "$" not in replaced
    return replaced
