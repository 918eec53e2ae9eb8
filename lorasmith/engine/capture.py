"""Records the work of a step once and replays it with a single call: CUDA graphs, and what stands in for them.

What is recorded reads and writes tensors that never move, and takes no number from Python: a replay repeats the
addresses and the numbers of the recording.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from lorasmith.engine.device import Device

WARM_UPS = 2
"""Calls before a capture: libraries take their memory and load their kernels at the first calls, which none may do
while work is captured."""

Work = Callable[[], None]


class Capture(Protocol):
    """Records work that draws only from the device's generators and never waits for the device."""

    def record(self, work: Work) -> Work:
        """Calls `work` a few times, records it, and returns the function that replays it. What `work` writes has been
        written by then: the caller puts it back.

        Raises:
            RuntimeError: the work cannot be captured, or memory ran out.
        """


def capture_on(device: Device) -> Capture | None:
    """The capture of a device; None where there is none."""
    return CudaCapture(device.torch_device) if device.torch_device.type == "cuda" else None


class CudaCapture:
    """CUDA graphs. All share the memory of what they compute on the way: each leaves its results in tensors that were
    made before, so no replay needs anything of another. Satisfies `Capture`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, work: Work) -> Work:
        with torch.cuda.device(self._device):
            outside = torch.cuda.current_stream()
            self._stream.wait_stream(outside)
            try:
                with torch.cuda.stream(self._stream):
                    for _ in range(WARM_UPS):
                        work()
            finally:  # also where one fails: what it began still writes gradients
                outside.wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            try:
                # Other threads may use the device meanwhile.
                with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                    work()
            finally:
                torch.cuda.set_stream(outside)  # a capture that fails leaves its own
        return graph.replay


class CallAgain:
    """Calls the work again in place of a replay, on any device: for tests and benchmarks where there is no GPU.
    Satisfies `Capture`."""

    def record(self, work: Work) -> Work:
        work()
        return work
