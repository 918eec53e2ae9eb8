"""Files that would run something: what each would do, and a guard that ends the process where anything is run.

`python -m tests.abuse.payloads plain PAYLOAD FOLDER` loads one as pickle does, under the guard.
`python -m tests.abuse.payloads ours FOLDER` puts each in every place where this program reads a file, and starts.
"""

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

TRIPPED = 99
MARK = "run_by_payload"
# Names of what no start does in its own process. Importing runs code too, so of `exec` and `compile` the mark tells.
NEVER = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "socket.connect", "pty.spawn")
STATE_FILES = ("optimizer.pt", "random_states.pkl", "lr_scheduler.pt", "adapter.safetensors", "train_state.json")
FLAGS_THAT_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Call:
    """Unpickled, it calls."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.row = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.row


PAYLOADS: dict[str, Callable[[Path], Call]] = {
    "system": lambda folder: Call(os.system, f"touch {folder / MARK}"),
    "popen": lambda folder: Call(subprocess.Popen, ["touch", str(folder / MARK)]),
    "open": lambda folder: Call(open, str(folder / MARK), "w"),
    "exec": lambda folder: Call(exec, f"{MARK} = open({str(folder / MARK)!r}, 'w')"),
    "eval": lambda folder: Call(eval, f"[{MARK!r} for x in [1]]"),
}


def guard(allowed: tuple[Path, ...]) -> None:
    """From now on this process ends where anything is run, connected to, or written outside `allowed`."""
    roots = tuple(str(one.resolve()) + os.sep for one in allowed)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in NEVER or (event == "compile" and MARK in str(arguments[0])):
            trip(event, arguments)
        elif event == "open" and isinstance(arguments[0], str | bytes) and writes(arguments):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            if MARK in path or not ((path + os.sep).startswith(roots) or path == os.devnull):
                trip(event, arguments)

    sys.addaudithook(hook)


def writes(arguments: tuple[Any, ...]) -> bool:
    _, mode, flags = arguments
    if isinstance(mode, str):
        return any(one in mode for one in "wax+")
    return bool(flags & FLAGS_THAT_WRITE)


def trip(event: str, arguments: tuple[Any, ...]) -> None:
    os.write(2, f"{event} {arguments}\n".encode())
    os._exit(TRIPPED)


def as_pickle(payload: Call) -> bytes:
    return pickle.dumps({"state_dict": payload}, protocol=2)


def as_archive(payload: Call) -> bytes:
    """As torch writes it."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as file:
        file.writestr("archive/data.pkl", as_pickle(payload))
        file.writestr("archive/version", "3\n")
    return held.getvalue()


def plain(name: str, folder: Path) -> None:
    data = as_pickle(PAYLOADS[name](folder))
    guard((folder / "allowed",))
    pickle.loads(data)


def ours(folder: Path) -> None:
    """Prints {where: code}. The folder holds `desk` (with a run in it), and `cache` for what libraries keep."""
    import pytest
    import torch  # noqa: F401 - what is imported runs code of its own, and is not what is looked at

    from lorasmith.runs.states import MANIFEST, find_states, manifest_bytes
    from lorasmith.session import build  # noqa: F401
    from tests.end_to_end.refusals import Desk
    from tests.end_to_end.workshop import Workshop

    desk_folder = folder / "desk"
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        desk = Desk(desk_folder, desk_folder / "bad", Workshop(desk_folder, desk_folder / "base", patch))
        assert desk.workshop.go_on(1).exit_code == 0  # everything that is imported late is there by now
        guard((folder,))
        for name, make in PAYLOADS.items():
            payload = make(folder)
            for where, values in put(desk, payload).items():
                code, _, fields = desk.refusal(partial(desk.new, "fresh", values))
                found[f"{name}: {where}"] = f"crashed: {fields}" if code == "crashed" else code
            found[f"{name}: cache"] = cached(desk, payload)
            newest = find_states(desk.workshop.run.root)[0][0]
            for file in STATE_FILES:
                for signed in (False, True):
                    aside = shutil.copytree(newest.path, folder / "aside")
                    (newest.path / file).write_bytes(as_archive(payload))
                    if signed:  # by somebody who knows how manifests are made
                        (newest.path / MANIFEST).unlink()
                        manifest = manifest_bytes(newest.path, step=newest.step, identity=newest.identity)
                        (newest.path / MANIFEST).write_bytes(manifest)
                    start = desk.go_on("lora_output", {})
                    outcome = "passed over" if start.resume != newest.path else read(newest.path, file, newest)
                    found[f"{name}: {file}, signed: {signed}"] = outcome
                    shutil.rmtree(newest.path)
                    aside.rename(newest.path)
    sys.stdout.write(json.dumps(found) + "\n")


def put(desk: Any, payload: Call) -> dict[str, dict[tuple[str, str], Any]]:
    """The payload as every kind of file that is named by a person; the settings that name it."""
    bad = shutil.rmtree(desk.bad, ignore_errors=True) or desk.bad
    bad.mkdir()
    model = shutil.copytree(desk.workshop.base_model, bad / "model")
    (model / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (model / "unet" / "diffusion_pytorch_model.bin").write_bytes(as_archive(payload))
    pictures = shutil.copytree(desk.folder / "lora_train_set", bad / "pictures")
    (pictures / "payload.png").write_bytes(as_pickle(payload))
    captions = shutil.copytree(desk.folder / "lora_train_set", bad / "captions")
    next(captions.rglob("*.png")).with_suffix(".txt").write_bytes(as_pickle(payload))
    named = {"folder with a .bin": model}
    for suffix in (".ckpt", ".pt", ".bin", ".safetensors"):
        (bad / f"plain{suffix}").write_bytes(as_pickle(payload))
        (bad / f"archive{suffix}").write_bytes(as_archive(payload))
        named |= {f"plain {suffix}": bad / f"plain{suffix}", f"archive {suffix}": bad / f"archive{suffix}"}
    settings: dict[str, dict[tuple[str, str], Any]] = {
        what: {("model", "base_model"): str(path)} for what, path in named.items()
    }
    settings |= {f"start {path.name}": {("adapter", "init_from"): str(path)} for path in named.values()}
    settings["start"] = {("adapter", "init_from"): str(bad / "archive.safetensors")}
    settings["picture"] = {("dataset", "folder"): str(pictures)}
    settings["caption"] = {("dataset", "folder"): str(captions)}
    return settings


def cached(desk: Any, payload: Call) -> str:
    """A run whose cache holds the payload in place of everything; how it ended, and how many files it took for good."""
    from lorasmith.runs.events import Warned

    files = sorted((desk.folder / ".lorasmith_cache").rglob("*.safetensors"))
    for number, path in enumerate(files):
        path.write_bytes((as_archive, as_pickle)[number % 2](payload))
    outcome = desk.workshop.watch(desk.new("fresh", {}))
    warned = [one for one in outcome.of(Warned) if one.code == "cache_damaged"]
    shutil.rmtree(desk.folder / "fresh")
    return f"exit {int(outcome.exit_code)}, {len(files) - len(warned)} of {len(files)} believed"


def read(folder: Path, file: str, state: Any) -> str:
    """What reading a state does that is signed: the very calls of `training.checkpoint`."""
    from lorasmith.session.checkpoint import load_state

    try:
        load_state(state, None)
    except Exception as error:  # noqa: BLE001 - anything but running it
        return type(error).__name__
    raise AssertionError(f"{folder / file} was read into nothing")


if __name__ == "__main__":
    if sys.argv[1] == "plain":
        plain(sys.argv[2], Path(sys.argv[3]))
    else:
        ours(Path(sys.argv[2]))
