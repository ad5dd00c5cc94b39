"""The reference is generated from the code, and the committed pages are up to date."""

import pytest

import resonant
from docs.generate import MONITORING, REFERENCE, monitoring, pages
from resonant.settings import Settings


@pytest.fixture(scope="module")
def generated():
    return pages()


@pytest.mark.parametrize("name", sorted(path.name for path in REFERENCE.iterdir()))
def test_a_page_of_the_reference_is_up_to_date(generated, name):
    assert (REFERENCE / name).read_text() == generated[name], "run `make reference`"


def test_every_generated_page_is_in_the_reference(generated):
    assert generated.keys() == {path.name for path in REFERENCE.iterdir()}


def test_the_table_of_alerts_is_up_to_date():
    assert MONITORING.read_text() == monitoring(), "run `make reference`"


def test_every_setting_has_a_description():
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_every_setting_and_every_public_name_is_in_the_reference(generated):
    settings, python = generated["settings.md"], generated["python.md"]
    assert [name for name in Settings.model_fields if f"| `RESONANT_{name.upper()}` |" not in settings] == []
    assert [name for name in resonant.__all__ if f"| `{name}` |" not in python] == []
