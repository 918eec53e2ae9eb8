import pytest

from lorasmith.exporting.name_table import PEFT
from lorasmith.lora_files.reader_rules import OF_COMFYUI, OF_COMFYUI_ALWAYS, OF_DIFFUSERS, Form, fate
from lorasmith.session.name_tables import name_table


@pytest.mark.parametrize("family", sorted(OF_DIFFUSERS))
def test_both_programs_read_all_of_the_familys_own_files(family: str) -> None:
    """Without alphas in dotted names, with them in others."""
    table = name_table(family)
    row = next(row for row in table.targets.values() if row.component == "denoiser")
    prefix = next(begin for begin in ("diffusion_model.", "transformer.", "lora_unet_") if row.module.startswith(begin))
    is_peft = table.form is PEFT
    pair = "AB" if is_peft else "du"
    path = row.module.removeprefix(prefix).replace(".", "_")
    fates = {fate(OF_DIFFUSERS[family], Form(prefix, name, pair), path, has_alphas=not is_peft) for name in ("N", "D")}
    assert "read" in fates
    assert {(prefix, "N"), (prefix, "D")} & (OF_COMFYUI_ALWAYS | OF_COMFYUI[family])


def test_the_first_rule_that_fits_counts() -> None:
    rules = OF_DIFFUSERS["zimage"]
    native = Form("diffusion_model.", "N", "du")
    assert fate(rules, native, "layers_0_attention_out", has_alphas=True) == "read"
    assert fate(rules, native, "layers_0_attention_qkv", has_alphas=True) == "lost"
    assert fate(rules, Form("other.", "N", "du"), "layers_0_attention_qkv", has_alphas=True) == ""
