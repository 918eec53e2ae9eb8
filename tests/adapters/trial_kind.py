"""A kind of adapter that only the tests have: LoHa, the elementwise product of two low-rank changes (2108.06098).

Added as any kind is: this file and a row in ADAPTERS.
"""

from collections.abc import Mapping

import pytest
from torch import Generator, Tensor, nn
from torch.nn.functional import conv2d, linear

from lorasmith.adapters import ADAPTERS
from lorasmith.adapters.base import AdapterLayer, LayerSettings
from lorasmith.targets import LayerSpec

W1_A, W1_B, W2_A, W2_B = "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"
NAME, ROW = "trial", "tests.adapters.trial_kind:TrialLoha"


def add_row(monkeypatch: pytest.MonkeyPatch) -> str:
    """The row in the table, for a test; the kind's name."""
    monkeypatch.setitem(ADAPTERS, NAME, ROW)
    return NAME


class TrialLoha:
    """alpha / rank * (w1_a @ w1_b) * (w2_a @ w2_b)."""

    name = NAME
    suffixes = (W1_A, W1_B, W2_A, W2_B)
    row_suffixes = frozenset({W1_A, W2_A})
    network_module = "lycoris.kohya"
    network_args: Mapping[str, str] = {"algo": "loha"}

    def shapes(self, layer: LayerSpec, settings: LayerSettings) -> dict[str, tuple[int, ...]]:
        inputs = layer.inputs
        for side in layer.kernel:
            inputs *= side
        rows, columns = (layer.outputs, settings.rank), (settings.rank, inputs)
        return {W1_A: rows, W1_B: columns, W2_A: rows, W2_B: columns}

    def layer_of(self, shapes: Mapping[str, tuple[int, ...]], kernel: tuple[int, ...]) -> tuple[LayerSpec, int]:
        inputs = shapes[W1_B][1]
        for side in kernel:
            inputs //= side
        return LayerSpec(shapes[W1_A][0], inputs, kernel), shapes[W1_B][0]

    def init(self, base: nn.Module, tensors: Mapping[str, Tensor], generator: Generator) -> None:
        assert base.get_parameter("weight").shape[0] == tensors[W1_A].shape[0]
        for suffix, deviation in ((W1_A, 0.1), (W1_B, 1.0), (W2_B, 1.0)):  # w2_a stays zero
            tensors[suffix].copy_(tensors[suffix].cpu().normal_(0, deviation, generator=generator))

    def layer(self, base: nn.Module, tensors: Mapping[str, nn.Parameter], settings: LayerSettings) -> AdapterLayer:
        return TrialLayer(base, self, tensors, settings)

    def delta(self, weight: Tensor, tensors: Mapping[str, Tensor], settings: LayerSettings) -> Tensor:
        product = (tensors[W1_A] @ tensors[W1_B]) * (tensors[W2_A] @ tensors[W2_B])
        return (settings.alpha / settings.rank * product).reshape(weight.shape)

    def scaled(self, tensors: Mapping[str, Tensor], factor: float) -> dict[str, Tensor]:
        return {**tensors, W2_A: tensors[W2_A] * factor}

    def file_alpha(self, settings: LayerSettings) -> float:
        return settings.alpha

    def file_scale(self, shapes: Mapping[str, tuple[int, ...]], alpha: float | None) -> float:
        return 1.0 if alpha is None else alpha / shapes[W1_B][0]


class TrialLayer(AdapterLayer):
    """The change of the weight, made anew at each call."""

    def __init__(
        self, base: nn.Module, kind: TrialLoha, tensors: Mapping[str, nn.Parameter], settings: LayerSettings
    ) -> None:
        super().__init__(base, settings)
        self.kind, self.settings = kind, settings
        self.weight_shape = base.get_parameter("weight").shape
        self.tensors = nn.ParameterDict(tensors)

    def changed(self, y: Tensor, x: Tensor) -> Tensor:
        like = self.tensors[W1_A].new_empty(self.weight_shape)
        delta = self.kind.delta(like, dict(self.tensors.items()), self.settings).to(x.dtype)
        apply = conv2d if delta.ndim == 4 else linear
        return y + self.multiplier * apply(x, delta)
