"""An adapter's tensors under the names that files have, and the way back. Knows no model and reads no file.

Names here: "<target>.<suffix>". Names there: "<module>.<suffix>", and "<module>.alpha", with the modules of a
`NameTable`. Layers that files hold as one module (q, k and v) are fused on the way there and split on the way back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lorasmith.adapters.base import AdapterKind, LayerSettings, by_layer
from lorasmith.errors import ModelError
from lorasmith.exporting.alphas import shared_alphas
from lorasmith.exporting.joined import for_pieces, put_together, taken_apart
from lorasmith.exporting.name_table import ALPHA, NameTable, Row
from lorasmith.finite import is_finite

Tensors = dict[str, Tensor]  # of a layer or module, by suffix


def to_file(
    tensors: Mapping[str, Tensor], kind: AdapterKind, table: NameTable, settings: Mapping[str, LayerSettings]
) -> dict[str, Tensor]:
    """The names of files, with an alpha (float32 scalar) for each module, `shared_alphas`, or with the scale in the
    tensors, whichever form the family's files have. Tensors keep their type.

    Args:
        settings: by target.
    """
    layers = taken_apart(by_layer(tensors, kind), kind, table)
    settings = for_pieces(settings, table, lambda whole, *_: whole)
    merged: dict[str, Tensors] = {}
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    alphas: dict[str, float] = {}
    for module in dict.fromkeys(table.targets[target].module for target in layers):
        targets = [row.target for row in table.modules[module]]
        trained = [target for target in targets if target in layers]
        parts = [settings[target] for target in trained]
        scaled = dict(zip(trained, _of_one_scale([layers[target] for target in trained], parts, kind), strict=True))
        merged[module] = fused(_with_untrained(scaled, kind, table.modules[module]), kind)
        shapes[module] = {suffix: tuple(tensor.shape) for suffix, tensor in merged[module].items()}
        alphas[module] = kind.file_alpha(shapes[module], fused_settings(parts))
    named: dict[str, Tensor] = {}
    written = shared_alphas(alphas, table) if table.form.has_alphas else dict.fromkeys(alphas)
    for module, alpha in written.items():
        of_module = merged[module]
        if alpha != alphas[module]:
            scale, shared = (kind.file_scale(shapes[module], either) for either in (alphas[module], alpha))
            of_module = of_module if scale == shared else kind.scaled(of_module, scale / shared)
        for suffix, tensor in of_module.items():
            named[f"{module}.{table.form.suffix(suffix)}"] = tensor
        if alpha is not None:
            named[f"{module}.{ALPHA}"] = torch.tensor(alpha, dtype=torch.float32)
    return named


def from_file(tensors: Mapping[str, Tensor], kind: AdapterKind, table: NameTable) -> dict[str, Tensor]:
    """The names of this project, float32, with the scale of the file folded in, so that it becomes 1.

    1x1 convolutions come out with 4 dimensions and linear layers with 2,
    however the file stores them.

    Raises:
        ModelError: `init_from_foreign`, a key that is no tensor of this kind for one of the family's layers;
            `init_from_incomplete`, tensors of a layer are missing, or there is none at all; `init_from_shape`, tensors
            that do not fit together; `init_from_not_finite`.
    """
    modules: dict[str, Tensors] = {}
    spellings = {suffix: suffix for suffix in (*kind.suffixes, ALPHA)}
    spellings |= {table.form.suffix(suffix): suffix for suffix in kind.suffixes}
    for key, tensor in tensors.items():
        spelling = next((spelling for spelling in spellings if key.endswith(f".{spelling}")), "")
        module = key.removesuffix(f".{spelling}")
        if not spelling or module not in table.modules:
            raise ModelError("init_from_foreign", key=key, family=table.family)
        modules.setdefault(module, {})[spellings[spelling]] = tensor
    if not modules:
        raise ModelError("init_from_incomplete", key=kind.suffixes[0])
    found: dict[str, Tensor] = {}
    for module, stored in modules.items():
        rows = table.modules[module]
        whole = _scaled_to_1(module, stored, kind, rows[0].layer.kernel)
        for target, layer in _split(module, whole, kind, rows).items():
            if f"{target}.{next(iter(layer))}" in found:  # alone and as a part of another
                raise ModelError("init_from_foreign", key=module, family=table.family)
            found |= {f"{target}.{suffix}": tensor for suffix, tensor in layer.items()}
    return put_together(found, kind, table, fused)


def fused(parts: Sequence[Mapping[str, Tensor]], kind: AdapterKind) -> Tensors:
    """The tensors of a module that computes the rows of several linear layers of the same input.

    Its change is theirs, exactly: every part keeps its own ranks.
    """
    if len(parts) == 1:
        return dict(parts[0])
    assert kind.row_suffixes, f"{kind.name} has no form for a fused layer"
    columns = {suffix: [part[suffix] for part in parts] for suffix in parts[0]}
    return {
        suffix: _block_diagonal(tensors) if suffix in kind.row_suffixes else torch.cat(tensors)
        for suffix, tensors in columns.items()
    }


def fused_settings(parts: Sequence[LayerSettings]) -> LayerSettings:
    """The settings of a fused module: ranks add up, the scale is that of the first part."""
    rank = sum(part.rank for part in parts)
    return LayerSettings(rank, parts[0].alpha / parts[0].rank * rank) if len(parts) > 1 else parts[0]


def _with_untrained(trained: Mapping[str, Tensors], kind: AdapterKind, rows: Sequence[Row]) -> list[Tensors]:
    """The tensors of all layers of a module in order: those that are not trained have no ranks, and so no change."""
    if len(trained) == len(rows):
        return [trained[row.target] for row in rows]
    assert kind.row_suffixes, f"{kind.name} has no form for a fused layer"
    first, like = next(iter(trained.items()))
    published = next(row.layer.outputs for row in rows if row.target == first)
    own = next(len(like[suffix]) for suffix in like if suffix in kind.row_suffixes)
    untrained = {
        row.target: {
            suffix: tensor.new_zeros(row.layer.outputs * own // published, 0)
            if suffix in kind.row_suffixes
            else tensor.new_zeros(0, *tensor.shape[1:])
            for suffix, tensor in like.items()
        }
        for row in rows
        if row.target not in trained
    }
    return [{**untrained, **trained}[row.target] for row in rows]


def _of_one_scale(layers: Sequence[Tensors], settings: Sequence[LayerSettings], kind: AdapterKind) -> Sequence[Tensors]:
    """The tensors of layers that make the same change with the scale of the first of them."""
    factors = [part.alpha / part.rank / (settings[0].alpha / settings[0].rank) for part in settings]
    if set(factors) == {1.0}:
        return layers
    return [kind.scaled(layer, factor) for layer, factor in zip(layers, factors, strict=True)]


def _scaled_to_1(module: str, stored: Tensors, kind: AdapterKind, kernel: tuple[int, ...]) -> Tensors:
    """The tensors of a module in the shapes of the kind, float32, with a scale of 1."""
    for suffix, tensor in stored.items():
        if suffix == ALPHA and tensor.numel() != 1:
            raise ModelError("init_from_shape", key=f"{module}.{suffix}", shape=list(tensor.shape))
        if tensor.is_complex() or not is_finite(tensor.to(torch.float32)):
            raise ModelError("init_from_not_finite", key=f"{module}.{suffix}")
    tensors = {suffix: tensor.to(torch.float32) for suffix, tensor in stored.items() if suffix != ALPHA}
    shapes = {suffix: _without_ones(tensor.shape) for suffix, tensor in tensors.items()}
    misfit = ModelError("init_from_shape", key=module, shape=[list(tensor.shape) for tensor in tensors.values()])
    if any(len(shape) < 2 or 0 in shape for shape in shapes.values()):
        raise misfit
    try:
        layer, rank = kind.layer_of(shapes, kernel)
    except KeyError as missing:
        raise ModelError("init_from_incomplete", key=f"{module}.{missing.args[0]}") from None
    expected = kind.shapes(layer, LayerSettings(rank, rank))
    for suffix in expected:
        if suffix not in tensors:
            raise ModelError("init_from_incomplete", key=f"{module}.{suffix}")
    if {suffix: _without_ones(shape) for suffix, shape in expected.items()} != shapes:
        raise misfit
    alpha = stored[ALPHA].to(torch.float32).item() if ALPHA in stored else None
    tensors = {suffix: tensors[suffix].reshape(shape) for suffix, shape in expected.items()}
    return kind.scaled(tensors, kind.file_scale(expected, alpha))


def _block_diagonal(matrices: Sequence[Tensor]) -> Tensor:
    result: Tensor = torch.block_diag(*matrices)  # type: ignore[no-untyped-call]
    return result


def _without_ones(shape: Sequence[int]) -> tuple[int, ...]:
    """Files of 1x1 convolutions may or may not have the kernel's two dimensions."""
    return tuple(shape[:2]) if all(side == 1 for side in shape[2:]) else tuple(shape)


def _split(module: str, whole: Tensors, kind: AdapterKind, rows: Sequence[Row]) -> dict[str, Tensors]:
    """The tensors of each target of a module.

    Where the module is block-diagonal, as `fused` makes it of parts of the same rank, each target gets its block; else
    each gets its rows of the whole rank.
    """
    if len(rows) == 1:
        return {rows[0].target: whole}
    assert kind.row_suffixes, f"{kind.name} has no form for a fused layer"
    outputs, rank = next(whole[suffix].shape for suffix in whole if suffix in kind.row_suffixes)
    published = sum(row.layer.outputs for row in rows)
    sizes, rests = zip(*(divmod(row.layer.outputs * outputs, published) for row in rows), strict=True)
    if any(rests):
        raise ModelError("init_from_shape", key=module, shape=[list(tensor.shape) for tensor in whole.values()])
    width = rank // len(rows)
    outside = _block_diagonal([torch.ones(size, width) for size in sizes]) == 0
    is_diagonal = rank % len(rows) == 0 and not any(bool(whole[suffix][outside].any()) for suffix in kind.row_suffixes)
    split: dict[str, Tensors] = {}
    for number, row in enumerate(rows):
        own_rows = slice(sum(sizes[:number]), sum(sizes[: number + 1]))
        own_ranks = slice(width * number, width * (number + 1)) if is_diagonal else slice(rank)
        split[row.target] = {
            suffix: tensor[own_rows, own_ranks] if suffix in kind.row_suffixes else tensor[own_ranks]
            for suffix, tensor in whole.items()
        }
    return split
