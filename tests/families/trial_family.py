"""A family that only the tests have: a UNet with two text encoders, pooled embeddings and per-example sizes, like SDXL.

Added as any family is: this file and a row in FAMILIES. It is the pattern to write SDXL by.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property, partial
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lorasmith.data.types import Example, Inputs
from lorasmith.demo import layouts
from lorasmith.demo.miniature import make_model as make_sd15
from lorasmith.diffusion.densities import LogitNormal
from lorasmith.diffusion.flow import FixedShift, FlowMatching
from lorasmith.diffusion.process import NoiseProcess
from lorasmith.diffusion.sampling import SamplingDefaults
from lorasmith.families import FAMILIES, FamilyEntry, clip
from lorasmith.families import latent_diffusion as ldm
from lorasmith.families.base import FamilyTraits, Models
from lorasmith.families.checkpointing import Checkpointing, checkpoint_blocks
from lorasmith.families.folders import component_shapes, missing_files
from lorasmith.families.forward_work import ForwardWork, Shapes
from lorasmith.families.headers import read_json
from lorasmith.families.identity import component_sha256
from lorasmith.families.loading import Destination, load_component
from lorasmith.families.noise_settings import noise_settings, scheduler_config
from lorasmith.families.places import whole
from lorasmith.families.sd15.layout import NAMES as SD15_NAMES
from lorasmith.families.weights import BaseWeights, ComponentNames, ModelFiles, TextSettings, check_clip_skip
from lorasmith.targets import TargetModule

NAME, PIPELINE = "trial", "TrialPipeline"
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
PREFIXES = {"denoiser": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}  # as in files of SDXL


def add_row(monkeypatch: pytest.MonkeyPatch, *, by: str = "TrialFamily") -> str:
    """The row in the table, for a test, with the class `by`; the family's name."""
    entry = FamilyEntry(
        family=f"{__name__}:{by}",
        recognizer=f"{__name__}:recognize",
        layer_names=f"{__name__}:layer_names",
        pipelines=(PIPELINE,),
    )
    monkeypatch.setitem(FAMILIES, NAME, entry)
    return NAME


# -- layout and recognizer -------------------------------------------------------------------------

NAMES = ComponentNames(
    weight_stems={**SD15_NAMES.weight_stems, "text_encoder_2": "model"},
    config_files={**SD15_NAMES.config_files, "text_encoder_2": "text_encoder_2/config.json"},
    tokenizers={"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"},
    from_single_file=lambda component, names: {},
    from_folder=whole(lambda component, names: {name: name for name in names}),
)


def recognize(files: ModelFiles) -> BaseWeights | None:
    if files.index.get("_class_name") != PIPELINE:
        return None
    assert missing_files(files.path, NAMES) == []
    configs: dict[str, Any] = {name: read_json(files.path / file) for name, file in NAMES.config_files.items()}
    configs["scheduler"], source = scheduler_config(files, configs["scheduler"], {})
    shapes = component_shapes(files.path, "unet", NAMES) or {}
    factor = 2 ** (len(configs["vae"]["block_out_channels"]) - 1)
    return BaseWeights(
        path=files.path,
        layout=files.layout,
        family=NAME,
        noise=noise_settings(files, configs["scheduler"], source),
        resolution=configs["unet"]["sample_size"] * factor,
        size_multiple=factor * 2 ** (len(configs["unet"]["block_out_channels"]) - 1),
        bucket_step=factor * 2 ** (len(configs["unet"]["block_out_channels"]) - 1),
        denoiser_parameters=sum(map(prod, shapes.values())),
        max_clip_skip=min(configs[name]["num_hidden_layers"] for name in TEXT_ENCODERS),
        configs={**configs, "tokenizer": None, "tokenizer_2": None},
        names=NAMES,
    )


def layer_names() -> str:
    """The table of a real family is a literal file; the trial's is made of its own small models."""
    lines = ["target\tmodule\tcomponent\tkind\tout\tin\tkernel\tpart\tpreset"]
    for target in _targets(_meta_models()):
        module = f"{PREFIXES[target.component]}_{target.name.partition('.')[2].replace('.', '_')}"
        kind, kernel = "conv" if target.spec.kernel else "linear", "x".join(map(str, target.spec.kernel))
        sizes = f"{target.spec.outputs}\t{target.spec.inputs}"
        blocks = (".attentions.", ".encoder.layers.")
        preset = "attn-mlp" if any(block in target.name for block in blocks) else "unet-convblock-only"
        lines.append(f"{target.name}\t{module}\t{target.component}\t{kind}\t{sizes}\t{kernel}\t\t{preset}")
    return "\n".join(lines)


# -- family ----------------------------------------------------------------------------------------

_BUILDERS: Mapping[str, Callable[[], Any]] = {
    "unet": ldm.unet_builder,
    "vae": ldm.vae_builder,
    "text_encoder": clip.text_builder,
    "text_encoder_2": partial(clip.text_builder, "CLIPTextModelWithProjection"),
}


class TrialFamily:
    """Satisfies `families.base.ModelFamily`."""

    traits = FamilyTraits(
        name=NAME,
        text_encoders=TEXT_ENCODERS,
        base_model_version="trial",
        architecture="trial/lora",
        implementation="diffusers",
        sampling=SamplingDefaults(steps=2, guidance=2.0),
    )

    def __init__(self, weights: BaseWeights, text: TextSettings) -> None:
        check_clip_skip(weights, text.clip_skip)
        self.weights = weights
        self.text = text
        self.caption_tokens = clip.caption_tokens(text)

    # -- loading -----------------------------------------------------------------------------------

    def encoder_hashes(self) -> dict[str, str]:
        return {component: component_sha256(self.weights, component) for component in ("vae", *TEXT_ENCODERS)}

    def load_encoders(self, to: Destination, *, only: Collection[str] = ()) -> dict[str, nn.Module]:
        wanted = only or ("vae", *TEXT_ENCODERS)
        return {component: self._load(component, torch.float32, to) for component in wanted}

    def load_models(self, *, trained: Collection[str], dtype: torch.dtype, to: Destination) -> dict[str, nn.Module]:
        text = {component: self._load(component, dtype, to) for component in trained}
        return {"denoiser": self._load("unet", dtype, to), **text}

    def _load(self, component: str, dtype: torch.dtype, to: Destination) -> nn.Module:
        return load_component(
            self.weights,
            component,
            _BUILDERS[component],
            dtype=dtype,
            to=to,
            allows_extra=False,
        )

    def target_modules(self, models: Models) -> list[TargetModule]:
        return list(_targets(models))

    def repeated_blocks(self, models: Models) -> list[nn.Module]:
        return ldm.repeated_unet_blocks(models["denoiser"])

    def set_checkpointing(self, models: Models, level: Checkpointing) -> None:
        checkpoint_blocks(models["denoiser"], level)

    # -- inputs ------------------------------------------------------------------------------------

    @cached_property
    def _tokenizers(self) -> dict[str, Any]:
        return {name: clip.model_tokenizer(self.weights, name) for name in TEXT_ENCODERS}

    def encode_image(self, encoders: Models, pixels: Tensor, *, tile: int = 0) -> dict[str, Tensor]:
        return {"latents": ldm.encode_with_vae(encoders["vae"], pixels, tile)}

    @torch.no_grad()
    def encode_caption(self, encoders: Models, caption: str) -> dict[str, Tensor]:
        encoded = self._encoded(encoders, self.collate([self.tokenize(caption)]))
        return {name: value[0] for name, value in encoded.items()}

    def tokenize(self, caption: str) -> dict[str, Tensor]:
        inputs: dict[str, Tensor] = {}
        for name, tokenizer in self._tokenizers.items():
            inputs |= clip.caption_inputs(tokenizer, caption, self.text, name=name)
        return inputs

    def first_unseen_tag(self, caption: str) -> str:
        words, tokens = self.text.words_of(caption), self.caption_tokens
        return clip.first_unseen_tag(lambda: self._tokenizers["text_encoder"], words, tokens=tokens)

    def example_inputs(self, example: Example) -> dict[str, Tensor]:
        """(6,): original height and width, offset of the cut from above and left, height and width of the bucket."""
        original, crop, bucket = example.original, example.crop, example.bucket
        sizes = (original.height, original.width, crop.top, crop.left, bucket.height, bucket.width)
        return {"time_ids": torch.tensor(sizes, dtype=torch.float32)}

    def collate(self, rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    # -- the step ----------------------------------------------------------------------------------

    def conditioning(self, models: Models, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        encoded = {**inputs, **self._encoded(models, inputs)}
        prompt_embeds = torch.cat([encoded[f"{name}_embeds"] for name in TEXT_ENCODERS], dim=-1)
        return {"prompt_embeds": prompt_embeds, "text_embeds": encoded["pooled"], "time_ids": encoded["time_ids"]}

    def _encoded(self, models: Models, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the text encoders that are among `models` make of the tokens."""
        found = {}
        for name in TEXT_ENCODERS:
            if name not in models:
                continue
            ids, weights = inputs[f"{name}_ids"], inputs.get(f"{name}_weights")
            output = clip.encoder_output(models[name], ids)
            layer = output.hidden_states[-self.text.clip_skip]  # as in SDXL without the final norm
            found[f"{name}_embeds"] = clip.of_captions(layer, ids, weights)
            if name == "text_encoder_2":
                found["pooled"] = output.text_embeds[:: len(output.text_embeds) // len(ids)]
        return found

    def forward_work(self, shapes: Mapping[str, Shapes], inputs: Inputs) -> ForwardWork:
        return ldm.forward_work(shapes["denoiser"], inputs)

    def noise_process(self) -> NoiseProcess:
        return ldm.ddpm_process(self.weights)

    def predict(
        self,
        models: Models,
        noisy_latents: Tensor,
        timesteps: Tensor,
        conditioning: Mapping[str, Tensor],
    ) -> Tensor:
        added = {name: conditioning[name] for name in ("text_embeds", "time_ids")}
        unet = models["denoiser"]
        return ldm.predict_with_unet(unet, noisy_latents, timesteps, conditioning["prompt_embeds"], added)

    def decode_latents(self, encoders: Models, latents: Tensor, *, free_memory: int | None = None) -> Tensor:
        return ldm.decode_with_vae(encoders["vae"], latents, free_memory)


class TrialFlow(TrialFamily):
    """The same models taken for flow matching; the UNet counts timesteps from 0 to 1000, as SD 3 does."""

    def noise_process(self) -> NoiseProcess:
        return FlowMatching(LogitNormal(), FixedShift(2.0), FixedShift(3.0))

    def predict(
        self,
        models: Models,
        noisy_latents: Tensor,
        timesteps: Tensor,
        conditioning: Mapping[str, Tensor],
    ) -> Tensor:
        return super().predict(models, noisy_latents, 1000 * timesteps, conditioning)


def _targets(models: Models) -> Iterator[TargetModule]:
    yield from ldm.unet_targets(models["denoiser"])
    for name in TEXT_ENCODERS:
        if name in models:
            yield from clip.text_targets(models[name], name)


# -- a miniature -----------------------------------------------------------------------------------


def _configs(vocabulary: int) -> dict[str, dict[str, Any]]:
    nano = layouts.LAYOUTS["nano"]
    text = layouts.text_config(nano, vocabulary) | {"num_hidden_layers": 2}
    second = text | {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "projection_dim": 16}
    unet = layouts.unet_config(nano) | {
        "cross_attention_dim": text["hidden_size"] + second["hidden_size"],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": second["projection_dim"] + 6 * 8,
    }
    return {"unet": unet, "text_encoder": text, "text_encoder_2": second}


def _meta_models() -> dict[str, nn.Module]:
    models = {name: _BUILDERS[name]()(config) for name, config in _configs(1000).items()}
    return {"denoiser": models.pop("unet"), **models}


def make_model(folder: Path) -> Path:
    """Writes a diffusers folder with random weights, a function of nothing, and returns it."""
    make_sd15(folder, size="nano")
    shutil.copytree(folder / "tokenizer", folder / "tokenizer_2")
    index = {"_class_name": PIPELINE, "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    vocabulary = len(json.loads((folder / "tokenizer" / "vocab.json").read_text(encoding="utf-8")))
    for component, config in _configs(vocabulary).items():
        module = _BUILDERS[component]()(config)
        file = folder / component / f"{NAMES.weight_stems[component]}.safetensors"
        file.parent.mkdir(exist_ok=True)
        generator = torch.Generator().manual_seed(1)
        save_file({name: _filled(name, tensor, generator) for name, tensor in module.state_dict().items()}, file)
        layouts.write_json(folder / component / "config.json", config)
    return folder


def _filled(name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    if tensor.ndim == 1:
        return torch.full(tensor.shape, 1.0 if name.endswith("weight") else 0.0)
    deviation = 1.0 if "embedding.weight" in name else prod(tensor.shape[1:]) ** -0.5
    return torch.randn(tensor.shape, generator=generator) * deviation
