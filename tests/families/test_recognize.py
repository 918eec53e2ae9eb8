"""What holds for the models of every family: cut files, files that are no model, and imports."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lorasmith.errors import ModelError
from lorasmith.families.foreign_families import denoiser_family
from lorasmith.families.recognize import is_of_a_family, recognize
from tests.families.tiny import published, write_header


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


def test_which_files_are_offered_by_their_header(narrow, miniature, tmp_path: Path) -> None:
    """Without the parts that a denoiser needs, and whatever form of its family it is."""
    assert is_of_a_family(narrow.single)
    assert not is_of_a_family(next((miniature.folder / "unet").glob("*.safetensors")))
    shapes = published("zimage_turbo")
    assert is_of_a_family(write_header(tmp_path / "turbo.safetensors", shapes))
    pair = {f"{name}.lora_A.weight": (4, 4) for name in shapes}
    assert not is_of_a_family(write_header(tmp_path / "lora.safetensors", pair))


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


PUBLISHED = {  # file -> what it is, and the form in which its weights are quantised
    "krea2_raw": ("Krea 2", ""),
    "krea2_turbo_int8": ("Krea 2", "comfy_quant"),
    "krea2_turbo_mxfp8": ("Krea 2", "fp8 scaled"),
    "qwen_image_21": ("Qwen-Image 2.1", ""),
    "qwen_image_21_int8": ("Qwen-Image 2.1", "comfy_quant"),
    "flux1_dev_int8": ("FLUX.1 dev", "comfy_quant"),
    "flux1_dev_fp8": ("FLUX.1 dev", "fp8 scaled"),
    "flux2_klein_4b": ("FLUX.2 klein", ""),
    "flux2_klein_9b": ("FLUX.2 klein", ""),
    "flux2_klein_9b_int8": ("FLUX.2 klein", "comfy_quant"),
    "flux2_klein_4b_fp8": ("FLUX.2 klein", "fp8 scaled"),
    "flux2_dev_fp8": ("FLUX.2 dev", "fp8 scaled"),
    "anima_base": ("Anima", ""),
    "anima_29b": ("Anima", ""),
    "anima_preview_fp8": ("Anima", "comfy_quant"),
    "zimage_turbo": ("Z-Image", ""),
    "zimage_turbo_fp8": ("Z-Image", "fp8 scaled"),
    "wan22_14b_fp8": ("Wan", "fp8 scaled"),
    "mistral_3_small_fp8": ("", "fp8 scaled"),
    "qwen25_vl_7b_fp8": ("", "fp8 scaled"),
    "t5xxl_fp16": ("", ""),
}
_SCALES = re.compile(r"scale_weight|scale_input|weight_scale|input_scale|comfy_quant|scaled_fp8")


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_are_what_they_are(tmp_path: Path, name: str) -> None:
    """With their scales they are quantised. Without them their family is known, though text encoder and VAE are
    missing, or the family is not trained."""
    family, form = PUBLISHED[name]
    shapes = published(name)
    file = write_header(tmp_path / "model.safetensors", shapes)
    if form:
        with pytest.raises(ModelError, match="model_quantized") as caught:
            recognize(file)
        assert caught.value.fields["form"] == form
        write_header(file, {key: shape for key, shape in shapes.items() if not _SCALES.search(key)})
    assert denoiser_family(shapes) == family
    with pytest.raises(ModelError) as caught:
        recognize(file)
    if family:  # a list whose first block was not recorded has no config
        assert caught.value.code in (
            "model_parts_missing",
            "model_form_unread",
            "model_other_family",
            "model_configs_needed",
        )
        assert family.startswith(caught.value.fields.get("family") or caught.value.fields.get("found", ""))
    else:
        assert caught.value.code == "model_is_text_encoder"


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, lorasmith.families.recognize, lorasmith.families.locate\n"
        "print(sorted({'torch', 'diffusers', 'transformers', 'huggingface_hub', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
