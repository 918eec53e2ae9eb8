"""What the simulated GPU refuses, so that the tests marked `gpu` can fail on it."""

import pytest
import torch

from tests.end_to_end.test_gpu import is_simulated

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not is_simulated(),
        reason="there is no simulated GPU (python -m tests.simulated_gpu)",
    ),
]
CUDA = torch.device("cuda")


def test_tensors_of_two_devices_do_not_mix() -> None:
    there, here = torch.ones(3, device=CUDA), torch.ones(3)
    with pytest.raises(RuntimeError, match="same device"):
        there + here
    assert (there + 1.0 + torch.tensor(1.0)).tolist() == [3.0] * 3  # numbers do
    assert there[torch.tensor([0, 2])].shape == (2,)  # and indices


def test_a_host_that_waits_is_found() -> None:
    there = torch.ones(3, device=CUDA)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for wait in (there.tolist, there.cpu, lambda: there[there > 0], lambda: torch.tensor([1.0], device=CUDA)):
            with pytest.raises(RuntimeError, match="synchronizing"):
                wait()
        torch.ones(3).pin_memory().to(CUDA, non_blocking=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_streams_that_nothing_orders_race() -> None:
    side, there = torch.cuda.Stream(), torch.zeros(3, device=CUDA)
    with torch.cuda.stream(side), pytest.raises(RuntimeError, match="race"):
        there.add_(1.0)
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        there.add_(1.0)
    with pytest.raises(RuntimeError, match="race"):
        there + 1.0
    torch.cuda.current_stream().wait_stream(side)
    assert there.tolist() == [1.0] * 3


def test_memory_is_counted_and_runs_out() -> None:
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    held = torch.ones(1 << 20, device=CUDA)
    view = (held * 2)[:5]
    del held
    assert torch.cuda.memory_allocated() - before == 1 << 22  # of which the view keeps all
    assert torch.cuda.max_memory_allocated() - before == 2 << 22
    del view
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(1 << 42, dtype=torch.uint8, device=CUDA)
    assert torch.cuda.memory_allocated() == before


def test_what_has_no_repeatable_form_is_refused() -> None:
    torch.use_deterministic_algorithms(True)
    with pytest.raises(RuntimeError, match="deterministic"):
        torch.ones(3, device=CUDA).cumsum(0)
    assert torch.ones(3, device=CUDA, dtype=torch.long).cumsum(0).tolist() == [1, 2, 3]
