"""The alphas of a file. Layers whose scales differ share an alpha, and the rest of the scale is in their tensors.

Whatever alphas a file gives, diffusers takes the commonest of a component for all layers of its attention, and for all
layers of a text encoder, without a warning (0.42.1). Other layers of the UNet get their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from lorasmith.exporting.name_table import NameTable


def shared_alphas(own: Mapping[str, float], table: NameTable) -> dict[str, float]:
    """The alpha that each module has in a file: the commonest of its component.

    Convolutions with neighbours keep their own, so that a file has the alphas that people set for them, unless one of
    those is as common as the alpha of the other layers.

    Args:
        own: the alpha with which the tensors of each module make the change that was trained.
    """
    by_component: dict[str, list[str]] = {}
    for module in own:
        by_component.setdefault(table.modules[module][0].component, []).append(module)
    shared: dict[str, float] = {}
    for modules in by_component.values():
        kept = {module for module in modules if table.modules[module][0].layer.has_neighbours}
        others = [module for module in modules if module not in kept]
        commonest = _commonest([own[module] for module in others or modules])
        counts = Counter(own[module] for module in kept if own[module] != commonest)
        if others and max(counts.values(), default=0) >= len(others):
            kept = set()
        shared |= {module: own[module] if module in kept else commonest for module in modules}
    return {module: shared[module] for module in own}


def _commonest(alphas: list[float]) -> float:
    return Counter(sorted(alphas)).most_common(1)[0][0]
