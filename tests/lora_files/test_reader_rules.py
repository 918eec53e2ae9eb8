import pytest

from lorasmith.exporting.name_table import PEFT
from lorasmith.lora_files.reader_rules import OF_COMFYUI, OF_COMFYUI_ALWAYS, OF_DIFFUSERS, Form
from lorasmith.session.name_tables import name_table


@pytest.mark.parametrize("family", sorted(OF_DIFFUSERS))
def test_both_programs_read_all_of_the_familys_own_files(family: str) -> None:
    """Without alphas in dotted names, with them in others."""
    table = name_table(family)
    row = next(row for row in table.targets.values() if row.component == "denoiser")
    prefix = next(begin for begin in ("diffusion_model.", "transformer.", "lora_unet_") if row.module.startswith(begin))
    is_peft = table.form is PEFT
    pair = "AB" if is_peft else "du"
    rules = [rule for name in "ND" if (rule := OF_DIFFUSERS[family].get(Form(prefix, name, pair)))]
    assert "whole" in {rule.without if is_peft else rule.with_alphas for rule in rules}
    assert {(prefix, "N"), (prefix, "D")} & (OF_COMFYUI_ALWAYS | OF_COMFYUI[family])
