import ast
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from lorasmith.config import Request, RunConfig, options
from lorasmith.config.fields import Section, declared, facts_of, option
from lorasmith.config.run import sections, validated
from lorasmith.errors import ConfigError
from tests.config.tables import DEFAULTS, IDENTITY, OTHER

ROOT = Path(__file__).resolve().parents[2]

# -- options ---------------------------------------------------------------------------------------


def test_every_option_is_there_once_with_its_default() -> None:
    assert {one.name: one.field.get_default() for one in options().values()} == DEFAULTS
    assert all(key == one.key for key, one in options().items())


def test_no_two_fields_are_one_option() -> None:
    names = []
    for model in (Request, RunConfig, *(type(getattr(RunConfig(), name)) for name in RunConfig.model_fields)):
        if isinstance(model, type) and issubclass(model, BaseModel):
            for field in model.model_fields.values():
                facts = facts_of(field)
                names += [facts.name] if facts is not None and facts.is_option else []
    assert Counter(names) == Counter(list(DEFAULTS))


def test_no_default_stands_anywhere_else() -> None:
    """The command line is made from the model: no argument of its parser has a default, type or choices."""
    for path in sorted((ROOT / "lorasmith" / "ui").rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument":
                own = {word.arg for word in call.keywords} & {"default", "type", "choices"}
                assert not own, f"{path}:{call.lineno}: {own}"


# -- identity --------------------------------------------------------------------------------------


def test_the_tables_here_know_every_field() -> None:
    there = set()
    for name in RunConfig.model_fields:
        part = getattr(RunConfig(), name)
        there |= {(name, field) for field in type(part).model_fields} if isinstance(part, BaseModel) else {("", name)}
    assert there == set(OTHER)


@pytest.mark.parametrize("field", OTHER, ids=".".join)
def test_identity_changes_exactly_with_what_the_tensors_depend_on(field: tuple[str, str]) -> None:
    before, after = RunConfig(), RunConfig().with_values({field: OTHER[field]})
    assert before != after
    old, new = before.identity_fields(), after.identity_fields()
    changed = {name for name in old | new if old.get(name) != new.get(name)}
    assert changed == ({IDENTITY[field]} if field in IDENTITY else set())
    assert (before.identity() != after.identity()) == (field in IDENTITY)


def test_the_optimizer_s_own_lr_is_no_part_of_it() -> None:
    one, other = (RunConfig().with_values({("optimizer", "options"): {"lr": lr, "eps": 1e-8}}) for lr in (0.1, 0.2))
    assert one.identity() == other.identity()


def test_the_order_of_options_is_no_part_of_it() -> None:
    one = RunConfig().with_values({("optimizer", "options"): {"a": 1, "b": 2}})
    other = RunConfig().with_values({("optimizer", "options"): {"b": 2, "a": 1}})
    assert one.identity() == other.identity()


def test_the_identity_of_a_run_that_exists_stays_what_it_is() -> None:
    """The list and the hashes of the version that had the identity written out by hand."""
    names = ["base-model", "family", "prediction", "adapter", "rank", "alpha", "train-text-encoder", "seed"]
    assert set(RunConfig().identity_fields()) == {*names, "optimizer", "optimizer-option"}
    assert RunConfig().identity() == "f298b7419081cf80d09194cbeef3d5451f8ec7f16b5bbb7595768e2f207e4132"
    made = RunConfig().with_values(
        {
            ("model", "base_sha256"): "ab" * 32,
            ("model", "family"): "sd15",
            ("model", "prediction"): "epsilon",
            ("adapter", "alpha"): 8.0,
            ("adapter", "train_text_encoder"): True,
            ("optimizer", "options"): {"lr": 1.0, "betas": [0.9, 0.99], "weight_decay": 0.01},
        }
    )
    assert made.identity() == "0ecc5324d76692e9b4bc9575f3585bdf98f010e92024ff4a9cb1eba12fc0c538"


def test_a_field_that_came_later_leaves_older_runs_alone() -> None:
    class Later(RunConfig):
        factor: int | None = option("factor", None, effect="identity")
        loss: str = option("loss", "mse", effect="learning")

    assert Later().identity() == Later(loss="huber").identity() == RunConfig().identity()
    assert Later(factor=4).identity_fields() == {**RunConfig().identity_fields(), "factor": 4}


def test_every_field_declares_its_effect() -> None:
    """A law: nobody adds a setting without saying what changes when it changes."""
    models: list[tuple[str, type[BaseModel]]] = [("request", Request), *sections()]
    for name, model in models:
        bare = {
            field
            for field, info in model.model_fields.items()
            if facts_of(info) is None and not isinstance(info.default, Section)
        }
        assert not bare, f"{name}: option(..., effect=...) or recorded(..., effect=...)"
    stand_ins = {(section, facts.identified_by) for section, model in sections() for _, _, facts in declared(model)}
    for section, field in stand_ins - {(section, "") for section, _ in stand_ins}:
        facts = facts_of(dict(sections())[section].model_fields[field])
        assert facts is not None and facts.effect == "identity" and facts.name


def test_what_differs_has_the_name_a_person_typed() -> None:
    assert set(RunConfig().identity_fields()) - {"family", "prediction"} <= set(DEFAULTS)


# -- values ----------------------------------------------------------------------------------------


def test_values_make_a_new_config() -> None:
    before = RunConfig()
    after = before.with_values({("adapter", "rank"): "8", ("", "seed"): 1, ("optimizer", "lr"): "1e-3"})
    assert (after.adapter.rank, after.seed, after.optimizer.lr) == (8, 1, 1e-3)
    assert before == RunConfig() and before.adapter.rank == 16


def test_a_config_and_its_options_cannot_be_changed_from_outside() -> None:
    given = {"betas": [0.9]}
    config = RunConfig().with_values({("optimizer", "options"): given})
    with pytest.raises(ValidationError):
        config.seed = 1
    config.with_values({("", "seed"): 5}).optimizer.options["x"] = 1
    assert config.optimizer.options == {"betas": [0.9]} and RunConfig().optimizer.options == {}


@pytest.mark.parametrize(
    ("field", "value", "option"),
    [
        (("", "seed"), -1, "seed"),
        (("", "seed"), 2**63, "seed"),
        (("adapter", "lokr_factor"), 0, "lokr-factor"),
        (("adapter", "rank"), 0, "rank"),
        (("adapter", "rank"), True, "rank"),
        (("adapter", "dropout"), 1.0, "dropout"),
        (("adapter", "alpha"), 0, "alpha"),
        (("dataset", "hold_out"), "some", "hold-out"),
        (("dataset", "resolution"), 63, "resolution"),
        (("dataset", "folder"), "a\udcff", "data"),
        (("optimizer", "name"), 3, "optimizer"),
        (("optimizer", "lr"), float("nan"), "lr"),
        (("optimizer", "options"), {"a": None}, "optimizer-option"),
        (("optimizer", "options"), [1], "optimizer-option"),
        (("lr_schedule", "shape"), "wavy", "lr-schedule"),
        (("training", "accumulation_steps"), 0, "accumulate"),
        (("cadence", "keep_states"), -1, "keep-states"),
        (("export", "name"), "a/b", "name"),
        (("model", "precision"), "fp8", "precision"),
        (("model", "prediction"), "x0", "prediction"),
        (("model", "zero_terminal_snr"), "maybe", "zero-terminal-snr"),
    ],
)
def test_a_value_that_does_not_fit_names_its_option(field: tuple[str, str], value: Any, option: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig().with_values({field: value})
    assert (caught.value.code, caught.value.fields["option"]) == ("config_value", option)
    assert set(caught.value.fields) == {"option", "value", "expected"} and caught.value.exit_code == 2
    json.dumps(caught.value.fields)


@pytest.mark.parametrize("field", ["steps", "output", "lang", "verbose"])
def test_a_request_that_does_not_fit_names_its_option(field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validated(Request, {field: ["no"]})
    assert caught.value.fields["option"] == field


def test_a_config_is_light_and_inert(tmp_path: Path) -> None:
    program = "import sys; from lorasmith.config import RunConfig; RunConfig()\n"
    program += "print([one for one in ('torch', 'numpy', 'PIL', 'rich') if one in sys.modules])"
    around = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=around, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
    assert list(tmp_path.iterdir()) == []


def test_every_path_is_known_as_one() -> None:
    """The options whose value the system takes as a name."""
    marked = {name for name, known in options().items() if known.facts.holds}
    folders = {"data", "reg_data_dir", "in_json", "conditioning_data_dir"}
    assert marked == folders | {
        "base_model",
        "base_weights",
        "init_from",
        "clip_model",
        "sample_prompts",
        "name",
        "output",
        "text_encoder",
        "vae",
        "training_adapter",
    }
