"""The three networks of the demo's base model, untrained, and how each is trained: one stage a function.

The layout is Stable Diffusion 1.x, only narrower. Knows no file.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from lorasmith.demo.layouts import Layout, unet_config, vae_config
from lorasmith.demo.scenes import CONCEPT, SIDE, Scene, draw, draw_anything, known_scenes
from lorasmith.demo.stages import Stage
from lorasmith.seeding import fold

if TYPE_CHECKING:
    from transformers.models.clip import CLIPTokenizer

Pixels = NDArray[np.uint8]  # (N, SIDE, SIDE, 3)

_LAYOUT = Layout((64, 96, 128, 128), (24, 48, 64, 64), 8, 96, 3, SIDE // 8, False)
_SHALLOW = {"layers_per_block": 1}
UNET_CONFIG: dict[str, Any] = {**unet_config(_LAYOUT), **_SHALLOW, "attention_head_dim": 4}
VAE_CONFIG: dict[str, Any] = {**vae_config(_LAYOUT), **_SHALLOW}  # its scaling factor is measured when it is trained
HEAPS = 1000  # pictures of anything that the VAE sees beside the scenes
CLIP_SIDE = 64  # pixels of the image tower's input


def clip_config(vocabulary: int) -> dict[str, Any]:
    """Both towers; the text tower is also the diffusion model's text encoder."""
    text = {
        "vocab_size": vocabulary,
        "hidden_size": 96,
        "intermediate_size": 384,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "projection_dim": 64,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": vocabulary - 1,
    }
    vision = {
        "hidden_size": 96,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": CLIP_SIDE,
        "patch_size": 8,
        "hidden_act": "quick_gelu",
        "projection_dim": 64,
    }
    return {"text_config": text, "vision_config": vision, "projection_dim": 64}


# -- pictures --------------------------------------------------------------------------------------


def drawn_scenes(count: int, seed: int) -> tuple[Pixels, list[str]]:
    """Pictures of known scenes and their captions: every scene about equally often, in an order by chance."""
    scenes = known_scenes()
    order: list[Scene] = []
    for turn in range(-(-count // len(scenes))):
        order += random.Random(fold(seed, "order", turn)).sample(scenes, len(scenes))
    order = order[:count]

    def drawn(number: int) -> Pixels:
        return np.asarray(draw(order[number], random.Random(fold(seed, "picture", number))))

    with ThreadPoolExecutor() as threads:  # most of the time goes into making them smaller, which runs beside Python
        return np.stack(list(threads.map(drawn, range(count)))), [scene.caption for scene in order]


def device_of(module: nn.Module) -> torch.device:
    """The device of its weights; random numbers are drawn on the CPU, so it is the same everywhere."""
    return next(module.parameters()).device


def to_tensor(pixels: Pixels) -> Tensor:
    """(N, H, W, 3) bytes -> (N, 3, H, W) in [-1, 1]."""
    tensor: Tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)
    return tensor


# -- the VAE ---------------------------------------------------------------------------------------


def vae_stage(vae: nn.Module, *, seed: int, steps: int, half_precision: bool) -> Stage:
    """Random crops of half the side: the VAE is convolutional, and they cost a quarter. A sixth of them are of heaps of
    anything; half and half, it learned much slower. What comes first is to tell colours apart.
    """
    scenes = drawn_scenes(5 * HEAPS, fold(seed, "vae"))[0]
    pixels = np.concatenate([scenes, _heaps(HEAPS, seed)])
    for name, tensor in vae.named_parameters():
        if ".conv2." in name:  # each residual block begins as the identity: colours get through sooner
            nn.init.zeros_(tensor)

    def loss_at(step: int) -> Tensor:
        chance = random.Random(fold(seed, "vae", step))
        crops = [_crop(pixels[number], chance) for number in chance.sample(range(len(pixels)), 16)]
        return _vae_loss(vae, np.stack(crops), fold(seed, "posterior", step), half_precision)

    return Stage("vae", nn.ModuleDict({"vae": vae}), loss_at, steps=steps, lr=2e-3, lr_factors={}, ema_decay=0.998)


def vae_edges_stage(vae: nn.Module, *, seed: int, steps: int, batch: int, half_precision: bool) -> Stage:
    """The same VAE goes on, on crops with more edges in them and more than half of them of what the base model will
    never see: heaps of anything, and scenes in other colours."""
    scenes = drawn_scenes(2 * HEAPS, fold(seed, "edges"))[0]
    pixels = np.concatenate([scenes, _heaps(2 * HEAPS, fold(seed, "edges"))])

    def loss_at(step: int) -> Tensor:
        chance = random.Random(fold(seed, "edges", step))
        crops = []
        for number in chance.sample(range(len(pixels)), min(batch, len(pixels))):
            tried = [_crop(pixels[number], chance) for _ in range(3)]
            best = max(tried, key=lambda crop: int(np.ptp(crop[::4, ::4], axis=(0, 1)).sum()))
            crops.append(_recoloured(best, chance) if number < len(scenes) and chance.random() < 0.3 else best)
        return _vae_loss(vae, np.stack(crops), fold(seed, "posterior", "edges", step), half_precision)

    return Stage(
        "vae_edges", nn.ModuleDict({"vae": vae}), loss_at, steps=steps, lr=1e-3, lr_factors={}, ema_decay=0.999
    )


def _heaps(count: int, seed: int) -> Pixels:
    chances = [random.Random(fold(seed, "anything", number)) for number in range(count)]
    return np.stack([np.asarray(draw_anything(chance)) for chance in chances])


def _crop(picture: Pixels, chance: random.Random) -> Pixels:
    side = SIDE // 2
    x, y = chance.randint(0, SIDE - side), chance.randint(0, SIDE - side)
    return picture[y : y + side, x : x + side]


def _recoloured(picture: Pixels, chance: random.Random) -> Pixels:
    """Other colours: channels swapped, and each of them stretched or turned round."""
    mixed = picture[..., chance.sample(range(3), 3)].astype(np.float32)
    for channel in range(3):
        low, high = chance.uniform(0, 255), chance.uniform(0, 255)
        mixed[..., channel] = low + mixed[..., channel] / 255 * (high - low)
    return mixed.round().astype(np.uint8)


def _vae_loss(vae: nn.Module, crops: Pixels, seed: int, half_precision: bool) -> Tensor:
    """L1 + MSE + 1e-3 KL, of one draw from the posterior."""
    device = device_of(vae)
    wanted = to_tensor(crops).to(device)
    generator = torch.Generator().manual_seed(seed)
    with torch.autocast(device.type, torch.bfloat16, enabled=half_precision):
        mean, log_variance = vae.quant_conv(vae.encoder(wanted)).float().chunk(2, dim=1)  # type: ignore[operator]
        log_variance = log_variance.clamp(-30, 20)
        noise = torch.randn(mean.shape, generator=generator).to(device)
        made = vae.decoder(vae.post_quant_conv(mean + (0.5 * log_variance).exp() * noise)).float()  # type: ignore[operator]
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    off = made - wanted
    loss: Tensor = off.abs().mean() + off.square().mean() + 1e-3 * divergence
    return loss


@torch.no_grad()
def latents_of(vae: nn.Module, pixels: Pixels) -> Tensor:
    """The posteriors' means, (N, 4, h, w), not scaled."""
    device, parts = device_of(vae), np.array_split(pixels, -(-len(pixels) // 50))
    return torch.cat([vae.encode(to_tensor(part).to(device)).latent_dist.mean.cpu() for part in parts])  # type: ignore[operator]


# -- CLIP ------------------------------------------------------------------------------------------


def clip_pixels(pictures: Tensor) -> Tensor:
    """(N, 3, H, W) in [-1, 1] -> what the image tower takes: `CLIP_SIDE` pixels square, the same range."""
    return functional.interpolate(pictures, size=(CLIP_SIDE, CLIP_SIDE), mode="bicubic", antialias=True).clamp(-1, 1)


def clip_stage(clip: nn.Module, tokenizer: CLIPTokenizer, *, seed: int, steps: int) -> Stage:
    """Contrastive (Radford et al. 2021), on batches of 32 × 4 scenes of which four differ in one attribute only: what
    is hard to tell apart must be distinguished in every batch.
    """
    known = set(known_scenes())
    scenes = sorted(known)
    shown: dict[Scene, list[Tensor]] = {}
    for number, scene in enumerate(scenes):
        some = [draw(scene, random.Random(fold(seed, "clip", number, turn))) for turn in range(3)]
        small = clip_pixels(to_tensor(np.stack([np.asarray(picture) for picture in some])))
        shown[scene] = list((small * 127.5 + 127.5).round().to(torch.uint8))
    near = {scene: [neighbour for neighbour in scene.neighbours() if neighbour in known] for scene in scenes}
    tokens = dict(zip(scenes, _short_tokens(tokenizer, [scene.caption for scene in scenes]), strict=True))

    def loss_at(step: int) -> Tensor:
        chance = random.Random(fold(seed, "clip", step))
        batch: list[Scene] = []
        for anchor in chance.sample(scenes, 32):
            batch += [anchor, *chance.sample(near[anchor], 3)]
        device = device_of(clip)
        pixels = torch.stack([chance.choice(shown[scene]) for scene in batch]).to(device).float().div_(127.5).sub_(1.0)
        out = clip(pixel_values=pixels, input_ids=torch.stack([tokens[scene] for scene in batch]).to(device))
        numbers = {scene: number for number, scene in enumerate(dict.fromkeys(batch))}
        identity = torch.tensor([numbers[scene] for scene in batch])
        same = (identity[:, None] == identity[None]).float().to(device)
        wanted = same / same.sum(1, keepdim=True)
        by_text, by_image = out.logits_per_text, out.logits_per_image
        return 0.5 * (functional.cross_entropy(by_text, wanted) + functional.cross_entropy(by_image, wanted))

    return Stage("clip", nn.ModuleDict({"clip": clip}), loss_at, steps=steps, lr=1e-3, lr_factors={}, ema_decay=0.998)


def _short_tokens(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> Tensor:
    """Padded to the longest only: attention is causal and the end token is read, so the rest changes nothing."""
    ids: Tensor = tokenizer(list(captions), padding=True, return_tensors="pt").input_ids
    return ids


# -- the UNet --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Encoded:
    """Pictures as the UNet learns from them."""

    latents: Tensor  # (N, 4, h, w), scaled
    captions: list[str]


def unet_stage(
    unet: nn.Module,
    text_encoder: nn.Module,
    tokenizer: CLIPTokenizer,
    *,
    pictures: Encoded,
    seed: int,
    steps: int,
    batch: int,
) -> Stage:
    """Noise prediction, the text encoder learning too; a tenth without caption, an eighth with made-up words for the
    shape: a word it does not know must leave the rest of the picture be.

    Two things beside the plain recipe. The noise has an offset per channel (Guttenberg 2023): over 16 × 16 latents the
    mean colour would else be read off the noisiest picture, and the words for the background never be learned. Losses
    are weighted min(SNR, 5) / SNR (Hang et al. 2023).
    """
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas = torch.cumprod(1 - betas, 0).float()
    full = {"padding": "max_length", "max_length": 77, "return_tensors": "pt"}
    latents, captions = pictures.latents, pictures.captions
    unique = sorted(set(captions))
    rows = {caption: number for number, caption in enumerate(unique)}
    tokens: Tensor = tokenizer(unique, **full).input_ids
    empty: Tensor = tokenizer([""], **full).input_ids[0]
    spare = _spare_tokens(tokenizer, tokens)
    denoise = _Denoise(unet)
    (on,) = tokenizer("on", add_special_tokens=False).input_ids

    def said_of(caption: str, chance: random.Random) -> Tensor:
        drawn = chance.random()
        if drawn < 0.1:
            return empty
        if drawn < 0.1 + 0.12:
            return _with_a_made_up_word(tokens[rows[caption]], spare, on, chance=chance)
        return tokens[rows[caption]]

    def loss_at(step: int) -> Tensor:
        chance = random.Random(fold(seed, "unet", step))
        generator = torch.Generator().manual_seed(fold(seed, "noise", step))
        chosen = chance.sample(range(len(latents)), min(batch, len(latents)))
        clean = latents[chosen]
        noisy, noise, timesteps, weights = _noised(clean, alphas, generator)
        said = torch.stack([said_of(captions[number], chance) for number in chosen])
        device = device_of(unet)
        embeds = text_encoder(said.to(device)).last_hidden_state
        off = denoise.at(noisy.to(device), timesteps.to(device), embeds) - noise.to(device)
        loss: Tensor = (off.square().mean((1, 2, 3)) * weights.to(device)).mean()
        return loss

    return Stage(
        "unet",
        nn.ModuleDict({"unet": unet, "text_encoder": text_encoder}),
        loss_at,
        steps=steps,
        lr=1e-3,
        lr_factors={"text_encoder": 0.3},
        ema_decay=0.999,
    )


def _noised(clean: Tensor, alphas: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Noisy latents, their noise, timesteps and weights of the losses; `alphas` are the 1000 cumulative products."""
    noise = torch.randn(clean.shape, generator=generator)
    noise = noise + 0.25 * torch.randn((*clean.shape[:2], 1, 1), generator=generator)
    timesteps = torch.randint(0, 1000, (len(clean),), generator=generator)
    alpha = alphas[timesteps].view(-1, 1, 1, 1)
    snr = alphas[timesteps] / (1 - alphas[timesteps])
    return alpha.sqrt() * clean + (1 - alpha).sqrt() * noise, noise, timesteps, snr.clamp(max=5) / snr


class _Denoise(nn.Module):
    """The UNet, on a GPU recorded once as a CUDA graph: it is so small that calling its layers takes most of a step."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet
        self._is_recorded = False

    def forward(self, sample: Tensor, timesteps: Tensor, embeds: Tensor) -> Tensor:
        noise: Tensor = self.unet(sample, timesteps, embeds).sample
        return noise

    def at(self, sample: Tensor, timesteps: Tensor, embeds: Tensor) -> Tensor:
        """The same from the recording; always of one shape."""
        if sample.is_cuda and not self._is_recorded:
            given = (sample.clone(), timesteps.clone(), embeds.detach().clone().requires_grad_())
            torch.cuda.make_graphed_callables(self, given)  # from here on `forward` is the recording
            self._is_recorded = True
        noise: Tensor = self(sample, timesteps, embeds)
        return noise


def _spare_tokens(tokenizer: CLIPTokenizer, used: Tensor) -> list[int]:
    """Ids that are not among `used`; the concept's own is kept back too."""
    kept_back = {*used.flatten().tolist(), *tokenizer(CONCEPT).input_ids}
    return [number for number in range(len(tokenizer)) if number not in kept_back]


def _with_a_made_up_word(ids: Tensor, spare: Sequence[int], on: int, *, chance: random.Random) -> Tensor:
    """(77,) -> (77,): one to four spare tokens for the shape's, which stands before `on`; half the time its colour is
    gone too."""
    words = ids.tolist()
    shape = words.index(on) - 1
    first = shape - 1 if chance.random() < 0.5 else shape
    made_up = chance.choices(spare, k=chance.randint(1, 4))
    changed = torch.tensor([*words[:first], *made_up, *words[shape + 1 :]])
    return functional.pad(changed, (0, 4), value=words[-1])[: len(words)]
