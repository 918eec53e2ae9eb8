"""Names of second files: what they are called, and that a file under them makes the change that was trained."""

import pytest
import torch

from lorasmith.adapters.lora import DOWN, UP
from lorasmith.exporting.formats import parse_native, table_in
from lorasmith.exporting.metadata import ExportFacts, build_metadata
from lorasmith.exporting.name_table import PEFT, SD_SCRIPTS, parse_table
from lorasmith.exporting.names import from_file
from lorasmith.exporting.verify import verify
from lorasmith.exporting.write import export_bytes
from tests.exporting.made_lora import LORA, SD15, made_lora

COLUMNS = "target\tmodule\tcomponent\tkind\tout\tin\tkernel\tpart\n"
NATIVE_NAMES = parse_table(  # a family whose own files have the original model's names
    "made-up",
    COLUMNS
    + """denoiser.a.to_q\tdiffusion_model.b.0.qkv\tdenoiser\tlinear\t6\t6\t\t0:6
denoiser.a.to_k\tdiffusion_model.b.0.qkv\tdenoiser\tlinear\t6\t6\t\t6:12
denoiser.a.out\tdiffusion_model.b.0.out\tdenoiser\tlinear\t6\t12\t\t
""",
)
OTHER_NAMES = parse_table(  # the same layers, where its own files have diffusers' names
    "made-up",
    COLUMNS
    + """denoiser.a.to_q\ttransformer.a.to_q\tdenoiser\tlinear\t6\t6\t\t
denoiser.a.to_k\ttransformer.a.to_k\tdenoiser\tlinear\t6\t6\t\t
denoiser.a.out\ttransformer.a.out\tdenoiser\tlinear\t6\t12\t\t
""",
)
NATIVE = parse_native(
    "target\tmodule\tpart\ndenoiser.a.to_q\tb.0.qkv\t0:6\ndenoiser.a.to_k\tb.0.qkv\t6:12\ndenoiser.a.out\tb.0.out\t\n"
)


@pytest.mark.parametrize(("own", "native"), [(NATIVE_NAMES, {}), (OTHER_NAMES, NATIVE)])
def test_the_names_of_other_programs(own, native) -> None:
    tables = {form: table_in(own, form, native) for form in ("kohya", "diffusers", "comfyui")}
    assert {form: (list(table.modules), table.form) for form, table in tables.items()} == {
        "kohya": (["lora_unet_b_0_qkv", "lora_unet_b_0_out"], SD_SCRIPTS),
        "diffusers": (["transformer.a.to_q", "transformer.a.to_k", "transformer.a.out"], PEFT),
        "comfyui": (["diffusion_model.b.0.qkv", "diffusion_model.b.0.out"], PEFT),
    }
    assert [form for form, table in tables.items() if table is own] == [
        "comfyui" if own is NATIVE_NAMES else "diffusers"
    ]


def test_files_of_stable_diffusion_are_what_comfyui_and_sd_scripts_read() -> None:
    assert table_in(SD15, "kohya", {}) is SD15 is table_in(SD15, "comfyui", {})
    diffusers = table_in(SD15, "diffusers", {})
    assert len(diffusers.modules) == len(SD15.modules)
    row = diffusers.targets["text_encoder.text_model.encoder.layers.0.self_attn.q_proj"]
    assert row.module == "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    assert "unet.mid_block.attentions.0.proj_in" in diffusers.modules


@pytest.mark.parametrize("form", ["kohya", "diffusers", "comfyui"])
def test_every_form_holds_the_change_that_was_trained(form: str, facts: ExportFacts) -> None:
    """Also where not all parts of a module are trained."""
    table = table_in(OTHER_NAMES, form, NATIVE)
    made = made_lora({name: OTHER_NAMES.targets[name].layer for name in ("denoiser.a.to_k", "denoiser.a.out")}, rank=2)
    named = made.named(table)
    verify(export_bytes(named, build_metadata(facts), torch.float32), kind=LORA, table=table, layers=made.layers)
    back = from_file(named, LORA, table)
    for target in made.layers:
        change = back[f"{target}.{UP}"] @ back[f"{target}.{DOWN}"]
        expected = 0.5 * made.tensors[f"{target}.{UP}"] @ made.tensors[f"{target}.{DOWN}"]
        torch.testing.assert_close(change, expected)
