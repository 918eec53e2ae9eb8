"""Which device, which arithmetic, and that memory running out is told from other errors."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch

from lorasmith.engine import device as device_module
from lorasmith.engine.device import (
    DTYPES,
    Device,
    choose_device,
    choose_precision,
    environment,
    is_out_of_memory,
    map_in_batches,
    seed_model,
)
from lorasmith.errors import ConfigError
from lorasmith.processor import BF16_PARAMETERS, Processor

CPU = Device(torch.device("cpu"), "a processor", "no_accelerator", 1)
CUDA = Device(torch.device("cuda"), "a card", "first_available", 1)
MPS = Device(torch.device("mps"), "mps", "first_available", 1)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine without any accelerator."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(device_module, "has_nvidia", lambda: False)
    return monkeypatch


def has_a_card(machine: pytest.MonkeyPatch, *, capability: tuple[int, int] = (8, 6)) -> None:
    """Gives the machine one card, and a torch built for cards from 7.5 to 8.9."""
    machine.setattr(torch.cuda, "is_available", lambda: True)
    machine.setattr(torch.cuda, "device_count", lambda: 1)
    machine.setattr(torch.cuda, "get_device_name", lambda _: "a card")
    machine.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    machine.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_86"])


def test_cpu_and_why(bare: pytest.MonkeyPatch) -> None:
    chosen = choose_device("auto", threads=0)
    assert (chosen.torch_device.type, chosen.reason) == ("cpu", "no_accelerator")
    assert chosen.name
    assert choose_device("cpu", threads=0).reason == "asked"


def test_a_card_that_torch_cannot_use_is_told(bare: pytest.MonkeyPatch) -> None:
    bare.setattr(device_module, "has_nvidia", lambda: True)
    bare.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    bare.setattr(torch.version, "cuda", None)
    assert choose_device("auto", threads=0).reason == "torch_without_cuda"
    bare.setattr(torch.version, "cuda", "12.8")
    assert choose_device("auto", threads=0).reason == "driver_unusable"
    bare.setenv("CUDA_VISIBLE_DEVICES", "")
    assert choose_device("auto", threads=0).reason == "no_accelerator"


def test_a_card_without_code_in_this_torch_is_not_used(bare: pytest.MonkeyPatch) -> None:
    has_a_card(bare, capability=(6, 1))
    chosen = choose_device("auto", threads=0)
    assert (chosen.torch_device.type, chosen.reason) == ("cpu", "card_without_kernels")
    with pytest.raises(ConfigError) as caught:
        choose_device("cuda", threads=0)
    assert (caught.value.code, caught.value.fields) == ("device_without_kernels", {"device": "cuda", "name": "a card"})


def test_cuda_first_then_mps(bare: pytest.MonkeyPatch) -> None:
    bare.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto", threads=0).torch_device.type == "mps"
    has_a_card(bare)
    chosen = choose_device("auto", threads=0)
    assert (chosen.torch_device.type, chosen.name, chosen.reason) == ("cuda", "a card", "first_available")


@pytest.mark.parametrize(
    ("wish", "code"),
    [
        ("cuda", "device_missing"),
        ("cuda:1", "device_missing"),
        ("mps", "device_missing"),
        ("tpu", "device_unknown"),
        ("meta", "device_unknown"),
        ("cuda:x", "device_unknown"),
        ("", "device_unknown"),
    ],
)
def test_devices_that_are_not_there(bare: pytest.MonkeyPatch, wish: str, code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        choose_device(wish, threads=0)
    assert (caught.value.code, caught.value.fields) == (code, {"device": wish})


def test_a_card_beyond_the_last(bare: pytest.MonkeyPatch) -> None:
    has_a_card(bare)
    assert choose_device("cuda:0", threads=0).reason == "asked"
    with pytest.raises(ConfigError, match="device_missing"):
        choose_device("cuda:1", threads=0)


def test_the_recorded_thread_count_is_set(bare: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    assert choose_device("auto", threads=0).threads == 1
    assert choose_device("auto", threads=2).threads == 2
    assert torch.get_num_threads() == 2
    assert torch.are_deterministic_algorithms_enabled()


PARAMETERS = {"large": BF16_PARAMETERS, "small": BF16_PARAMETERS - 1}


@pytest.mark.parametrize(
    ("device", "flags", "size", "expected"),
    [
        (CPU, "avx2", "large", ("fp32", "no_bf16_units")),
        (CPU, "avx512_bf16", "large", ("fp32", "no_bf16_units")),
        (CPU, "amx_bf16 amx_tile", "large", ("bf16", "cpu_bf16_units")),
        (CPU, "amx_bf16 amx_tile", "small", ("fp32", "small_model")),
        (MPS, "", "large", ("fp32", "no_bf16_units")),
    ],
)
def test_precision_by_what_there_is(
    monkeypatch: pytest.MonkeyPatch, device: Device, flags: str, size: str, expected: tuple[str, str]
) -> None:
    processor = Processor(name="a processor", is_intel=True, flags=frozenset(flags.split()))
    monkeypatch.setattr(device_module, "read_processor", lambda: processor)
    assert choose_precision("auto", device, denoiser_parameters=PARAMETERS[size]) == expected


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((7, 5), ("fp16", "older_gpu")), ((8, 0), ("bf16", "gpu_bf16_units")), ((9, 0), ("bf16", "gpu_bf16_units"))],
)
def test_precision_of_a_card(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: tuple[str, str]
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert choose_precision("auto", CUDA, denoiser_parameters=1) == expected


def test_cards_on_which_fp16_gives_nan_compute_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    card = Device(torch.device("cuda"), "NVIDIA GeForce GTX 1660 SUPER", "first_available", 1)
    assert choose_precision("auto", card, denoiser_parameters=1) == ("fp32", "gpu_fp16_nan")
    assert choose_precision("fp16", card, denoiser_parameters=1) == ("fp16", "asked")


@pytest.mark.parametrize("wish", sorted(DTYPES))
def test_precision_as_asked(wish: str) -> None:
    assert choose_precision(wish, CPU, denoiser_parameters=1) == (wish, "asked")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_memory_running_out(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_torch_says_it_as_we_expect() -> None:
    """An allocation no machine can serve."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(("device", "late"), [(CPU, False), (CUDA, True), (MPS, True)])
def test_reading_late(device: Device, late: bool) -> None:
    assert device.is_async is late


def test_memory_in_use() -> None:
    assert CPU.peak_memory() > 10 * 2**20
    CPU.release_memory()


@pytest.mark.ci
@pytest.mark.skipif(sys.platform == "win32", reason="exec keeps no process there")
def test_memory_in_use_is_not_that_of_the_program_that_started_it() -> None:
    """A notebook or a web server that starts a run may hold much more than the run."""
    ours = "from lorasmith.engine.device import choose_device; print(choose_device('cpu', threads=1).peak_memory())"
    large = (
        "import os, sys; held = bytearray(1 << 30); held[::4096] = b'x' * len(held[::4096]);"
        f"os.execv(sys.executable, [sys.executable, '-c', {ours!r}])"
    )
    assert 10 << 20 < int(subprocess.check_output([sys.executable, "-c", large])) < 1 << 30


def test_the_environment_names_what_bytes_depend_on() -> None:
    marks = environment(CPU, "fp32")
    assert marks["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert (marks["device"], marks["threads"], marks["precision"]) == ("a processor", 1, "fp32")
    assert environment(CPU, "fp32") == marks


LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")


@pytest.mark.parametrize("name", LIMITS)
def test_the_environment_names_a_limit_on_onednns_instructions(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for other in LIMITS:
        monkeypatch.delenv(other, raising=False)
    assert environment(CPU, "fp32")["onednn_limit"] == ""
    monkeypatch.setenv(name, "AVX2")
    assert environment(CPU, "fp32")["onednn_limit"] == "AVX2"


def test_the_optimizers_package_may_be_a_module_of_the_users_own() -> None:
    assert environment(CPU, "fp32", optimizer_package="my_own_module")["optimizer"] == "my_own_module"


def test_layers_draw_the_same_after_the_same_seed() -> None:
    draw: Callable[[], torch.Tensor] = lambda: torch.rand(3)  # noqa: E731
    seed_model(2**63 - 1)
    first = draw()
    seed_model(2**63 - 1)
    assert torch.equal(draw(), first)
    assert not torch.equal(draw(), first)


# -- batches that fit ------------------------------------------------------------------------------


class Work:
    """Runs out of memory with more than `most` items at once."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.sizes: list[int] = []

    def __call__(self, batch: Sequence[int]) -> list[int]:
        self.sizes.append(len(batch))
        if len(batch) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [-item for item in batch]


def halved(items: Sequence[int], most: int, at_once: int = 8) -> tuple[list[int], list[int]]:
    work = Work(most)
    return map_in_batches(items, work, kind=lambda item: item % 2, at_once=at_once, device=CPU), work.sizes


def test_items_of_a_kind_come_together_and_go_back_in_order() -> None:
    found, sizes = halved([1, 2, 3, 5, 4, 6, 8], most=99)
    assert found == [-1, -2, -3, -5, -4, -6, -8]
    assert sizes == [3, 4]
    assert halved(list(range(0, 22, 2)), most=99, at_once=4)[1] == [4, 4, 3]
    assert halved([], most=1) == ([], [])


def test_half_as_many_from_there_on() -> None:
    found, sizes = halved([2, 4, 6, 8, 10, 12, 14], most=2)
    assert found == [-2, -4, -6, -8, -10, -12, -14]
    assert sizes == [7, 3, 1, 1, 1, 1, 1, 1, 1]
    assert halved([2, 4, 6, 8], most=2)[1] == [4, 2, 2]


def test_a_single_item_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        halved([2, 4], most=0)


def test_other_errors_are_not_swallowed() -> None:
    def broken(batch: Sequence[int]) -> list[int]:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        map_in_batches([1, 3], broken, kind=lambda item: 0, at_once=2, device=CPU)
