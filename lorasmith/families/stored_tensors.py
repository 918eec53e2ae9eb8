"""Reads the tensors of recognized models: safetensors by their header, pickles without running anything in them.

Every tensor is a copy in memory of its own: a file that is replaced while training runs does no harm, and the place of
the tensor in the file (its alignment) cannot change a result.
"""

from __future__ import annotations

import pickle
import struct
import warnings
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from io import FileIO
from pathlib import Path
from threading import Lock, local
from typing import Any

import torch
from torch import Tensor

from lorasmith.errors import ModelError
from lorasmith.families.added_lora import changes
from lorasmith.families.folders import component_files
from lorasmith.families.headers import TensorInfo, file_kind, read_header
from lorasmith.families.numpy_stand_ins import STAND_INS
from lorasmith.families.other_vae import with_vae
from lorasmith.families.places import Place
from lorasmith.families.recognize import recognize_pickle
from lorasmith.families.small_tensors import MAX_BYTES
from lorasmith.families.weights import BaseWeights
from lorasmith.finite import is_finite

_Places = Callable[[Iterable[str]], dict[str, Place]]  # names in a file -> canonical name: its place
DtypeOf = Callable[[str], torch.dtype]
"""Canonical name -> the type in which the tensor is wanted."""
Read = tuple[str, Tensor, bool]  # canonical name, tensor, whether all its numbers are finite
READERS = 2  # threads: one reads while the other gets memory, converts and checks
AHEAD = 4  # tensors that are read or waiting while another is used
_PIECE = 1 << 20  # numbers that are in the processor's cache from one conversion to the next
MAX_SHARED = 4  # tensors may share their numbers: the sum of their sizes may be this many times the file's size

# Exceptions of torch's unpickler for broken files, found by fuzzing.
_BROKEN = (
    RuntimeError,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    MemoryError,
    OSError,
    struct.error,
)
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


def read_component(weights: BaseWeights, component: str, dtype: torch.dtype | DtypeOf) -> dict[str, Tensor]:
    """The tensors of a component under their canonical names, on the CPU.

    Raises:
        ModelError: as `component_tensors`.
    """
    return dict(component_tensors(weights, component, dtype))


def component_tensors(
    weights: BaseWeights, component: str, dtype: torch.dtype | DtypeOf
) -> Iterator[tuple[str, Tensor]]:
    """The same one after the other, in the order of the files; few of them are read ahead.

    Raises:
        ModelError: the file has changed since it was recognised, is a pickle that is refused, or holds a number that is
            not finite in this type.
    """
    dtype_of = (lambda _: dtype) if isinstance(dtype, torch.dtype) else dtype
    added = changes(weights.added) if weights.added and component == weights.added.component else {}
    for path, places in _files(weights, component):
        for name, tensor, are_finite in _read_file(path, places, lambda name: _read_in(name, added, dtype_of)):
            if name in added:
                tensor = added.pop(name)(tensor).to(dtype_of(name))
                are_finite = is_finite(tensor)
            if not are_finite:
                raise ModelError("model_not_finite", path=str(weights.source(component)), key=name)
            yield name, tensor
    if weights.added and added:
        raise ModelError("training_adapter_layers", path=str(weights.added.path), key=min(added))


def _read_in(name: str, added: Collection[str], dtype_of: DtypeOf) -> torch.dtype:
    """The type in which a tensor is read: what is added to is rounded once, after the sum."""
    return torch.float32 if name in added else dtype_of(name)


def _files(weights: BaseWeights, component: str) -> list[tuple[Path, _Places]]:
    """The files of a component, each with what finds its tensors there."""
    names = weights.names
    if component in weights.replaced:
        other = weights.replaced[component]
        return [(path, other.find) for path in other.paths]
    if weights.layout != "diffusers":
        return [(weights.path, partial(names.from_single_file, component))]
    files = component_files(weights.path, component, names)
    return [(file, partial(names.from_folder, component)) for file in files]


def _read_file(path: Path, places: _Places, dtype_of: DtypeOf) -> Iterator[Read]:
    """The tensors of a file that `places` names."""
    try:
        if file_kind(path) == "pickle":
            stored = load_pickle(path)
            for ours, place in places(stored).items():
                tensor = _copied(stored[place.name], place, dtype_of(ours))
                yield ours, tensor, is_finite(tensor)
            return
        tensors = read_header(path).tensors
        wanted = [(ours, place, place.info(tensors[place.name])) for ours, place in places(tensors).items()]
    except ValueError as error:  # of `Place`
        raise ModelError("model_damaged", path=str(path), where=str(error)) from error
    yield from _read_tensors(path, wanted, dtype_of)


def _copied(tensor: Tensor, place: Place, dtype: torch.dtype) -> Tensor:
    shape = place.shape(tuple(tensor.shape))
    if place.parts > 1:
        size = len(tensor) // place.parts
        tensor = tensor[place.part * size : (place.part + place.span) * size]
    part = _arranged(tensor if place.is_transposed else tensor.reshape(shape), place)
    return part.to(dtype, copy=True, memory_format=torch.contiguous_format)


def _arranged(tensor: Tensor, place: Place) -> Tensor:
    """The numbers that a file has at a place, as `Place.info` describes them, in the order of the model's tensor."""
    if place.swaps_halves:
        tensor = torch.cat(tensor.chunk(2)[::-1])
    return tensor.T if place.is_transposed else tensor


def examine_pickle(weights: BaseWeights) -> BaseWeights:
    """The weights of a pickled checkpoint that `recognize` left unexamined: loads it and recognizes it by its keys.

    Raises:
        ModelError: as `recognize` does, and `model_pickle_refused`.
    """
    stored = load_pickle(weights.path)

    def numbers(name: str) -> list[float]:
        tensor = stored.get(name)
        is_small = tensor is not None and tensor.numel() * tensor.element_size() <= MAX_BYTES
        found: list[float] = tensor.flatten().tolist() if tensor is not None and is_small else []
        return found

    shapes = {name: tuple(tensor.shape) for name, tensor in stored.items()}
    examined = recognize_pickle(weights.path, shapes, numbers, asked=weights.noise.requested)
    return with_vae(examined, weights.source("vae")) if "vae" in weights.replaced else examined


def load_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors of a pickled checkpoint, by torch's unpickler that knows tensors and plain values only.

    Raises:
        ModelError: `model_pickle_refused` where anything else is in it, `model_damaged`.
    """
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(STAND_INS)):
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # it refuses what it does not know
            if _is_zip(path) and path.suffix.lower() != ".safetensors":
                # mapped, so that a component does not take the memory of all
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            else:
                with path.open("rb") as file:  # opened here, since torch trusts the name of a path
                    content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError("model_pickle_refused", path=str(path)) from error
    except _BROKEN as error:
        raise ModelError("model_damaged", path=str(path), where="pickle") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    if not isinstance(state, dict):
        return {}
    found = _named_tensors(state)
    _check_plain(path, found)
    return found


def _named_tensors(state: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The tensors of a table by name; those of a nested table as `table.name`, as in files of other kinds."""
    named = {name: value for name, value in state.items() if isinstance(name, str)}
    inside = {name: value for name, value in named.items() if isinstance(value, dict)}
    found = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    for table, members in inside.items():
        for name, value in members.items():
            if isinstance(name, str) and isinstance(value, Tensor):
                found.setdefault(f"{table}.{name}", value)
    return found


def _check_plain(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Checks that the tensors are dense numbers of the file: a pickle can name others, like a trillion from a byte."""
    sizes = 0
    for tensor in tensors.values():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_complex():
            raise ModelError("model_damaged", path=str(path), where="pickle")
        sizes += tensor.numel() * tensor.element_size()
    if sizes > MAX_SHARED * path.stat().st_size:
        raise ModelError("model_damaged", path=str(path), where="pickle")


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _read_tensors(path: Path, wanted: Iterable[tuple[str, Place, TensorInfo]], dtype_of: DtypeOf) -> Iterator[Read]:
    """Reads into the tensors' own memory, in the order of the file: no mapping, no second copy."""
    ordered = sorted(wanted, key=lambda item: item[2].start)
    for name, _, info in ordered:
        if info.dtype not in _DTYPES:
            raise ModelError("model_damaged", path=str(path), where=name)
    largest = max((info.end - info.start for _, _, info in ordered), default=0)
    with path.open("rb", buffering=0) as file, ThreadPoolExecutor(max_workers=READERS) as pool:
        read, begun = partial(_tensor, _Source(path, file, largest), dtype_of), deque[Future[Read]]()
        for item in ordered:
            begun.append(pool.submit(read, item))
            if len(begun) > AHEAD:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()


def _tensor(source: _Source, dtype_of: DtypeOf, wanted: tuple[str, Place, TensorInfo]) -> Read:
    name, place, info = wanted
    stored, dtype = _DTYPES[info.dtype], dtype_of(name)
    tensor = torch.empty(info.shape, dtype=dtype)
    is_in_place = stored.itemsize == dtype.itemsize
    given = tensor.view(stored) if is_in_place else source.memory(info).view(stored).view(info.shape)
    source.fill(given, info)
    if stored != dtype:
        _convert(given, tensor)
    return name, _arranged(tensor, place).contiguous(), is_finite(tensor)


class _Source:
    """An open file that threads read in turn."""

    def __init__(self, path: Path, file: FileIO, largest: int) -> None:
        self._path, self._file, self._largest = path, file, largest  # bytes of a tensor
        self._turn, self._own = Lock(), local()

    def memory(self, info: TensorInfo) -> Tensor:
        """Bytes for a tensor as the file has it: always the same in a thread, so that no holes are left between the
        tensors that stay."""
        if not hasattr(self._own, "bytes"):
            self._own.bytes = torch.empty(self._largest, dtype=torch.uint8)
        found: Tensor = self._own.bytes[: info.end - info.start]
        return found

    def fill(self, tensor: Tensor, info: TensorInfo) -> None:
        left = memoryview(_bytes_of(tensor).numpy())  # type: ignore[arg-type]
        with self._turn:
            self._file.seek(info.start)
            while left and (count := self._file.readinto(left)):  # the system reads 2 GiB at most at once
                left = left[count:]
        if left:
            raise ModelError("model_truncated", path=str(self._path), size=self._path.stat().st_size)


def _bytes_of(tensor: Tensor) -> Tensor:
    return tensor.view(-1).view(torch.uint8)


def _convert(given: Tensor, into: Tensor) -> None:
    """`into.copy_(given)`, which takes more than twice as long from one half precision to the other. These may be the
    same memory: a piece goes through float32, which is exact."""
    if {given.dtype, into.dtype} != {torch.float16, torch.bfloat16}:
        into.copy_(given)
        return
    for piece, converted in zip(given.view(-1).split(_PIECE), into.view(-1).split(_PIECE), strict=True):
        converted.copy_(piece.to(torch.float32))
