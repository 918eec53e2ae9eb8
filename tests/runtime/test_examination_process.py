"""The facts of this machine, found in this process."""

import json

import pytest

from lorasmith.engine.device import choose_device
from lorasmith.runtime import examination_process


def test_the_facts_are_those_that_a_run_would_have(capsys: pytest.CaptureFixture[str]) -> None:
    assert examination_process.main() == 0
    facts = json.loads(capsys.readouterr().out)
    device = choose_device("auto", threads=0)
    assert (facts["device"], facts["device_name"]) == (str(device.torch_device), device.name)
    assert (facts["threads"], facts["self_check"]) == (device.threads, "passed")
    assert {"torch", "diffusers", "safetensors"} <= facts["packages"].keys()
    assert facts["precision"].keys() == {"sd15", "small"}
    assert 0 < facts["memory_free"] <= facts["memory_total"]
