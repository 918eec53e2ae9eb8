"""The same small runs with two checkouts of this program, every byte of what they leave compared.

    python -m benchmarks.same_bytes BEFORE AFTER [--only RUN] [--threads 1] [--folder FOLDER]

For a change that must not change results. Each run is typed as a person types it, in fresh processes with so many
threads; model and pictures are made once, by BEFORE, and used by both. Compared are all tensors of the exported LoRAs
and of the saved states, bit by bit, the metadata without its dates, the sample pictures, and what the ledger has of the
device, the steps and the evaluations. Ends with 1 if anything differs or a run fails. Knows the program by its command
line and its files alone, so that the checkouts may be laid out differently inside.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

SIDES = ("before", "after")
SECONDS = 300  # after which a command counts as hung

# Common to all runs. States and exports at short intervals: a difference is seen where it begins.
SETTINGS = {"rank": 4, "lr": 1e-3, "save_every": 3, "keep_states": 20, "evaluate_every": 0}
# {folder name: (pictures, size)}; drawn in three shapes for several buckets. 3 x 4 + 2 x 3 + 1 x 3 make an epoch of 21.
PICTURES = {3: (4, (64, 64)), 2: (3, (128, 64)), 1: (3, (64, 128))}

OPTIMIZERS = ("adamw", "adamw8bit", "adafactor", "lion", "prodigy")
# The libraries that optimizers need beyond the program's own: those of other names are always there.
LIBRARIES = {"adamw8bit": "bitsandbytes", "lion": "lion_pytorch", "prodigy": "prodigyopt"}
LEARNING_RATES = {"prodigy": "1", "lion": "1e-4"}

# What differs from run to run by itself.
DATES = {"modelspec.date", "ss_training_started_at", "ss_training_finished_at"}
CLOCKS = {"time", "seconds", "peak_memory"}
COMPARED_EVENTS = ("DeviceChosen", "StepCompleted", "Evaluated")
TIMES = re.compile(r"\d{8}_\d{6}(_\d+)?")  # in names of backups
VERSIONS = {"fingerprint"}  # of train_state.json: libraries and machine, which are the same for both


@dataclass(frozen=True, slots=True)
class Run:
    """What is typed after `lorasmith train`, a command after the other, in a folder of its own."""

    name: str
    commands: tuple[str, ...]
    model: str = "nano"


RUNS = (
    Run("fp32", ("--new --steps 6 --precision fp32",)),
    Run("bf16", ("--new --steps 6 --precision bf16 --save-precision bf16",)),
    Run("fp16", ("--new --steps 6 --precision fp16 --save-precision fp32",)),
    Run("text-encoder", ("--new --steps 6 --train-text-encoder --text-encoder-lr 5e-4 --trigger-word zorb",)),
    Run(
        "dropout-accumulation-checkpointing",
        ("--new --steps 6 --dropout 0.2 --accumulate 3 --batch-size 2 --gradient-checkpointing --train-text-encoder",),
    ),
    Run("buckets", ("--new --steps 12 --batch-size 2 --seed 7",)),
    Run("schedule", ("--new --steps 9 --lr-schedule cosine_with_restarts:2 --lr-warmup 3 --max-grad-norm 0.1",)),
    Run(
        "init-from",
        (
            "--new --steps 3 --output earlier --save-precision fp32",
            "--new --steps 3 --alpha 2 --init-from earlier/last.safetensors",
        ),
    ),
    Run("continue", ("--new --steps 4 --lr-schedule linear --lr-horizon 9 --dropout 0.1", "--continue --steps 5")),
    Run(
        "evaluation",
        ('--new --steps 6 --hold-out 2 --evaluate-every 3 --evaluate-examples 2 --sample-prompt "a red circle"',),
    ),
    Run("clip-skip", ("--new --steps 6 --clip-skip 2",), model="miniature"),
    Run("demo", ("--new --steps 2 --save-every 1 --hold-out 1 --evaluate-every 2 --evaluate-examples 1",), "demo"),
)


def main() -> None:
    asked = _arguments()
    checkouts = dict(zip(SIDES, (asked.before.resolve(), asked.after.resolve()), strict=True))
    runs, absent = all_runs()
    unknown = set(asked.only) - {run.name for run in runs}
    if unknown:
        sys.exit(f"no run {', '.join(sorted(unknown))}; there are {', '.join(run.name for run in runs)}")
    with _folder(asked.folder) as folder:
        environments = {side: _environment(checkout, asked.threads) for side, checkout in checkouts.items()}
        for side, checkout in checkouts.items():
            _check_used(checkout, folder, environments[side])
        make_materials(folder, environments["before"])
        print(f"{'run':36}{'files':>6}{'tensors':>9}{'values':>8}  result", flush=True)
        results = [
            _compared(run, folder, environments, asked.threads)
            for run in runs
            if not asked.only or run.name in asked.only
        ]
    for name in absent if not asked.only else ():
        print(f"{name:36}{'':23}  not run: {LIBRARIES[name.removeprefix('optimizer-')]} is not installed")
    print(f"\n{sum(results)} of {len(results)} runs equal")
    sys.exit(0 if all(results) else 1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="a checkout")
    parser.add_argument("after", type=Path, help="another one")
    parser.add_argument("--only", action="append", default=[], metavar="RUN", help="only this run; may be repeated")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="a new folder in which all files stay, to look at differences")
    return parser.parse_args()


def all_runs() -> tuple[list[Run], list[str]]:
    """RUNS and a run for each of OPTIMIZERS; the names of those whose library is missing."""
    runs, absent = list(RUNS), []
    for name in OPTIMIZERS:
        typed = f"--new --steps 6 --optimizer {name} --lr {LEARNING_RATES.get(name, '1e-3')}"
        run = Run(f"optimizer-{name}", (f"{typed} --optimizer-option weight_decay=0.1",))
        if name in LIBRARIES and find_spec(LIBRARIES[name]) is None:
            absent.append(run.name)
        else:
            runs.append(run)
    return runs, absent


# -- running ---------------------------------------------------------------------------------------


@contextmanager
def _folder(asked: Path | None) -> Iterator[Path]:
    if asked is not None:
        asked.mkdir(parents=True)  # an existing folder may hold runs of earlier times
        yield asked.resolve()
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder).resolve()


def _environment(checkout: Path, threads: int) -> dict[str, str]:
    """This process's variables without those that a result may depend on."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("LORASMITH_", "MKL_"))}
    own = {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": str(threads), "LORASMITH_LANG": "en", "HF_HUB_OFFLINE": "1"}
    return {**inherited, **own}


def _check_used(checkout: Path, folder: Path, environment: Mapping[str, str]) -> None:
    """Refuses to compare an installed copy with itself."""
    command = [sys.executable, "-c", "import lorasmith; print(lorasmith.__file__)"]
    done = subprocess.run(command, cwd=folder, env=dict(environment), capture_output=True, text=True, check=False)
    if done.returncode != 0 or not Path(done.stdout.strip()).resolve().is_relative_to(checkout):
        sys.exit(f"{checkout} is not what Python imports as lorasmith: {done.stdout}{done.stderr}")


def make_materials(folder: Path, environment: Mapping[str, str]) -> None:
    """Models, and pictures with the same bytes for both sides."""
    code = (
        "import json, sys; from pathlib import Path; from lorasmith.demo.miniature import draw_pictures, make_model;"
        "folder, pictures = Path(sys.argv[1]), json.loads(sys.argv[2]);"
        "[make_model(folder / size, size=size) for size in ('nano', 'miniature')];"
        "[draw_pictures(folder / 'pictures', count, seed=int(repeats), size=tuple(size), repeats=int(repeats))"
        " for repeats, (count, size) in pictures.items()]"
    )
    command = [sys.executable, "-c", code, str(folder), json.dumps(PICTURES)]
    subprocess.run(command, cwd=folder, env=dict(environment), check=True)
    for side in SIDES:  # the cache lies beside the pictures: each side is to encode them itself
        shutil.copytree(folder / "pictures", folder / side / "pictures")


def _train(run: Run, folder: Path, side: str, environment: Mapping[str, str]) -> str:
    """Runs the commands in the folder of this side; what went wrong, or ""."""
    here = folder / side / run.name
    here.mkdir(parents=True)
    model = "demo" if run.model == "demo" else str(folder / run.model)
    settings = {"base_model": model, "data": str(folder / side / "pictures"), **SETTINGS}
    toml = "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
    (here / "lorasmith.toml").write_text(toml, encoding="utf-8")
    for number, typed in enumerate(run.commands, start=1):
        command = [sys.executable, "-m", "lorasmith", "train", *_words(typed)]
        with (here / f"screen-{number}.txt").open("w", encoding="utf-8") as screen:
            done = subprocess.run(
                command,
                cwd=here,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=screen,
                stderr=subprocess.STDOUT,
                timeout=SECONDS,
                check=False,
            )
        if done.returncode != 0:
            shown = (here / f"screen-{number}.txt").read_text(encoding="utf-8", errors="replace")
            return f"{side}: `train {typed}` ended with {done.returncode}:\n{shown[-2000:]}"
    return ""


def _words(typed: str) -> list[str]:
    """As a shell splits them; quotation marks keep words together."""
    return [quoted or plain for quoted, plain in re.findall(r'"([^"]*)"|(\S+)', typed)]


# -- comparing -------------------------------------------------------------------------------------


def _compared(run: Run, folder: Path, environments: Mapping[str, Mapping[str, str]], threads: int) -> bool:
    """Runs both sides, beside each other where there are cores enough, and prints the row of the table."""
    workers = 2 if (os.cpu_count() or 1) >= 2 * threads else 1
    with ThreadPoolExecutor(workers) as pool:
        failures = list(pool.map(lambda side: _train(run, folder, side, environments[side]), SIDES))
    if any(failures):
        print(f"{run.name:36}{'':23}  FAILED\n" + "\n".join(filter(None, failures)), flush=True)
        return False
    before, after = (contents(folder / side / run.name) for side in SIDES)
    lines = described(before, after)
    items = [(name, value) for file in before.values() for name, value in file.items()]
    tensors = sum(isinstance(value, Tensor) for _, value in items)
    if not tensors or not any(name.startswith("StepCompleted") for name, _ in items):
        lines.append("nothing was found to compare")
    result = f"DIFFERENT, files: {len(lines)}" if lines else "equal"
    print(f"{run.name:36}{len(before):6}{tensors:9}{len(items) - tensors:8}  {result}")
    print("".join(f"    {line}\n" for line in lines), end="", flush=True)
    return not lines


def described(before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for each file that differs, with the item that differs most."""
    lines = []
    for file in sorted({*before, *after}):
        if file not in before or file not in after:
            lines.append(f"{file}: only {SIDES[file not in before]}")
            continue
        found = differences(before[file], after[file])
        if found:
            most = max(found, key=lambda one: one.size)
            lines.append(f"{file}: {len(found)} of {len(before[file])} items, as {most.name}: {most.how}")
    return lines


def contents(folder: Path) -> dict[str, dict[str, Any]]:
    """{file: {name: tensor or value}} of all that is compared of the runs in this folder."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.rglob("*"), key=str):
        held = _held(path)
        if held is not None:
            name = _name(path, folder)
            while name in found:
                name += ", the next"
            found[name] = held
    return found


def _name(path: Path, folder: Path) -> str:
    """Without times: a state goes by its step."""
    state = path.parent / "train_state.json"
    if state.exists():
        step = json.loads(state.read_text(encoding="utf-8"))["step"]
        return f"{path.parent.parent.relative_to(folder).as_posix()}/state of step {step}/{path.name}"
    return TIMES.sub("TIME", path.relative_to(folder).as_posix())


def _held(path: Path) -> dict[str, Any] | None:
    """What a file holds; None of a file that is not compared."""
    if path.suffix == ".safetensors":
        return stored(path)
    if path.suffix in (".pt", ".pkl"):
        return dict(leaves(torch.load(path, weights_only=True)))
    if path.name == "train_state.json":
        plain = json.loads(path.read_text(encoding="utf-8"))
        return dict(leaves({key: value for key, value in plain.items() if key not in VERSIONS}))
    if path.name == "ledger.jsonl":
        return dict(recorded(path))
    if path.suffix == ".png" and path.parent.parent.name == "samples":
        return {"SHA-256": hashlib.sha256(path.read_bytes()).hexdigest()}
    return None


def stored(path: Path) -> dict[str, Any]:
    """The tensors and the metadata of a safetensors file."""
    with safe_open(path, framework="pt") as file:
        metadata = {f"metadata {key}": value for key, value in (file.metadata() or {}).items() if key not in DATES}
        return {**metadata, **{name: file.get_tensor(name) for name in file.keys()}}  # noqa: SIM118


def recorded(ledger: Path) -> Iterator[tuple[str, Any]]:
    """What the events that are compared hold, clocks left out."""
    numbers: dict[str, int] = {}
    for line in ledger.read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        kind = event["event"]
        if kind in COMPARED_EVENTS:
            numbers[kind] = numbers.get(kind, 0) + 1
            kept = {key: value for key, value in event.items() if key not in CLOCKS}
            for name, value in leaves(kept, f"{kind} {numbers[kind]}"):
                is_path = isinstance(value, str) and Path(value).is_absolute()  # a picture, in the folder of its side
                yield name, Path(*Path(value).parts[-2:]).as_posix() if is_path else value


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of whatever is in nested mappings and sequences; empty ones are values."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{name}.{key}".lstrip("."))
    elif isinstance(value, list | tuple) and value:
        for number, inner in enumerate(value):
            yield from leaves(inner, f"{name}[{number}]")
    else:
        yield name, value


@dataclass(frozen=True, slots=True)
class Difference:
    """An item of a file that is not the same on both sides."""

    name: str
    how: str
    size: float = 0.0  # the largest difference of a number


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """Of the items of one file."""
    found = [Difference(name, "only before") for name in before if name not in after]
    found += [Difference(name, "only after") for name in after if name not in before]
    both = (difference_of(name, before[name], after[name]) for name in before if name in after)
    return found + [difference for difference in both if difference]


def difference_of(name: str, before: Any, after: Any) -> Difference | None:
    """How two tensors or values differ; None where all bits are the same."""
    if not (isinstance(before, Tensor) and isinstance(after, Tensor)):
        return None if repr(before) == repr(after) else Difference(name, f"{before!r}, {after!r}")
    if (before.dtype, before.shape) != (after.dtype, after.shape):
        return Difference(name, f"{before.dtype} {tuple(before.shape)}, {after.dtype} {tuple(after.shape)}")
    if torch.equal(_bits(before), _bits(after)):
        return None
    size = (before.double() - after.double()).abs().max().item()
    return Difference(name, f"by up to {size:.3g}, {_count(before, after)} of {before.numel()} numbers", size)


def _count(before: Tensor, after: Tensor) -> int:
    bits = (_bits(one).view(before.numel(), before.element_size()) for one in (before, after))
    return int(torch.ne(*bits).any(dim=1).sum())


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


if __name__ == "__main__":
    main()
