"""Makes a LoRA of several, or of a single file a LoRA of another rank.

The changes of all files are added, each with its weight. Without a rank nothing is lost but one rounding to the
data type: the matrices stand side by side, and ranks add up. With a rank, each layer gets the best product of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from lorasmith.errors import InputError, ModelError
from lorasmith.lora_files.names import FAMILY_NAMES, layers_of
from lorasmith.lora_files.reader import LoraFile, read_lora
from lorasmith.lora_tools.arrays import FLOATS, Array
from lorasmith.lora_tools.changes import MERGEABLE, QUIET
from lorasmith.lora_tools.layers import Layer, layers
from lorasmith.lora_tools.low_rank import Cut, Product, Reduced, named_product, reduced, reduced_change
from lorasmith.lora_tools.regroup import Regrouped, regrouped
from lorasmith.lora_tools.writing import PRECISIONS, Stored, known_family, metadata_of, refuse_existing, write_lora

_WIDEST = ("F32", "BF16", "F16")  # of several data types, the first that occurs is written


Progress = Callable[[int, int], None]


def unseen(_done: int, _total: int) -> None:
    """Shows no progress."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file and the factor of its changes."""

    path: Path
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Combined:
    """The file that was written."""

    path: Path
    layers: int
    ranks: tuple[int, int]  # the smallest and the largest
    energy: float  # the smallest share that a layer keeps of the squares of its singular values


@dataclass(frozen=True, slots=True)
class _Part:
    """The layers of one of the files that are in a module."""

    module: Regrouped
    file: LoraFile
    stream: BinaryIO
    weight: float


def combine(
    sources: Sequence[Source],
    out: Path,
    *,
    cut: Cut | None = None,
    precision: str = "",
    progress: Progress = unseen,
) -> Combined:
    """Writes the sum of the sources' changes.

    Args:
        progress: called with the number of layers that are done, and of all.

    Raises:
        ModelError: a source is no LoRA of a family with a table of names, or of a kind that has no such product;
            `tool_families_differ`, `tool_shapes_differ`.
        InputError: `tool_output_exists`, or the folder cannot be written.
    """
    refuse_existing(out)
    files = [read_lora(source.path) for source in sources]
    family = _common_family(files)
    with ExitStack() as stack:
        parts: dict[str, list[_Part]] = {}
        known = layers_of(family)
        for source, file in zip(sources, files, strict=True):
            stream = stack.enter_context(source.path.open("rb"))
            found = list(layers(file, family))
            for layer in found:
                _check_kind(layer, file, cut)
            for module in regrouped(found, known.table, known.known.pieces):
                parts.setdefault(module.name, []).append(_Part(module, file, stream, source.weight))
        sums = _sums(parts, cut, progress)
        return _written(sums, files, family, out, _alpha(parts, cut), PRECISIONS.get(precision) or _widest(files))


def _sums(parts: dict[str, list[_Part]], cut: Cut | None, progress: Progress) -> Iterator[tuple[str, Reduced]]:
    for number, (name, members) in enumerate(sorted(parts.items())):
        progress(number, len(parts))
        yield name, _sum(members, cut)
    progress(len(parts), len(parts))


def _written(
    sums: Iterable[tuple[str, Reduced]], files: list[LoraFile], family: str, out: Path, alpha: int, dtype: str
) -> Combined:
    form = layers_of(family).table.form
    tensors: dict[str, Stored] = {}
    ranks: Counter[int] = Counter()
    alphas: Counter[float] = Counter()
    energy = 1.0
    for name, made in sums:
        tensors |= named_product(name, made.product, alpha, dtype, form)
        ranks[made.product.rank] += 1
        alphas[float(alpha if form.has_alphas else made.product.rank)] += 1
        energy = min(energy, made.energy)
    metadata = metadata_of(files[0].metadata, family, ranks=ranks, alphas=alphas, kinds=frozenset({"lora"}))
    if len(files) > 1:
        metadata["modelspec.merged_from"] = ", ".join(file.path.name for file in files)
    path = write_lora(out, tensors, metadata)
    return Combined(path, ranks.total(), (min(ranks), max(ranks)), energy)


def _common_family(files: Sequence[LoraFile]) -> str:
    """The likeliest family that all files may be for."""
    common = next((name for name in files[0].families if all(name in file.families for file in files)), "")
    families = [known_family(file, common) for file in files]
    if not common:
        other = next(number for number, file in enumerate(files) if families[0] not in file.families)
        names = {"first": str(files[0].path), "other": str(files[other].path)}
        raise ModelError("tool_families_differ", **names, families=_names({families[0], families[other]}))
    return common


def _names(families: set[str]) -> list[str]:
    return sorted(FAMILY_NAMES.get(family, family) for family in families)


def _check_kind(layer: Layer, file: LoraFile, cut: Cut | None) -> None:
    """Returns where the layer is a product of two matrices, or can be made one by a decomposition."""
    is_dense = layer.module.kind in MERGEABLE - {"norm"} and not layer.module.has_dora and cut is not None
    if not layer.is_pair and not (is_dense and "diff_b" not in layer.module.tensors):
        kind = "dora" if layer.module.has_dora else layer.module.kind
        raise ModelError("tool_kind_of_product", path=str(file.path), found=kind)


def _alpha(parts: dict[str, list[_Part]], cut: Cut | None) -> int:
    """The alpha of the whole file: any number has the same effect. The largest rank gives most layers a scale of 1."""
    whole = max(sum(part.module.first.module.rank or 1 for part in members) for members in parts.values())
    if cut is None or cut.rank is None:
        return whole
    are_pairs = all(part.module.are_pairs for members in parts.values() for part in members)
    return min(cut.rank, whole) if are_pairs else cut.rank  # a product of pairs has no higher rank than theirs


@QUIET
def _sum(members: Sequence[_Part], cut: Cut | None) -> Reduced:
    """The sum of a module's changes."""
    if all(part.module.are_pairs for part in members):
        products = [part.module.product(part.stream) for part in members]
        _check_shapes(members, [(*product.up.shape[:1], *product.down.shape[1:]) for product in products])
        weights = [np.float32(part.weight) for part in members]
        up = np.concatenate([weight * own.up for weight, own in zip(weights, products, strict=True)], axis=1)
        down = np.concatenate([product.down for product in products], axis=0)
        _check_finite(members, up, down)
        whole = Product(up, down, products[0].kernel)
        return Reduced(whole, 1.0) if cut is None else reduced(whole, cut)
    assert cut is not None, "checked for every layer"
    changes = [np.float32(part.weight) * part.module.change(part.stream) for part in members]
    _check_shapes(members, [delta.shape for delta in changes])
    whole_change = sum(changes[1:], changes[0])
    _check_finite(members, whole_change)
    return reduced_change(whole_change, cut)


def _check_finite(members: Sequence[_Part], *arrays: Array) -> None:
    if not all(bool(np.isfinite(array).all()) for array in arrays):
        raise ModelError("tool_not_finite", path=str(members[0].file.path), name=members[0].module.name)


def _check_shapes(members: Sequence[_Part], shapes: Sequence[tuple[int, ...]]) -> None:
    for part, shape in zip(members, shapes, strict=True):
        if shape != shapes[0]:
            first, other = str(members[0].file.path), str(part.file.path)
            raise ModelError("tool_shapes_differ", first=first, other=other, name=part.module.name)


def _widest(files: Sequence[LoraFile]) -> str:
    """The data type of the new file: the widest of those that the files have."""
    found = {dtype for file in files for dtype in file.dtypes if dtype in FLOATS}
    return next((dtype for dtype in _WIDEST if dtype in found), "F32") if "F64" not in found else "F32"


def weights_of(text: str, count: int) -> list[float]:
    """The factors in a text like "1,0.5".

    Raises:
        InputError: `weights_wrong`.
    """
    try:
        weights = [float(part) for part in text.split(",")] if text else [1.0] * count
    except ValueError:
        weights = []
    if len(weights) != count or not np.isfinite(weights).all():
        raise InputError("weights_wrong", given=text, count=count)
    return weights
