"""Unusable configurations."""

from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import AfterValidator, ValidationError, create_model, model_validator

from blocks.loading import unusable_endpoint


@pytest.mark.parametrize("model_wide", [True, False])
def test_the_text_of_a_sinks_own_validator_is_not_shown(model_wide):
    def refuse(value):
        raise ValueError("must not be s3cret")

    kind = create_model("Kind", key=(Annotated[str, AfterValidator(refuse)], ...))
    if model_wide:
        kind = create_model("Kind", __validators__={"all": model_validator(mode="before")(refuse)})
    with pytest.raises(ValidationError) as raised:
        kind.model_validate({"key": "s3cret"})

    assert str(unusable_endpoint("the-crm", raised.value)) == (
        "endpoint 'the-crm' is not configured completely: save it again"
    )
