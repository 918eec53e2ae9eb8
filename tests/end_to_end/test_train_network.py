"""sd-scripts' own command lines, typed unchanged: the mission's, and those of sd-scripts' documentation."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from lorasmith.errors import ExitCode
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.ledger import read_events, steps
from lorasmith.runtime import supervisor as supervisor_module
from lorasmith.runtime.supervisor import Supervisor
from lorasmith.ui.cli import main
from tests.contracts.test_published_commands import COMMANDS
from tests.end_to_end.workshop import InProcess, Workshop, digest
from tests.families.anima import miniature as anima
from tests.families.flux1 import miniature as flux1
from tests.families.flux2_klein import miniature as flux2_klein
from tests.families.krea2 import miniature as krea2
from tests.families.unet_miniature import make_model
from tests.families.zimage import miniature as zimage

# The flags of the mission's documents, and those that its `train_lora.py` passed on to sd-scripts.
MISSION = """--pretrained_model_name_or_path={model} --train_data_dir=lora_train_set --output_dir=lora_output
--logging_dir=lora_output/logs --resolution=64,64 --network_module=networks.lora --network_dim=8 --network_alpha=4
--train_batch_size=1 --max_train_steps={steps} --gradient_accumulation_steps=1 --learning_rate=1e-4
--text_encoder_lr=5e-5 --lr_scheduler=cosine_with_restarts --lr_warmup_steps=2 --optimizer_type=AdamW
--mixed_precision=no --save_precision=fp16 --caption_extension=.txt --enable_bucket --bucket_reso_steps=64
--min_bucket_reso=64 --max_bucket_reso=256 --cache_latents --save_state --save_every_n_epochs=1
--save_model_as=safetensors --min_snr_gamma=5 --noise_offset=0.05 --seed=42 --xformers --max_data_loader_n_workers=0
--clip_skip=1 --prior_loss_weight=1.0"""


@pytest.fixture(autouse=True)
def _here(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workshop.folder)
    supervisor = partial(Supervisor, launch=InProcess)
    monkeypatch.setattr(supervisor_module, "Supervisor", supervisor)


def train(line: str) -> int:
    return main(["train-network", *shlex.split(line)], script="python train_network.py")


def mission(workshop: Workshop, count: int, more: str = "") -> str:
    return MISSION.format(model=workshop.base_model, steps=count) + " " + more


def test_the_mission_s_command_runs_unchanged_and_stops_at_its_number(
    workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(mission(workshop, 7)) == ExitCode.FINISHED
    shown = capsys.readouterr().out
    assert "Reached the maximum of 7 steps" in shown
    run = RunFolder(workshop.folder / "lora_output/last-run")
    assert [event.step for event in steps(read_events(run.ledger))] == list(range(1, 8))
    assert (workshop.folder / "lora_output/last.safetensors").is_file()
    states = sorted(run.root.glob("*-state"))
    assert {path.name for path in states[-1].iterdir()} >= {"optimizer.pt", "train_state.json", "random_states.pkl"}
    rows = (workshop.folder / "lora_output/training_logs/last-run/training_loss_log.txt").read_text().splitlines()
    assert len(rows) == 8
    assert list((run.root / "logs").glob("events.out.tfevents.*"))
    with safe_open(workshop.folder / "lora_output/last.safetensors", "pt") as file:
        metadata = file.metadata()
    assert (metadata["ss_min_snr_gamma"], metadata["ss_noise_offset"]) == ("5.0", "0.05")


@pytest.mark.ci
def test_two_resumes_in_a_row_with_accumulation_and_epochs_are_counted_right(workshop: Workshop) -> None:
    """sd-scripts counts micro-batches for updates there, and forgets the first part at the second resume: it makes 20
    more updates, or none."""
    more = "--gradient_accumulation_steps=4 --lr_scheduler=constant --lr_warmup_steps=0 --output_name="
    resume = " --resume=lora_output/parts-state --skip_until_initial_step"
    assert train(mission(workshop, 12, f"{more}whole")) == ExitCode.FINISHED
    assert train(mission(workshop, 5, f"{more}parts")) == ExitCode.FINISHED
    for count in (9, 12):
        assert train(mission(workshop, count, f"{more}parts{resume}")) == ExitCode.FINISHED
    folder = workshop.folder / "lora_output"
    whole, parts = (digest(load_file(folder / f"{name}.safetensors")) for name in ("whole", "parts"))
    assert parts == whole
    names = [
        sorted(path.name.removeprefix(name) for path in folder.glob(f"{name}*.safetensors"))
        for name in ("whole", "parts")
    ]
    assert names[0] == names[1] and len(names[0]) == 5


@pytest.mark.ci
def test_the_same_command_with_resume_goes_on(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    """As in sd-scripts, where the base weights have to be named again and the state counts before --network_weights."""
    assert train(mission(workshop, 1, "--output_name=first")) == ExitCode.FINISHED
    first = "lora_output/first.safetensors"
    again = f"--base_weights {first} --network_weights {first} --dim_from_weights --output_name=second"
    assert train(mission(workshop, 2, again)) == ExitCode.FINISHED
    capsys.readouterr()
    assert train(mission(workshop, 3, f"{again} --resume=lora_output/second-state")) == ExitCode.FINISHED
    shown = capsys.readouterr().out
    assert "no effect: --network_weights" in shown
    assert "no effect: --xformers" in shown  # the notes of a command are there when it continues, too
    assert len(steps(read_events(RunFolder(workshop.folder / "lora_output/second-run").ledger))) == 3


@pytest.mark.ci
def test_accelerate_launch_works_as_typed(workshop: Workshop) -> None:
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--num_cpu_threads_per_process", "1"]
    script = str(Path(__file__).parents[2] / "train_network.py")
    line = shlex.split(mission(workshop, 3))
    done = subprocess.run([*launcher, "--mixed_precision=bf16", script, *line], capture_output=True, timeout=240)
    assert done.returncode == 0, done.stderr.decode()
    assert Path("lora_output/last.safetensors").is_file()


WHOLE = ("sd-scripts, docs", "musubi-tuner, docs", "a Chinese program", "a file that LoRA_Easy", "an Italian shell")
"""How the sources of commands begin that are run as a whole: those of the documentation, and some of other people."""
RUN = [command for command in COMMANDS if command["source"].startswith(WHOLE) and "refused" not in command]
# What a nano model takes, and what is installed everywhere: of a repeated argument the last counts.
SMALL = """--max_train_epochs=1 --optimizer_type=AdamW --mixed_precision=no --resolution=64 --save_every_n_epochs=1
--clip_skip=1"""


MUSUBI = ("zimage", "krea2", "flux_2")
SPLIT = {
    "flux": (flux1, {"clip_l": "text_encoders/clip_l", "t5xxl": "text_encoders/t5xxl_fp16", "ae": "vae/ae"}),
    "anima": (anima, {"qwen3": "text_encoders/qwen_3_06b_base", "vae": "vae/qwen_image_vae"}),
    "zimage": (zimage, {"text_encoder": "text_encoders/qwen_3_4b", "vae": "vae/ae"}),
    "krea2": (krea2, {"text_encoder": "text_encoders/qwen3vl_4b", "vae": "vae/qwen_image_vae"}),
    "flux_2": (flux2_klein, {"text_encoder": "text_encoders/qwen_3_4b", "vae": "vae/flux2-vae"}),
}
"""Beginning of a script's name -> the miniature of its family, and the file that each argument names."""


def split_files(family: str, folder: Path) -> str:
    """The arguments with the files of a miniature."""
    miniature, files = SPLIT[family]
    denoiser = miniature.make_split(miniature.make_model(folder / "model"), folder / "models")
    parts = [f"--{name}={folder}/models/{file}.safetensors" for name, file in files.items()]
    return " ".join([f"--{'dit' if family in MUSUBI else 'pretrained_model_name_or_path'}={denoiser}", *parts])


@pytest.fixture(scope="module")
def nano_sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "xl", family="sdxl", size="nano")


@pytest.mark.ci
@pytest.mark.parametrize("command", RUN, ids=lambda command: command["source"][12:45])
def test_published_commands_run_to_the_end(
    command: dict[str, Any], workshop: Workshop, nano_sdxl: Path, tmp_path: Path
) -> None:
    dataset = re.sub(r"resolution = .*", "resolution = 64", command.get("dataset", "")).replace("C:\\", "")
    Path("dataset.toml").write_text(dataset)
    Path("config.toml").write_text(command.get("config", ""))
    for folder in re.findall(r"""image_dir(?:ectory)? = ["'](.*)["']""", dataset):
        shutil.copytree("lora_train_set/2_test", folder)
    shutil.copytree("lora_train_set", "images")
    shutil.copytree("lora_train_set", "reg")
    line = command["line"].replace("\\", "\\\\")
    family = next((family for family in SPLIT if f"{family}_train_network.py" in line), "")
    files = split_files(family, tmp_path) if family else ""
    model = nano_sdxl if "xl.safetensors" in line else workshop.base_model
    files = files or f"--pretrained_model_name_or_path={model}"
    small = SMALL if not family else SMALL.replace("--clip_skip=1", "")
    small = small if family not in MUSUBI else small.replace("--resolution=64", "")
    assert train(f"{line} {small} --output_dir=out {files}") == ExitCode.FINISHED
    assert list(Path("out").glob("*.safetensors"))
