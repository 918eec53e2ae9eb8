"""Step time, start-up and peak memory of the real program, beside the floor and the plain loop of the same minutes.

    python -m benchmarks.step_time FOLDER [--precision bf16] [--device cuda] [--rounds 3] [--json FILE]

Makes, once, in FOLDER: a random model of Stable Diffusion 1.5's size, a miniature, 8 drawn pictures for each (8 GB of
disk). Then runs `train_lora.py` there as a person would, with supervisor, ledger and TensorBoard. A step's time is what
its ledger says, the median of those after the second; start-up is from the command to the end of the first step.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.floor import ROOT, STEP_GFLOP, measured_rate

PICTURES = 8
WARM_UP_STEPS = 2
SIZES = ("sd15", "miniature")  # what is measured unless --size names others
ALL_SIZES = (*SIZES, "sdxl")  # "sdxl": a single file in half precision, 7 GB
MINIATURE_RESOLUTION = 64
MINIATURE_STEPS = 60  # its steps are short, and the first ones not like the others
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Scene:
    """What is measured: one model, one way of training it."""

    size: str  # of SIZES
    folder: Path  # where the run happens
    model: Path
    resolution: int  # pixels
    steps: int
    rank: int
    precision: str
    device: str
    gradient_checkpointing: str = "none"


def main() -> None:
    asked = _arguments()
    scenes = [scene_of(asked, size) for size in asked.size or SIZES]
    report: dict[str, Any] = {"precision": asked.precision, "device": asked.device, "rounds": []}
    for number in range(1, asked.rounds + 1):
        one: dict[str, Any] = {"rate_before": measured_rate(asked.precision, asked.device)}
        for scene in scenes:
            one[scene.size] = _measured(scene, is_first=number == 1)
        one["rate_after"] = measured_rate(asked.precision, asked.device)
        one["rate"] = statistics.median([one["rate_before"], one["rate_after"]])
        _add_floor(one, scenes)
        report["rounds"].append(one)
        print(f"round {number}: {json.dumps(one)}", flush=True)
    report["median"] = _medians(report["rounds"], scenes)
    _show(report)
    if asked.json:
        asked.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=ALL_SIZES, action="append", help="only this one; may be repeated")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--resolution", type=int, default=256, help="of sd15 and sdxl, in pixels")
    parser.add_argument("--gradient-checkpointing", nargs="?", const="block", default="none", metavar="LEVEL")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where all figures go")
    return parser.parse_args()


_FOLDER = "make_model(Path(model), size=size)"
_MAKES = {
    "sdxl": "folder = make_model(Path(model + '.parts'), family='sdxl', size=size, precision=torch.float16);"
    "to_single_file(folder, Path(model), with_configs=False); shutil.rmtree(folder)",
}


# -- making ----------------------------------------------------------------------------------------


def scene_of(asked: argparse.Namespace, size: str) -> Scene:
    """The scene in `asked.folder`; its model and pictures are made where they are not there yet."""
    is_miniature = size == "miniature"
    scene = Scene(
        size=size,
        folder=(asked.folder / f"{size}-run").resolve(),
        model=(asked.folder / f"{size}-model").resolve(),
        resolution=MINIATURE_RESOLUTION if is_miniature else asked.resolution,
        steps=max(asked.steps, MINIATURE_STEPS) if is_miniature else asked.steps,
        rank=asked.rank,
        precision=asked.precision,
        device=asked.device,
        gradient_checkpointing=asked.gradient_checkpointing,
    )
    scene.folder.mkdir(parents=True, exist_ok=True)
    if size == "sdxl":
        scene = replace(scene, model=scene.model.with_suffix(".safetensors"))
    if not scene.model.exists():
        # In a process of its own: gigabytes made here would be in the way of what is measured.
        code = (
            "import shutil, sys, torch; from pathlib import Path;"
            "from lorasmith.demo.miniature import draw_pictures, make_model, to_single_file;"
            "model, data, size, side, count = sys.argv[1:];"
            f"{_MAKES.get(size, _FOLDER)};"
            "draw_pictures(Path(data), int(count), seed=0, size=(int(side), int(side)))"
        )
        data, side = scene.folder / "lora_train_set", 2 * scene.resolution
        command = [sys.executable, "-c", code, str(scene.model), str(data), size, str(side), str(PICTURES)]
        subprocess.run(command, cwd=ROOT, check=True)
    settings = f"base_model = {json.dumps(str(scene.model))}\n"
    (scene.folder / "lorasmith.toml").write_text(settings, encoding="utf-8")
    return scene


# -- measuring -------------------------------------------------------------------------------------


def _measured(scene: Scene, *, is_first: bool) -> dict[str, Any]:
    """One round: the program with nothing cached (in the first round), the program again, the loops."""
    cache = scene.folder / ".lorasmith_cache"
    found: dict[str, Any] = {}
    if is_first:
        shutil.rmtree(cache, ignore_errors=True)
        found["first_start_seconds"] = run_program(scene)["start_seconds"]
    found |= run_program(scene)
    if scene.size == "sdxl":  # the loops know Stable Diffusion 1.5 alone
        return found
    for layers in ("plain", "ours"):
        loop = run_loop(scene, layers)
        found[f"{layers}_step"], found[f"{layers}_peak_memory"] = loop["step"], loop["peak_memory"]
    found["to_plain"] = found["step"] / found["plain_step"]
    found["overhead"] = found["step"] / found["ours_step"] - 1
    return found


def run_program(scene: Scene) -> dict[str, Any]:
    """A whole new run. Its last export, ledger and logs stay; what was there before is removed: it is our own."""
    for old in ("lora_output", "lora_output_backup", "training_logs"):
        shutil.rmtree(scene.folder / old, ignore_errors=True)
    command = [sys.executable, str(ROOT / "train_lora.py"), "--new", "--lang", "en"]
    command += [*_options(scene), *_without_samples(scene)]
    began = time.time()
    result = subprocess.run(
        command, cwd=scene.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    ended = time.time()
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)}\nended with {result.returncode}:\n{result.stdout}{result.stderr}")
    steps = steps_of(scene.folder / "lora_output" / "ledger.jsonl")
    assert [one["step"] for one in steps] == list(range(1, scene.steps + 1))
    return {
        "step": statistics.median(one["seconds"] for one in steps[WARM_UP_STEPS:]),
        "start_seconds": steps[0]["time"] - began,
        "whole_seconds": ended - began,
        "peak_memory": max(one["peak_memory"] for one in steps),
        "seconds": [round(one["seconds"], 4) for one in steps],
    }


def _options(scene: Scene) -> list[str]:
    """Those that the program and the loops have alike."""
    names = ("steps", "resolution", "rank", "precision", "device")
    words = [word for name in names for word in (f"--{name}", str(getattr(scene, name)))]
    level = scene.gradient_checkpointing
    return words if level == "none" else [*words, "--gradient-checkpointing", level]


def _without_samples(scene: Scene) -> list[str]:
    """What else the program is given: pictures of SDXL's size would take longer than all steps."""
    return ["--evaluate-every", "0"] if scene.size == "sdxl" else []


def steps_of(ledger: Path) -> list[dict[str, Any]]:
    """The StepCompleted lines of a ledger."""
    events = [json.loads(line) for line in ledger.read_text(encoding="utf-8").splitlines()]
    return [one for one in events if one["event"] == "StepCompleted"]


def run_loop(scene: Scene, layers: str) -> dict[str, Any]:
    """benchmarks.plain_loop in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.plain_loop", str(scene.model), "--layers", layers]
    command += _options(scene)
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)}\nended with {result.returncode}:\n{result.stderr}")
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


# -- telling ---------------------------------------------------------------------------------------


def _add_floor(one: dict[str, Any], scenes: list[Scene]) -> None:
    """The floor is known for Stable Diffusion 1.5 alone, at some resolutions."""
    for scene in scenes:
        if scene.size == "sd15" and scene.resolution in STEP_GFLOP:
            one["floor"] = STEP_GFLOP[scene.resolution] / one["rate"]
            one["sd15"]["to_floor"] = one["sd15"]["step"] / one["floor"]


def _medians(rounds: list[dict[str, Any]], scenes: list[Scene]) -> dict[str, Any]:
    medians: dict[str, Any] = {"rate": statistics.median(one["rate"] for one in rounds)}
    for scene in scenes:
        names = [name for name, value in rounds[-1][scene.size].items() if isinstance(value, int | float)]
        medians[scene.size] = {name: statistics.median(one[scene.size][name] for one in rounds) for name in names}
        medians[scene.size]["first_start_seconds"] = rounds[0][scene.size]["first_start_seconds"]
    return medians


def _show(report: dict[str, Any]) -> None:
    median = report["median"]
    print(f"\nmedians of {len(report['rounds'])} rounds, {report['precision']}, {median['rate']:.0f} GFLOP/s")
    for size in ALL_SIZES:
        if size not in median:
            continue
        one = median[size]
        print(f"{size}:")
        floor = f" = {one['to_floor']:.2f} x floor" if "to_floor" in one else ""
        print(f"  step                      {one['step']:.3f} s{floor}")
        if "to_plain" in one:
            print(f"  to the plain loop         {one['to_plain']:.2f} x")
            print(f"  plain loop, ours bare     {one['plain_step']:.3f} s, {one['ours_step']:.3f} s")
            print(f"  overhead of the program   {one['overhead']:.1%}")
        print(
            f"  to the end of step 1      {one['start_seconds']:.1f} s cached, {one['first_start_seconds']:.1f} s first"
        )
        print(f"  peak memory               {one['peak_memory'] / GIB:.2f} GiB")


if __name__ == "__main__":
    main()
