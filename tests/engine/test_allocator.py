"""The malloc settings are taken where they exist, and nothing is touched elsewhere."""

import ctypes
import platform
import sys

import pytest

from lorasmith.engine.allocator import keep_freed_memory


def test_glibc_takes_them() -> None:
    assert keep_freed_memory() is (sys.platform == "linux" and platform.libc_ver()[0] == "glibc")


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(name: object) -> None:
        raise AssertionError("no library is to be opened")

    monkeypatch.setattr(ctypes, "CDLL", never)
    for system in ("win32", "darwin"):
        monkeypatch.setattr(sys, "platform", system)
        assert keep_freed_memory() is False


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Musl:
        def mallopt(self, *settings: int) -> int:
            raise AssertionError("not glibc's")

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Musl())
    assert keep_freed_memory() is False
