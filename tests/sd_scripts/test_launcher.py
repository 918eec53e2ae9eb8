from __future__ import annotations

import pytest

from lorasmith.errors import ConfigError
from lorasmith.sd_scripts.launcher import check_environment, script_among, without_launcher


@pytest.mark.parametrize(
    ("line", "rest", "script"),
    [
        ("--seed 1", "--seed 1", "train_network"),
        ("", "", "train_network"),
        (
            "accelerate launch --num_cpu_threads_per_process 1 sdxl_train_network.py --seed 1",
            "--seed 1",
            "sdxl_train_network",
        ),
        (r"accelerate launch C:\kohya\sd-scripts\train_network.py --seed 1", "--seed 1", "train_network"),
        ("accelerate launch src/musubi_tuner/zimage_train_network.py --dit x", "--dit x", "zimage_train_network"),
        ("flux_train_network.py --seed 1", "--seed 1", "flux_train_network"),
        ("python ./sd-scripts/train_network.py", "", "train_network"),
        ("accelerate launch --num_processes 1 --num_machines=1 train_network.py", "", "train_network"),
    ],
)
def test_a_pasted_command_begins_after_its_script(line: str, rest: str, script: str) -> None:
    assert without_launcher(line.split(), "train_network") == (rest.split(), script)


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("sd3_train_network.py", "sd_script_not_known"),
        ("wan_train_network.py", "sd_script_not_known"),
    ],
)
def test_a_script_for_other_models_is_refused(script: str, code: str) -> None:
    with pytest.raises(ConfigError, match=code):
        without_launcher(["accelerate", "launch", script, "--dit", "x"], "train_network")


def test_several_processes_are_refused() -> None:
    for options in ("--num_processes=2", "--num_machines 1 --num-processes 2", "--nproc_per_node 2"):
        with pytest.raises(ConfigError, match="sd_several_processes"):
            without_launcher(["accelerate", "launch", *options.split(), "train_network.py"], "train_network")
    check_environment({})
    check_environment({"WORLD_SIZE": "1"})
    with pytest.raises(ConfigError, match="sd_several_processes"):
        check_environment({"WORLD_SIZE": "2"})


def test_the_script_is_found_wherever_it_stands() -> None:
    assert script_among(["python", "train_network.py", "--seed", "1"]) == "train_network"
    assert (
        script_among(["train-network", "accelerate", "launch", r"C:\sd\flux_train_network.py"]) == "flux_train_network"
    )
    assert script_among(["train-network", "--seed", "1"]) is None
