"""The made models load in the reference libraries, in both layouts, and behave like models."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTokenizer

from lorasmith.demo.miniature import draw_pictures, main, make_model, to_single_file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "base")


def test_unet_predicts_noise_sized_numbers_that_depend_on_caption_and_time(folder: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", local_files_only=True)
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", local_files_only=True)
    captions = ["a red circle on a blue background", "a white ring"]
    tokens = tokenizer(captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    sample = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        text = text_encoder(tokens.input_ids).last_hidden_state
        predicted = unet(sample, 500, text).sample
        of_other_captions = unet(sample, 500, text.flip(0)).sample
        at_other_time = unet(sample, 20, text).sample
    assert 0.5 < predicted.std() < 2
    assert (predicted - of_other_captions).std() > 0.1
    assert (predicted - at_other_time).std() > 0.01


def test_vae_makes_latents_of_unit_size(folder: Path) -> None:
    vae = AutoencoderKL.from_pretrained(folder / "vae", local_files_only=True)
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        posterior = vae.encode(pixels).latent_dist
        pictures = vae.decode(posterior.mean).sample
    assert posterior.mean.shape == (2, 4, 8, 8)
    assert 0.3 < (posterior.mean * 0.18215).std() < 3
    assert 0.1 < pictures.std() < 1.5


def test_text_encoder_has_the_tokens_of_the_tokenizer(folder: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    config = json.loads((folder / "text_encoder" / "config.json").read_text())
    assert (config["vocab_size"], config["eos_token_id"]) == (len(tokenizer), tokenizer.eos_token_id)


def test_text_encoder_file_has_the_names_of_published_ones(folder: Path) -> None:
    names = load_file(folder / "text_encoder" / "model.safetensors").keys()
    assert all(name.startswith("text_model.") for name in names)
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", local_files_only=True)
    assert len(names) == sum(1 for _ in encoder.parameters())


def test_same_seed_same_weights_other_seed_others(folder: Path, tmp_path: Path) -> None:
    first = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    same = load_file(make_model(tmp_path / "same") / "unet" / "diffusion_pytorch_model.safetensors")
    other = load_file(make_model(tmp_path / "other", seed=1) / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["conv_in.weight"], other["conv_in.weight"])


def test_prediction_and_precision(tmp_path: Path) -> None:
    folder = make_model(
        tmp_path / "m", prediction="v_prediction", zero_terminal_snr=True, precision=torch.float16, size="miniature"
    )
    scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
    assert scheduler.config.prediction_type == "v_prediction"
    assert float(scheduler.alphas_cumprod[-1]) < 1e-6
    assert {t.dtype for t in load_file(folder / "vae" / "diffusion_pytorch_model.safetensors").values()} == {
        torch.float16
    }
    tensors = load_file(to_single_file(folder, tmp_path / "m.safetensors", with_configs=False))
    assert {"v_pred", "ztsnr"} <= tensors.keys()


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_single_file_is_read_by_diffusers_as_the_same_model(
    folder: Path, tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    file = to_single_file(folder, tmp_path / "model.safetensors", with_configs=True)
    kind = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}[part]
    read = kind.from_single_file(str(file), config=str(folder), subfolder=part).state_dict()
    expected = load_file(folder / part / "diffusion_pytorch_model.safetensors")
    assert read.keys() == expected.keys()
    assert all(torch.equal(read[name], expected[name]) for name in expected)


def test_single_file_layout(folder: Path, tmp_path: Path) -> None:
    file = to_single_file(folder, tmp_path / "m.safetensors", with_configs=True, precision=torch.float16)
    with safe_open(file, framework="pt") as opened:
        configs = json.loads(opened.metadata()["lorasmith.configs"])
        names = set(opened.keys())
        attention = opened.get_tensor("first_stage_model.encoder.mid.attn_1.q.weight")
        assert opened.get_tensor("model.diffusion_model.out.2.weight").dtype == torch.float16
    assert attention.shape == (16, 16, 1, 1)
    assert configs.keys() == {"unet", "vae", "text_encoder", "scheduler", "tokenizer"}
    assert "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight" in names
    assert "cond_stage_model.transformer.text_model.encoder.layers.1.mlp.fc1.weight" in names
    assert "alphas_cumprod" in names
    assert "v_pred" not in names


def test_old_and_pickled_single_files(folder: Path, tmp_path: Path) -> None:
    file = to_single_file(folder, tmp_path / "m.ckpt", with_configs=False, has_text_model=False)
    content = torch.load(file, weights_only=True)
    assert "cond_stage_model.transformer.encoder.layers.0.mlp.fc1.weight" in content["state_dict"]


def test_pictures_have_captions_and_differ(tmp_path: Path) -> None:
    folder = draw_pictures(tmp_path, 4, seed=3, size=(80, 64))
    pictures = sorted(folder.glob("*.png"))
    assert folder.name == "10_test"
    for path in pictures:
        with Image.open(path) as picture:
            assert picture.size == (80, 64)
    assert len({path.read_bytes() for path in pictures}) == 4
    assert all(path.with_suffix(".txt").read_text(encoding="utf-8").startswith("a ") for path in pictures)


def test_main_makes_all_that_a_run_needs(tmp_path: Path) -> None:
    main([str(tmp_path / "try")])
    made = {str(path.relative_to(tmp_path / "try")) for path in (tmp_path / "try").rglob("*")}
    assert {"base_model/model_index.json", "lora_train_set/10_test/picture_007.txt", "lorasmith.toml"} <= made


def test_main_makes_sdxl_as_a_single_file(tmp_path: Path) -> None:
    main([str(tmp_path), "--family", "sdxl", "--size", "nano", "--single-file", "--half"])
    assert (tmp_path / "lorasmith.toml").read_text(encoding="utf-8") == 'base_model = "base_model.safetensors"\n'
    with safe_open(tmp_path / "base_model.safetensors", framework="pt") as opened:
        names = set(opened.keys())
        projection = opened.get_tensor("conditioner.embedders.1.model.text_projection")
        configs = json.loads(opened.metadata()["lorasmith.configs"])
    assert (tuple(projection.shape), projection.dtype) == ((128, 64), torch.float16)
    assert configs.keys() >= {"unet", "text_encoder_2", "tokenizer", "tokenizer_2"}
    assert "model.diffusion_model.label_emb.0.2.weight" in names
    assert "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight" in names
    assert "alphas_cumprod" not in names


@pytest.mark.slow
def test_runs_as_a_module_and_prints_nothing(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "lorasmith.demo.miniature", str(tmp_path / "try")]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"")
    assert (tmp_path / "try" / "base_model" / "unet" / "config.json").exists()
