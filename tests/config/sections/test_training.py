from lorasmith.config.sections import MachineConfig


def test_a_device_is_named_in_small_letters() -> None:
    assert MachineConfig(device="CUDA:1").device == "cuda:1"
