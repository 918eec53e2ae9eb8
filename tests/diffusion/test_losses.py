import torch

from lorasmith.diffusion.losses import per_example_mse


def test_it_is_the_mean_of_squares_of_each_example() -> None:
    prediction = torch.tensor([[[[1.0, 2.0]]], [[[0.0, 3.0]]]])
    target = torch.tensor([[[[0.0, 4.0]]], [[[0.0, 0.0]]]])
    assert torch.equal(per_example_mse(prediction, target), torch.tensor([2.5, 4.5]))


def test_it_is_float32_whatever_comes_in() -> None:
    # 300 squared is beyond float16, and 0.001 off 1 is lost in bfloat16 if it is squared there.
    prediction = torch.full((2, 4, 3, 3), 300.0, dtype=torch.float16)
    loss = per_example_mse(prediction, torch.zeros(2, 4, 3, 3))
    assert loss.dtype == torch.float32 and torch.equal(loss, torch.tensor([90_000.0, 90_000.0]))
    low = per_example_mse(torch.ones(1, 1, 1, 1, dtype=torch.bfloat16), torch.full((1, 1, 1, 1), 1.001))
    assert torch.allclose(low, torch.tensor([1e-6]), rtol=1e-3)


def test_an_example_s_loss_does_not_depend_on_its_neighbours() -> None:
    generator = torch.Generator().manual_seed(0)
    prediction, target = (torch.randn(5, 4, 8, 8, generator=generator) for _ in range(2))
    whole = per_example_mse(prediction, target)
    for row in range(5):
        assert torch.equal(per_example_mse(prediction[row : row + 1], target[row : row + 1]), whole[row : row + 1])


def test_its_gradient_is_that_of_the_formula() -> None:
    prediction = torch.tensor([[1.0, 2.0, 4.0]], requires_grad=True)
    per_example_mse(prediction, torch.zeros(1, 3)).sum().backward()
    assert prediction.grad is not None
    assert torch.allclose(prediction.grad, torch.tensor([[2.0, 4.0, 8.0]]) / 3)


def test_what_is_not_finite_stays_so() -> None:
    target = torch.tensor([[1.0], [float("nan")], [float("inf")]])
    loss = per_example_mse(torch.zeros(3, 1), target)
    assert loss[0] == 1.0 and loss[1].isnan() and loss[2].isinf()
