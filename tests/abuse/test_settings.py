"""Settings files and values that are trouble: a named error at once, without torch."""

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lorasmith.config import RunConfig, load_flat_toml, load_run_toml
from lorasmith.errors import ConfigError
from tests.abuse.refused import refused
from tests.end_to_end.refusals import Changed, Desk

ROOT = Path(__file__).resolve().parents[2]
MANY = 100_000

FILES: dict[str, tuple[bytes, str]] = {
    "lists in lists": (b"rank = " + b"[" * MANY + b"]" * MANY, "config_too_deep"),
    "lists in lists, few": (b"optimizer_option = {a = " + b"[" * 60 + b"]" * 60 + b"}", "config_too_deep"),
    "tables in tables": (b"rank = " + b"{a=" * MANY + b"1" + b"}" * MANY, "config_too_deep"),
    "a key of many parts": (b"a." * MANY + b"a = 1", "config_too_deep"),
    "a header of many parts": (b"[" + b"a . " * MANY + b"a]", "config_too_deep"),
    "a key of many parts inside": (b"optimizer_option = {" + b'"a".' * MANY + b"a = 1}", "config_too_deep"),
    "a number of many digits": (b"rank = " + b"9" * MANY, "config_unreadable"),
    "a number of many digits in another base": (b"seed = 0x" + b"f" * MANY, "config_value"),
    "10 MB": (b"# " + b"x" * 10_000_000, "config_too_big"),
    "a hundred thousand keys": (b"".join(b"k%d = 1\n" % one for one in range(60_000)), "config_unrecognised_key"),
    "the same key twice": (b"rank = 1\nrank = 2", "config_unreadable"),
    "zeros": (bytes(1000), "config_unreadable"),
    "UTF-16": ("rank = 4".encode("utf-16"), "config_encoding"),
    "a pickle": (b"\x80\x04\x95\0\0\0\0\0\0\0\0.", "config_encoding"),
    "a prototype": (b"__class__ = 1\n", "config_unrecognised_key"),
    "a key in capitals with a terminal's sign": (b'"\\u001b[2J" = 1\n', "config_unrecognised_key"),
}


@pytest.mark.parametrize("what", FILES)
def test_a_settings_file(desk: Desk, bad: Path, what: str) -> None:
    content, code = FILES[what]
    (bad / "a.toml").write_bytes(content)
    began = time.process_time()
    refused(desk.folder, lambda: RunConfig().with_values(load_flat_toml(bad / "a.toml")), code)
    assert time.process_time() - began < 2


def test_a_settings_file_that_would_never_end(desk: Desk, bad: Path) -> None:
    os.mkfifo(bad / "pipe")
    (bad / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        refused(desk.folder, partial(load_flat_toml, bad / name), "config_irregular")


def test_a_run_s_own_settings_that_were_changed(desk: Desk) -> None:
    with Changed(desk.workshop.run.config) as file:
        for content, code in (
            (b"a." * MANY + b"a = 1", "config_too_deep"),
            (b"", "base_model_unnamed"),
            (b"\xff\xfe", "config_encoding"),
            (b"seed = 'x'", "config_value"),
            (b"[model]\nunknown = 1", "config_value"),
            (file.read_bytes()[:200], "config_unreadable"),
        ):
            file.write_bytes(content)
            with pytest.raises(ConfigError):
                desk.go_on("lora_output", {})
            refused(desk.folder, lambda: desk.go_on("lora_output", {}), code_of(desk, code))


def code_of(desk: Desk, expected: str) -> str:
    """What is cut off may still be TOML: then a value is missing."""
    try:
        load_run_toml(desk.workshop.run.config)
    except ConfigError as error:
        assert error.code in (expected, "config_value")
        return error.code
    return expected


VALUES: dict[str, tuple[dict[tuple[str, str], Any], str]] = {
    "optimizer": ({("optimizer", "name"): "adamv"}, "optimizer_unknown"),
    "optimizer with a module": ({("optimizer", "name"): "os:system"}, "optimizer_unknown"),
    "kind of adapter": ({("adapter", "kind"): "os:system"}, "config_value"),
    "device": ({("machine", "device"): "foo"}, "device_unknown"),
    "device number": ({("machine", "device"): "cuda:x"}, "device_unknown"),
    "device that lies": ({("machine", "device"): "cpu\n"}, "device_unknown"),
    "device of torch": ({("machine", "device"): "meta"}, "device_unknown"),
    "start": ({("adapter", "init_from"): "nope"}, "init_from_missing"),
    "start is a folder": ({("adapter", "init_from"): "lora_train_set"}, "lora_irregular"),
    "batch": ({("training", "batch_size"): 10**30}, "config_value"),
    "accumulate": ({("training", "accumulation_steps"): 10**9}, "config_value"),
    "patience": ({("watch", "stall_timeout"): 1e300}, "config_value"),
    "minutes": ({("cadence", "save_minutes"): 1e300}, "config_value"),
    "seed": ({("", "seed"): 2**63}, "config_value"),
    "seed of many digits": ({("", "seed"): 10**5000}, "config_value"),
    "rank": ({("adapter", "rank"): 10**9}, "config_value"),
    "zero in a text": ({("dataset", "trigger_word"): "a\0b"}, "config_value"),
    "half a letter": ({("dataset", "trigger_word"): "a\ud800"}, "config_value"),
    "name with a way out": ({("export", "name"): "../x"}, "config_value"),
    "name of a device": ({("export", "name"): "NUL.x"}, "config_value"),
    "name with an escape": ({("export", "name"): "\x1b[2J"}, "config_value"),
}


@pytest.mark.parametrize("what", VALUES)
def test_a_value(desk: Desk, what: str) -> None:
    values, code = VALUES[what]
    for output in ("fresh", "lora_output"):
        refused(desk.folder, partial(desk.new, output, values), code)


@pytest.mark.parametrize("what", ["optimizer", "kind of adapter", "device", "patience"])
def test_a_value_when_a_run_goes_on(desk: Desk, what: str) -> None:
    values, code = VALUES[what]
    refused(desk.folder, lambda: desk.go_on("lora_output", values), code)


def test_epochs_without_end(desk: Desk) -> None:
    start = desk.new("fresh", {}, steps=None, epochs=10**9)
    assert start.stop_at == 30 * 10**9  # three pictures, ten times each


def test_names_are_refused_at_once_and_without_torch(desk: Desk) -> None:
    program = """
import sys
from pathlib import Path
from lorasmith.config import Request
from lorasmith.errors import InputError
from lorasmith.runtime.preflight import new_run
for values in ({("optimizer", "name"): "adamv"}, {("machine", "device"): "foo"}, {("adapter", "init_from"): "nope"}):
    try: new_run(values, Request(steps=1), state_prefix="s", here=Path(sys.argv[1]))
    except InputError as error: print(error.code)
assert "torch" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(desk.folder)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["optimizer_unknown", "device_unknown", "init_from_missing"], done.stderr
