"""Names, saved files and evaluations of a command line of sd-scripts."""

from __future__ import annotations

from lorasmith.config import Request
from lorasmith.runs.naming import naming_of, output_of
from lorasmith.sd_scripts.command_line import Given
from lorasmith.sd_scripts.settings import Settings

EVALUATE_EVERY = 100  # steps, of runs that save at their end alone; sd-scripts measures nothing unless asked
EVALUATIONS = (("sample_every_n_epochs", "sample_every_n_steps"), ("validate_every_n_epochs", "validate_every_n_steps"))
"""Arguments with intervals, by epochs and by steps; the first that is given counts."""
INTERVALS = ("save_every_n_steps", "save_every_n_epochs", "save_n_epoch_ratio")


def output(given: Given) -> str:
    """The run folder."""
    return output_of(given.value("output_dir") or Request().output, given.value("output_name"))


def files(given: Given, settings: Settings) -> None:
    """Sets folder and names."""
    name = given.value("output_name")
    settings.set("output", output(given), "output_dir")
    settings.set("name", name or "last", "output_name")
    settings.recorded["export", "naming"] = naming_of(name)


def saving(given: Given, settings: Settings) -> None:
    """Sets when the LoRA is saved, and how many states are kept."""
    settings.set("save-every", _interval(given, "save_every_n_steps"), "save_every_n_steps")
    if not given.has("save_state") or not _saves_on_the_way(given):
        return
    kept = _kept_states(given)
    settings.set("keep-states", kept, "save_state")
    if not kept:  # all states are kept: those of the interval, not of every ten minutes
        settings.set("save-minutes", 0, "save_state")


def _kept_states(given: Given) -> int:
    """Number of states that sd-scripts keeps; 0: all. Those limited by steps are counted by the interval."""
    epochs = given.value("save_last_n_epochs_state") or given.value("save_last_n_epochs")
    steps = given.value("save_last_n_steps_state") or given.value("save_last_n_steps")
    every = _interval(given, "save_every_n_steps")
    counts = [epochs] if epochs else []
    if steps and every:
        counts.append(steps // every + 1)
    return max(counts, default=0)


def evaluations(given: Given, settings: Settings) -> None:
    """Sets when the run is evaluated: sd-scripts' intervals of samples, else of validation, else when it saves."""
    for of_epochs, of_steps in EVALUATIONS:
        if _interval(given, of_epochs):
            settings.set("sample-every-n-epochs", _interval(given, of_epochs), of_epochs)
            return
        if _interval(given, of_steps):
            settings.set("evaluate-every", _interval(given, of_steps), of_steps)
            return
    if settings.values["hold-out"]:
        settings.set("sample-every-n-epochs", 1, "validate_every_n_epochs")
    elif not _saves_on_the_way(given):
        settings.set("evaluate-every", EVALUATE_EVERY, "sample_every_n_steps")


def _saves_on_the_way(given: Given) -> bool:
    return any(_interval(given, name) for name in INTERVALS)


def _interval(given: Given, name: str) -> int:
    """An interval; 0 where there is none, or a number that sd-scripts ignores."""
    return max(0, given.value(name) or 0)
