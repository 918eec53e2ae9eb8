"""Merges --base-weights into the base model before training: the sum is a model of its own, kept in the cache.

A model on disk, and not a change of the loaded weights: text encoders, cached captions, samples and the identity of the
run are then those of the sum, by the same code as for any base model.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

from lorasmith.config import RunConfig
from lorasmith.data.cache_folder import cache_folder
from lorasmith.errors import InputError
from lorasmith.families.identity import weights_sha256
from lorasmith.families.weights import BaseWeights
from lorasmith.inputs import base_weights, data_folders
from lorasmith.lora_tools.combine import Source
from lorasmith.lora_tools.into_model import merge_into
from lorasmith.runs.durable import make_folder
from lorasmith.runs.states import sha256_of

FOLDER = "merged"


def trained_on(config: RunConfig) -> BaseWeights:
    """The weights that the run trains on: those of the base model, or its sum with the LoRAs, written once.

    Raises:
        ModelError: as `inputs.base_weights` and `merge_into`.
        InputError: the disk of the cache is full.
    """
    weights = base_weights(config)
    if not config.model.base_weights:
        return weights
    sources = sources_of(config)
    merged = cache_folder(data_folders(config)[0]) / FOLDER / _name(weights, sources)
    if not merged.exists():
        make_folder(merged.parent)
        try:
            # A notice of the start states the layers that are left out.
            merge_into(weights.path, sources, merged, allows_left_out=True)
        except InputError:
            if not merged.exists():  # another run may have written it meanwhile
                raise
    return replace(weights, path=merged)  # of the same form; parts that lie beside the base model stay there


def sources_of(config: RunConfig) -> list[Source]:
    """The LoRAs with their weights."""
    given = zip_longest(config.model.base_weights, config.model.base_weights_multiplier, fillvalue=1.0)
    return [Source(Path(str(path)), float(weight)) for path, weight in given]


def _name(weights: BaseWeights, sources: list[Source]) -> str:
    parts = [weights_sha256(weights), *([sha256_of(source.path), source.weight] for source in sources)]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
    return f"{key}.safetensors" if weights.layout == "single_file" else key
