"""Runs whose captions vary: the same bytes resumed, and whether captions are encoded live or beforehand."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lorasmith.data import caption_variants
from lorasmith.data.caption_variants import caption_at
from lorasmith.data.types import Use
from lorasmith.engine import captions as captions_module
from lorasmith.errors import ExitCode
from lorasmith.runs.events import Evaluated
from tests.end_to_end.workshop import Values, Workshop
from tests.families.unet_miniature import make_model

MakeWorkshop = Callable[[str], Workshop]
STEPS = 8
BASE: Values = {
    ("optimizer", "lr"): 1e-2,
    ("training", "batch_size"): 2,
    ("training", "accumulation_steps"): 2,
    ("dataset", "trigger_word"): "sks",
    ("captions", "prefix"): "one, two, {three|four}",
}
WILDCARDS: Values = {("captions", "has_wildcards"): True, ("captions", "dropout"): 0.2}
EVERYTHING: Values = {
    **WILDCARDS,
    ("captions", "shuffle"): True,
    ("captions", "keep_tokens"): 1,
    ("captions", "tag_dropout"): 0.2,
    ("captions", "warmup_steps"): 0.25,
    ("captions", "dropout_every_n_epochs"): 2,
    ("augmentation", "flip"): True,
}
TEXT: Values = {("adapter", "train_text_encoder"): True}
ONE_OF_TWO: Values = {**TEXT, ("adapter", "block_ranks"): {"text_encoder_2": 0}}


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("sdxl") / "model", family="sdxl", size="nano")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[int, int, int], str]:
    """The caption of each row of each micro-batch, as runs use them."""
    used: dict[tuple[int, int, int], str] = {}

    def noted(text: str, rules: caption_variants.CaptionRules, seed: int, use: Use) -> str:
        caption = caption_at(text, rules, seed, use)
        assert used.setdefault((use.step, use.micro, use.row), caption) == caption
        return caption

    monkeypatch.setattr(captions_module, "caption_at", noted)
    return used


@pytest.mark.ci
@pytest.mark.parametrize("values", [EVERYTHING, {**EVERYTHING, **TEXT}], ids=["frozen", "trained"])
def test_stopped_it_ends_with_the_same_bytes(
    make_workshop: MakeWorkshop, seen: dict[tuple[int, int, int], str], values: Values
) -> None:
    straight, pieces = make_workshop("straight"), make_workshop("pieces")
    assert straight.new(STEPS, {**BASE, **values}).exit_code == ExitCode.FINISHED
    whole = dict(seen)
    assert len(set(whole.values())) > 8 and "" in whole.values()
    assert pieces.new(STEPS, {**BASE, **values}, stop_after=3).exit_code == ExitCode.STOPPED
    assert pieces.go_on(None).exit_code == ExitCode.FINISHED
    assert seen == whole
    assert pieces.losses() == straight.losses()
    assert pieces.digest() == straight.digest()


@pytest.mark.ci
@pytest.mark.parametrize(
    ("family", "values"),
    [("sd15", {}), ("sd15", TEXT), ("sdxl", {}), ("sdxl", ONE_OF_TWO)],
    ids=["sd15", "sd15 trained", "sdxl", "sdxl, one of two trained"],
)
def test_live_captions_have_the_bits_of_cached_captions(
    make_workshop: MakeWorkshop, sdxl: Path, monkeypatch: pytest.MonkeyPatch, family: str, values: Values
) -> None:
    few, many, plain = (make_workshop(name) for name in ("few", "many", "plain"))
    own: Values = {**BASE, **values, **({("model", "base_model"): str(sdxl)} if family == "sdxl" else {})}
    assert few.new(2, {**own, **WILDCARDS}).exit_code == ExitCode.FINISHED
    monkeypatch.setattr(caption_variants, "MAX_CACHED", 0)
    assert many.new(2, {**own, **WILDCARDS}).exit_code == ExitCode.FINISHED
    assert many.digest() == few.digest()
    assert plain.new(2, own).exit_code == ExitCode.FINISHED
    assert plain.digest() != few.digest()


@pytest.mark.ci
@pytest.mark.parametrize("values", [{}, TEXT], ids=["frozen", "trained"])
def test_long_weighted_captions_train_and_are_evaluated(
    make_workshop: MakeWorkshop, sdxl: Path, values: Values
) -> None:
    straight, pieces = make_workshop("straight"), make_workshop("pieces")
    own: Values = {
        **BASE,
        **values,
        ("model", "base_model"): str(sdxl),
        ("model", "max_token_length"): 150,
        ("model", "weighted_captions"): True,
        ("captions", "shuffle"): True,
        ("captions", "suffix"): "(red:1.5) " * 40,
        ("evaluation", "every"): 3,
        ("evaluation", "examples"): 1,
    }
    outcome = straight.new(3, own)
    assert outcome.exit_code == ExitCode.FINISHED
    assert [event.validation is not None and len(event.samples) for event in outcome.of(Evaluated)] == [1, 1]
    assert pieces.new(3, own, stop_after=1).exit_code == ExitCode.STOPPED
    assert pieces.go_on(None).exit_code == ExitCode.FINISHED
    assert pieces.digest() == straight.digest()
