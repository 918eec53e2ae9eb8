"""Base models in several files: named, found beside each other, or asked for; with Krea 2 as the family."""

import json
import shutil
from importlib import import_module
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorasmith.errors import ModelError
from lorasmith.families import FAMILIES, load_family
from lorasmith.families.base import ModelFamily
from lorasmith.families.headers import read_header
from lorasmith.families.identity import component_sha256, files_sha256, weights_sha256
from lorasmith.families.loading import _fitted
from lorasmith.families.places import shapes_at
from lorasmith.families.recognize import recognize
from lorasmith.families.split_files import DENOISER, SplitFiles, bare_names
from lorasmith.families.weights import BaseWeights, PartFiles
from tests.families.krea2.miniature import make_model, make_split
from tests.families.tiny import published, write_header

CPU = torch.device("cpu")
TEXT, VAE = Path("text_encoders/qwen3vl_4b.safetensors"), Path("vae/qwen_image_vae.safetensors")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


@pytest.fixture
def file(folder: Path, tmp_path: Path) -> Path:
    return make_split(folder, tmp_path / "models")


def sources(weights: BaseWeights) -> dict[str, Path]:
    return {name: part.asked for name, part in weights.replaced.items()}


def assert_equal(ours: ModelFamily, theirs: ModelFamily) -> None:
    """The same tensors in the same types, and the same tokens."""
    for dtype in (torch.float32, torch.bfloat16):
        first, second = (
            {**family.load_encoders(CPU), **family.load_models(trained=(), dtype=dtype, to=CPU)}
            for family in (ours, theirs)
        )
        assert first.keys() == second.keys() == {"vae", "text_encoder", "denoiser"}
        for name, module in first.items():
            tensors, others = module.state_dict(), second[name].state_dict()
            assert tensors.keys() == others.keys()
            assert all(torch.equal(tensors[key], others[key]) for key in tensors)
            assert all(tensors[key].dtype == others[key].dtype for key in tensors)
    assert torch.equal(ours.tokenize("a red ring")["token_ids"], theirs.tokenize("a red ring")["token_ids"])


def test_every_tensor_is_that_of_the_folder(folder: Path, file: Path) -> None:
    assert_equal(load_family(recognize(file)), load_family(recognize(folder)))


def test_files_beside_the_model_are_found_where_comfyui_has_them(file: Path, tmp_path: Path) -> None:
    models = file.parents[1]
    (models / "diffusion_models" / "krea").mkdir()
    moved = file.rename(models / "diffusion_models" / "krea" / file.name)
    (models / "clip").mkdir()
    text = (models / TEXT).rename(models / "clip" / "any name.safetensors")
    (models / TEXT.parent / "other.safetensors").write_bytes((models / VAE).read_bytes())
    (models / VAE.parent / "damaged.safetensors").write_bytes(b"{")
    (models / VAE.parent / "link.safetensors").symlink_to(models / VAE)
    assert sources(recognize(moved))["text_encoder"] == text
    assert sources(recognize(moved))["vae"].resolve() == models / VAE
    shutil.copy(models / VAE, models / VAE.parent / "wan_2.1_vae.safetensors")  # the same names and shapes
    (models / VAE.parent / "link.safetensors").unlink()
    assert sources(recognize(moved))["vae"] == models / VAE
    shutil.copy(models / VAE, models / VAE.parent / "qwen again.safetensors")
    with pytest.raises(ModelError, match="part_several") as error:
        recognize(moved)
    assert len(error.value.fields["paths"]) == 3 and error.value.fields["option"] == "vae"


def test_a_file_of_all_parts_needs_no_other(folder: Path, file: Path, tmp_path: Path) -> None:
    """As ComfyUI saves checkpoints."""
    models = file.parents[1]
    text = {f"text_encoders.qwen3vl_4b.transformer.{key}": tensor for key, tensor in load_file(models / TEXT).items()}
    vae = {f"vae.{key}": tensor for key, tensor in load_file(models / VAE).items()}
    metadata = read_header(file).metadata
    whole = tmp_path / "checkpoints" / "krea2_base.safetensors"
    whole.parent.mkdir()
    save_file({**load_file(file), **text, **vae}, whole, dict(metadata))
    weights = recognize(whole)
    assert weights.replaced == {}
    assert_equal(load_family(weights), load_family(recognize(folder)))
    assert_equal(load_family(recognize(whole, parts=PartFiles(vae=models / VAE))), load_family(recognize(folder)))


def test_the_denoiser_of_a_folder_may_stand_alone(folder: Path, file: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    save_file(tensors, tmp_path / "raw.safetensors", dict(read_header(file).metadata))
    weights = recognize(tmp_path / "raw.safetensors", parts=PartFiles(folder, (folder,)))
    assert_equal(load_family(weights), load_family(recognize(folder)))


def test_one_error_names_all_files_that_are_missing(file: Path) -> None:
    models = file.parents[1]
    (models / TEXT).unlink()
    with pytest.raises(ModelError, match="model_parts_missing") as error:
        recognize(file)
    assert error.value.fields["missing"] == "Qwen3-VL-4B (`--text-encoder`)"
    shutil.rmtree(models / "vae")
    with pytest.raises(ModelError, match="model_parts_missing") as error:
        recognize(file)
    assert error.value.fields["missing"] == "Qwen3-VL-4B (`--text-encoder`), VAE of Qwen-Image (`--vae`)"


def test_named_files_come_first(folder: Path, file: Path, tmp_path: Path) -> None:
    models = file.parents[1]
    text, vae = (shutil.copy(models / part, tmp_path / part.name) for part in (TEXT, VAE))
    weights = recognize(file, parts=PartFiles(Path(vae), (Path(text),)))
    assert sources(weights) == {"text_encoder": tmp_path / TEXT.name, "vae": tmp_path / VAE.name}
    of_folder = recognize(file, parts=PartFiles(text_encoders=(folder / "text_encoder",)))
    assert sources(of_folder) == {"text_encoder": folder / "text_encoder", "vae": models / VAE}
    whole = recognize(file, parts=PartFiles(folder, (folder,)))  # a folder of a whole model
    assert whole.replaced["vae"].paths == (folder / "vae" / "diffusion_pytorch_model.safetensors",)


def test_a_text_encoder_in_several_files_is_read_whole(folder: Path, file: Path) -> None:
    stored = folder / "text_encoder" / "model.safetensors"
    tensors = load_file(stored)
    names = sorted(tensors)
    shards = {f"model-0000{number + 1}-of-00002.safetensors": names[number::2] for number in range(2)}
    for name, keys in shards.items():
        save_file({key: tensors[key] for key in keys}, stored.parent / name)
    places = {key: name for name, keys in shards.items() for key in keys}
    (stored.parent / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    stored.unlink()
    weights = recognize(file, parts=PartFiles(text_encoders=(stored.parent,)))
    assert len(weights.replaced["text_encoder"].paths) == 2
    encoder = load_family(weights).load_encoders(CPU, only=("text_encoder",))["text_encoder"]
    expected = load_family(recognize(folder)).load_encoders(CPU, only=("text_encoder",))["text_encoder"].state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in encoder.state_dict().items())


def test_what_is_named_but_does_not_fit_is_refused(folder: Path, file: Path) -> None:
    models = file.parents[1]
    refused = {
        "part_missing": PartFiles(vae=models / "nothing.safetensors"),
        "part_other": PartFiles(vae=models / TEXT),
        "model_damaged": PartFiles(vae=file.parent / "damaged.safetensors"),
    }
    (file.parent / "damaged.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{]")
    for code, parts in refused.items():
        for model in (file, folder):
            with pytest.raises(ModelError, match=code):
                recognize(model, parts=parts)
    with pytest.raises(ModelError, match="part_other"):  # one too many
        recognize(file, parts=PartFiles(text_encoders=(models / TEXT, models / TEXT)))
    torch.save({}, file.parent / "vae.pt")
    with pytest.raises(ModelError, match="model_form_unread"):
        recognize(file, parts=PartFiles(vae=file.parent / "vae.pt"))


def test_a_part_of_other_shapes_than_a_folders_own_is_refused(folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    tensors["post_quant_conv.bias"] = torch.zeros(5)
    save_file(tensors, tmp_path / "vae.safetensors")
    with pytest.raises(ModelError, match="part_other"):
        recognize(folder, parts=PartFiles(vae=tmp_path / "vae.safetensors"))


@pytest.mark.parametrize("name", ["blocks.0.attn.wq.scale_weight", "scaled_fp8", "blocks.0.attn.wq.comfy_quant"])
def test_quantised_files_are_refused_by_name_and_beside(folder: Path, file: Path, name: str) -> None:
    models = file.parents[1]
    vae = models / VAE
    save_file({**load_file(vae), name: torch.ones(1)}, vae)
    with pytest.raises(ModelError, match="model_quantized"):
        recognize(folder, parts=PartFiles(vae=vae))
    with pytest.raises(ModelError, match="model_quantized") as caught:
        recognize(file)
    assert caught.value.fields["path"] == str(vae)
    shutil.copy(vae, vae.parent / "wan_2.1_vae.safetensors")
    (plain := load_file(vae)).pop(name)
    save_file(plain, vae)
    assert sources(recognize(file))["vae"] == vae
    save_file({**load_file(file), name: torch.ones(1)}, file)
    with pytest.raises(ModelError, match="model_quantized"):
        recognize(file)


def test_a_published_text_encoder_with_scales_is_named_where_no_other_lies(tmp_path: Path) -> None:
    """Not one of another size: that is none of this model's."""
    denoiser = write_header(tmp_path / "krea2_raw.safetensors", published("krea2_raw"))
    beside = tmp_path / "text_encoders"
    beside.mkdir()
    shapes = published("qwen3_vl_8b") | {"model.language_model.layers.0.mlp.up_proj.weight_scale": ()}
    write_header(beside / "qwen3vl_8b_fp8_scaled.safetensors", shapes)
    with pytest.raises(ModelError, match="model_parts_missing"):
        recognize(denoiser)
    path = write_header(beside / "qwen3vl_4b_fp8_scaled.safetensors", published("qwen3_vl_4b_fp8"))
    with pytest.raises(ModelError, match="model_quantized") as caught:
        recognize(denoiser)
    assert caught.value.fields["path"] == str(path)


def test_an_identity_is_that_of_the_files_that_are_used(folder: Path, file: Path) -> None:
    weights = recognize(file)
    models = file.parents[1]
    before = {name: component_sha256(weights, name) for name in ("vae", "text_encoder")}
    assert files_sha256(weights.replaced["vae"].paths) == files_sha256([models / VAE])
    assert files_sha256([file, models / VAE]) == files_sha256([models / VAE, file]) != files_sha256([file])
    assert files_sha256([]) == "" and weights_sha256(weights) == files_sha256([file])
    for part in (TEXT, VAE):
        tensors = load_file(models / part)
        name = min(tensors)
        save_file({**tensors, name: tensors[name] + 1}, models / part)
    after = {name: component_sha256(recognize(file), name) for name in before}
    assert all(after[name] != before[name] for name in before)


def test_a_model_of_its_own_text_encoder_takes_no_other(narrow, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="text_encoder_fixed"):
        recognize(narrow.single, parts=PartFiles(text_encoders=(tmp_path,)))


def test_a_prefix_is_what_stands_before_a_known_name() -> None:
    names = ["net.first.weight", "net.blocks.0.weight", "vae.first.weights", "other.weight"]
    assert bare_names(names, "first.weight") == {"first.weight": names[0], "blocks.0.weight": names[1]}
    assert bare_names(["first.weight", "x"], "first.weight") == {"first.weight": "first.weight", "x": "x"}
    assert bare_names(["second.weight"], "first.weight") == {}


WHOLE = (  # published file, family, component, the file's tensors
    ("krea2_raw", "krea2", "transformer", 430),
    ("qwen3_vl_4b", "krea2", "text_encoder", 713),
    ("qwen_image_21", "qwen_image21", "transformer", 265),
    ("qwen_image_21_vae", "qwen_image21", "vae", 238),
    ("anima_base", "anima", "transformer", 685),
    ("anima_base", "anima", "text_conditioner", 685),
    ("anima_38b", "anima", "transformer", 1358),
    ("qwen3_06b_base", "anima", "text_encoder", 310),
    ("zimage", "zimage", "transformer", 453),
    ("flux2_klein_4b", "flux2_klein", "transformer", 149),
    ("flux2_klein_9b", "flux2_klein", "transformer", 201),
    ("qwen3_4b", "zimage", "text_encoder", 398),
    ("qwen3_8b", "flux2_klein", "text_encoder", 399),
    ("flux1_dev", "flux1", "transformer", 780),
    ("t5xxl", "flux1", "text_encoder_2", 219),
)
WIDTHS = {  # of the denoiser, by which its text encoders are known
    "krea2": {"text_hidden_dim": 2560},
    "anima": {"text_embed_dim": 1024},
    "zimage": {"cap_feat_dim": 2560},
    "flux2_klein": {"joint_attention_dim": 12288},
    "flux1": {"joint_attention_dim": 4096, "pooled_projection_dim": 768},
}


@pytest.mark.parametrize(("name", "family", "component", "count"), WHOLE)
def test_published_files_fill_the_libraries_modules(name: str, family: str, component: str, count: int) -> None:
    """Every parameter, in its shape, of the module whose config follows from the file's shapes."""
    stored = published(name)
    assert len(stored) == count
    split: SplitFiles = import_module(f"lorasmith.families.{family}.layout").SPLIT
    module, _, kind = FAMILIES[family].family.partition(":")
    build = getattr(import_module(module), kind).builders[component]()
    shapes = shapes_at(split.finder(component, stored), stored)
    is_denoiser = component == DENOISER
    config = split.config(shapes) if is_denoiser else split.parts[component].config(shapes, WIDTHS.get(family, {}))
    expected = build(config).state_dict()
    assert shapes.keys() == expected.keys()
    for key, tensor in expected.items():
        assert _fitted(torch.empty(shapes[key], device="meta"), tensor).shape == tensor.shape
