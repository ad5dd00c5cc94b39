"""Rules that a user adds to a classifier."""

import httpx
import pytest

from resonant.delivery.classification import Classifier
from resonant.delivery.verdict import Verdict
from resonant.errors import UnexpectedStatus
from support.misbehaving import NOW, StrangeError, by_sink, chained, judge


def test_a_rule_for_a_type_wins_over_the_built_in_ones():
    classifier = Classifier()
    classifier.rule(
        ConnectionError, category="permanent", code="my_error", blame="local", maybe_processed=True
    )
    expected = Verdict("permanent", "my_error", blame="local", maybe_processed=True)
    assert classifier.classify(ConnectionRefusedError(), now=NOW) == expected
    assert classifier.classify(TimeoutError(), now=NOW).code == "timeout"


def test_a_rule_finds_its_failure_anywhere_in_the_chain_and_in_groups():
    classifier = Classifier()
    classifier.rule(StrangeError, category="transient", code="strange")
    for failure in (
        chained(StrangeError(), ConnectionRefusedError()),
        chained(ValueError(), StrangeError(), httpx.ReadTimeout("")),
        ExceptionGroup("", [ValueError(), StrangeError()]),
        chained(ExceptionGroup("", [chained(StrangeError(), OSError())]), RuntimeError()),
    ):
        assert classifier.classify(failure, now=NOW).code == "strange"


def test_the_rule_registered_last_is_asked_first():
    classifier = Classifier()
    classifier.rule(StrangeError, category="transient", code="first")
    classifier.rule(Exception, category="permanent", code="second")
    assert classifier.classify(StrangeError(), now=NOW).code == "second"
    classifier.rule(lambda _: Verdict("transient", "third"))
    assert classifier.classify(StrangeError(), now=NOW).code == "third"


def test_a_callable_is_a_rule_and_may_leave_a_failure_to_others():
    classifier = Classifier()

    @classifier.rule
    def throttled_by_body(failure):
        if isinstance(failure, UnexpectedStatus) and "Throttling" in failure.excerpt:
            return Verdict("transient", "throttled", retry_after=1.0)
        return None

    assert callable(throttled_by_body)
    throttled = UnexpectedStatus(400, excerpt='{"code": "ThrottlingException"}')
    assert classifier.classify(throttled, now=NOW) == Verdict("transient", "throttled", retry_after=1.0)
    assert classifier.classify(by_sink(400), now=NOW).code == "http_400"


def test_a_rule_is_for_its_own_classifier_only():
    Classifier().rule(StrangeError, category="transient", code="strange")
    assert judge(StrangeError()).code == "unknown"


@pytest.mark.parametrize(
    "broken",
    [
        lambda failure: failure.nothing,
        repr,
        lambda failure: Verdict("transient", f"error {failure}"),
        lambda failure: Verdict(str(failure), "my_error"),
        lambda: None,
    ],
    ids=["raises", "no verdict", "unbounded code", "no category", "takes nothing"],
)
def test_a_rule_that_does_not_work_is_logged_and_passed_over(broken, caplog):
    classifier = Classifier()
    classifier.rule(StrangeError, category="transient", code="older_rule")
    classifier.rule(broken)
    secret = "https://user:password@receiver.example/"
    assert classifier.classify(by_sink(503), now=NOW).code == "http_503"
    assert classifier.classify(StrangeError(secret), now=NOW).code == "older_rule"
    assert "classifier rule" in caplog.text
    assert "password" not in caplog.text


def test_a_cancellation_raised_by_a_rule_passes_through():
    classifier = Classifier()

    @classifier.rule
    def interrupted(failure):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        classifier.classify(ValueError(), now=NOW)


@pytest.mark.parametrize("code", ["", "Upper", "1st", "with space", "x" * 42, "ünicode", "line\n"])
def test_a_code_that_is_no_label_is_refused_when_the_rule_is_registered(code):
    with pytest.raises(ValueError, match="code"):
        Classifier().rule(StrangeError, category="transient", code=code)


def test_a_category_that_is_none_is_refused_when_the_rule_is_registered():
    with pytest.raises(ValueError, match="transcient"):
        Classifier().rule(StrangeError, category="transcient", code="strange")
