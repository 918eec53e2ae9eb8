"""What the file says about itself, and its hashes as sd-scripts computes them."""

import dataclasses
import hashlib
import json

import pytest
import torch
from safetensors.torch import save

from lorasmith.exporting.file_format import data_bytes, header_bytes
from lorasmith.exporting.metadata import (
    ExportFacts,
    build_metadata,
    count_tags,
    hashed_metadata,
    legacy_hash,
    with_hashes,
)


def test_every_value_is_a_string(facts: ExportFacts) -> None:
    metadata = build_metadata(facts)
    assert all(isinstance(value, str) for value in metadata.values())
    assert len(metadata) > 70


def test_what_the_webui_shows(facts: ExportFacts) -> None:
    metadata = build_metadata(facts)
    expected = {
        "ss_output_name": "last",
        "ss_steps": "120",
        "ss_epoch": "3",
        "ss_v2": "False",
        "ss_base_model_version": "sd_v1",
        "ss_sd_model_name": "v1-5-pruned-emaonly.safetensors",
        "ss_new_sd_model_hash": "ab" * 32,
        "ss_clip_skip": "1",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "2",
        "ss_network_alpha": "1.0",
        "ss_training_started_at": "1763800000.25",
        "ss_learning_rate": "0.0001",
        "ss_unet_lr": "0.0001",
        "ss_text_encoder_lr": "None",
        "ss_optimizer": "torch.optim.adamw.AdamW(weight_decay=0.01)",
        "ss_mixed_precision": "bf16",
        "ss_num_train_images": "80",
        "ss_num_validation_images": "2",
        "ss_resolution": "(512, 512)",
        "ss_min_bucket_reso": "448",
        "ss_max_bucket_reso": "576",
        "ss_zero_terminal_snr": "False",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.resolution": "512x512",
        "modelspec.prediction_type": "epsilon",
        "modelspec.trigger_phrase": "zorb",
        "modelspec.date": "2025-11-22T08:35:00+00:00",
    }
    assert {key: metadata[key] for key in expected} == expected
    assert json.loads(metadata["ss_dataset_dirs"]) == {"10_測試": {"n_repeats": 10, "img_count": 8}}
    assert json.loads(metadata["ss_tag_frequency"]) == {"10_測試": {"a red ring": 5, "紅": 1}}
    assert json.loads(metadata["ss_bucket_info"])["buckets"]["1"] == {"resolution": [448, 576], "count": 20}
    assert metadata["ss_bucket_info"].startswith("{")


def test_v_prediction_is_marked(facts: ExportFacts) -> None:
    changed = dataclasses.replace(facts, prediction="v_prediction", zero_terminal_snr=True, trigger_word="")
    metadata = build_metadata(changed)
    assert metadata["ss_base_model_version"] == "sd_v1_v"
    of_sdxl = build_metadata(dataclasses.replace(changed, base_model_version="sdxl_base_v1-0"))
    assert of_sdxl["ss_base_model_version"] == "sdxl_base_v1-0"  # sd-scripts marks v-prediction in SD 1.x and 2.x alone
    assert metadata["modelspec.prediction_type"] == "v"
    assert metadata["ss_zero_terminal_snr"] == "True"
    assert metadata["ss_v2"] == "False"
    assert "modelspec.trigger_phrase" not in metadata


def test_session_belongs_to_the_run(facts: ExportFacts) -> None:
    session = build_metadata(facts)["ss_session_id"]
    later = dataclasses.replace(facts, step=240, started_at=1.0)
    assert session.isdigit()
    assert build_metadata(later)["ss_session_id"] == session
    assert build_metadata(dataclasses.replace(facts, run_id="other"))["ss_session_id"] != session


@pytest.mark.parametrize("numbers", [10, 600_000])  # below and above the megabyte that the legacy hash looks behind
def test_hashes_are_those_of_the_librarys_own_file(facts: ExportFacts, numbers: int) -> None:
    tensors = {"x.lora_up.weight": torch.randn(numbers).half(), "x.alpha": torch.tensor(2.0)}
    metadata = build_metadata(facts)
    header = header_bytes(tensors, hashed_metadata(metadata))
    hashed = with_hashes(metadata, header=header, data=data_bytes(tensors))
    # sd-scripts: safetensors.save of the ss_* keys; everything after the header; 64 KiB from 1 MiB on
    reference = save(tensors, {key: value for key, value in metadata.items() if key.startswith("ss_")})
    length = int.from_bytes(reference[:8], "little")
    assert hashed["sshs_model_hash"] == hashlib.sha256(reference[8 + length :]).hexdigest()
    assert hashed["sshs_legacy_hash"] == hashlib.sha256(reference[0x100000 : 0x100000 + 0x10000]).hexdigest()[:8]
    assert hashed["modelspec.hash_sha256"] == "0x" + hashed["sshs_model_hash"]
    assert (hashed["sshs_legacy_hash"] == "e3b0c442") == (numbers == 10)


@pytest.mark.parametrize("header", [10, 0x100000, 0x108000, 0x200000])  # also a header that reaches into the window
def test_legacy_hash_is_of_the_whole_file(header: int) -> None:
    before, data = bytes(range(256)) * 0x2000, bytes(range(255, -1, -1)) * 0x2000
    whole = before[:header] + data
    assert legacy_hash(before[:header], memoryview(data)) == hashlib.sha256(whole[0x100000:0x110000]).hexdigest()[:8]


def test_tags_are_counted_by_caption() -> None:
    assert count_tags(["Zorb, red ring,  , 紅", "zorb,blue"]) == {"zorb": 2, "red ring": 1, "紅": 1, "blue": 1}
