from typing import Any

import pytest
from pydantic import ValidationError

from lorasmith.config.sections import DatasetConfig


@pytest.mark.parametrize(("given", "taken"), [("auto", "auto"), (0, 0), (7, 7), ("7", 7)])
def test_hold_out_is_a_number_or_auto(given: Any, taken: Any) -> None:
    assert DatasetConfig(hold_out=given).hold_out == taken


@pytest.mark.parametrize("given", [-1, "-1", "some", 1.5, True, None])
def test_hold_out_is_nothing_else(given: Any) -> None:
    with pytest.raises(ValidationError):
        DatasetConfig(hold_out=given)


def test_an_unset_resolution_is_that_of_the_base_model() -> None:
    assert [DatasetConfig(resolution=pixels).resolved_resolution(512) for pixels in (None, 256)] == [512, 256]
