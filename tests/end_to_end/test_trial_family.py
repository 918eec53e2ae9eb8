"""A family that is a file and a row: encoded, trained, resumed, evaluated and exported by an engine that knows none."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lorasmith.adapters import adapter_kind
from lorasmith.adapters.lora import UP
from lorasmith.data.cache import EncoderCache
from lorasmith.engine.encode import Encoding, encoded_examples
from lorasmith.errors import ExitCode
from lorasmith.exporting.names import from_file
from lorasmith.runs.events import CacheProgress, Evaluated, StepCompleted
from lorasmith.session.loaded import LoadedRun
from lorasmith.session.name_tables import name_table
from tests.end_to_end.workshop import Values, Workshop, load, stage
from tests.families import trial_family
from tests.families.trial_family import TEXT_ENCODERS

MakeWorkshop = Callable[[str], Workshop]
EMBEDS = {"text_encoder": {"text_encoder_embeds"}, "text_encoder_2": {"text_encoder_2_embeds", "pooled"}}
SETTINGS: Values = {
    ("evaluation", "examples"): 1,
    ("evaluation", "sample_prompts"): ("a red ring",),
    ("optimizer", "lr"): 1e-2,
    ("export", "save_precision"): "fp32",
}


@pytest.fixture(autouse=True)
def row(monkeypatch: pytest.MonkeyPatch) -> None:
    trial_family.add_row(monkeypatch)


@pytest.fixture(scope="module")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trial_family.make_model(tmp_path_factory.mktemp("trial") / "model")


@pytest.mark.ci
@pytest.mark.parametrize(
    ("by", "trains_text"),
    [("TrialFlow", True), ("TrialFlow", False), ("TrialFamily", False), ("TrialFamily", True)],
)
def test_it_trains_and_resumes_exactly_and_is_exported(
    make_workshop: MakeWorkshop, monkeypatch: pytest.MonkeyPatch, by: str, trains_text: bool
) -> None:
    trial_family.add_row(monkeypatch, by=by)
    values: Values = {**SETTINGS, ("adapter", "train_text_encoder"): trains_text}
    straight, pieces = make_workshop("straight"), make_workshop("pieces")
    whole = straight.new(3, {**values, ("evaluation", "every"): 3})
    assert whole.exit_code == ExitCode.FINISHED
    assert pieces.new(3, values, stop_after=1).exit_code == ExitCode.STOPPED
    resumed = pieces.go_on(2)
    assert resumed.exit_code == ExitCode.FINISHED
    assert resumed.of(CacheProgress) == []
    assert pieces.losses() == straight.losses()
    assert pieces.digest() == straight.digest()
    evaluated = [event for event in whole.of(Evaluated) if not event.is_control]
    assert evaluated and all(event.validation is not None and event.samples for event in evaluated)
    with safe_open(straight.run.export("last"), framework="pt") as file:
        assert file.metadata()["modelspec.architecture"] == "trial/lora"
    exported = from_file(load_file(straight.run.export("last")), adapter_kind("lora"), name_table(trial_family.NAME))
    trained = straight.adapter()
    assert exported.keys() == trained.keys()
    assert {name.partition(".")[0] for name in trained} == {"denoiser", *(TEXT_ENCODERS if trains_text else ())}
    assert all(bool(trained[name].any()) for name in trained)


def _metadata(workshop: Workshop) -> dict[str, str]:
    with safe_open(workshop.run.export("last"), framework="pt") as file:
        found: dict[str, str] = file.metadata()
    return found


def test_each_text_encoder_has_its_rate(make_workshop: MakeWorkshop) -> None:
    """One that is left out has no layers in the file, and its captions are encoded once."""
    both, second = make_workshop("both"), make_workshop("second")
    trains: Values = {**SETTINGS, ("adapter", "train_text_encoder"): True, ("adapter", "rank"): 2}
    rates: Values = {("optimizer", "text_encoder_lr"): [2e-3, 0.0]}
    outcome = both.new(1, {**trains, **rates})
    assert outcome.of(StepCompleted)[0].lr == {"denoiser": 1e-2, "text_encoder": 2e-3, "text_encoder_2": 0.0}
    learned = {name.partition(".")[0] for name, tensor in both.adapter().items() if UP in name and tensor.any()}
    assert learned == {"denoiser", "text_encoder"}
    assert _metadata(both)["ss_text_encoder_lr"] == "[0.002, 0.0]"
    outcome = second.new(1, {**trains, **rates, ("adapter", "block_ranks"): {"text_encoder": 0}})
    assert outcome.of(StepCompleted)[0].lr == {"denoiser": 1e-2, "text_encoder_2": 0.0}
    assert {name.partition(".")[0] for name in second.adapter()} == {"denoiser", "text_encoder_2"}
    assert _metadata(second)["ss_text_encoder_lr"] == "0.0"
    assert second.go_on(1, {("optimizer", "text_encoder_lr"): 1e-3}).exit_code == ExitCode.FINISHED
    assert any(tensor.any() for name, tensor in second.adapter().items() if name.startswith("text_") and UP in name)


@pytest.fixture
def loaded(workshop: Workshop) -> LoadedRun:
    workshop.run.root.mkdir()
    stage(workshop.start_new(2))
    return load(workshop.run, stop_at=2)


@pytest.mark.parametrize(
    "trained", [("text_encoder",), *(pytest.param(one, marks=pytest.mark.ci) for one in ((), TEXT_ENCODERS))]
)
def test_each_text_encoder_is_trained_or_cached(loaded: LoadedRun, tmp_path: Path, trained: tuple[str, ...]) -> None:
    """What is cached, what is encoded at each step, and the sizes of the picture meet in a single dict of inputs."""
    family, context = loaded.context.family, loaded.context
    encoding = Encoding(family, EncoderCache(tmp_path / "cache"), trained, torch.float32, context.device)
    examples, captions = encoded_examples(
        encoding, loaded.trained, [""], damaged=lambda path: None, progress=lambda done, total: None
    )
    cached = {name for text_encoder in TEXT_ENCODERS if text_encoder not in trained for name in EMBEDS[text_encoder]}
    ids = {f"{text_encoder}_ids" for text_encoder in TEXT_ENCODERS} if trained else set()
    assert captions[""].keys() == cached | ids
    assert all(example.inputs.keys() == {"latents", "time_ids"} | cached | ids for example in examples)
    sizes = {tuple(example.inputs["time_ids"].tolist()) for example in examples}
    assert sizes == {(*one.original[::-1], one.crop.top, one.crop.left, *one.bucket[::-1]) for one in loaded.trained}
    models = family.load_models(trained=trained, dtype=torch.float32, to=torch.device("cpu"))
    conditioning = family.conditioning(models, family.collate([examples[0].inputs]))
    plain = loaded.batches.cached[0].inputs
    assert torch.allclose(conditioning["text_embeds"][0], plain["pooled"], atol=1e-5)
    other = family.collate([{**examples[0].inputs, "time_ids": torch.zeros(6)}])
    with torch.no_grad():
        latents, timesteps = examples[0].latents[None], torch.tensor([500])
        predictions = [
            family.predict(models, latents, timesteps, family.conditioning(models, inputs))
            for inputs in (family.collate([examples[0].inputs]), other)
        ]
    assert not torch.equal(*predictions)
