"""A LoRA of random numbers under the names an adapter gives them, and facts for its metadata."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lorasmith.exporting.key_tables import key_table
from lorasmith.exporting.metadata import BucketFacts, ExportFacts, FolderFacts
from lorasmith.seeding import fold

MakeLora = Callable[..., dict[str, Tensor]]


@pytest.fixture
def make_lora() -> MakeLora:
    """make(components, rank=2, shapes=None): full-size shapes, or {target name: shape of the layer's weight}."""

    def make(
        components: tuple[str, ...] = ("denoiser", "text_encoder"),
        rank: int = 2,
        shapes: dict[str, tuple[int, ...]] | None = None,
    ) -> dict[str, Tensor]:
        if shapes is None:
            layers = key_table("sd15").layers.values()
            shapes = {layer.name: layer.weight_shape() for layer in layers if layer.component in components}
        tensors = {}
        for name, shape in shapes.items():
            generator = torch.Generator().manual_seed(fold(0, name))
            ones = shape[2:]
            tensors[f"{name}.lora_down.weight"] = torch.randn((rank, shape[1], *ones), generator=generator)
            tensors[f"{name}.lora_up.weight"] = torch.randn((shape[0], rank, *ones), generator=generator) * 0.1
        return tensors

    return make


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
        base_model_version="sd_v1",
        architecture="stable-diffusion-v1",
        implementation="diffusers",
        prediction="epsilon",
        zero_terminal_snr=False,
        clip_skip=1,
        rank=2,
        alpha=1.0,
        dropout=0.0,
        lr=1e-4,
        denoiser_lr=1e-4,
        text_encoder_lr=None,
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
        max_grad_norm=1.0,
        precision="bf16",
        seed=42,
        folders=(FolderFacts("10_測試", 10, 8, {"a red ring": 5, "紅": 1}),),
        buckets=(BucketFacts(512, 512, 60), BucketFacts(448, 576, 20)),
        mean_aspect_error=0.0125,
        held_out=2,
        resolution=512,
        trigger_word="zorb",
    )
