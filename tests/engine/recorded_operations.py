"""What a CUDA graph does, done on a CPU: the operations of a call are recorded with the tensors and numbers that they
got, and a replay makes them again, each result written where it was at the recording.

So a number that Python computes anew at each step, or a tensor that is made anew, keeps its first value: what holds
here would hold with a graph, as far as Python is concerned.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

Operation = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], list[Tensor]]


class Operations(TorchDispatchMode):
    """Notes every operation, and refuses to read a number, for which a host waits."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[Operation] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing: a number is read")
        found = func(*args, **(kwargs or {}))
        # Without what autograd adds to them later, as a graph of kernels knows memory only.
        given, named = tree_map_only(Tensor, Tensor.detach, (args, kwargs or {}))
        self.made.append((func, given, named, [tensor.detach() for tensor in _tensors(found)]))
        return found


def _tensors(value: Any) -> list[Tensor]:
    return [one for one in tree_flatten(value)[0] if isinstance(one, Tensor)]


def replay_of(made: Sequence[Operation]) -> Callable[[], None]:
    """The function that makes operations again, each result written where it was."""

    def replay() -> None:
        with torch.no_grad():
            for func, args, kwargs, results in made:
                again = _tensors(func(*args, **kwargs))
                for result, new in zip(results, again, strict=True):
                    if new is not result and new.data_ptr() != result.data_ptr():  # no view, not in place
                        result.copy_(new)

    return replay


@dataclass
class RecordedOperations:
    """A `Capture`; `replays` counts."""

    recordings: int = 0
    replays: int = 0

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        work()
        with Operations() as recorder:
            work()
        self.recordings += 1

        again = replay_of(recorder.made)

        def replay() -> None:
            self.replays += 1
            again()

        return replay
