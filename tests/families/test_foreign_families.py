"""Denoisers of flow matching are named as people call them, by diffusers' names and by those of other files."""

from typing import Any

import diffusers
import pytest
import torch

from lorasmith.families.foreign_families import _PIPELINES, denoiser_family, is_trained, pipeline_family

CLASSES: dict[str, tuple[str, dict[str, Any]]] = {  # class of diffusers -> what its models are called, a small config
    "Krea2Transformer2DModel": ("Krea 2", {"num_layers": 1}),
    "Ideogram4Transformer2DModel": ("Ideogram 4", {"num_layers": 1}),
    "Flux3Transformer2DModel": ("FLUX.3", {"num_layers": 1, "num_single_layers": 1}),
    "Flux2Transformer2DModel": ("FLUX.2 dev", {"num_layers": 1, "num_single_layers": 1}),
    "QwenImage21Transformer2DModel": ("Qwen-Image 2.1", {"num_layers": 1}),
    "QwenImageTransformer2DModel": ("Qwen-Image", {"num_layers": 1}),
    "ChromaTransformer2DModel": ("Chroma", {"num_layers": 1, "num_single_layers": 1}),
    "ErnieImageTransformer2DModel": ("ERNIE-Image", {"num_layers": 1}),
    "JoyImageEditTransformer3DModel": ("JoyImage", {"num_layers": 1}),
    "NucleusMoEImageTransformer2DModel": ("Nucleus-Image", {"num_layers": 1}),
    "ZImageTransformer2DModel": ("Z-Image", {"n_layers": 1, "n_refiner_layers": 1}),
    "BriaFibo2Transformer2DModel": ("FIBO 2", {}),
    "BriaFiboTransformer2DModel": ("FIBO", {"num_layers": 1, "num_single_layers": 1}),
    "Lumina2Transformer2DModel": ("Lumina 2", {"num_layers": 1, "num_refiner_layers": 1}),
    "HunyuanVideoTransformer3DModel": ("Hunyuan", {"num_layers": 1, "num_single_layers": 1}),
    "HunyuanImageTransformer2DModel": ("Hunyuan", {"num_layers": 1, "num_single_layers": 1}),
    "OvisImageTransformer2DModel": ("Ovis-Image", {"num_layers": 1, "num_single_layers": 1}),
    "LongCatImageTransformer2DModel": ("LongCat-Image", {"num_layers": 1, "num_single_layers": 1}),
    "AuraFlowTransformer2DModel": ("AuraFlow", {"num_mmdit_layers": 1, "num_single_dit_layers": 1}),
    "SD3Transformer2DModel": ("SD 3", {"num_layers": 1}),
    "FluxTransformer2DModel": ("FLUX.1 schnell", {"num_layers": 1, "num_single_layers": 1}),
    "MochiTransformer3DModel": ("Mochi", {"num_layers": 1}),
    "GlmImageTransformer2DModel": ("GLM-Image", {"num_layers": 1}),
    "CogView4Transformer2DModel": ("CogView 4", {"num_layers": 1}),
    "CosmosTransformer3DModel": ("Cosmos", {"num_layers": 1}),
    "SanaTransformer2DModel": ("Sana", {"num_layers": 1}),
    "LTXVideoTransformer3DModel": ("LTX", {"num_layers": 1}),
    "LTX2VideoTransformer3DModel": ("LTX", {"num_layers": 1}),
    "PixArtTransformer2DModel": ("PixArt", {"num_layers": 1}),
    "WanTransformer3DModel": ("Wan", {"num_layers": 1}),
}


@pytest.mark.filterwarnings("ignore:.FluxPosEmbed. is deprecated:FutureWarning")  # diffusers' own, in Chroma
@pytest.mark.parametrize("name", CLASSES)
def test_classes_of_diffusers(name: str) -> None:
    family, config = CLASSES[name]
    with torch.device("meta"):
        shapes = {key: tuple(tensor.shape) for key, tensor in getattr(diffusers, name)(**config).state_dict().items()}
    assert denoiser_family(shapes) == family
    assert denoiser_family({f"transformer.{key}": shape for key, shape in shapes.items()}) == family


FILES = (  # what people say, and what files under other names than diffusers' hold
    ("FLUX.1 dev", "double_blocks.0.img_attn.qkv.weight single_blocks.0.linear1.weight guidance_in.in_layer.weight"),
    ("FLUX.1 schnell", "double_blocks.0.img_attn.qkv.weight single_blocks.0.linear1.weight time_in.in_layer.weight"),
    ("FLUX.2 klein", "double_blocks.0.img_attn.qkv.weight single_stream_modulation.lin.weight"),
    ("FLUX.2 dev", "single_stream_modulation.lin.weight guidance_in.in_layer.weight"),
    ("Chroma", "double_blocks.0.img_attn.qkv.weight distilled_guidance_layer.in_proj.weight"),
    ("Chroma Radiance", "distilled_guidance_layer.in_proj.weight nerf_blocks.0.norm.scale"),
    ("FLUX.3", "early_stream_modulations.image.lin.weight single_blocks.0.q_proj.weight"),
    ("Krea 2", "blocks.0.attn.wq.weight txtfusion.projector.weight"),
    ("Ideogram 4", "layers.0.attention.qkv.weight llm_cond_proj.weight"),
    ("Qwen-Image 2.1", "transformer_blocks.0.img_mlp.gate_up.weight txt_in.text_norm.weight"),
    ("ERNIE-Image", "layers.0.mlp.linear_fc2.weight layers.0.self_attention.to_q.weight"),
    ("Anima", "blocks.0.mlp.layer1.weight llm_adapter.blocks.0.cross_attn.q_proj.weight"),
    ("Cosmos", "blocks.0.mlp.layer1.weight blocks.0.adaln_modulation_cross_attn.1.weight"),
    ("Z-Image Omni", "layers.0.attention.qkv.weight cap_pad_token siglip_embedder.0.weight"),
    ("Qwen-Image-Layered", "txt_norm.weight txt_in.weight time_text_embed.addition_t_embedding.weight"),
    ("Qwen-Image-Edit", "txt_norm.weight txt_in.weight __index_timestep_zero__"),
    ("SD 3", "joint_blocks.0.context_block.attn.qkv.weight"),
    ("SD 3.5", "joint_blocks.0.context_block.attn.qkv.weight joint_blocks.0.x_block.attn.ln_q.weight"),
    ("HiDream", "caption_projection.0.linear.weight double_stream_blocks.0.block.ff_i.gate.weight"),
    ("HiDream-O1", "t_embedder1.mlp.0.weight x_embedder.proj1.weight"),
    ("Wan", "head.modulation blocks.0.self_attn.q.weight"),
    ("Hunyuan", "txt_in.individual_token_refiner.blocks.0.norm1.weight double_blocks.0.img_attn.qkv.weight"),
    ("AuraFlow", "double_layers.0.attn.w2q.weight cond_seq_linear.weight"),
    ("LTX", "patchify_proj.weight adaln_single.linear.weight"),
    ("Sana", "attention_y_norm.weight blocks.0.cross_attn.q_linear.weight"),
    ("PixArt", "y_embedder.y_proj.fc1.weight blocks.0.cross_attn.q_linear.weight"),
    ("Mochi", "blocks.0.attn.qkv_x.weight"),
    ("Stable Cascade", "clip_txt_mapper.weight down_blocks.0.0.channelwise.0.weight"),
    ("", "input_blocks.0.0.weight label_emb.0.0.weight"),
)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "net."])
def test_other_files(prefix: str) -> None:
    for family, names in FILES:
        assert denoiser_family({prefix + name: (8, 8) for name in names.split()}) == family


def test_forms_that_widths_tell() -> None:
    flux = {"double_blocks.0.img_attn.qkv.weight": (8, 8), "single_blocks.0.linear1.weight": (8, 8), "time_in.x": (8,)}
    for width, family in ((64, "FLUX.1 schnell"), (384, "FLUX.1 Fill"), (128, "FLUX.1 Canny or Depth")):
        assert denoiser_family({**flux, "img_in.weight": (3072, width)}) == family
    refiner = {"noise_refiner.0.attention.qkv.weight": (8, 8)}
    assert denoiser_family({**refiner, "cap_embedder.1.weight": (3840, 2560)}) == "Z-Image"
    assert denoiser_family({**refiner, "cap_embedder.1.weight": (2304, 2304)}) == "Lumina 2"


def test_folders_are_named_by_their_pipeline() -> None:
    names = {
        "Flux2KleinPipeline": "FLUX.2 klein",
        "FluxKontextPipeline": "FLUX.1 Kontext",
        "QwenImage21TurboModularPipeline": "Qwen-Image 2.1",
        "QwenImageEditPlusPipeline": "Qwen-Image-Edit",
        "StableDiffusion3Pipeline": "SD 3",
        "ErnieImagePipeline": "ERNIE-Image",
        "NewerPipeline": "NewerPipeline",
    }
    assert {pipeline: pipeline_family(pipeline) for pipeline in names} == names
    known = [name for name in dir(diffusers) if name.endswith("Pipeline")]
    assert all(
        any(name.startswith(start) for name in known) for start, _ in _PIPELINES if start not in ("Anima", "LTX")
    )


def test_families_that_are_trained() -> None:
    assert is_trained("Krea 2") and not is_trained("Ideogram 4") and not is_trained("")
