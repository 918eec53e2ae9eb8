import torch
from torch import Tensor

from lorasmith.diffusion.objective import MSE, Objective, squared_error
from lorasmith.diffusion.process import Noised


def mse(prediction: Tensor, target: Tensor) -> Tensor:
    return MSE.losses(prediction, Noised(target, torch.zeros(len(target)), target))


def test_it_is_the_mean_of_squares_of_each_example() -> None:
    prediction = torch.tensor([[[[1.0, 2.0]]], [[[0.0, 3.0]]]])
    target = torch.tensor([[[[0.0, 4.0]]], [[[0.0, 0.0]]]])
    assert torch.equal(mse(prediction, target), torch.tensor([2.5, 4.5]))


def test_it_is_float32_whatever_comes_in() -> None:
    # 300 squared is beyond float16, and 0.001 off 1 is lost in bfloat16 if it is squared there.
    prediction = torch.full((2, 4, 3, 3), 300.0, dtype=torch.float16)
    loss = mse(prediction, torch.zeros(2, 4, 3, 3))
    assert loss.dtype == torch.float32 and torch.equal(loss, torch.tensor([90_000.0, 90_000.0]))
    low = mse(torch.ones(1, 1, 1, 1, dtype=torch.bfloat16), torch.full((1, 1, 1, 1), 1.001))
    assert torch.allclose(low, torch.tensor([1e-6]), rtol=1e-3)


def test_an_example_s_loss_does_not_depend_on_its_neighbours() -> None:
    generator = torch.Generator().manual_seed(0)
    prediction, target = (torch.randn(5, 4, 8, 8, generator=generator) for _ in range(2))
    whole = mse(prediction, target)
    for row in range(5):
        assert torch.equal(mse(prediction[row : row + 1], target[row : row + 1]), whole[row : row + 1])


def test_its_gradient_is_that_of_the_formula() -> None:
    prediction = torch.tensor([[1.0, 2.0, 4.0]], requires_grad=True)
    mse(prediction, torch.zeros(1, 3)).sum().backward()
    assert prediction.grad is not None
    assert torch.allclose(prediction.grad, torch.tensor([[2.0, 4.0, 8.0]]) / 3)


def test_what_is_not_finite_stays_so() -> None:
    target = torch.tensor([[1.0], [float("nan")], [float("inf")]])
    loss = mse(torch.zeros(3, 1), target)
    assert loss[0] == 1.0 and loss[1].isnan() and loss[2].isinf()


def test_another_objective_is_another_value() -> None:
    """Absolute errors, cut off at 1, and weights that read the signal-to-noise ratio: nothing else changes."""

    def bounded(prediction: Tensor, target: Tensor, _noised: Noised) -> Tensor:
        return (prediction - target).abs().clamp(max=1)

    def min_snr(noised: Noised) -> Tensor:
        assert noised.snr is not None
        return noised.snr.clamp(max=5) / noised.snr

    objective = Objective(bounded, weights=(min_snr, lambda noised: 1 + noised.timesteps))
    noised = Noised(torch.zeros(2, 2), torch.tensor([0.0, 1.0]), torch.zeros(2, 2), snr=torch.tensor([20.0, 2.0]))
    losses = objective.losses(torch.tensor([[0.5, -4.0], [0.25, 0.0]]), noised)
    assert torch.allclose(losses, torch.tensor([0.75 * 5 / 20 * 1, 0.125 * 1 * 2]))


def test_weights_scale_the_gradient_of_each_example() -> None:
    prediction = torch.ones(2, 3, requires_grad=True)
    noised = Noised(torch.zeros(2, 3), torch.tensor([1.0, 4.0]), torch.zeros(2, 3))
    Objective(squared_error, (lambda noised: noised.timesteps,)).losses(prediction, noised).sum().backward()
    assert prediction.grad is not None
    assert torch.allclose(prediction.grad, torch.tensor([[1.0], [4.0]]).expand(2, 3) * 2 / 3)


def test_a_mask_takes_its_share_of_each_element_s_loss() -> None:
    """As sd-scripts has it: the mean is over all elements, so half a mask is half a loss; and for all channels."""
    prediction = torch.full((2, 4, 2, 2), 3.0)
    noised = Noised(prediction, torch.zeros(2), torch.zeros_like(prediction))
    masks = torch.tensor([[[1.0, 1.0], [0.0, 0.0]], [[0.0, 0.25], [0.0, 0.0]]])
    assert torch.equal(MSE.losses(prediction, noised, mask=masks), torch.tensor([4.5, 9 / 16]))
    assert torch.equal(MSE.losses(prediction, noised, mask=torch.ones(2, 2, 2)), MSE.losses(prediction, noised))


def test_factors_of_examples_and_weights_multiply() -> None:
    prediction = torch.full((2, 3), 2.0)
    noised = Noised(prediction, torch.tensor([1.0, 3.0]), torch.zeros_like(prediction))
    objective = Objective(squared_error, (lambda noised: noised.timesteps,))
    assert torch.equal(objective.losses(prediction, noised, factors=torch.tensor([1.0, 0.5])), torch.tensor([4.0, 6.0]))
