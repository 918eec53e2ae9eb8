"""The settings that a command line of sd-scripts stands for, by the names of our options.

sd-scripts' defaults are set where ours differ, so that a command trains here what it trains there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lorasmith.config import options
from lorasmith.errors import ConfigError
from lorasmith.sd_scripts.arguments import OF_MUSUBI
from lorasmith.sd_scripts.command_line import Given
from lorasmith.sd_scripts.dataset_config import share_of_pictures, subset_of_metadata, subsets
from lorasmith.sd_scripts.flow import flow
from lorasmith.sd_scripts.musubi_datasets import musubi_datasets
from lorasmith.sd_scripts.network import network
from lorasmith.sd_scripts.optimization import optimization
from lorasmith.sd_scripts.resolution import resolution
from lorasmith.sd_scripts.saving import evaluations, files, output, saving
from lorasmith.sd_scripts.settings import Settings
from lorasmith.sd_scripts.table import DONE, HARMLESS, NO_EFFECT, REFUSED

OF_FOLDERS = ("data", "reg-data-dir")  # options that --dataset_config and --in_json replace
SAME_DEFAULTS = ("min_bucket_reso", "max_bucket_reso")  # where unset, our rule has the same values
BY_SNR = ("min_snr_gamma", "debiased_estimation_loss", "scale_v_pred_loss_like_noise_pred", "v_pred_like_loss")
METADATA = "metadata_"  # first part of the arguments that describe the file
OF_METADATA = frozenset(name for name in DONE if name.startswith(METADATA))
LOGS = "sd_logs_always"  # the note that names the folder of the logs
PRECISIONS = {"no": "fp32", "fp16": "fp16", "bf16": "bf16"}
SAVE_PRECISIONS = {"float": "fp32", "fp32": "fp32", "fp16": "fp16", "bf16": "bf16"}


@dataclass(frozen=True, slots=True)
class Translation:
    """The settings of a command line."""

    values: dict[tuple[str, str], Any]  # by (section, field)
    arguments: dict[str, str]  # name of an option -> the argument that it was made from
    given: tuple[str, ...] = ()  # names of options whose argument was given; the others are sd-scripts' defaults
    shares: dict[tuple[str, str], float] = field(default_factory=dict)  # settings that are a share of all steps
    notes: list[tuple[str, dict[str, Any]]] = field(default_factory=list)  # warnings: code and fields


def translated(given: Given) -> Translation:
    """The settings of the run that a command line asks for, and what a person should know about it.

    Raises:
        ConfigError: an argument that is refused, or that contradicts another.
    """
    _refuse(given)
    settings = Settings(notes=_without_effect(given))
    _direct(given, settings)
    for part in PARTS:
        part(given, settings)
    known = {option.name: option for option in options().values()}
    places = {name: (option.section, option.field_name) for name, option in known.items()}
    values = {places[name]: value for name, value in settings.values.items()}
    shares = {places[name]: share for name, share in settings.shares.items()}
    named = {name: settings.arguments.get(name, "").removeprefix("--") for name in known}
    typed = tuple(name for name, argument in named.items() if given.has(argument))
    return Translation(values | settings.recorded, settings.arguments, typed, shares, settings.notes)


def _refuse(given: Given) -> None:
    """Refuses what is not done here.

    Raises:
        ConfigError: the reason of the argument.
    """
    for name in given.values:
        if not given.has(name):
            continue
        if name in REFUSED and given.value(name) not in HARMLESS.get(name, ()):
            raise ConfigError(REFUSED[name].reason, argument=f"--{name}")


def _without_effect(given: Given) -> list[tuple[str, dict[str, Any]]]:
    """A note for each reason why arguments have no effect, with all of them."""
    by_note: dict[str, list[str]] = defaultdict(list)
    for name, row in NO_EFFECT.items():
        if given.has(name) and given.value(name) not in HARMLESS.get(name, ()):
            by_note[row.note].append(f"--{name}")
    logs = {"folder": f"{output(given)}/logs"}
    return [(note, {"arguments": names} | (logs if note == LOGS else {})) for note, names in by_note.items()]


def _direct(given: Given, settings: Settings) -> None:
    """Options whose values are those of an argument: given values, and defaults that differ from ours."""
    defaults = {option.name: option.field.default for option in options().values()}
    for name, row in DONE.items():
        if not row.is_direct:
            continue
        value = given.value(name)
        is_default = name in SAME_DEFAULTS or value is None or value == defaults[row.options[0]]
        if given.has(name) or not is_default:
            settings.set(row.options[0], value, name)


# -- what is computed ------------------------------------------------------------------------------


def _model(given: Given, settings: Settings) -> None:
    settings.set("precision", PRECISIONS[given.value("mixed_precision")], "mixed_precision")
    unset = "bf16" if given.has("full_bf16") else "float"  # the data type of the training
    settings.set("save-precision", SAVE_PRECISIONS[given.value("save_precision") or unset], "save_precision")
    for name in ("torch_compile", "compile"):
        if given.has(name):
            settings.set("execution", "compiled", name)
    for name in ("fp8_base", "fp8_base_unet", "fp8_scaled"):
        if given.has(name):
            settings.set("base-precision", "fp8", name)
    if given.has("v_parameterization"):
        settings.set("prediction", "v_prediction", "v_parameterization")
    if given.has("zero_terminal_snr"):
        settings.set("zero-terminal-snr", "on", "zero_terminal_snr")
        weighted = [f"--{name}" for name in BY_SNR if given.value(name)]
        if weighted:
            settings.note("sd_snr_of_terminal", arguments=weighted)


def _pictures(given: Given, settings: Settings) -> None:
    if given.has("resolution"):
        settings.set("resolution", resolution(str(given.value("resolution")), "--resolution"), "resolution")
    settings.set("resize-interpolation", given.value("resize_interpolation") or "auto", "resize_interpolation")
    share = share_of_pictures(given.value("validation_split"), "--validation_split")
    settings.set("hold-out", share, "validation_split")
    if given.has("dataset_config") or given.has("in_json"):
        for option in OF_FOLDERS:
            settings.values.pop(option, None)
    if given.has("dataset_config"):
        (musubi_datasets if given.script in OF_MUSUBI else subsets)(given, settings, given.here)
        return
    if given.has("in_json"):
        subset_of_metadata(given, settings)
    if given.has("enable_bucket") and not given.has("bucket_no_upscale"):  # which has a rule of its own
        settings.set("bucket-rule", "sd-scripts", "enable_bucket")


def _steps(given: Given, settings: Settings) -> None:
    if given.value("max_train_epochs"):
        settings.set("epochs", given.value("max_train_epochs"), "max_train_epochs")
        if given.has("max_train_steps"):
            settings.note("sd_epochs_over_steps", steps=given.value("max_train_steps"))
        return
    steps = given.value("max_train_steps")
    settings.set("steps", steps, "max_train_steps")
    if not given.has("max_train_steps"):
        settings.note("sd_default_steps", steps=steps)


def _descriptions(given: Given, settings: Settings) -> None:
    found = {name.removeprefix(METADATA): given.value(name) for name in given.values if name in OF_METADATA}
    if found:
        settings.set("metadata", {name: text for name, text in found.items() if text}, METADATA + next(iter(found)))


def _captions(given: Given, settings: Settings) -> None:
    if given.script in OF_MUSUBI:  # its datasets name it
        return
    name = (
        "caption_extention" if given.has("caption_extention") else "caption_extension"
    )  # the first is an old spelling
    settings.set("caption-extension", given.value(name), name)


PARTS: tuple[Callable[[Given, Settings], None], ...] = (
    _model,
    _pictures,
    _captions,
    _descriptions,
    network,
    optimization,
    flow,
    _steps,
    files,
    saving,
    evaluations,
)
