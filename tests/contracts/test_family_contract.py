"""What every family must do, run over the whole table: a family without a miniature fails."""

from collections.abc import Mapping
from dataclasses import dataclass
from inspect import signature
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lorasmith.diffusion.noise_schedules import Draw
from lorasmith.exporting.key_tables import key_table
from lorasmith.families import FAMILIES, load_family
from lorasmith.families.base import Encoders, ModelFamily
from lorasmith.families.recognize import recognize
from tests.families.tiny import MINIATURES

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Loaded:
    folder: Path
    family: ModelFamily
    encoders: Encoders
    models: Mapping[str, nn.Module]  # with every text encoder trained

    def pixels(self, number: int, *, wide: bool = False) -> Tensor:
        side = self.family.weights.resolution
        width = side + self.family.weights.size_multiple if wide else side
        generator = torch.Generator().manual_seed(number)
        return torch.rand((1, 3, side, width), generator=generator) * 2 - 1

    def latents(self, count: int) -> Tensor:
        return torch.cat([self.family.encode_images(self.encoders, self.pixels(number)) for number in range(count)])


def test_every_family_has_a_miniature() -> None:
    assert MINIATURES.keys() == FAMILIES.keys()


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = MINIATURES[request.param](tmp_path_factory.mktemp(request.param) / "model")
    weights = recognize(folder)
    assert weights.family == request.param
    family = load_family(weights)
    trained = family.traits.text_encoders
    return Loaded(
        folder=folder,
        family=family,
        encoders=family.load_encoders(clip_skip=1, where=CPU),
        models=family.load_models(trained=trained, precision=torch.float32, where=CPU),
    )


def test_it_has_every_method_with_the_protocols_arguments(loaded: Loaded) -> None:
    for name, method in vars(ModelFamily).items():
        if callable(method) and not name.startswith("_"):
            theirs = signature(getattr(type(loaded.family), name)).parameters
            ours = signature(method).parameters
            assert [(one.name, one.kind) for one in theirs.values()] == [
                (one.name, one.kind) for one in ours.values()
            ], name


def test_the_components_are_those_it_names(loaded: Loaded) -> None:
    text = set(loaded.family.traits.text_encoders)
    assert loaded.family.traits.name in FAMILIES
    assert set(loaded.models) == {"denoiser", *text}
    assert set(loaded.encoders.modules) == {"vae", *text}
    assert set(loaded.family.encoder_hashes()) == {"vae", *text}
    only = loaded.family.load_models(trained=[], precision=torch.float32, where=CPU)
    assert set(only) == {"denoiser"}


def test_it_says_what_of_a_caption_is_not_seen(loaded: Loaded) -> None:
    """A caption of one token more than it names is cut, and the end of it changes nothing."""
    family = loaded.family
    fits = ", ".join("a" for _ in range(family.traits.caption_tokens // 2))
    assert family.first_unseen_tag(fits) == ""
    long = fits + ", a, b"
    assert family.first_unseen_tag(long + ", c") in ("a", "b")
    tokens = family.tokenize([long + ", c", long + ", d"])
    assert all(torch.equal(value[0], value[1]) for value in tokens.values())


def test_what_is_loaded_is_frozen(loaded: Loaded) -> None:
    for module in (*loaded.models.values(), *loaded.encoders.modules.values()):
        assert not module.training
        assert not any(one.requires_grad for one in module.parameters())


def test_latents_have_their_shape_and_scale(loaded: Loaded) -> None:
    for wide in (False, True):
        pixels = loaded.pixels(0, wide=wide)
        latents = loaded.family.encode_images(loaded.encoders, pixels)
        assert latents.dtype == torch.float32
        assert latents.shape[:2] == (1, loaded.family.traits.latent_channels)
        assert pixels.shape[2] * latents.shape[3] == pixels.shape[3] * latents.shape[2]
        assert torch.equal(latents, loaded.family.encode_images(loaded.encoders, pixels))
    assert not torch.equal(*loaded.latents(2))


def test_a_caption_does_not_depend_on_its_neighbours(loaded: Loaded) -> None:
    captions = ["a red circle", "", "a long one " * 60]
    together = loaded.family.encode_captions(loaded.encoders, captions)
    for number, caption in enumerate(captions):
        alone = loaded.family.encode_captions(loaded.encoders, [caption])
        for name, tensor in together.items():
            assert (tensor.dtype, len(tensor)) == (torch.float32, 3)
            assert torch.equal(alone[name][0], tensor[number])


def test_collating_is_encoding_together(loaded: Loaded) -> None:
    together = loaded.family.encode_captions(loaded.encoders, ["a red circle", "a"])
    cached = [{name: tensor[number] for name, tensor in together.items()} for number in range(2)]
    collated = loaded.family.collate_conditioning(cached)
    assert collated.keys() == together.keys()
    assert all(torch.equal(collated[name], tensor) for name, tensor in together.items())


def test_tokens_encode_to_the_same_conditioning(loaded: Loaded) -> None:
    tokens = loaded.family.tokenize(["a red circle", "a blue ring"])
    assert all(len(tensor) == 2 for tensor in tokens.values())
    live = loaded.family.encode_tokens(loaded.models, tokens, clip_skip=1)
    cached = loaded.family.encode_captions(loaded.encoders, ["a red circle", "a blue ring"])
    assert live.keys() == cached.keys()
    for name, tensor in cached.items():
        assert torch.allclose(live[name], tensor, atol=1e-5)


def test_noise_is_a_function_of_the_draw_alone(loaded: Loaded) -> None:
    latents = loaded.latents(3)
    kept = latents.clone()
    torch.manual_seed(1)
    first = loaded.family.add_noise(latents, Draw(5, 7, 1, 3))
    before = torch.random.get_rng_state()
    torch.manual_seed(2)
    torch.randn(3)
    again = loaded.family.add_noise(latents, Draw(5, 7, 1, 3))
    torch.manual_seed(1)
    assert torch.equal(torch.random.get_rng_state(), before)  # the global generator is left alone
    assert torch.equal(latents, kept)
    for name in ("sample", "timesteps", "target"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    for other in (Draw(6, 7, 1, 3), Draw(5, 8, 1, 3), Draw(5, 7, 2, 3)):
        assert not torch.equal(loaded.family.add_noise(latents, other).sample, first.sample)
    assert first.sample.shape == first.target.shape == latents.shape
    assert first.timesteps.shape == (3,)


def test_a_slice_gets_its_part_of_the_noise(loaded: Loaded) -> None:
    latents = loaded.latents(3)
    draw = Draw(5, 7, 1, 3)
    whole = loaded.family.add_noise(latents, draw)
    part = loaded.family.add_noise(latents[1:], draw.rows(1))
    for name in ("sample", "timesteps", "target"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[1:])


def test_the_prediction_depends_on_everything_it_is_given(loaded: Loaded) -> None:
    latents = loaded.latents(2)
    noised = loaded.family.add_noise(latents, Draw(5, 7, 1, 2))
    captions = loaded.family.encode_captions(loaded.encoders, ["a red circle", "a blue ring"])
    others = loaded.family.encode_captions(loaded.encoders, ["a blue ring", "a red circle"])
    with torch.no_grad():
        prediction = loaded.family.predict(loaded.models, noised, captions)
        assert prediction.shape == noised.target.shape
        assert bool(prediction.isfinite().all())
        assert torch.equal(prediction, loaded.family.predict(loaded.models, noised, captions))
        assert not torch.equal(prediction, loaded.family.predict(loaded.models, noised, others))
        moved = loaded.family.add_noise(latents, Draw(5, 8, 1, 2))
        assert not torch.equal(prediction, loaded.family.predict(loaded.models, moved, captions))


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float32])
def test_conditioning_held_in_the_denoisers_precision_predicts_the_same_bits(
    loaded: Loaded, precision: torch.dtype
) -> None:
    models = loaded.family.load_models(trained=[], precision=precision, where=CPU)
    noised = loaded.family.add_noise(loaded.latents(1), Draw(5, 7, 1, 1))
    captions = loaded.family.encode_captions(loaded.encoders, ["a red circle"])
    held = loaded.family.conditioning_in(captions, precision)
    assert {one.dtype for one in held.values() if one.is_floating_point()} == {precision}
    with torch.no_grad():
        whole, less = (loaded.family.predict(models, noised, one) for one in (captions, held))
    assert torch.equal(whole, less)


def test_gradients_reach_every_target(loaded: Loaded) -> None:
    targets = loaded.family.targets(loaded.models)
    layers = [target.module for target in targets]
    tokens = loaded.family.tokenize(["a red circle"])
    for layer in layers:
        layer.weight.requires_grad_(True)
    try:
        conditioning = loaded.family.encode_tokens(loaded.models, tokens, clip_skip=1)
        noised = loaded.family.add_noise(loaded.latents(1), Draw(5, 7, 1, 1))
        loaded.family.predict(loaded.models, noised, conditioning).square().mean().backward()
        without = [one.name for one, layer in zip(targets, layers, strict=True) if not bool(layer.weight.grad.any())]
        assert without == []
    finally:
        for layer in layers:
            layer.weight.requires_grad_(False)
            layer.weight.grad = None


def test_targets_are_in_the_frozen_table(loaded: Loaded) -> None:
    targets = loaded.family.targets(loaded.models)
    names = [one.name for one in targets]
    published = {layer.name: layer for layer in key_table(loaded.family.traits.name).layers.values()}
    assert len(set(names)) == len(names) > 0
    assert set(names) <= published.keys()
    order = ["denoiser", *loaded.family.traits.text_encoders]
    components = [one.component for one in targets]
    assert components == sorted(components, key=order.index)
    assert set(components) == set(order)
    for one in targets:
        assert published[one.name].kind == ("linear" if isinstance(one.module, nn.Linear) else "conv1x1")


def test_names_of_the_webui_and_back(loaded: Loaded) -> None:
    tensors = {}
    for one in loaded.family.targets(loaded.models):
        out, inside, *kernel = one.module.weight.shape
        generator = torch.Generator().manual_seed(len(tensors))
        tensors[f"{one.name}.lora_down.weight"] = torch.randn((2, inside, *kernel), generator=generator)
        tensors[f"{one.name}.lora_up.weight"] = torch.randn((out, 2, *kernel), generator=generator)
    named = loaded.family.to_kohya(tensors, alpha=1.0)
    assert len(named) == len(tensors) // 2 * 3
    assert {one.dtype for name, one in named.items() if name.endswith(".alpha")} == {torch.float32}
    back = loaded.family.from_kohya(named)
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(back[name], tensor * 0.5 if ".lora_up." in name else tensor)  # alpha / rank


def test_the_pipeline_is_built_from_what_is_loaded(loaded: Loaded) -> None:
    pipeline = loaded.family.pipeline(loaded.models, loaded.encoders)
    parts = set(pipeline.components.values())
    assert loaded.models["denoiser"] in parts
    assert loaded.encoders.modules["vae"] in parts


def test_only_the_encoders_that_are_asked_for_are_loaded(loaded: Loaded) -> None:
    assert set(loaded.family.load_encoders(clip_skip=1, where=CPU, only=("vae",)).modules) == {"vae"}


def test_pictures_come_back_from_latents(loaded: Loaded) -> None:
    """Of the size they had, each a function of its own latents."""
    for wide in (False, True):
        pixels = loaded.pixels(1, wide=wide)
        latents = loaded.family.encode_images(loaded.encoders, pixels)
        decoded = loaded.family.decode_latents(loaded.encoders, latents)
        assert (decoded.shape, decoded.dtype) == (pixels.shape, torch.float32)
        assert not decoded.requires_grad
        assert torch.equal(decoded, loaded.family.decode_latents(loaded.encoders, latents))
        assert not torch.equal(decoded, loaded.family.decode_latents(loaded.encoders, latents + 1))


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_denoising_asks_from_much_noise_to_little(loaded: Loaded, strength: float) -> None:
    """Whatever the caller makes of the prediction decides; from the noise alone at full strength."""
    latents, asked = loaded.latents(2), []

    def predict(sample: Tensor, timesteps: Tensor) -> Tensor:
        asked.append((sample.clone(), [float(one) for one in timesteps]))
        return sample * 0.1

    noise = Draw(1, 1, 1, 2).normal("noise", tuple(latents.shape))
    found = loaded.family.denoise(predict, latents, noise, strength=strength, steps=4)
    assert found.shape == latents.shape
    assert len(asked) == 4 * strength
    order = [timesteps for _, timesteps in asked]
    assert all(first == second for first, second in order)
    assert order == sorted(order, reverse=True)
    assert torch.equal(asked[0][0], noise) == (strength == 1)
