"""Several processes that train one adapter, as threads: the same bytes and the same decisions as one process."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

from lorasmith.engine.execution import EagerExecution
from lorasmith.engine.state import LossScaler, TrainState
from lorasmith.engine.step import Repeat, StepContext, StepResult, train_step
from lorasmith.engine.tree_sum import TreeSum
from lorasmith.engine.world import SingleProcess
from lorasmith.errors import NonFiniteError
from tests.engine.one_layer import made

T = TypeVar("T")
STEPS = 3


class Exchange:
    """Where the processes meet: each leaves a value and takes all."""

    def __init__(self, size: int) -> None:
        self._barrier = threading.Barrier(size, timeout=200)
        self._values: list[Any] = [None] * size

    def all(self, rank: int, value: T) -> list[T]:
        self._values[rank] = value
        self._barrier.wait()
        found = list(self._values)
        self._barrier.wait()
        return found


@dataclass
class Member:
    """One of several processes. Satisfies `World`."""

    rank: int
    size: int
    exchange: Exchange

    def micro_batches(self, count: int) -> range:
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def sum_tree(self, tree: TreeSum) -> Tensor:
        whole = TreeSum(tree.count)
        for nodes in self.exchange.all(self.rank, tree.partial()):
            whole.add_partial({place: node.clone() for place, node in nodes.items()})
        self.exchange.all(self.rank, None)  # nobody clears a gradient that another still reads
        return whole.total()

    def any(self, flag: bool) -> bool:
        return any(self.exchange.all(self.rank, flag))

    def any_on_device(self, flag: Tensor) -> Tensor:
        return torch.stack(self.exchange.all(self.rank, flag)).amax()

    def gather(self, rows: list[T]) -> list[T]:
        return [row for rows in self.exchange.all(self.rank, rows) for row in rows]


Outcome = list[StepResult | Repeat]
Harm = Callable[[int, StepContext], StepContext]


def trained(size: int, harm: Harm = lambda rank, context: context, **given: Any) -> list[tuple[TrainState, Outcome]]:
    """What each of `size` processes has after STEPS steps, and what every call returned; `harm` changes one of them."""
    exchange = Exchange(size)
    members = [made(world=Member(rank, size, exchange), scaler=LossScaler(4.0), **given) for rank in range(size)]

    def work(rank: int) -> tuple[TrainState, Outcome]:
        state, context = members[rank]
        context, outcomes = harm(rank, context), Outcome()
        while state.step < STEPS:
            outcomes.append(train_step(state, context))
        return state, outcomes

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(work, range(size)))


def facts(outcomes: Outcome) -> list[Any]:
    return [one if isinstance(one, Repeat) else (one.step, one.numbers(), one.example_ids) for one in outcomes]


@pytest.mark.parametrize("sizes", [(4,), (4, 1), (3, 4, 2), (1, 2, 3, 4, 1)])
@pytest.mark.parametrize("size", [2, 3])
def test_several_processes_end_with_the_bytes_of_one(sizes: tuple[int, ...], size: int) -> None:
    """Also where there are fewer micro-batches than processes."""
    ((alone, expected),) = trained(1, sizes=sizes)
    for state, outcomes in trained(size, sizes=sizes):
        assert torch.equal(state.adapter.flat, alone.adapter.flat)
        assert facts(outcomes) == facts(expected)


@dataclass
class Harmed:
    """An execution that at its first call fails or gives a gradient that is no number."""

    real: EagerExecution
    error: Exception | None
    state: Mapping[str, Any] | None = None
    calls: int = 0

    def forward_backward(self, batch: Any, numbers: Any, weight: float) -> Tensor:
        self.calls += 1
        if self.calls > 1:
            return self.real.forward_backward(batch, numbers, weight)
        if self.error is not None:
            raise self.error
        return self.real.forward_backward(batch, numbers, weight * float("inf"))

    def prepare(self, batch: Any, numbers: Any) -> None:
        self.real.prepare(batch, numbers)

    def forget(self) -> None:
        self.real.forget()


def harm_last(error: Exception | None) -> Harm:
    def harm(rank: int, context: StepContext) -> StepContext:
        if rank != context.world.size - 1:
            return context
        assert isinstance(context.execution, EagerExecution)
        return replace(context, execution=Harmed(context.execution, error))

    return harm


@pytest.mark.parametrize(
    ("error", "reason"), [(torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory"), (None, "overflow")]
)
def test_what_happens_to_one_is_decided_by_all(error: Exception | None, reason: str) -> None:
    """Memory runs out, or the gradient overflows, in a single process: all repeat the step, in the same way."""
    ((alone, expected),) = trained(1, harm_last(error), accumulation=4)
    assert [one.reason for one in expected if isinstance(one, Repeat)] == [reason]
    for state, outcomes in trained(2, harm_last(error), accumulation=4):
        assert facts(outcomes) == facts(expected)
        assert state.counters() == alone.counters()
        assert torch.equal(state.adapter.flat, alone.adapter.flat)


class Outvoted(SingleProcess):
    """A process in which all is well, beside another that says no from its `number`-th question on."""

    def __init__(self, number: int) -> None:
        self.left = number

    def any(self, flag: bool) -> bool:
        self.left -= 1
        return flag or self.left <= 0

    def any_on_device(self, flag: Tensor) -> Tensor:
        return torch.ones_like(flag)


def test_a_gradient_that_is_finite_here_alone_is_not_applied() -> None:
    state, context = made(world=Outvoted(2))
    with pytest.raises(NonFiniteError):
        train_step(state, context)
    assert state.step == 0


def test_an_update_that_is_skipped_elsewhere_is_skipped_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorasmith.engine.device.Device.is_async", True)
    state, context = made(world=Outvoted(99))
    before = state.adapter.flat.clone()
    result = train_step(state, context)
    assert isinstance(result, StepResult)
    assert result.numbers().found_inf > 0 and torch.equal(state.adapter.flat, before)
