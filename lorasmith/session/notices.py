"""Warnings about what a run sees, has learned, and has exported."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lorasmith.adapters.flat import FlatAdapter
from lorasmith.config import RunConfig
from lorasmith.config.sample_prompts import SamplePrompt, sample_prompt
from lorasmith.data.findings import has_escaped_bracket, of_escaped_brackets, of_long_captions, of_other_scripts
from lorasmith.data.types import LOSS_MASK, CachedExample, Example
from lorasmith.diffusion.sampling import SamplingDefaults
from lorasmith.evaluation.choose import texts_of
from lorasmith.evaluation.samples import sampling_of
from lorasmith.families.base import ModelFamily

Notice = tuple[str, dict[str, Any]]  # (code, fields) of a warning


def caption_notices(config: RunConfig, family: ModelFamily, examples: Sequence[Example]) -> list[Notice]:
    """Captions, and prompts for samples, whose last words the text encoder does not see; texts with brackets
    as the WebUI has them; captions in a script that the text encoder has not learned."""
    limit = family.caption_tokens
    roots = [Path(subset.folder) for subset in config.subsets()]
    findings = of_long_captions(examples, roots, first_unseen=family.first_unseen_tag, limit=limit)
    findings += [] if config.model.weighted_captions else of_escaped_brackets(examples, roots)
    findings += of_other_scripts(examples, roots) if family.traits.reads_english_only else []
    notices = [(finding.code, finding.fields) for finding in findings]
    tags = [tag for tag in map(family.first_unseen_tag, texts_of(config.evaluation)) if tag]
    if tags:
        notices.append(("prompts_cut", {"count": len(tags), "limit": limit, "tag": tags[0]}))
    prompts = [sample_prompt(line) for line in config.evaluation.sample_prompts]
    if not config.model.weighted_captions:
        escaped = [prompt for prompt in prompts if has_escaped_bracket(f"{prompt.text}\n{prompt.negative}")]
        notices += [("prompts_escaped", {"count": len(escaped)})] if escaped else []
    return notices + prompt_notices(prompts, sampling_of(family))


def prompt_notices(prompts: Sequence[SamplePrompt], sampling: SamplingDefaults) -> list[Notice]:
    """Negative prompts and guidances of sample prompts that change nothing with this model."""
    is_input = bool(sampling.guidance_input)
    notices: list[Notice] = []
    scales = [sampling.scale(prompt.guidance, prompt.embedded) for prompt in prompts]
    unused = sum(
        bool(prompt.negative) and (is_input or scale == 1) for prompt, scale in zip(prompts, scales, strict=True)
    )
    if unused:
        notices.append(("negative_of_distilled" if is_input else "negative_without_guidance", {"count": unused}))
    given = [prompt for prompt in prompts if prompt.embedded is not None]
    flags = [f"--l {prompt.guidance:g}" for prompt in given if is_input and prompt.guidance not in (None, 1)]
    flags += [] if is_input else [f"--g {prompt.embedded:g}" for prompt in given]
    if flags:
        notices.append(("sample_flags_unused", {"flags": ", ".join(dict.fromkeys(flags))}))
    return notices


def mask_notices(examples: Sequence[Example], cached: Sequence[CachedExample]) -> list[Notice]:
    """Pictures whose mask is black all over, from which nothing is learned."""
    masks = [of_example.inputs.get(LOSS_MASK) for of_example in cached]
    black = [example for example, mask in zip(examples, masks, strict=True) if mask is not None and not mask.any()]
    return [("masks_black", {"count": len(black), "first": black[0].image.name})] if black else []


def adapter_digest(adapter: FlatAdapter) -> str:
    """The SHA-256 of the trained numbers."""
    return hashlib.sha256(adapter.flat.detach().cpu().contiguous().view(torch.uint8).numpy().data).hexdigest()


def training_notices(adapter: FlatAdapter, *, digest_before: str, steps: int, lr: float) -> list[Notice]:
    """Steps that changed nothing, as with a learning rate of 0."""
    if steps <= 0 or adapter_digest(adapter) != digest_before:
        return []
    return [("nothing_trained", {"steps": steps, "lr": lr})]


def export_notices(tensors: Mapping[str, Tensor], precision: torch.dtype) -> list[Notice]:
    """Matrices that become zero in the exported file because their numbers are too small for its precision."""
    matrices = [tensor for tensor in tensors.values() if tensor.ndim >= 2 and bool(tensor.any())]
    zero = sum(not bool(matrix.to(precision).any()) for matrix in matrices)
    name = str(precision).removeprefix("torch.")
    return [("export_zeros", {"count": zero, "all": len(tensors), "precision": name})] if zero else []
