"""``serve`` before it listens."""


def test_a_uvicorn_that_lacks_a_name_is_refused_before_the_store_is_opened(resonant, monkeypatch):
    monkeypatch.setattr("resonant.intake.serving.compatibility.NAMES", {("uvicorn", "Gone"): ("name",)})
    answer = resonant("serve", code=1)
    assert answer.err.startswith("resonant: uvicorn ")
    assert "has no Gone.name" in answer.err
