"""Forms in which a frozen weight is kept, and how its numbers are made of them again.

A codec turns a weight (outputs, …) into named parts and back. Encoding and decoding are elementwise and sums are taken
by nothing here, so the same weight always gives the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor

Parts = Mapping[str, Tensor]

FLOAT8 = torch.float8_e4m3fn
BLOCK = 64  # weights that share a factor in nf4
PIECE = 1 << 20
"""Numbers that are encoded at a time, and decoded on a CPU. In float32 a whole layer is up to eight times as large as
what is kept of it, and a process keeps what it frees: with `nf4` it took more memory than the base model itself."""
_LEAST = torch.finfo(torch.float32).tiny


class Scratch:
    """Memory of a CPU in which weights are made anew, each in the place of the one before.

    Weights of many sizes that come and go leave holes that no other fits, and a process keeps them: without this a
    quarter of FLUX.1 in int8 took 4.6 GiB in place of 4.0 (glibc, an AMD EPYC without AMX).
    """

    def __init__(self, size: int) -> None:
        """`size` in bytes, of the largest weight."""
        self._memory = torch.empty(size, dtype=torch.uint8)

    def take(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """A tensor without numbers, valid until the next is taken."""
        return self._memory[: math.prod(shape) * dtype.itemsize].view(dtype).view(shape)


class Codec(Protocol):
    """A form of storage."""

    def encode(self, weight: Tensor) -> dict[str, Tensor]:
        """The parts that are kept of a weight, on its device."""

    def decode(self, parts: Parts, shape: torch.Size, dtype: torch.dtype, scratch: Scratch | None = None) -> Tensor:
        """The weight from its parts; with `scratch`, in its memory."""


class Whole:
    """The weight as it is, or in another type of numbers."""

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        self.dtype = dtype

    def encode(self, weight: Tensor) -> dict[str, Tensor]:
        return {"stored": weight.to(self.dtype or weight.dtype).contiguous()}

    def decode(
        self,
        parts: Parts,
        shape: torch.Size,
        dtype: torch.dtype,
        scratch: Scratch | None = None,  # noqa: ARG002 - mostly there is nothing to make
    ) -> Tensor:
        return parts["stored"].to(dtype).view(shape)


class ByRow:
    """A number of 8 bits for each weight, and a factor for each output.

    With a factor for each output the largest weight of a row is the largest number, so that as few weights as possible
    fall below the smallest: those of diffusion models are mostly under 0.05.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.largest = torch.finfo(dtype).max if dtype.is_floating_point else torch.iinfo(dtype).max

    def encode(self, weight: Tensor) -> dict[str, Tensor]:
        rows = weight.detach().flatten(1)
        stored = torch.empty_like(rows, dtype=self.dtype, memory_format=torch.contiguous_format)
        factors = torch.empty(len(rows), 1, device=rows.device)
        step = max(1, PIECE // rows.shape[1])
        for start in range(0, len(rows), step):
            own = slice(start, start + step)
            piece = rows[own].to(torch.float32)
            factors[own] = piece.abs().amax(1, keepdim=True).clamp_(min=_LEAST) / self.largest
            numbers = piece / factors[own]
            stored[own] = (numbers if self.dtype.is_floating_point else numbers.round_()).to(self.dtype)
        return {"stored": stored, "factors": factors}  # factors: (outputs, 1)

    def decode(self, parts: Parts, shape: torch.Size, dtype: torch.dtype, scratch: Scratch | None = None) -> Tensor:
        stored, factors = parts["stored"], parts["factors"]
        rows = _empty(scratch, *stored.shape, dtype=dtype, device=stored.device)
        for own in _pieces(stored):
            rows[own] = stored[own].to(torch.float32).mul_(factors[own])
        return rows.view(shape)


class Nf4:
    """4 bits for each weight, which choose one of 16 quantiles of the normal distribution, and a factor for each block
    of 64 (QLoRA, arXiv 2305.14314, appendix E)."""

    VALUES = (
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
        *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
        *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    )

    def encode(self, weight: Tensor) -> dict[str, Tensor]:
        numbers, device = weight.detach().flatten(), weight.device
        count = -(-len(numbers) // BLOCK)
        stored = torch.empty(count, BLOCK // 2, dtype=torch.uint8, device=device)
        factors = torch.empty(count, 1, device=device)
        values = torch.tensor(self.VALUES, device=device)
        step = max(1, PIECE // BLOCK)
        for start in range(0, count, step):
            own = slice(start, start + step)
            piece = numbers[start * BLOCK : (start + step) * BLOCK].to(torch.float32)
            blocks = torch.nn.functional.pad(piece, (0, -len(piece) % BLOCK)).view(-1, BLOCK)
            factors[own] = blocks.abs().amax(1, keepdim=True).clamp_(min=_LEAST)
            codes = torch.bucketize(blocks / factors[own], (values[1:] + values[:-1]) / 2).to(torch.uint8)
            stored[own] = codes[:, 0::2] << 4 | codes[:, 1::2]
        # The values are kept with them: a captured step may not bring them to the device anew.
        return {"stored": stored, "factors": factors, "values": values}

    def decode(self, parts: Parts, shape: torch.Size, dtype: torch.dtype, scratch: Scratch | None = None) -> Tensor:
        stored, factors, values = parts["stored"], parts["factors"], parts["values"]
        pairs = torch.stack([values.repeat_interleave(len(values)), values.repeat(len(values))], -1)  # by byte
        blocks = _empty(scratch, len(stored), BLOCK, dtype=dtype, device=stored.device)
        for own in _pieces(blocks):
            piece = pairs.view(torch.int64).flatten().index_select(0, stored[own].flatten().to(torch.int32))
            blocks[own] = piece.view(torch.float32).view(-1, BLOCK).mul_(factors[own])
        return blocks.flatten()[: shape.numel()].view(shape)


def _empty(scratch: Scratch | None, *shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=device) if scratch is None else scratch.take(*shape, dtype=dtype)


def _pieces(numbers: Tensor) -> Iterator[slice]:
    """The rows of (rows, columns) that are decoded together. All of them on a GPU, which waits for calls, and where a
    compiler joins the operators anyway."""
    is_whole = numbers.device.type != "cpu" or torch.compiler.is_compiling()
    step = len(numbers) if is_whole else PIECE // numbers.shape[1]
    for start in range(0, len(numbers), max(1, step)):
        yield slice(start, start + max(1, step))


CODECS: dict[str, Codec] = {
    "auto": Whole(),
    "bf16": Whole(torch.bfloat16),
    "fp8": ByRow(FLOAT8),
    "int8": ByRow(torch.int8),
    "w8a8": ByRow(torch.int8),
    "nf4": Nf4(),
}
"""By the value of --base-precision."""
