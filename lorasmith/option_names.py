"""Names that other trainers have for our options, and the nearest name to a mistyped name. Independent of messages.

The names are those of sd-scripts, and of diffusers' training scripts where they differ. Our own names with `_` instead
of `-` need no line here.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Literal

Refusal = Literal["foreign", "needless", "mistyped", "unknown"]

CLOSE = 0.75  # of difflib's ratio: `--stepz` is close to `--steps`, `--network-dim` to nothing
MIN_BEGINNING = 3  # letters

# These move files or steps to the backup: no message may suggest to type them.
NEVER_GUESSED = frozenset({"--new", "--from"})

OURS = {
    "block_dims": "--block-rank BLOCK=RANK",
    "bucket_reso_steps": "--bucket-step",
    "checkpointing_steps": "--save-every",
    "checkpoints_total_limit": "--keep-states",
    "config_file": "--config",
    "conv_dim": "--conv-rank",
    "dim": "--rank",
    "fp8_base": "--base-precision fp8",
    "gradient_accumulation_steps": "--accumulate",
    "instance_data_dir": "--data",
    "learning_rate": "--lr",
    "learning_rate_te": "--text-encoder-lr",
    "learning_rate_te1": "--text-encoder-lr",
    "learning_rate_te2": "--text-encoder-lr",
    "lora_alpha": "--alpha",
    "lora_dropout": "--dropout",
    "lora_rank": "--rank",
    "lr_num_cycles": "--lr-schedule cosine_with_restarts:CYCLES",
    "lr_scheduler": "--lr-schedule",
    "lr_scheduler_num_cycles": "--lr-schedule cosine_with_restarts:CYCLES",
    "lr_scheduler_type": "--lr-schedule",
    "lr_warmup_steps": "--lr-warmup",
    "max_train_epochs": "--epochs",
    "max_train_steps": "--steps",
    "mixed_precision": "--precision",
    "model_name_or_path": "--base-model",
    "network_alpha": "--alpha",
    "network_dim": "--rank",
    "network_dropout": "--dropout",
    "network_module": "--adapter",
    "network_weights": "--init-from",
    "num_train_epochs": "--epochs",
    "optimizer_args": "--optimizer-option",
    "optimizer_type": "--optimizer",
    "output_dir": "--output",
    "output_name": "--name",
    "pretrained_model": "--base-model",
    "pretrained_model_name_or_path": "--base-model",
    "pretrained_model_path": "--base-model",
    "resume": "--continue",
    "resume_from_checkpoint": "--continue",
    "sample_every_n_steps": "--evaluate-every",
    "save_every_n_steps": "--save-every",
    "save_last_n_epochs_state": "--keep-states",
    "save_last_n_steps_state": "--keep-states",
    "train_batch_size": "--batch-size",
    "train_data_dir": "--data",
    "unet_lr": "--lr",
    "v_parameterization": "--prediction v_prediction",
    "validation_prompt": "--sample-prompt",
    "validation_split": "--hold-out N|auto",
    "validation_steps": "--evaluate-every",
}
"""Name with `_` and without dashes -> what to type here."""

NEEDLESS = frozenset(
    {
        "cache_latents",
        "cache_latents_to_disk",
        "cache_text_encoder_outputs",
        "cache_text_encoder_outputs_to_disk",
        "enable_xformers_memory_efficient_attention",
        "log_with",
        "max_data_loader_n_workers",
        "mem_eff_attn",
        "network_train_unet_only",
        "no_half_vae",
        "persistent_data_loader_workers",
        "report_to",
        "save_model_as",
        "save_state",
        "save_state_on_train_end",
        "sdpa",
        "vae_batch_size",
        "xformers",
    }
)
"""Options for behaviour that is always on here."""


def plain_name(given: str) -> str:
    """`--Network-Dim` -> `network_dim`."""
    return given.lstrip("-").replace("-", "_").lower()


def closest(given: str, known: Iterable[str]) -> str:
    """The nearest name, spelt as in `known`; "" where none is close, or where a wrong guess would move files to the
    backup."""
    harmless = {plain_name(name): name for name in known if name not in NEVER_GUESSED}
    longer = [name for name in harmless if name.startswith(plain_name(given))]
    if len(longer) == 1 and len(plain_name(given)) >= MIN_BEGINNING:
        return harmless[longer[0]]
    close = difflib.get_close_matches(plain_name(given), list(harmless), n=1, cutoff=CLOSE)
    # Of whole words only: `--language` is `--lang`, `--data-loader` is not `--data`, the table `dataset` not `data`.
    begun = [name for name in harmless if len(name) >= MIN_BEGINNING and plain_name(given).startswith(name)]
    close += begun if given.startswith("--") and plain_name(given).isalpha() else []
    return harmless[close[0]] if close else ""


def refusal(given: str, known: Iterable[str]) -> tuple[Refusal, dict[str, str]]:
    """The reason why there is no option or key of this name, and the fields of its sentence.

    Args:
        known: the names as they would be typed in place of `given`: options with `--`, or keys.
    """
    name, names = plain_name(given), list(known)
    if name in OURS:
        first, _, rest = OURS[name].partition(" ")
        as_typed = next((known for known in names if plain_name(known) == plain_name(first)), first)
        return "foreign", {"ours": f"{as_typed} {rest}".strip()}
    if name in NEEDLESS:
        return "needless", {}
    nearest = closest(given, names)
    return ("mistyped", {"nearest": nearest}) if nearest else ("unknown", {})
