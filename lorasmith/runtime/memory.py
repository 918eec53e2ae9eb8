"""Chooses the lane of a new run by --memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lorasmith.config import RunConfig
from lorasmith.errors import ModelError
from lorasmith.families import footprint_of
from lorasmith.families.weights import BaseWeights
from lorasmith.session.lanes import LaneEstimate, chosen, estimates, size_of

if TYPE_CHECKING:
    from lorasmith.data.folder import Scan  # loads what reads pictures, which arguments that are refused do not need

GIB = 1 << 30
Lanes = tuple[LaneEstimate, ...]


def with_lane(
    config: RunConfig, values: Mapping[tuple[str, str], Any], memory: str | None, weights: BaseWeights, found: Scan
) -> tuple[RunConfig, Lanes, list[tuple[str, dict[str, Any]]]]:
    """The settings of the fastest lane that fits `memory`, those in `values` left as they are; all lanes, and a notice
    of the choice. Without `memory` everything stays.

    Raises:
        ConfigError: as `size_of` and `chosen`.
        ModelError: `memory_of_pickle`.
    """
    if memory is None:
        return config, (), []
    size = size_of(memory)
    sizes = footprint_of(weights)
    if sizes is None:
        raise ModelError("memory_of_pickle", path=str(weights.path))
    lanes = tuple(estimates(config, weights, sizes, found.examples, memory=size, fixed=values.keys()))
    best = chosen(lanes, memory=memory)
    lane = best.lane
    fields = {
        "memory": memory,
        "estimate": f"{best.total / GIB:.1f} GiB",
        "checkpointing": lane.checkpointing,
        "precision": lane.precision,
        "offload": f"{lane.offload:g}",
        "tile": best.tile,
        "text": best.text_form,
    }
    return config.with_values(best.settings), lanes, [("memory_lane", fields)]
