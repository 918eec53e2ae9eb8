"""Stable Diffusion 1.x: the same model from every layout to the bit, its targets, its encoders, its schedule."""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lorasmith.config import AdapterConfig
from lorasmith.demo.miniature import to_single_file
from lorasmith.diffusion.draw import Draw, draw_numbers
from lorasmith.diffusion.process import Noised, apply_noise
from lorasmith.errors import ModelError
from lorasmith.families import load_family
from lorasmith.families.clip import text_builder
from lorasmith.families.recognize import recognize
from lorasmith.families.sd15.family import StableDiffusion15
from lorasmith.families.sd15.layout import usual_config
from lorasmith.families.weights import TextSettings
from lorasmith.session.layers import chosen_layers
from tests.families.unet_miniature import make_model

CPU = torch.device("cpu")


def family_of(path: Path, *, clip_skip: int = 1) -> StableDiffusion15:
    family = load_family(recognize(path), TextSettings(clip_skip=clip_skip))
    assert isinstance(family, StableDiffusion15)
    return family


def all_modules(family: StableDiffusion15) -> dict[str, nn.Module]:
    models = family.load_models(trained=["text_encoder"], dtype=torch.float32, to=CPU)
    encoders = family.load_encoders(CPU)
    return models | {"vae": encoders["vae"], "frozen_text_encoder": encoders["text_encoder"]}


def noised_by(family: StableDiffusion15, latents: Tensor, draw: Draw) -> Noised:
    return apply_noise(family.noise_process(), latents, draw_numbers(draw, latents))


def outputs(family: StableDiffusion15) -> dict[str, Tensor]:
    """What each part makes of the same input."""
    encoders = family.load_encoders(CPU)
    models = family.load_models(trained=[], dtype=torch.float32, to=CPU)
    pixels = torch.rand((3, 64, 64), generator=torch.Generator().manual_seed(1)) * 2 - 1
    latents = family.encode_image(encoders, pixels)["latents"]
    rows = [family.encode_caption(encoders, caption) for caption in ("a photo of a cat", "a red circle")]
    inputs = family.collate([{**row, "latents": latents} for row in rows])
    conditioning = family.conditioning(models, inputs)
    noised = noised_by(family, inputs["latents"], Draw(0, 1, 0))
    with torch.no_grad():
        prediction = family.predict(models, noised.noisy_latents, noised.timesteps, conditioning)
    return {
        "latents": latents,
        "sample": noised.noisy_latents,
        "target": noised.target,
        "out": prediction,
        **conditioning,
    }


def assert_equal(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.fixture(scope="module")
def layouts(narrow, miniature, tmp_path_factory):
    """Pairs that hold the same model."""
    root = tmp_path_factory.mktemp("layouts")
    old = to_single_file(narrow.folder, root / "old.safetensors", with_configs=False, has_text_model=False)
    bare = shutil.copytree(narrow.folder, root / "old_folder")
    legacy_folder(bare)
    legacy = root / "legacy.ckpt"
    torch.save(torch.load(narrow.ckpt, weights_only=True), legacy, _use_new_zipfile_serialization=False)
    return {
        "single": (narrow.folder, narrow.single),
        "old single": (narrow.folder, old),
        "ckpt": (narrow.folder, narrow.ckpt),
        "ckpt before zip": (narrow.folder, legacy),
        "old folder": (narrow.folder, bare),
        "with its configs": (miniature.folder, miniature.single),
    }


def legacy_folder(folder: Path) -> None:
    """As published in 2022: pickled weights, other names in the VAE's attention, numbers of positions kept."""
    from safetensors.torch import load_file

    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for part, stem, pickled in (
        ("vae", "diffusion_pytorch_model", "diffusion_pytorch_model.bin"),
        ("text_encoder", "model", "pytorch_model.bin"),
    ):
        file = folder / part / f"{stem}.safetensors"
        tensors = load_file(file)
        for new, name in old.items():
            if part == "vae":
                tensors = {
                    key.replace(f"attentions.0.{new}.", f"attentions.0.{name}."): one for key, one in tensors.items()
                }
        if part == "text_encoder":
            tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]
        torch.save(tensors, folder / part / pickled)
        file.unlink()


SCHEDULES = [
    *(("folder", *row) for row in (("epsilon", False), ("v_prediction", True))),
    *(("single", *row) for row in (("epsilon", False), ("v_prediction", False))),
    *(("ckpt", *row) for row in (("v_prediction", False), ("v_prediction", True))),
]
LAYOUTS = ["single", "old single", "ckpt", "ckpt before zip", "old folder", "with its configs"]


@cache
def reference_modules(folder: Path) -> dict[str, nn.Module]:
    return all_modules(family_of(folder))


@cache
def reference_outputs(folder: Path, clip_skip: int) -> dict[str, Tensor]:
    return outputs(family_of(folder, clip_skip=clip_skip))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_holds_the_same_weights(layouts, layout: str) -> None:
    reference, path = layouts[layout]
    folder, other = reference_modules(reference), all_modules(family_of(path))
    assert set(folder) == {"denoiser", "text_encoder", "vae", "frozen_text_encoder"}
    for component, module in folder.items():
        assert_equal(module.state_dict(), other[component].state_dict())


@pytest.mark.parametrize(
    ("layout", "clip_skip"),
    [
        ("single", 2),
        *(pytest.param(one, 1, marks=pytest.mark.ci) for one in LAYOUTS),
    ],
)
def test_every_layout_gives_the_same_outputs(layouts, layout: str, clip_skip: int) -> None:
    reference, path = layouts[layout]
    folder, other = reference_outputs(reference, clip_skip), outputs(family_of(path, clip_skip=clip_skip))
    assert_equal(folder, other)
    assert all(bool(tensor.isfinite().all()) for tensor in folder.values())


def test_the_weights_are_those_the_library_loads(narrow) -> None:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    ours = all_modules(family_of(narrow.folder))
    assert_equal(
        ours["denoiser"].state_dict(), UNet2DConditionModel.from_pretrained(narrow.folder / "unet").state_dict()
    )
    assert_equal(ours["vae"].state_dict(), AutoencoderKL.from_pretrained(narrow.folder / "vae").state_dict())
    theirs = CLIPTextModel.from_pretrained(narrow.folder / "text_encoder")
    assert_equal(ours["text_encoder"].state_dict(), theirs.state_dict())
    ids = torch.arange(77)[None]
    with torch.no_grad():
        assert torch.equal(ours["text_encoder"](ids).last_hidden_state, theirs(ids).last_hidden_state)


# -- loading ---------------------------------------------------------------------------------------


def test_models_are_frozen_evaluating_and_of_the_precision(miniature) -> None:
    models = family_of(miniature.folder).load_models(trained=["text_encoder"], dtype=torch.bfloat16, to=CPU)
    for module in models.values():
        assert not module.training
        assert not any(one.is_meta for one in (*module.parameters(), *module.buffers()))
        assert {(one.dtype, one.requires_grad) for one in module.parameters()} == {(torch.bfloat16, False)}


@pytest.mark.ci
def test_half_precision_files_become_what_is_asked(miniature, tmp_path: Path) -> None:
    file = to_single_file(miniature.folder, tmp_path / "half.safetensors", with_configs=True, precision=torch.float16)
    full = family_of(miniature.folder).load_models(trained=[], dtype=torch.float32, to=CPU)["denoiser"]
    half = family_of(file).load_models(trained=[], dtype=torch.float32, to=CPU)["denoiser"]
    for name, tensor in half.state_dict().items():
        assert torch.equal(tensor, full.state_dict()[name].half().float())


def test_sharded_and_fp16_folders_load(miniature, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(miniature.folder, tmp_path / "model")
    whole = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(whole)
    places = {name: f"part-{number % 2}.safetensors" for number, name in enumerate(tensors)}
    for file in set(places.values()):
        save_file({name: one for name, one in tensors.items() if places[name] == file}, whole.with_name(file))
    whole.with_suffix(".safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    whole.unlink()
    vae = folder / "vae" / "diffusion_pytorch_model.safetensors"
    vae.rename(vae.with_name("diffusion_pytorch_model.fp16.safetensors"))
    ours, theirs = (all_modules(family_of(path)) for path in (folder, miniature.folder))
    for component in ("denoiser", "vae"):
        assert_equal(ours[component].state_dict(), theirs[component].state_dict())


def test_the_file_may_vanish_after_loading(miniature, tmp_path: Path) -> None:
    file = Path(shutil.copy(miniature.single, tmp_path / "model.safetensors"))
    denoiser = family_of(file).load_models(trained=[], dtype=torch.float32, to=CPU)["denoiser"]
    before = {name: tensor.clone() for name, tensor in denoiser.state_dict().items()}
    file.write_bytes(b"")
    assert_equal(denoiser.state_dict(), before)


@pytest.mark.parametrize("change", ["missing", "left over", "size"])
def test_layers_that_do_not_fit(miniature, tmp_path: Path, change: str) -> None:
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(miniature.folder, tmp_path / "model")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    if change == "missing":
        del tensors["conv_out.bias"]
    elif change == "size":
        tensors["conv_out.bias"] = torch.zeros(5)
    else:
        tensors["conv_out.more"] = torch.zeros(4)
    save_file(tensors, file)
    with pytest.raises(ModelError) as caught:
        family_of(folder).load_models(trained=[], dtype=torch.float32, to=CPU)
    assert caught.value.code == "model_layers"
    assert caught.value.fields["count"] == 1
    assert caught.value.fields["first"].startswith("conv_out.")


def test_a_tokenizer_larger_than_the_embedding(miniature, narrow, tmp_path: Path) -> None:
    folder = shutil.copytree(miniature.folder, tmp_path / "model", ignore=shutil.ignore_patterns("tokenizer"))
    shutil.copytree(narrow.folder / "tokenizer", folder / "tokenizer")
    with pytest.raises(ModelError, match="model_tokenizer"):
        family_of(folder).tokenize("a")


def test_a_tokenizer_saved_by_the_installed_library(miniature, tmp_path: Path) -> None:
    family = family_of(miniature.folder)
    folder = shutil.copytree(miniature.folder, tmp_path / "model", ignore=shutil.ignore_patterns("tokenizer"))
    family._tokenizer.save_pretrained(folder / "tokenizer")
    for caption in ("a red circle on a blue background", "something else"):
        assert_equal(family_of(folder).tokenize(caption), family.tokenize(caption))


# -- targets ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real() -> dict[str, nn.Module]:
    """The published architecture, without weights."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        denoiser = UNet2DConditionModel.from_config(usual_config("unet"))
    return {"denoiser": denoiser, "text_encoder": text_builder()(usual_config("text_encoder"))}


def webui_names_sha256(names: list[str]) -> str:
    names = [re.sub(r"^denoiser\.", "lora_unet_", re.sub(r"^text_encoder\.", "lora_te_", name)) for name in names]
    names = [name.replace(".", "_") for name in names]
    return hashlib.sha256("".join(f"{name}\n" for name in sorted(names)).encode()).hexdigest()


def test_targets_of_the_real_model_are_those_of_sd_scripts(narrow, real) -> None:
    targets = family_of(narrow.folder).target_modules(real)
    specs = {one.name: one.spec for one in targets}
    assert [one.component for one in targets] == ["denoiser"] * 278 + ["text_encoder"] * 72
    for config, denoiser_sha256 in (
        (AdapterConfig(), "f8c8f334e2e0607c1193ab29e2dc20d1987e8d15cf4cb8f27056de5125f33198"),
        (AdapterConfig(conv_rank=4), "a52d818538d1f01ff030051e33c5fc6336c876cdd56bb082377006741ebac3e9"),
    ):
        chosen = chosen_layers(config, "sd15", specs)
        denoiser = [name for name in chosen if name.startswith("denoiser.")]
        text = [name for name in chosen if name.startswith("text_encoder.")]
        assert (len(denoiser), len(text)) == (192 if config.conv_rank is None else 278, 72)
        assert webui_names_sha256(denoiser) == denoiser_sha256
        assert webui_names_sha256(text) == "dba0564f7193eb83b6e8623967c2430f768b4d399da04c2311abae861fea19d6"
        windows = [name for name in chosen if chosen[name].rank == 4]
        assert len(windows) == (0 if config.conv_rank is None else 50)
        assert all(specs[name].kernel in {(), (1, 1)} for name in chosen if name not in windows)


def test_targets_without_the_text_encoder(narrow, real) -> None:
    assert len(family_of(narrow.folder).target_modules({"denoiser": real["denoiser"]})) == 278


# -- encoding and noise ----------------------------------------------------------------------------


def test_latents_are_the_scaled_mean(miniature) -> None:
    family = family_of(miniature.folder)
    encoders = family.load_encoders(CPU)
    pixels = torch.rand(3, 64, 96) * 2 - 1
    latents = family.encode_image(encoders, pixels)["latents"]
    assert latents.shape == (4, 8, 12)
    with torch.no_grad():
        posterior = encoders["vae"].encode(pixels[None]).latent_dist
    assert torch.equal(latents[None], posterior.mode() * 0.18215)


def test_a_trained_text_encoder_gets_gradients(miniature) -> None:
    family = family_of(miniature.folder, clip_skip=2)
    models = family.load_models(trained=["text_encoder"], dtype=torch.float32, to=CPU)
    in_text = [target for target in family.target_modules(models) if target.component == "text_encoder"]
    first, last = in_text[0].module, in_text[-1].parent.get_submodule("fc1")
    for module in (first, last):
        module.weight.requires_grad_(True)
    inputs = family.collate([family.tokenize("a red circle")])
    family.conditioning(models, inputs)["prompt_embeds"].sum().backward()
    assert first.weight.grad is not None
    assert last.weight.grad is None  # the last layer is skipped


@pytest.mark.parametrize(
    ("layout", "prediction", "zero"),
    [
        ("folder", "v_prediction", False),
        ("single", "v_prediction", True),
        ("ckpt", "epsilon", False),
        *(pytest.param(*row, marks=pytest.mark.ci) for row in SCHEDULES),
    ],
)
def test_the_schedule_follows_the_model(tmp_path: Path, prediction: str, zero: bool, layout: str) -> None:
    from diffusers import DDIMScheduler

    path = make_model(tmp_path / "model", prediction=prediction, zero_terminal_snr=zero)
    if layout != "folder":
        suffix = ".safetensors" if layout == "single" else ".ckpt"
        if layout == "ckpt":  # without configs it must be told by CLIP's vocabulary and 32 groups
            path = make_model(tmp_path / "narrow", size="narrow", prediction=prediction, zero_terminal_snr=zero)
        path = to_single_file(path, tmp_path / f"model{suffix}", with_configs=layout == "single")
    family = family_of(path)
    assert (family.weights.noise.prediction, family.weights.noise.zero_terminal_snr) == (prediction, zero)
    theirs = DDIMScheduler.from_config(family.weights.configs["scheduler"])
    alphas_cumprod = family.noise_process().alphas_cumprod
    assert torch.allclose(alphas_cumprod, theirs.alphas_cumprod, atol=2e-6)
    assert (alphas_cumprod[-1].item() < 1e-12) == zero
    latents = torch.randn(3, 4, 8, 8)
    noised = noised_by(family, latents, Draw(7, 2, 1))
    noise = Draw(7, 2, 1).normal("noise", (3, 4, 8, 8))
    assert torch.allclose(noised.noisy_latents, theirs.add_noise(latents, noise, noised.timesteps), atol=1e-5)
    expected = noise if prediction == "epsilon" else theirs.get_velocity(latents, noise, noised.timesteps)
    assert torch.allclose(noised.target, expected, atol=1e-5)


def test_predict_runs_in_the_denoisers_precision(miniature) -> None:
    family = family_of(miniature.folder)
    models = family.load_models(trained=[], dtype=torch.bfloat16, to=CPU)
    conditioning = {"prompt_embeds": torch.randn(2, 77, 64)}
    with torch.no_grad():
        out = family.predict(models, torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), conditioning)
    assert (out.dtype, out.shape) == (torch.bfloat16, (2, 4, 8, 8))


def test_nothing_is_fetched(narrow, miniature, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    for call in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(f"socket.socket.{call}", refused)
    monkeypatch.setattr("socket.getaddrinfo", refused)
    for path in (narrow.ckpt, miniature.single):
        family = family_of(path, clip_skip=2)
        outputs(family)
        family.encoder_hashes()
