"""The check before a file gets its name: it passes good files, and every kind of bad one fails it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from lorasmith.exporting.key_tables import key_table
from lorasmith.exporting.kohya import to_kohya
from lorasmith.exporting.metadata import ExportFacts, build_metadata
from lorasmith.exporting.verify import ExportError, verify
from lorasmith.exporting.write import export_bytes

MakeLora = Callable[..., dict[str, Tensor]]
Change = Callable[[dict[str, Tensor]], None]
BOTH = ("denoiser", "text_encoder")
LINEAR = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
CONVOLUTION = "lora_unet_mid_block_attentions_0_proj_in"


@pytest.fixture
def good(make_lora: MakeLora) -> dict[str, Tensor]:
    return to_kohya(make_lora(BOTH, rank=1), family="sd15", alpha=1.0)


def reason(content: bytes | Path, components: tuple[str, ...] = BOTH, **more: object) -> str:
    with pytest.raises(ExportError) as caught:
        verify(content, family="sd15", components=components, **more)  # type: ignore[arg-type]
    return str(caught.value.fields["reason"])


def test_full_files_pass(make_lora: MakeLora, facts: ExportFacts, tmp_path: Path) -> None:
    shapes = {name: layer.weight_shape() for name, layer in key_table("sd15").layers.items()}
    for components in (("denoiser",), BOTH):
        named = to_kohya(make_lora(components, rank=1), family="sd15", alpha=1.0)
        content = export_bytes(named, build_metadata(facts), torch.float16)
        own = {name: shape for name, shape in shapes.items() if f"{name}.alpha" in named}
        verify(content, family="sd15", components=components, layer_shapes=own)
        (tmp_path / "file").write_bytes(content)
        verify(tmp_path / "file", family="sd15", components=components)


def _rename(old: str, new: str) -> Change:
    def change(tensors: dict[str, Tensor]) -> None:
        for key in [key for key in tensors if old in key]:
            tensors[key.replace(old, new)] = tensors.pop(key)

    return change


def _put(key: str, tensor: Tensor | None) -> Change:
    def change(tensors: dict[str, Tensor]) -> None:
        if tensor is None:
            del tensors[key]
        else:
            tensors[key] = tensor

    return change


WRONG: list[tuple[str, Change, str]] = [
    ("text encoder as transformers 5.6 names it", _rename("lora_te_text_model_", "lora_te_"), "unknown_name"),
    ("SDXL's text encoder", _rename("lora_te_", "lora_te1_"), "unknown_name"),
    ("an SDXL name", _rename("down_blocks_0_attentions_0_", "input_blocks_4_1_"), "unknown_name"),
    ("PEFT's names", _rename("lora_unet_", "base_model.model.unet."), "unknown_name"),
    ("PEFT's matrices", _rename(".lora_down.", ".lora_A."), "incomplete"),
    ("one stray key", _put("bundle_emb.zorb.string_to_param", torch.ones(2)), "unknown_name"),
    ("no down", _put(f"{LINEAR}.lora_down.weight", None), "incomplete"),
    ("no up", _put(f"{LINEAR}.lora_up.weight", None), "incomplete"),
    ("no alpha", _put(f"{LINEAR}.alpha", None), "incomplete"),
    ("DoRA", _put(f"{LINEAR}.dora_scale", torch.ones(1280, 1)), "incomplete"),
    ("another rank", _put(f"{LINEAR}.lora_down.weight", torch.ones(2, 1280)), "shape"),
    ("linear with four dimensions", _put(f"{LINEAR}.lora_down.weight", torch.ones(1, 1280, 1, 1)), "shape"),
    ("convolution with two", _put(f"{CONVOLUTION}.lora_down.weight", torch.ones(1, 1280)), "shape"),
    ("half a convolution", _put(f"{CONVOLUTION}.lora_up.weight", torch.ones(1280, 1)), "shape"),
    ("alpha in half precision", _put(f"{LINEAR}.alpha", torch.tensor(1.0).half()), "alpha"),
    ("alpha with a dimension", _put(f"{LINEAR}.alpha", torch.ones(1)), "alpha"),
    ("alpha of zero", _put(f"{LINEAR}.alpha", torch.tensor(0.0)), "alpha"),
    ("not a number", _put(f"{LINEAR}.lora_up.weight", torch.full((1280, 1), float("nan"))), "not_finite"),
    ("too large for half precision", _put(f"{LINEAR}.lora_up.weight", torch.full((1280, 1), 7e4)), "not_finite"),
]


@pytest.mark.parametrize(("change", "expected"), [(c, e) for _, c, e in WRONG], ids=[name for name, _, _ in WRONG])
def test_wrong_tensors_fail(good: dict[str, Tensor], facts: ExportFacts, change: Change, expected: str) -> None:
    change(good)
    assert reason(export_bytes(good, build_metadata(facts), torch.float16)) == expected


def test_exactly_the_trained_components(good: dict[str, Tensor], facts: ExportFacts) -> None:
    content = export_bytes(good, build_metadata(facts), torch.float16)
    assert reason(content, ("denoiser",)) == "components"
    only_unet = {name: tensor for name, tensor in good.items() if name.startswith("lora_unet_")}
    assert reason(export_bytes(only_unet, build_metadata(facts), torch.float16)) == "components"


def test_layers_of_the_model_at_hand(good: dict[str, Tensor], facts: ExportFacts) -> None:
    content = export_bytes(good, build_metadata(facts), torch.float16)
    shapes = {name: layer.weight_shape() for name, layer in key_table("sd15").layers.items()}
    verify(content, family="sd15", components=BOTH, layer_shapes=shapes)
    assert reason(content, layer_shapes=shapes | {LINEAR: (1280, 640)}) == "layer_shape"
    assert reason(content, layer_shapes={name: s for name, s in shapes.items() if name != LINEAR}) == "modules"


def test_metadata_and_hashes(good: dict[str, Tensor], facts: ExportFacts) -> None:
    content = export_bytes(good, build_metadata(facts), torch.float16)
    flipped = bytearray(content)
    flipped[-1] ^= 1
    assert reason(bytes(flipped)) == "hash"
    assert reason(save(good, build_metadata(facts))) == "hash"
    without = {key: value for key, value in build_metadata(facts).items() if key != "modelspec.architecture"}
    assert reason(export_bytes(good, without, torch.float16)) == "metadata_missing"
    legacy = content.index(b'sshs_legacy_hash":"') + len(b'sshs_legacy_hash":"')
    changed = content[:legacy] + b"00000000" + content[legacy + 8 :]
    assert reason(changed) == "hash"


def test_header(good: dict[str, Tensor], facts: ExportFacts) -> None:
    content = export_bytes(good, build_metadata(facts), torch.float16)
    length = int.from_bytes(content[:8], "little")
    spaced = (length + 8).to_bytes(8, "little") + b" " * 8 + content[8:]
    # the library itself refuses a leading space in some versions: either way it does not pass
    assert reason(spaced) in ("header_start", "unreadable")
    assert reason(content[: len(content) // 2]) == "unreadable"
    assert reason(b"") == "unreadable"
