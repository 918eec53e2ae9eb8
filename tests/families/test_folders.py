"""The weight files of a diffusers folder: halves, shards, pickles."""

import json
import shutil
from pathlib import Path

import pytest

from lorasmith.families.identity import weights_sha256
from lorasmith.families.recognize import recognize


@pytest.mark.parametrize("names", ["fp16", "sharded", "bin"])
def test_the_weight_files_of_a_folder(miniature, tmp_path: Path, names: str) -> None:
    folder = shutil.copytree(miniature.folder, tmp_path / "model")
    whole = folder / "unet" / "diffusion_pytorch_model.safetensors"
    if names == "fp16":
        whole.rename(whole.with_name("diffusion_pytorch_model.fp16.safetensors"))
    elif names == "bin":
        import torch
        from safetensors.torch import load_file

        torch.save(load_file(whole), whole.with_suffix(".bin"))
        whole.unlink()
    else:
        shard(whole, parts=3)
    weights = recognize(folder)
    assert weights.denoiser_parameters == (None if names == "bin" else 2_199_268)
    assert len(weights_sha256(weights)) == 64


def shard(whole: Path, *, parts: int) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(whole)
    places = {
        name: f"{whole.stem}-{number % parts + 1:05d}-of-{parts:05d}.safetensors" for number, name in enumerate(tensors)
    }
    for file in set(places.values()):
        save_file({name: tensor for name, tensor in tensors.items() if places[name] == file}, whole.with_name(file))
    whole.with_suffix(".safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    whole.unlink()
