"""What holds for the models of every family: cut files, files that are no model, and imports."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lorasmith.errors import ModelError
from lorasmith.families.recognize import recognize


def test_a_truncated_checkpoint(narrow, tmp_path: Path) -> None:
    content = narrow.single.read_bytes()
    for kept in (len(content) - 1, len(content) // 2, 5000, 9):
        (tmp_path / "x.safetensors").write_bytes(content[:kept])
        with pytest.raises(ModelError, match="model_truncated"):
            recognize(tmp_path / "x.safetensors")


def test_a_part_of_a_folder_is_no_model(miniature) -> None:
    for part, code in (("unet", "model_is_unet"), ("vae", "model_is_vae"), ("text_encoder", "model_is_text_encoder")):
        with pytest.raises(ModelError, match=code):
            recognize(next((miniature.folder / part).glob("*.safetensors")))


def test_a_folder_with_a_truncated_part(miniature, tmp_path: Path) -> None:
    folder = shutil.copytree(miniature.folder, tmp_path / "model")
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(ModelError, match="model_truncated") as caught:
        recognize(folder)
    assert caught.value.fields["path"] == str(file)


def test_a_folder_that_is_something_else(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="model_unknown"):
        recognize(tmp_path)


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, lorasmith.families.recognize, lorasmith.families.locate\n"
        "print(sorted({'torch', 'diffusers', 'transformers', 'huggingface_hub', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
