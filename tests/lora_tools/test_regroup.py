"""Files of every family with dotted names: under each program's names every layer gets the change it had."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorasmith.adapters.lora import DOWN, UP
from lorasmith.exporting.name_table import PEFT
from lorasmith.exporting.names import from_file
from lorasmith.families import FAMILIES
from lorasmith.lora_files.names import layers_of
from lorasmith.lora_files.reader import names_in_table, read_lora
from lorasmith.lora_tools.convert import Style, convert
from lorasmith.session.name_tables import name_table
from lorasmith.targets import LayerSpec
from tests.exporting.made_lora import LORA, MadeLora, made_lora

DOTTED = [family for family in FAMILIES if name_table(family).form is PEFT]
STYLES: tuple[Style, ...] = ("kohya", "diffusers", "comfyui")
SMALLER = 64


def small(family: str) -> MadeLora:
    """A LoRA for the layers of the first block of each kind, and for those outside of blocks, of a small model."""
    return made_lora(
        {
            target: LayerSpec(max(1, row.layer.outputs // SMALLER), max(1, row.layer.inputs // SMALLER))
            for target, row in name_table(family).targets.items()
            if not re.search(r"(blocks|layers|refiner)\.[1-9]", target)
        },
        rank=2,
        alpha=1.0,
    )


def changes(path: Path, family: str) -> dict[str, torch.Tensor]:
    names, stored = names_in_table(read_lora(path), family), load_file(path)
    back = from_file({names[key]: tensor for key, tensor in stored.items()}, LORA, layers_of(family).known)
    targets = {name.removesuffix(f".{DOWN}") for name in back if name.endswith(DOWN)}
    return {target: back[f"{target}.{UP}"] @ back[f"{target}.{DOWN}"] for target in targets}


@pytest.mark.parametrize("family", DOTTED)
def test_every_layer_keeps_its_change(tmp_path: Path, family: str) -> None:
    """From its own names to each of the others, and from there to all of them."""
    made = small(family)
    source = tmp_path / "own.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in made.named(name_table(family)).items()}, source)
    expected = {
        target: 0.5 * made.tensors[f"{target}.{UP}"] @ made.tensors[f"{target}.{DOWN}"] for target in made.layers
    }
    files = [source]
    for style in STYLES:
        files.append(tmp_path / f"{style}.safetensors")
        convert(source, files[-1], to=style)
    files += [tmp_path / f"{first}-{then}.safetensors" for first in STYLES for then in STYLES]
    for path in files[4:]:
        first, _, then = path.stem.partition("-")
        convert(tmp_path / f"{first}.safetensors", path, to=then)
    for path in files:
        found = changes(path, family)
        assert found.keys() == expected.keys(), path.name
        for target, change in expected.items():
            torch.testing.assert_close(found[target], change, msg=f"{path.name} {target}")


def test_a_part_of_a_module_makes_rows_of_zeros(tmp_path: Path) -> None:
    family = next(name for name in DOTTED if any(len(rows) > 1 for rows in layers_of(name).known.modules.values()))
    table = layers_of(family).known
    module = next(name for name, rows in table.modules.items() if len(rows) > 1)
    made = small(family)
    rows = [row.target for row in table.modules[module]]
    kept = {name: tensor for name, tensor in made.tensors.items() if name.rpartition(".lora_")[0] == rows[1]}
    source, out = tmp_path / "part.safetensors", tmp_path / "out.safetensors"
    path = f"transformer.{rows[1].partition('.')[2]}"
    save_file(
        {f"{path}.lora_A.weight": kept[f"{rows[1]}.{DOWN}"], f"{path}.lora_B.weight": kept[f"{rows[1]}.{UP}"]}, source
    )
    convert(source, out, to="kohya")
    found = changes(out, family)
    assert {target for target, change in found.items() if change.any()} == {rows[1]}
    torch.testing.assert_close(found[rows[1]], kept[f"{rows[1]}.{UP}"] @ kept[f"{rows[1]}.{DOWN}"])
