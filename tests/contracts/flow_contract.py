"""What every family of flow matching must do, beside diffusers' own pipeline.

A family's `test_family.py` has a subclass of the contract, and as fixture `loaded` its `Reference` with the family's
values: each miniature is loaded once for the contract and for the family's own tests.
"""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lorasmith.data.types import Example, Offset, Size
from lorasmith.diffusion.draw import Draw, draw_numbers
from lorasmith.diffusion.process import apply_noise
from lorasmith.diffusion.sampling import denoise
from lorasmith.families.qwen_transformer import EMBEDS, MASK
from tests.families.flow import CAPTIONS, CPU, STEPS, Reference, difference, drawn


class FlowContract:
    """The comparisons that each family has; a family's own tests compare what only it has."""

    # -- loading -----------------------------------------------------------------------------------

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
    def test_every_tensor_has_the_type_that_from_pretrained_gives_it(
        self, loaded: Reference, dtype: torch.dtype
    ) -> None:
        expected = loaded.tensors_there(dtype)
        found = loaded.family.load_models(trained=[], dtype=dtype, to=CPU)["denoiser"].state_dict()
        assert {name: tensor.dtype for name, tensor in found.items()} == {
            name: tensor.dtype for name, tensor in expected.items()
        }
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
        kept = [name for name, tensor in found.items() if tensor.dtype == torch.float32]
        assert len(kept) == (loaded.float32 if dtype == torch.bfloat16 else len(found))

    def test_text_encoders_are_those_of_the_pipeline_as_far_as_they_are_read(self, loaded: Reference) -> None:
        """Without its eyes, and without what lies behind the last state that is taken."""
        there = loaded.text_encoders_there()
        assert there.keys() == loaded.encoders.keys() - {"vae"}
        for component, (theirs, left_out) in there.items():
            ours, expected = loaded.encoders[component], theirs.state_dict()
            assert all(any(name.startswith(start) for name in expected) for start in left_out)
            expected = {name: tensor for name, tensor in expected.items() if not name.startswith(left_out)}
            assert ours.state_dict().keys() == expected.keys(), component
            assert all(torch.equal(tensor, expected[name]) for name, tensor in ours.state_dict().items()), component
            assert {tensor.dtype for tensor in ours.parameters()} == {torch.bfloat16}
            for name, buffer in theirs.named_buffers():
                if name == "rotary_emb.inv_freq":  # in no file: the pipeline rounds it with the rest
                    assert ours.get_buffer(name).dtype == torch.float32
                    assert torch.allclose(ours.get_buffer(name), buffer.float(), rtol=2**-8)

    # -- text --------------------------------------------------------------------------------------

    def test_captions_are_encoded_as_by_the_pipeline(self, loaded: Reference) -> None:
        """In bfloat16, one at a time."""
        for caption in loaded.captions:
            (expected,), (found,) = loaded.texts_there(caption), loaded.inputs(caption)
            assert found.keys() == expected.keys()
            for name, tensor in expected.items():
                assert found[name].dtype == torch.bfloat16 and found[name].shape == tensor.shape, caption
                assert difference(found[name], tensor) <= loaded.text_rounding, caption

    def test_captions_in_float32_are_exactly_those_of_the_pipeline(self, loaded: Reference) -> None:
        """States that are taken, the template and its end, positions that count no padding; its batch of several."""
        encoders = loaded.encoders_in_float32()
        assert bool(encoders) == (loaded.text_rounding > 0)
        with pytest.MonkeyPatch.context() as patch:
            for component, encoder in encoders.items():
                patch.setitem(vars(loaded.pipeline), component, encoder)
            for caption, expected in zip(CAPTIONS, loaded.texts_there(*CAPTIONS), strict=True) if encoders else ():
                assert difference(loaded.encoded(encoders, caption), expected[EMBEDS]) < 1e-5, caption

    def test_texts_of_a_batch_are_padded_to_a_few_lengths(self, loaded: Reference) -> None:
        rows = loaded.inputs(*CAPTIONS)
        batch, fewer = loaded.family.collate(rows), loaded.family.collate(rows[:2])
        assert (batch[EMBEDS].shape[1], fewer[EMBEDS].shape[1]) == loaded.lengths
        has_mask = loaded.lengths[0] != loaded.lengths[1]  # other pipelines have one length, and no mask
        assert (MASK in batch) == has_mask
        if has_mask:
            assert batch[MASK].dtype == torch.bool
            assert batch[MASK].sum(1).tolist() == [len(row[EMBEDS]) for row in rows]

    # -- the denoiser ------------------------------------------------------------------------------

    def test_predictions_are_those_of_the_pipelines_call(self, loaded: Reference) -> None:
        """Captions of unequal lengths in a batch, each with its own level; a batch is its examples alone."""
        latents, levels, rows = drawn(3, *loaded.latents), (0.9, 0.5, 0.1), loaded.inputs(*CAPTIONS)
        found = loaded.predict(latents, levels, rows)
        assert difference(found, loaded.predicted_there(latents, levels, CAPTIONS)) < loaded.rounding
        for number in range(3):
            one = slice(number, number + 1)
            assert difference(found[one], loaded.predict(latents[one], levels[one], rows[one])) < 1e-5

    def test_levels_in_other_units_would_be_seen(self, loaded: Reference) -> None:
        """By the comparison above: thousandths, and shares of the picture."""
        latents, captions = drawn(1, *loaded.latents), ["a red circle"]
        right = loaded.predicted_there(latents, (0.9,), captions)
        for other in (900.0, 0.1):
            assert difference(loaded.predicted_there(latents, (other,), captions), right) > 0.1

    def test_predictions_in_bfloat16(self, loaded: Reference) -> None:
        ours = loaded.family.load_models(trained=[], dtype=torch.bfloat16, to=CPU)["denoiser"]
        latents, theirs = drawn(1, *loaded.latents), loaded.denoiser_there(torch.bfloat16)
        found = loaded.predict(latents, (0.7013,), loaded.inputs("a red circle"), denoiser=ours)
        assert found.dtype == torch.bfloat16
        expected = loaded.predicted_there(latents, (0.7013,), ["a red circle"], denoiser=theirs)
        assert difference(found, expected) < 3e-2

    def test_nothing_follows_from_the_geometry(self, loaded: Reference) -> None:
        size = Size(64, 64)
        example = Example(Path("a.png"), "", 1, size, size, size, Offset(0, 0), "", "")
        assert loaded.family.example_inputs(example) == {}

    # -- the process -------------------------------------------------------------------------------

    def test_the_loss_is_that_of_the_velocity(self, loaded: Reference) -> None:
        """A prediction of noise - picture, at the level, has no loss: target and levels are the pipeline's."""
        latents = drawn(2, *loaded.latents)
        noised = apply_noise(loaded.family.noise_process(), latents, draw_numbers(Draw(1, 1, 1), latents))
        share = noised.timesteps.view(-1, 1, 1, 1)
        stepped = noised.noisy_latents - share * noised.target  # what the scheduler's last step makes of the prediction
        assert torch.allclose(stepped, latents, atol=1e-5)

    def test_samples_are_those_of_the_pipeline(self, loaded: Reference) -> None:
        """With its guidance, which is an input of some denoisers, and its shift."""
        family, caption, noise = loaded.family, "a red circle", drawn(1, *loaded.sampled)
        by_input = family.traits.sampling.guidance_input
        assert family.traits.sampling.guidance == loaded.guidance
        captions = (caption,) if by_input or loaded.guidance == 1 else ("", caption)
        conditioning = family.conditioning(loaded.models, family.collate(loaded.inputs(*captions)))
        if by_input:
            conditioning[by_input] = torch.tensor([loaded.guidance])

        def predict(sample: Tensor, levels: Tensor) -> Tensor:
            count = len(captions)
            with torch.no_grad():
                predicted = family.predict(
                    loaded.models, sample.repeat(count, 1, 1, 1), levels.repeat(count), conditioning
                )
            without, with_caption = predicted[:1], predicted[-1:]
            return without + loaded.guidance * (with_caption - without) if count > 1 else with_caption

        found = denoise(predict, family.noise_process(), noise, noise, denoising_strength=1.0, steps=STEPS)
        assert difference(found, loaded.sampled_there(noise, caption)) < loaded.sample_rounding

    def test_shifts_are_those_of_the_resolution(self, loaded: Reference) -> None:
        process = loaded.family.noise_process()
        for side, (training, sampling) in loaded.shifts.items():
            shape = (1, loaded.latents[0], side, side)
            assert process.training_shift.factor(shape) == pytest.approx(training)
            assert process.sampling_shift.factor(shape, STEPS) == pytest.approx(sampling)
            # half of the levels that are trained lie above that of the shift
            assert math.isclose(process.timesteps(torch.tensor([0.5]), shape), training / (1 + training), rel_tol=1e-5)


class FluxPictures:
    """Latents of the VAE of FLUX.1."""

    def test_latents_are_shifted_and_scaled_as_the_pipeline_takes_them_back(self, loaded: Reference) -> None:
        pixels, vae = drawn(3, 48, 64).clamp(-1, 1), loaded.pipeline.vae
        found = loaded.family.encode_image(loaded.encoders, pixels)["latents"][None]
        with torch.no_grad():
            mean = vae.encode(pixels[None]).latent_dist.mode()
            picture = vae.decode(found / 0.3611 + 0.1159).sample
        assert difference(found, (mean - 0.1159) * 0.3611) < 1e-6
        assert difference(loaded.family.decode_latents(loaded.encoders, found), picture) < 1e-6
