"""What records and replays work; the graphs themselves need a GPU."""

import pytest
import torch

from lorasmith.engine.capture import CallAgain, CudaCapture, capture_on
from lorasmith.engine.device import Device
from tests.engine.one_layer import CPU
from tests.engine.recorded_operations import RecordedOperations


def test_a_cpu_has_no_graphs() -> None:
    assert capture_on(CPU) is None


@pytest.mark.parametrize("capture", [CallAgain(), RecordedOperations()], ids=["called again", "recorded"])
def test_a_replay_does_the_work_again(capture: CallAgain | RecordedOperations) -> None:
    total, added = torch.zeros(2), torch.ones(2)
    replay = capture.record(lambda: total.add_(added))
    total.zero_()
    added.fill_(2.0)
    replay()
    replay()
    assert total.tolist() == [4.0, 4.0]


def test_a_recording_keeps_pythons_numbers_and_refuses_to_read() -> None:
    """So a step that takes a number from Python does not pass for one that can be captured."""
    total, number = torch.zeros(()), 1.0
    replay = RecordedOperations().record(lambda: total.add_(number))
    total.zero_()
    number = 5.0
    replay()
    assert float(total) == 1.0
    with pytest.raises(RuntimeError, match="a number is read"):
        RecordedOperations().record(lambda: total.add_(float(total)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_graphs_share_their_memory_and_a_failed_one_leaves_no_trace() -> None:
    device = torch.device("cuda")
    assert capture_on(Device(device, "", "asked", 1)) is not None
    capture, inputs = CudaCapture(device), [torch.ones(size, device=device) for size in (1 << 22, 1 << 20)]
    sums = [torch.zeros((), device=device) for _ in inputs]

    def work(number: int) -> None:
        sums[number].copy_((inputs[number] * 2 + 1).sum())

    replays = [capture.record(lambda number=number: work(number)) for number in range(2)]  # type: ignore[misc]
    stream = torch.cuda.current_stream()
    with pytest.raises(RuntimeError):
        capture.record(lambda: float(sums[0]))
    assert torch.cuda.current_stream() == stream
    for value in (2.0, 3.0):
        for tensor in inputs:
            tensor.fill_(value)
        for replay in reversed(replays):
            replay()
        assert [float(one) for one in sums] == [(2 * value + 1) * one.numel() for one in inputs]
