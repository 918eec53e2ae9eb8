"""MKL's mode by processor, and what else every computing process is started with."""

import os

import pytest

from lorasmith.processor import Processor
from lorasmith.runtime.worker_environment import mkl_mode, worker_environment

AVX512 = Processor("an Intel CPU", is_intel=True, flags=frozenset({"avx2", "avx512f"}))


@pytest.mark.parametrize(
    ("is_intel", "flags", "mode"),
    [
        (True, {"avx2", "avx512f"}, "AVX512,STRICT"),
        (True, {"avx2"}, "AVX2,STRICT"),  # a mode that the CPU lacks would switch reproducibility off
        (True, {"sse4_2"}, ""),
        (False, {"avx2", "avx512f"}, ""),
    ],
)
def test_the_best_mode_that_the_processor_has(is_intel: bool, flags: set[str], mode: str) -> None:
    processor = Processor("a CPU", is_intel=is_intel, flags=frozenset(flags))
    assert mkl_mode(processor) == mode
    assert worker_environment({}, processor).get("MKL_CBWR", "") == mode


def test_a_mode_that_the_user_chose_stays() -> None:
    assert worker_environment({"MKL_CBWR": "COMPATIBLE"}, AVX512)["MKL_CBWR"] == "COMPATIBLE"


def test_the_rest_of_the_environment_is_kept_and_the_package_found_first() -> None:
    found = worker_environment({"HOME": "/home/me", "PYTHONPATH": "/mine"}, AVX512)
    assert found["HOME"] == "/home/me"
    assert found["PYTHONPATH"].split(os.pathsep)[1] == "/mine"


def test_openmp_gives_every_thread_that_is_asked_for() -> None:
    """Also where a person has set it otherwise: oneDNN leaves parts of a product out if it gets fewer threads."""
    found = worker_environment({"OMP_DYNAMIC": "TRUE", "OMP_MAX_ACTIVE_LEVELS": "0", "OMP_NUM_THREADS": "2"}, AVX512)
    assert {name: value for name, value in found.items() if name.startswith("OMP_")} == {"OMP_NUM_THREADS": "2"}


@pytest.mark.parametrize(
    ("limit", "threads", "found"),
    [("1", None, "1"), ("2", "4,2", "2"), ("4", "2", "2"), ("4096", None, None), ("none", None, None), ("0", "3", "3")],
)
def test_a_limit_on_threads_is_the_number_of_threads(
    limit: str, threads: str | None, found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    own = {"OMP_THREAD_LIMIT": limit} | ({} if threads is None else {"OMP_NUM_THREADS": threads})
    environment = worker_environment(own, AVX512)
    assert "OMP_THREAD_LIMIT" not in environment
    assert environment.get("OMP_NUM_THREADS") == found
