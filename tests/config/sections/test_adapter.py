from typing import Any

import pytest
from pydantic import ValidationError

from lorasmith.config.sections import AdapterConfig


@pytest.mark.parametrize("given", [0, -1, 1025, "many", 2.5])
def test_a_rank_has_its_range(given: Any) -> None:
    with pytest.raises(ValidationError):
        AdapterConfig(rank=given)


def test_an_unset_alpha_is_the_rank() -> None:
    assert [AdapterConfig(rank=8, alpha=alpha).resolved_alpha for alpha in (None, 2.0)] == [8.0, 2.0]
