"""OpenCLIP's form of a text encoder, as diffusers reads it."""

import torch
from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from lorasmith.demo.open_clip_names import open_clip_tensors
from lorasmith.families.clip import published_name


def test_diffusers_reads_the_same_tensors() -> None:
    config = CLIPTextConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, projection_dim=24
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = CLIPTextModelWithProjection(config)
    tensors = dict(encoder.state_dict())
    assert all(name == published_name(name) or name == "text_projection.weight" for name in tensors)
    prefix = "conditioner.embedders.1.model."
    stored = {prefix + name: tensor for name, tensor in open_clip_tensors(tensors).items()}
    assert stored[prefix + "text_projection"].shape == (32, 24)
    read = convert_open_clip_checkpoint(encoder, dict(stored), prefix=prefix)
    assert tensors.keys() <= {*read, "text_model.embeddings.position_ids"}
    for name, tensor in read.items():
        assert torch.equal(tensor, tensors[name]), name
