"""How far a prediction is from its target, one number per example."""

from torch import Tensor


def per_example_mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over all but the first dimension: (B, ...) -> (B,), in float32."""
    return (prediction.float() - target.float()).square().flatten(1).mean(1)
