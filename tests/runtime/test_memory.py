"""--memory: chosen once when a run is new, recorded as settings, shown."""

from pathlib import Path
from typing import Any

import pytest

from lorasmith.config import Request, RunConfig, load_run_toml
from lorasmith.errors import ConfigError
from lorasmith.messages import LANGUAGES
from lorasmith.runtime.preflight import Start, continued_run, new_run
from lorasmith.runtime.settings import check_settings
from lorasmith.session.lanes import FIXED
from lorasmith.ui.translator import Translator
from tests.end_to_end.workshop import QUIET, Workshop

CUDA = {("machine", "device"): "cuda"}  # nothing is loaded: any machine may plan for it


def planned(workshop: Workshop, memory: str | None, values: dict[tuple[str, str], Any] | None = None) -> Start:
    settings = {**QUIET, ("model", "base_model"): str(workshop.base_model), **(values or {})}
    request = Request(steps=2, output=workshop.output, memory=memory)
    return new_run(settings, request, state_prefix="state", here=workshop.folder)


def test_settings_of_the_lane(workshop: Workshop) -> None:
    plain = planned(workshop, None)
    assert (plain.lanes, plain.warnings) == ((), planned(workshop, None).warnings)
    small = planned(workshop, "1.2GiB", CUDA)
    training, model = small.config.training, small.config.model
    assert training.gradient_checkpointing == "none"
    assert (model.base_precision, model.base_offload, model.vae_tile_size) == ("auto", 0.0, 0)
    code, fields = small.warnings[0]
    assert (code, fields["memory"], fields["checkpointing"]) == ("memory_lane", "1.2GiB", "none")
    assert all(Translator(language).warning(code, fields) for language in LANGUAGES)
    assert [estimate.fits for estimate in small.lanes].index(True) == 0
    assert all(estimate.total < 1.1 * FIXED for estimate in small.lanes)  # a miniature takes little beside libraries


def test_recorded_and_not_asked_for_again(workshop: Workshop) -> None:
    lane = {("training", "gradient_checkpointing"): "feed-forward", ("model", "base_precision"): "int8"}
    workshop.watch(planned(workshop, "3GiB", {**lane, ("machine", "device"): "cpu"}))
    recorded = load_run_toml(workshop.run.config)
    assert (recorded.training.gradient_checkpointing, recorded.model.base_precision) == ("feed-forward", "int8")
    request = Request(steps=1, output=workshop.output, memory="8GiB")
    with pytest.raises(ConfigError) as caught:
        continued_run(workshop.run, {}, request, from_state="", here=workshop.folder)
    assert caught.value.code == "memory_with_continue"


def test_an_empty_size_is_refused(workshop: Workshop) -> None:
    """An empty variable of the shell, `--memory "$MEMORY"`, had no effect, and the card was full later."""
    with pytest.raises(ConfigError, match="memory_size"):
        check_settings(RunConfig(), Request(memory=""))
    with pytest.raises(ConfigError, match="memory_size"):
        planned(workshop, "")


def test_too_little(workshop: Workshop) -> None:
    before = sorted(Path(workshop.folder).rglob("*"))
    with pytest.raises(ConfigError) as caught:
        planned(workshop, "100MiB")
    assert caught.value.code == "memory_too_small"
    assert sorted(Path(workshop.folder).rglob("*")) == before
