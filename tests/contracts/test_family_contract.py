"""What every family must do, run over the whole table: a family without a miniature fails."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lorasmith.adapters.base import LayerSettings
from lorasmith.adapters.flat import FlatAdapter
from lorasmith.adapters.lora import Lora
from lorasmith.data.types import Example, Offset, Size
from lorasmith.diffusion.draw import Draw, draw_numbers
from lorasmith.diffusion.process import Noised, apply_noise
from lorasmith.diffusion.sampling import denoise
from lorasmith.errors import ModelError
from lorasmith.exporting.names import from_file, to_file
from lorasmith.families import FAMILIES, kept_results, load_family
from lorasmith.families.base import ModelFamily
from lorasmith.families.checkpointing import Checkpointing
from lorasmith.families.recognize import recognize
from lorasmith.families.weights import TextSettings
from lorasmith.session.layers import published_layers
from lorasmith.session.name_tables import name_table
from tests.families import trial_family
from tests.families.tiny import MINIATURES

CPU = torch.device("cpu")
LEVELS: tuple[Checkpointing, ...] = ("none", "elementwise", "feed-forward", "selective", "block", "offload")
MAX_SIDE = 64  # pixels, of the pictures here
# Targets of the miniature that sd-scripts has in its files too, and whose output nothing uses.
TOKENS_OF_SIX = {
    "krea2": (34 + 6 + 5,),
    "qwen_image21": (17 + 6 + 5,),
    "anima": (6, 6 + 1),
    "zimage": (3 + 6 + 5,),
    "flux2_klein": (3 + 6 + 9,),
    "flux1": (6 + 2, 6 + 1),
}
"""Tokens of a caption of six, for each tokenizer: the template's too. CLIP has a start and an end."""
WORDS = dict.fromkeys(("anima", "flux1"), ("red", "blue", "green", "black", "white"))
"""Words of a token each for all of a family's tokenizers."""
UNUSED = {"sdxl": "text_encoder.text_model.encoder.layers.1."}


@dataclass(frozen=True)
class LoadedRun:
    folder: Path
    family: ModelFamily
    encoders: Mapping[str, nn.Module]
    models: Mapping[str, nn.Module]  # with every text encoder trained

    def pixels(self, number: int, *, wide: bool = False) -> Tensor:
        side = min(self.family.weights.resolution, MAX_SIDE)
        width = side + self.family.weights.size_multiple if wide else side
        generator = torch.Generator().manual_seed(number)
        return torch.rand((3, side, width), generator=generator) * 2 - 1

    def example(self, caption: str) -> Example:
        side = self.family.weights.resolution
        size = Size(side, side)
        return Example(Path("a.png"), caption, 1, size, size, size, Offset(0, 0), "", "")

    def noised(self, latents: Tensor, seed: int = 5) -> Noised:
        numbers = draw_numbers(Draw(seed, 7, 1), latents)
        return apply_noise(self.family.noise_process(), latents, numbers)

    def predict(self, models: Mapping[str, nn.Module], noised: Noised, conditioning: Mapping[str, Tensor]) -> Tensor:
        return self.family.predict(models, noised.noisy_latents, noised.timesteps, conditioning)

    def latents(self, count: int) -> Tensor:
        encoded = [self.family.encode_image(self.encoders, self.pixels(number)) for number in range(count)]
        return torch.stack([inputs["latents"] for inputs in encoded])

    def inputs(self, *captions: str, trained: bool = False) -> list[dict[str, Tensor]]:
        """Of examples with these captions, without latents: tokens where the text encoders are trained."""
        live = trained and self.family.traits.trains_text
        return [
            {
                **(self.family.tokenize(caption) if live else self.family.encode_caption(self.encoders, caption)),
                **self.family.example_inputs(self.example(caption)),
            }
            for caption in captions
        ]

    def conditioning(self, *captions: str, trained: bool = False) -> dict[str, Tensor]:
        models = self.models if trained else {"denoiser": self.models["denoiser"]}
        return self.family.conditioning(models, self.family.collate(self.inputs(*captions, trained=trained)))


def test_every_family_has_a_miniature() -> None:
    assert MINIATURES.keys() == FAMILIES.keys()


@pytest.fixture(scope="module", params=[*sorted(FAMILIES), trial_family.NAME])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedRun]:
    miniatures = {**MINIATURES, trial_family.NAME: trial_family.make_model}
    folder = miniatures[request.param](tmp_path_factory.mktemp(request.param) / "model")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == trial_family.NAME:
            trial_family.add_row(patch)
        weights = recognize(folder)
        assert weights.family == request.param
        family = load_family(weights)
        trained = family.traits.text_encoders if family.traits.trains_text else ()
        yield LoadedRun(
            folder=folder,
            family=family,
            encoders=family.load_encoders(CPU),
            models=family.load_models(trained=trained, dtype=torch.float32, to=CPU),
        )


def test_it_has_every_method_with_the_protocols_arguments(loaded: LoadedRun) -> None:
    for name, method in vars(ModelFamily).items():
        if callable(method) and not name.startswith("_"):
            theirs = signature(getattr(type(loaded.family), name)).parameters
            ours = signature(method).parameters
            assert [(one.name, one.kind) for one in theirs.values()] == [
                (one.name, one.kind) for one in ours.values()
            ], name


def test_the_components_are_those_it_names(loaded: LoadedRun) -> None:
    text = set(loaded.family.traits.text_encoders)
    assert loaded.family.traits.name in FAMILIES
    assert set(loaded.models) == {"denoiser", *(text if loaded.family.traits.trains_text else ())}
    assert set(loaded.encoders) == {"vae", *text}
    assert set(loaded.family.encoder_hashes()) == {"vae", *text}
    only = loaded.family.load_models(trained=[], dtype=torch.float32, to=CPU)
    assert set(only) == {"denoiser"}


def test_it_says_what_of_a_caption_is_not_seen(loaded: LoadedRun) -> None:
    """A caption of one token more than it names is cut, and the end of it changes nothing."""
    family = loaded.family
    a, b, c, d, _ = WORDS.get(family.traits.name, tuple("abcde"))
    fits = ", ".join(a for _ in range(family.caption_tokens // 2))
    assert family.first_unseen_tag(fits) == ""
    long = f"{fits}, {a}, {b}"
    assert family.first_unseen_tag(f"{long}, {c}") in (a, b)
    first, second = family.tokenize(f"{long}, {c}"), family.tokenize(f"{long}, {d}")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_fewer_tokens_may_be_asked_for(loaded: LoadedRun) -> None:
    family = load_family(loaded.family.weights, TextSettings(max_tokens=6))
    assert family.caption_tokens == 6
    words = WORDS.get(family.traits.name, tuple("abcde"))
    caption = ", ".join(words)
    assert family.first_unseen_tag(caption) == words[3]
    tokens = {tokens.shape[-1] for tokens in family.tokenize(caption).values()}
    assert tokens == set(TOKENS_OF_SIX.get(family.traits.name, (8,)))
    encoded = family.encode_caption(loaded.encoders, caption)
    cut = family.encode_caption(loaded.encoders, ", ".join([*words[:3], "f, g"]))
    assert all(torch.equal(encoded[name], cut[name]) for name in encoded)


@pytest.mark.parametrize("has_weights", [False, True])
def test_more_tokens_and_weights_may_be_asked_for(loaded: LoadedRun, has_weights: bool) -> None:
    """They are encoded alike whether the text encoders are trained or not, to the end of the caption."""
    settings = TextSettings(max_tokens=150, has_weights=has_weights)
    if loaded.family.weights.max_clip_skip is None:  # no CLIP: captions are as long as they are, without weights
        with pytest.raises(ModelError, match="model_without_clip"):
            load_family(loaded.family.weights, replace(settings, has_weights=True))
        return
    family = load_family(loaded.family.weights, settings)
    longer = replace(loaded, family=family)
    caption = "a, " * 60 + "(red:1.5) ring"
    assert family.caption_tokens == 150 and family.first_unseen_tag(caption) == ""
    cached, live = longer.conditioning(caption, "a"), longer.conditioning(caption, "a", trained=True)
    assert cached["prompt_embeds"].shape[:2] == (2, 152)
    for name, tensor in cached.items():
        assert torch.allclose(live[name], tensor, atol=1e-5)
    other = longer.conditioning(caption.replace("1.5", "1.6"), "a")["prompt_embeds"]
    assert not torch.equal(other[0], cached["prompt_embeds"][0])
    assert torch.equal(other[1], cached["prompt_embeds"][1])


def test_what_is_loaded_is_frozen(loaded: LoadedRun) -> None:
    for module in (*loaded.models.values(), *loaded.encoders.values()):
        assert not module.training
        assert not any(one.requires_grad for one in module.parameters())


def test_latents_have_their_shape_and_scale(loaded: LoadedRun) -> None:
    for wide in (False, True):
        pixels = loaded.pixels(0, wide=wide)
        latents = loaded.family.encode_image(loaded.encoders, pixels)["latents"]
        assert latents.dtype == torch.float32
        assert pixels.shape[1] * latents.shape[2] == pixels.shape[2] * latents.shape[1]
        assert torch.equal(latents, loaded.family.encode_image(loaded.encoders, pixels)["latents"])
    assert not torch.equal(*loaded.latents(2))


def test_inputs_of_examples_become_those_of_a_batch(loaded: LoadedRun) -> None:
    for trained in (False, True):
        rows = loaded.inputs("a red circle", "", "a long one " * 60, trained=trained)
        batch = loaded.family.collate(rows)
        assert all(row.keys() <= batch.keys() for row in rows)
        assert all(len(tensor) == 3 for tensor in batch.values())
        for number, row in enumerate(rows):
            alone = loaded.family.collate([row])
            for name in alone:  # the rest is padding
                inside = tuple(map(slice, alone[name][0].shape))
                assert torch.equal(alone[name][0], batch[name][number][inside])


def test_trained_text_encoders_make_the_same_conditioning_of_tokens(loaded: LoadedRun) -> None:
    live = loaded.conditioning("a red circle", "a blue ring", trained=True)
    cached = loaded.conditioning("a red circle", "a blue ring")
    assert live.keys() == cached.keys()
    for name, tensor in cached.items():
        assert torch.allclose(live[name], tensor, atol=1e-5)


def test_noising_is_pure(loaded: LoadedRun) -> None:
    latents = loaded.latents(3)
    kept = latents.clone()
    first = loaded.noised(latents)
    before = torch.random.get_rng_state()
    again = loaded.noised(latents)
    assert torch.equal(torch.random.get_rng_state(), before)  # the global generator is left alone
    assert torch.equal(latents, kept)
    for name in ("noisy_latents", "timesteps", "target"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(loaded.noised(latents, seed=6).noisy_latents, first.noisy_latents)
    assert first.noisy_latents.shape == first.target.shape == latents.shape
    assert first.timesteps.shape == (3,)


def test_the_prediction_depends_on_everything_it_is_given(loaded: LoadedRun) -> None:
    latents = loaded.latents(2)
    noised = loaded.noised(latents)
    captions = loaded.conditioning("a red circle", "a blue ring")
    others = loaded.conditioning("a blue ring", "a red circle")
    with torch.no_grad():
        prediction = loaded.predict(loaded.models, noised, captions)
        assert prediction.shape == noised.target.shape
        assert bool(prediction.isfinite().all())
        assert torch.equal(prediction, loaded.predict(loaded.models, noised, captions))
        assert not torch.equal(prediction, loaded.predict(loaded.models, noised, others))
        moved = loaded.noised(latents, seed=8)
        assert not torch.equal(prediction, loaded.predict(loaded.models, moved, captions))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_text_kept_in_the_denoisers_precision_predicts_the_same_bits(loaded: LoadedRun, dtype: torch.dtype) -> None:
    models = loaded.family.load_models(trained=[], dtype=dtype, to=CPU)
    noised = loaded.noised(loaded.latents(1))
    text = loaded.family.encode_caption(loaded.encoders, "a red circle")
    kept = {name: value.to(dtype) if value.is_floating_point() else value for name, value in text.items()}
    found = []
    for tensors in (text, kept):
        inputs = loaded.family.collate([{**tensors, **loaded.family.example_inputs(loaded.example("a red circle"))}])
        with torch.no_grad():
            found.append(loaded.predict(models, noised, loaded.family.conditioning(models, inputs)))
    assert torch.equal(*found)


def test_a_prediction_neither_reads_from_its_device_nor_copies_to_it(loaded: LoadedRun) -> None:
    """CUDA graphs hold no such operation, once what is computed at first use is there. On the device "meta" there are
    no numbers, so reading one raises."""
    denoiser = deepcopy(loaded.models["denoiser"]).to("meta").requires_grad_(True)
    conditioning = {name: value.to("meta") for name, value in loaded.conditioning("a red circle", "").items()}
    latents, timesteps = loaded.latents(2).to("meta"), torch.full((2,), 0.5, device="meta")
    loaded.family.predict({"denoiser": denoiser}, latents, timesteps, conditioning)
    with OtherDevices() as others:
        predicted = loaded.family.predict({"denoiser": denoiser}, latents, timesteps, conditioning)
        predicted.float().square().mean().backward()
    assert others.found == []


class OtherDevices(TorchDispatchMode):
    """The operations with a tensor on another device than "meta"."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        if any(isinstance(one, Tensor) and not one.is_meta for one in tree_leaves((args, kwargs, result))):
            self.found.append(str(operation))
        return result


def test_gradients_reach_targets_and_are_the_same_twice(loaded: LoadedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_results, "MOST_RANK", 0)
    targets, family = loaded.family.target_modules(loaded.models), loaded.family.traits.name
    weights = {target.name: target.module.get_parameter("weight") for target in targets}
    inputs, noised = loaded.inputs("a red circle", "a blue ring", trained=True), loaded.noised(loaded.latents(2))
    found = []
    try:
        for level in LEVELS:
            loaded.family.set_checkpointing(loaded.models, level)
            for weight in weights.values():
                weight.requires_grad_(True)
            conditioning = loaded.family.conditioning(loaded.models, loaded.family.collate(inputs))
            loaded.predict(loaded.models, noised, conditioning).square().mean().backward()
            found.append({name: weight.grad for name, weight in weights.items()})
            for weight in weights.values():
                weight.grad = None
    finally:
        loaded.family.set_checkpointing(loaded.models, "none")
        for weight in weights.values():
            weight.requires_grad_(False)
    without = [name for name, gradient in found[0].items() if gradient is None or not bool(gradient.any())]
    assert without == [name for name in weights if name.startswith(UNUSED.get(family, "-"))]
    for again in found[1:]:
        for name in weights.keys() - without:
            assert torch.equal(again[name], found[0][name]), name


def test_every_target_may_be_trained(loaded: LoadedRun) -> None:
    """All at once, as by `--targets full`: no module asks a layer for what only the model's own layers have."""
    models = deepcopy(dict(loaded.models))
    conditioning, noised = loaded.conditioning("a red circle", trained=True), loaded.noised(loaded.latents(1))
    before = loaded.predict(models, noised, conditioning)
    targets = loaded.family.target_modules(models)
    FlatAdapter.attach(Lora(), targets, {target.name: LayerSettings(1, 1.0) for target in targets}, seed=1)
    torch.testing.assert_close(loaded.predict(models, noised, conditioning), before)


def test_targets_are_in_the_frozen_table(loaded: LoadedRun) -> None:
    targets = loaded.family.target_modules(loaded.models)
    names = [target.name for target in targets]
    published = name_table(loaded.family.traits.name).targets
    assert len(set(names)) == len(names) > 0
    assert set(names) <= published.keys()
    depths = loaded.family.weights.depths
    if loaded.family.weights.noise.prediction == "flow":  # as many blocks as the model has
        family = loaded.family.traits.name
        assert published_layers(family, with_text_encoders=False, depths=depths).keys() == set(names)
    order = ["denoiser", *(loaded.family.traits.text_encoders if loaded.family.traits.trains_text else ())]
    components = [target.component for target in targets]
    assert components == sorted(components, key=order.index)
    assert set(components) == set(order)
    for target in targets:
        row = published[target.name]
        assert (row.component, row.layer.kernel) == (target.component, target.spec.kernel)


def test_names_of_files_and_back(loaded: LoadedRun) -> None:
    targets = loaded.family.target_modules(loaded.models)
    table, settings = name_table(loaded.family.traits.name), LayerSettings(2, 2.0)
    generator = torch.Generator().manual_seed(1)
    tensors = {
        f"{target.name}.{suffix}": torch.randn(shape, generator=generator)
        for target in targets
        for suffix, shape in Lora().shapes(target.spec, settings).items()
    }
    named = to_file(tensors, Lora(), table, {target.name: settings for target in targets})
    back = from_file(named, Lora(), table)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())


def test_only_the_encoders_that_are_asked_for_are_loaded(loaded: LoadedRun) -> None:
    assert set(loaded.family.load_encoders(CPU, only=("vae",))) == {"vae"}


def test_pictures_come_back_from_latents(loaded: LoadedRun) -> None:
    """Of the size they had, each a function of its own latents."""
    for wide in (False, True):
        pixels = loaded.pixels(1, wide=wide)
        latents = loaded.family.encode_image(loaded.encoders, pixels)["latents"][None]
        decoded = loaded.family.decode_latents(loaded.encoders, latents)
        assert (decoded[0].shape, decoded.dtype) == (pixels.shape, torch.float32)
        assert not decoded.requires_grad
        assert torch.equal(decoded, loaded.family.decode_latents(loaded.encoders, latents))
        assert not torch.equal(decoded, loaded.family.decode_latents(loaded.encoders, latents + 1))


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_denoising_asks_from_much_noise_to_little(loaded: LoadedRun, strength: float) -> None:
    """Whatever the caller makes of the prediction decides; from the noise alone at full strength."""
    latents, asked = loaded.latents(2), []

    def predict(sample: Tensor, timesteps: Tensor) -> Tensor:
        asked.append((sample.clone(), [float(one) for one in timesteps]))
        return sample * 0.1

    noise = Draw(1, 1, 1).normal("noise", tuple(latents.shape))
    process = loaded.family.noise_process()
    found = denoise(predict, process, latents, noise, denoising_strength=strength, steps=4)
    assert found.shape == latents.shape
    assert len(asked) == 4 * strength
    order = [timesteps for _, timesteps in asked]
    assert all(first == second for first, second in order)
    assert order == sorted(order, reverse=True)
    assert torch.equal(asked[0][0], noise) == (strength == 1)
