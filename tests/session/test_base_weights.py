import shutil
from pathlib import Path

from lorasmith.config import RunConfig
from lorasmith.session.base_weights import FOLDER, sources_of, trained_on
from tests.end_to_end.workshop import Workshop


def test_multipliers_follow_the_order_of_the_files() -> None:
    config = RunConfig().with_values(
        {("model", "base_weights"): ("a", "b", "c"), ("model", "base_weights_multiplier"): (0.5, -1.0)}
    )
    assert [(str(source.path), source.weight) for source in sources_of(config)] == [("a", 0.5), ("b", -1.0), ("c", 1.0)]


def test_a_model_that_was_merged_is_used_again(workshop: Workshop) -> None:
    """Until the LoRA has other bytes."""
    workshop.new(1, {("adapter", "rank"): 2})
    lora = Path(shutil.copy(workshop.run.export("last"), workshop.folder / "a.safetensors"))
    config = workshop.start_new(1, {("model", "base_weights"): (str(lora),)}).config
    first = trained_on(config).path
    assert first.parent.name == FOLDER
    (first / "seen before").touch()
    assert trained_on(config).path == first
    workshop.go_on(1)
    shutil.copy(workshop.run.export("last"), lora)
    assert trained_on(config).path != first
