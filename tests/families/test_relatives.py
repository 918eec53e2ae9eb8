"""Sizes by which LoRA files of related models are told apart."""

import pytest

from lorasmith.exporting.name_table import parse_table
from lorasmith.families import FAMILIES, layer_names, relatives
from lorasmith.lora_files.names import FAMILY_NAMES


@pytest.mark.parametrize("family", [family for family in FAMILIES if relatives(family).published])
def test_a_family_states_its_own_model_as_its_table_has_it(family: str) -> None:
    """The largest one: the table has the rows of all blocks."""
    table, largest = parse_table(family, layer_names(family)), relatives(family).published[0]
    assert largest.family == family and {model.family for model in relatives(family).published} <= FAMILY_NAMES.keys()
    assert any(row.layer.inputs == largest.width and ".0.att" in row.target for row in table.targets.values())
    for blocks, count in largest.depths.items():
        numbers = {int(target.split(".")[2]) for target in table.targets if target.startswith(f"denoiser.{blocks}.")}
        assert numbers == set(range(count))
    assert relatives("chroma").published == ()
