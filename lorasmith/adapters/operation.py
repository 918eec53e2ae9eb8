"""The operation of a frozen layer, which a change of its weight has too."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import conv2d, linear


class Operation:
    """The product of an input and a weight of a layer's shape, without a bias: a linear layer's, or a convolution's
    with the layer's own stride, padding and dilation."""

    def __init__(self, base: nn.Module) -> None:
        """Reads what `base` does; it may be replaced by a faster form of itself later."""
        self.weight_shape: tuple[int, ...] = tuple(base.get_parameter("weight").shape)
        self.window: tuple[tuple[int, ...], ...] = ()
        if isinstance(base, nn.Conv2d):
            assert base.groups == 1 and base.padding_mode == "zeros" and not isinstance(base.padding, str), base
            self.window = (base.stride, base.padding, base.dilation)
        else:
            assert isinstance(base, nn.Linear), type(base).__name__

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        """`weight`: the numbers of a weight in its order, in any shape; of any number of rows."""
        weight = weight.reshape(-1, *self.weight_shape[1:])
        if not self.window:
            return linear(x, weight)
        stride, padding, dilation = self.window
        return conv2d(x, weight, None, stride, padding, dilation)
