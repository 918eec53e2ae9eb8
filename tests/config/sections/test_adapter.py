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


def test_ranks_of_blocks_may_be_tables_of_toml() -> None:
    """As `down_blocks.1 = 4` is without quotes."""
    given = {"down_blocks": {"1": 4, "2": {"attentions": {"0": 2}}}, "mid_block": 0}
    assert AdapterConfig(block_ranks=given).block_ranks == {
        "down_blocks.1": 4,
        "down_blocks.2.attentions.0": 2,
        "mid_block": 0,
    }


@pytest.mark.parametrize("rank", [-1, 1025, "4", 2.5, True])
def test_a_rank_of_a_block_has_its_range(rank: Any) -> None:
    with pytest.raises(ValidationError):
        AdapterConfig(block_ranks={"mid_block": rank})
