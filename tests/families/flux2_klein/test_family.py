"""FLUX.2 klein against diffusers' own pipeline, on the same miniature, whose every parameter is random."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from lorasmith.families.flow_transformer import packed, unpacked
from lorasmith.families.flux2_klein.family import Flux2Klein, join_projections, text_positions
from lorasmith.families.flux2_klein.layout import LENGTH, TAPS
from lorasmith.families.flux2_klein.shift import ShiftBySteps
from lorasmith.families.flux2_klein.text import encode
from lorasmith.families.qwen_transformer import EMBEDS
from tests.contracts.flow_contract import FlowContract
from tests.families.flow import CPU, STEPS, Reference, difference, drawn, load_pipeline, load_reference
from tests.families.flux2_klein.miniature import WIDTH, make_model


@dataclass(frozen=True)
class Loaded(Reference):
    kind = Flux2Klein
    denoiser = "Flux2Transformer2DModel"
    latents = (16, 3, 4)
    lengths = (LENGTH, LENGTH)
    sampled = (16, 4, 3)
    shifts: ClassVar = {side: (3.0, ShiftBySteps().factor((side, side), STEPS)) for side in (16, 64, 96)}

    @torch.no_grad()
    def text(self, *captions: str, **options: Any) -> tuple[Tensor, Tensor]:
        """What the pipeline makes of captions, and their positions."""
        embeds, positions = self.pipeline.encode_prompt(list(captions), **options)
        return embeds, positions

    def theirs(self, latents: Tensor, levels: Sequence[float], captions: Sequence[str], **models: nn.Module) -> Tensor:
        """The transformer's output as the pipeline calls it."""
        embeds, positions = self.text(*captions)
        found = self.called(latents, torch.tensor(levels), embeds, positions, **models)
        rows, columns = latents.shape[2:]
        return unpacked(found, rows, columns, 1)

    @torch.no_grad()
    def called(self, latents: Tensor, level: Tensor, embeds: Tensor, positions: Tensor, **models: nn.Module) -> Tensor:
        denoiser: Any = models.get("denoiser", self.pipeline.transformer)
        (found,) = denoiser(
            hidden_states=self.pipeline._pack_latents(latents).to(denoiser.dtype),
            encoder_hidden_states=embeds.to(denoiser.dtype),
            timestep=level.to(denoiser.dtype),
            guidance=None,
            txt_ids=positions,
            img_ids=self.pipeline._prepare_latent_ids(latents),
            return_dict=False,
        )
        return found

    def predicted_there(
        self, latents: Tensor, levels: Sequence[float], captions: Sequence[str], **models: nn.Module
    ) -> Tensor:
        return self.theirs(latents, levels, captions, **models)

    def tensors_there(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Queries, keys and values joined as diffusers itself joins them."""
        theirs = self.denoiser_there(dtype)
        for block in theirs.transformer_blocks:
            block.attn.fuse_projections()
        separate = (".to_q.", ".to_k.", ".to_v.", ".add_q_proj.", ".add_k_proj.", ".add_v_proj.")
        return {name: one for name, one in theirs.state_dict().items() if not any(part in name for part in separate)}

    def text_encoders_there(self) -> dict[str, tuple[nn.Module, tuple[str, ...]]]:
        return {"text_encoder": (self.pipeline.text_encoder.model, ("layers.27.", "norm."))}

    def texts_there(self, *captions: str) -> list[dict[str, Tensor]]:
        """With the pipeline's padding."""
        return [{EMBEDS: embeds} for embeds in self.text(*captions)[0]]

    def encoders_in_float32(self) -> dict[str, Any]:
        return {}

    def sampled_there(self, noise: Tensor, caption: str) -> Tensor:
        """Of the VAE's own scale: what the pipeline returns are no latents of the denoiser."""
        (embeds, _), (without, _) = self.text(caption), self.text("")
        texts = {"prompt_embeds": embeds.float(), "negative_prompt_embeds": without.float()}
        sample = self.called_to_sample(noise, **texts, guidance_scale=self.guidance)
        norm = self.pipeline.vae.bn
        deviations = torch.sqrt(norm.running_var + self.pipeline.vae.config.batch_norm_eps).view(1, -1, 1, 1)
        scaled: Tensor = (self.pipeline._patchify_latents(sample) - norm.running_mean.view(1, -1, 1, 1)) / deviations
        return scaled


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = make_model(tmp_path_factory.mktemp("flux2_klein") / "model")
    return load_reference(Loaded, folder, load_pipeline(folder, "Flux2KleinPipeline"))


class TestContract(FlowContract):
    """As every family."""


# -- pictures --------------------------------------------------------------------------------------


def test_pictures_are_encoded_as_the_pipeline_encodes_its_references(loaded: Loaded) -> None:
    """Patches by channel, row and column, then each channel by the statistics of the batch norm; and the way back."""
    pixels = drawn(3, 48, 64).clamp(-1, 1)
    with torch.no_grad():
        expected = loaded.pipeline._encode_vae_image(pixels[None], generator=None)[0]
    found = loaded.family.encode_image(loaded.encoders, pixels)["latents"]
    assert found.shape == (16, 3, 4) and difference(found, expected) < 1e-6
    tokens, positions = loaded.pipeline._pack_latents(found[None]), loaded.pipeline._prepare_latent_ids(found[None])
    assert torch.equal(packed(found[None], 1), tokens)
    vae = loaded.pipeline.vae
    with torch.no_grad():
        back = loaded.pipeline._unpack_latents_with_ids(tokens, positions)
        deviations = torch.sqrt(vae.bn.running_var + vae.config.batch_norm_eps).view(1, -1, 1, 1)
        unscaled = back * deviations + vae.bn.running_mean.view(1, -1, 1, 1)
        picture = vae.decode(loaded.pipeline._unpatchify_latents(unscaled)).sample
    assert difference(loaded.family.decode_latents(loaded.encoders, found[None]), picture) < 1e-6


# -- the denoiser ----------------------------------------------------------------------------------


WRONG = {  # relative differences that a good guess makes, at least
    "no padding": 0.02,
    "padding of zeros": 0.02,
    "text without places": 0.005,
    "picture on the first axes": 0.005,
    "taps of FLUX.2 dev": 0.05,
    "taps interleaved": 0.1,
    "statistics forgotten": 0.1,
}


@pytest.mark.parametrize("guess", WRONG)
def test_wrong_guesses_are_seen_by_these_tests(loaded: Loaded, guess: str) -> None:
    """What the comparisons above would find."""
    latents, level = drawn(1, 16, 3, 4), torch.tensor([0.9])
    embeds, places = loaded.text("a red circle")
    right = loaded.called(latents, level, embeds, places)
    length = len(loaded.family.tokenize("a red circle")["token_ids"])
    if guess == "no padding":
        embeds, places = embeds[:, :length], places[:, :length]
    elif guess == "padding of zeros":
        embeds = embeds * (torch.arange(LENGTH) < length)[:, None]
    elif guess == "text without places":
        places = torch.zeros_like(places)
    elif guess == "picture on the first axes":
        with pytest.MonkeyPatch.context() as patch:
            theirs = loaded.pipeline._prepare_latent_ids
            patch.setattr(loaded.pipeline, "_prepare_latent_ids", lambda given: theirs(given).roll(-1, -1))
            assert difference(loaded.called(latents, level, embeds, places), right) > WRONG[guess]
        return
    elif guess == "taps of FLUX.2 dev":
        embeds, places = loaded.text("a red circle", text_encoder_out_layers=(10, 20, 26))
    elif guess == "taps interleaved":
        embeds = embeds.unflatten(2, (len(TAPS), WIDTH)).transpose(2, 3).flatten(2)
    else:
        vae = loaded.pipeline.vae
        latents = latents * vae.bn.running_var.sqrt().view(1, -1, 1, 1) + vae.bn.running_mean.view(1, -1, 1, 1)
    assert difference(loaded.called(latents, level, embeds, places), right) > WRONG[guess]


def test_positions_are_those_of_the_pipeline(loaded: Loaded) -> None:
    assert torch.equal(text_positions(5, CPU), loaded.pipeline._prepare_text_ids(torch.zeros(1, 5, 1))[0])


# -- the process -----------------------------------------------------------------------------------


def test_joined_layers_compute_what_the_separate_ones_do(loaded: Loaded) -> None:
    from diffusers import Flux2Transformer2DModel

    joined = Flux2Transformer2DModel.from_pretrained(loaded.folder / "transformer")
    join_projections(joined)
    latents, level = drawn(1, 16, 3, 4), torch.tensor([0.4])
    embeds, places = loaded.text("a red circle")
    found = loaded.called(latents, level, embeds, places, denoiser=joined)
    assert difference(found, loaded.called(latents, level, embeds, places)) < 1e-6


def test_padding_sees_the_caption(loaded: Loaded) -> None:
    """It cannot be stored once for all captions."""
    first, second = (row[EMBEDS] for row in loaded.inputs("a red circle", "a blue ring"))
    assert difference(first[100:], second[100:]) > 0.01
    ids, padding = loaded.family.tokenize("a red circle")["token_ids"], loaded.pipeline.tokenizer.pad_token_id
    assert torch.equal(encode(loaded.encoders["text_encoder"], ids, padding, TAPS), first)
