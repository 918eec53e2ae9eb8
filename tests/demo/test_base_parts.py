import numpy as np
import torch

from lorasmith.demo.base_folder import demo_tokenizer
from lorasmith.demo.base_parts import CLIP_SIDE, _short_tokens, clip_pixels, drawn_scenes, to_tensor
from lorasmith.demo.make_base import _fresh
from lorasmith.demo.scenes import is_held_out, known_scenes


def test_nothing_held_out_is_ever_drawn_for_training() -> None:
    assert not any(is_held_out(scene) for scene in known_scenes())
    captions = {scene.caption for scene in known_scenes()}
    pixels, said = drawn_scenes(60, 3)
    assert set(said) <= captions
    assert len(set(said)) == 60
    assert pixels.shape == (60, 128, 128, 3)
    assert np.array_equal(pixels, drawn_scenes(60, 3)[0])


def test_pixels_as_the_networks_take_them() -> None:
    pixels = np.array([[[[0, 255, 51]] * 4] * 4], dtype=np.uint8)
    tensor = to_tensor(pixels)
    assert tensor.shape == (1, 3, 4, 4)
    assert torch.allclose(tensor[0, :, 0, 0], torch.tensor([-1.0, 1.0, -0.6]))
    small = clip_pixels(torch.full((2, 3, 128, 128), 0.25))
    assert small.shape == (2, 3, CLIP_SIDE, CLIP_SIDE)
    assert torch.allclose(small, torch.tensor(0.25), atol=1e-5)


def test_padding_changes_nothing_that_is_read_of_a_caption() -> None:
    tokenizer = demo_tokenizer()
    clip = _fresh("clip", 0, len(tokenizer)).eval()
    captions = ["a red star on a blue background", "a large zorb on a white background"]
    whole = tokenizer(captions, padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        short = clip.text_model(input_ids=_short_tokens(tokenizer, captions)).pooler_output
        assert torch.allclose(short, clip.text_model(input_ids=whole).pooler_output, atol=1e-5)
