"""Facts for the metadata of a file."""

import pytest

from lorasmith.exporting.caption_metadata import CaptionFacts
from lorasmith.exporting.metadata import ExportFacts
from lorasmith.exporting.objective_metadata import ObjectiveFacts
from lorasmith.exporting.picture_metadata import BucketFacts, DatasetFacts, FolderFacts, PictureFacts
from lorasmith.exporting.sd_scripts_metadata import DescriptionFacts


@pytest.fixture
def facts() -> ExportFacts:
    return ExportFacts(
        run_id="c0ffee",
        name="last",
        step=120,
        epoch=3,
        started_at=1_763_800_000.25,
        finished_at=1_763_800_500.5,
        base_model_name="v1-5-pruned-emaonly.safetensors",
        base_model_sha256="ab" * 32,
        vae_name="",
        vae_sha256="",
        vae_short_hash="",
        base_model_version="sd_v1",
        architecture="stable-diffusion-v1",
        implementation="diffusers",
        prediction="epsilon",
        zero_terminal_snr=False,
        clip_skip=1,
        network_module="networks.lora",
        network_args={},
        rank=2,
        alpha=1.0,
        dropout=0.0,
        lr=1e-4,
        denoiser_lr=1e-4,
        text_encoder_lr=(),
        optimizer="torch.optim.adamw.AdamW",
        optimizer_options={"weight_decay": 0.01},
        lr_schedule="constant",
        lr_warmup_steps=0,
        target_steps=120,
        epochs=3,
        micro_batches_per_epoch=40,
        accumulation_steps=1,
        batch_size=2,
        gradient_checkpointing=False,
        fp8_base=False,
        max_grad_norm=1.0,
        max_change_norm=0.0,
        precision="bf16",
        seed=42,
        objective=ObjectiveFacts(),
        captions=CaptionFacts(),
        pictures=PictureFacts(
            whole=DatasetFacts(
                folders=(FolderFacts("10_測試", 10, 8, {"a red ring": 5, "紅": 1}),),
                buckets=(BucketFacts(512, 512, 60), BucketFacts(448, 576, 20)),
                mean_aspect_error=0.0125,
                resolution=(512, 512),
                batch_size=2,
            ),
            held_out=2,
        ),
        trigger_word="zorb",
        description=DescriptionFacts(),
    )
