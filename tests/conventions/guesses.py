"""Wrong guesses of conventions, as people make them: those that every family allows, and those of a family's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from lorasmith.families.anima.family import CONDITIONER, Anima
from lorasmith.families.krea2 import text as krea2_text
from lorasmith.families.krea2.layout import taps
from lorasmith.families.qwen_text import hidden_states
from lorasmith.families.qwen_transformer import EMBEDS
from tests.conventions.measured import Case, Guess, ask

Rows = Mapping[str, Tensor]


def _other_sign(case: Case, level: float) -> tuple[Tensor, Tensor]:
    prediction, target = ask(case, level)
    return -prediction, target


def _time_reversed(case: Case, level: float) -> tuple[Tensor, Tensor]:
    return ask(case, level, as_level=lambda told: 1 - told)


def _thousandfold(case: Case, level: float) -> tuple[Tensor, Tensor]:
    return ask(case, level, as_level=lambda told: 1000 * told)


def _shifted_again(case: Case, level: float) -> tuple[Tensor, Tensor]:
    """As where the level is shifted after the latents are mixed, too: by 3, which is usual for pictures of 1024."""
    return ask(case, level, as_level=lambda told: 3 * told / (1 + 2 * told))


EVERYWHERE: Mapping[str, Guess] = {
    "sign": _other_sign,
    "time reversed": _time_reversed,
    "time x 1000": _thousandfold,
    "shifted twice": _shifted_again,
}


def latents_as_they_come(case: Case, level: float) -> tuple[Tensor, Tensor]:
    """Without the VAE's means and deviations, or its shift and its factor."""
    config = case.pipeline.vae.config
    if "shift_factor" in config:
        return ask(case.with_latents(case.latents / config.scaling_factor + config.shift_factor), level)
    means, deviations = (torch.tensor(config[name]).view(1, -1, 1, 1) for name in ("latents_mean", "latents_std"))
    return ask(case.with_latents(case.latents * deviations + means), level)


def with_texts(case: Case, level: float, text_of: Callable[[str], Rows]) -> tuple[Tensor, Tensor]:
    """With other inputs of the captions."""
    texts = {caption: text_of(caption) for caption in set(case.captions)}
    rows = [{**row, **texts[caption]} for caption, row in zip(case.captions, case.rows, strict=True)]
    return ask(replace(case, rows=rows), level)


# -- Krea 2 ----------------------------------------------------------------------------------------


def _krea2_mask_dropped(case: Case, level: float) -> tuple[Tensor, Tensor]:
    """The 512 tokens that the pipeline makes of a caption, all of them as text."""

    @torch.no_grad()
    def text_of(caption: str) -> Rows:
        return {EMBEDS: case.pipeline.encode_prompt(caption)[0][0]}

    return with_texts(case, level, text_of)


def _krea2_positions_uncounted(case: Case, level: float) -> tuple[Tensor, Tensor]:
    """As if the padding in the middle took positions: what the encoder does when it is given none."""
    encoder, tokenizer = case.pipeline.text_encoder.language_model, case.pipeline.tokenizer
    template, layers = krea2_text.TEMPLATE, taps(case.family.weights.configs)
    most = krea2_text.DROPPED + krea2_text.MOST

    @torch.no_grad()
    def text_of(caption: str) -> Rows:
        words = tokenizer([template.before + caption], padding="max_length", max_length=most, return_tensors="pt")
        after = tokenizer([template.after], return_tensors="pt")
        ids = torch.cat([words.input_ids, after.input_ids], 1)
        mask = torch.cat([words.attention_mask, after.attention_mask], 1).bool()
        states = encoder(ids, mask, output_hidden_states=True).hidden_states
        taken = torch.stack([states[layer][0] for layer in layers], 1)
        return {EMBEDS: taken[krea2_text.DROPPED :][mask[0, krea2_text.DROPPED :]]}

    return with_texts(case, level, text_of)


def _krea2_taps_beside(case: Case, level: float) -> tuple[Tensor, Tensor]:
    """Layers counted from 1."""
    layers = [layer - 1 for layer in taps(case.family.weights.configs)]
    encoder = case.pipeline.text_encoder.language_model

    @torch.no_grad()
    def text_of(caption: str) -> Rows:
        return {EMBEDS: krea2_text.encode(encoder, case.family.tokenize(caption)["token_ids"], layers)}

    return with_texts(case, level, text_of)


# -- Z-Image ---------------------------------------------------------------------------------------


def _zimage_final_norm(case: Case, level: float) -> tuple[Tensor, Tensor]:
    """The last state of the encoder, behind its norm."""
    encoder = case.pipeline.text_encoder

    def text_of(caption: str) -> Rows:
        return {EMBEDS: hidden_states(encoder, case.family.tokenize(caption)["token_ids"])[-1]}

    return with_texts(case, level, text_of)


def _zimage_no_learned_tokens(case: Case, level: float) -> tuple[Tensor, Tensor]:
    """Captions filled up with their last state, all of it attended to as text."""
    texts = {caption: row[EMBEDS] for caption, row in zip(case.captions, case.rows, strict=True)}

    def text_of(caption: str) -> Rows:
        text = texts[caption]
        return {EMBEDS: torch.cat([text, text[-1:].expand(-len(text) % 32, -1)])}

    return with_texts(case, level, text_of)


# -- Anima -----------------------------------------------------------------------------------------


def _anima_zeros_left_out(case: Case, level: float) -> tuple[Tensor, Tensor]:
    """Texts padded to the longest of them."""
    weights = case.family.weights
    longest = max(len(row[EMBEDS]) for row in case.rows)
    conditioner = {**weights.configs[CONDITIONER], "min_sequence_length": longest}
    family = Anima(replace(weights, configs={**weights.configs, CONDITIONER: conditioner}), case.family.text)
    return ask(replace(case, family=family), level)


def _anima_states_before_the_norm(case: Case, level: float) -> tuple[Tensor, Tensor]:
    encoder, conditioner = case.pipeline.text_encoder, case.pipeline.text_conditioner
    states: list[Tensor] = []

    @torch.no_grad()
    def text_of(caption: str) -> Rows:
        tokens = case.family.tokenize(caption)
        encoder(input_ids=tokens["token_ids"][None])
        return {EMBEDS: conditioner(states.pop(), tokens["t5_token_ids"][None])[0]}

    with encoder.norm.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0])):
        return with_texts(case, level, text_of)


def _anima_t5_tokens_alone(case: Case, level: float) -> tuple[Tensor, Tensor]:
    """As where Qwen3's states are left out: the queries of the conditioner have nothing to attend to."""
    conditioner = case.pipeline.text_conditioner

    @torch.no_grad()
    def text_of(caption: str) -> Rows:
        ids = case.family.tokenize(caption)["t5_token_ids"]
        nothing = torch.zeros(1, 1, conditioner.config.source_dim)
        return {EMBEDS: conditioner(nothing, ids[None])[0, : len(ids)]}

    return with_texts(case, level, text_of)


GUESSES: Mapping[str, Mapping[str, Guess]] = {
    "krea2": {
        **EVERYWHERE,
        "norm of latents forgotten": latents_as_they_come,
        "mask dropped": _krea2_mask_dropped,
        "positions uncounted": _krea2_positions_uncounted,
        "layers counted from 1": _krea2_taps_beside,
    },
    "zimage": {
        **EVERYWHERE,
        "norm of latents forgotten": latents_as_they_come,
        "captions without learned tokens": _zimage_no_learned_tokens,
        "text behind the final norm": _zimage_final_norm,
    },
    "anima": {
        **EVERYWHERE,
        "norm of latents forgotten": latents_as_they_come,
        "zeros behind the text left out": _anima_zeros_left_out,
        "text before the final norm": _anima_states_before_the_norm,
        "T5's tokens alone": _anima_t5_tokens_alone,
    },
}
REACH_THE_VARIANCE: Mapping[str, frozenset[str]] = {
    "krea2": frozenset({"sign", "norm of latents forgotten", "mask dropped"}),
    "anima": frozenset({"sign", "time x 1000", "norm of latents forgotten", "zeros behind the text left out"}),
    "zimage": frozenset({"sign", "time x 1000", "captions without learned tokens", "text behind the final norm"}),
}
"""Guesses that are no better than predicting nothing, at s = 0.5."""
