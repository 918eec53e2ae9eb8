"""A preset or saved configuration of kohya_ss' graphical interface: the fields of its form, from which it makes a
command line of sd-scripts. That command line is translated like a typed one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorasmith.config import options
from lorasmith.errors import ConfigError
from lorasmith.other_trainers.imported import OFF, Imported, Source, whole, without_effect
from lorasmith.sd_scripts.arguments import Script, arguments, converted, known_to
from lorasmith.sd_scripts.command_line import Given
from lorasmith.sd_scripts.table import NO_EFFECT
from lorasmith.sd_scripts.translate import Translation, translated

TRAINER = "kohya_ss"
MARKS = frozenset({"LoRA_type", "network_dim", "max_resolution"})
"""Keys of which a file of the LoRA tab has two at least."""
RENAMED = {"max_resolution": "resolution", "optimizer": "optimizer_type", "lora_network_weights": "network_weights"}
"""Field of the form -> argument of sd-scripts."""
ALGORITHMS = {"LyCORIS/LoCon": "locon", "LyCORIS/LoHa": "loha", "LyCORIS/LoKr": "lokr", "LyCORIS/LoKR": "lokr"}
SWITCHES = ("decompose_both", "dora_wd", "use_tucker", "use_scalar", "train_norm", "rank_dropout_scale", "bypass_mode")
DROPOUTS = ("rank_dropout", "module_dropout")
BLOCKS = ("down_lr_weight", "mid_lr_weight", "up_lr_weight", "block_lr_zero_threshold", "block_dims", "block_alphas")
OTHER_MODELS = ("sd3_checkbox", "hunyuan_image_checkbox", "lumina_checkbox")
MODELS: Mapping[str, Script] = {"flux1": "flux_train_network", "anima": "anima_train_network"}
"""Model -> its script: the model is named by a switch, `flux1_checkbox`, or by the kind of LoRA."""
PREFIXES = {"flux_train_network": "flux1_", "anima_train_network": "anima_"}
"""Script -> the beginning of the fields that are its own."""
OF_FLUX = (
    "clip_l",
    "t5xxl",
    "ae",
    "discrete_flow_shift",
    "model_prediction_type",
    "timestep_sampling",
    "guidance_scale",
)
"""Fields of the form for FLUX.1, though their names do not tell."""
OF_SD3 = ("weighting_scheme", "logit_mean", "logit_std", "mode_scale")
FLUX_PAIRS = (
    *("img_attn_dim", "img_mlp_dim", "img_mod_dim", "single_dim", "txt_attn_dim", "txt_mlp_dim", "txt_mod_dim"),
    *("single_mod_dim", "in_dims", "train_double_block_indices", "train_single_block_indices"),
    *("train_blocks", "split_qkv", "train_t5xxl"),
)
SCRIPT: Script = "sdxl_train_network"  # takes the arguments of train_network.py too
LARGEST_RANK = 1024  # that an option takes
USUAL_LENGTH = 75  # tokens of a prompt


def is_kohya_ss(table: Mapping[str, Any]) -> bool:
    return len(MARKS & table.keys()) > 1


def from_kohya_ss(table: Mapping[str, Any]) -> Imported:
    """The settings of a file.

    Raises:
        ConfigError: `import_other_model`, `import_adapter`.
    """
    source, found = Source(table), Imported(TRAINER)
    if any(source.read(name) for name in OTHER_MODELS):
        raise ConfigError("import_other_model", model=str(table.get("LoRA_type")))
    script = _script(source)
    given = _given(table, found, script)
    _steps(source, given)
    _rates(source, given, found)
    _noise(source, given)
    _network(source, given)
    if script != SCRIPT:
        _frozen_text(given, found)
    elif (length := whole(source.read("max_token_length"))) and length != USUAL_LENGTH:
        found.values["max_token_length"] = length
    _translate(given, found, script)
    prompts = str(source.read("sample_prompts") or "").splitlines()
    if lines := [line.strip() for line in prompts if line.strip() and not line.strip().startswith("#")]:
        found.values["sample_prompt"] = lines
    return found


def _script(source: Source) -> Script:
    kind = str(source.read("LoRA_type")).lower()
    for model, script in MODELS.items():
        if source.read(f"{model}_checkbox") or kind == model:
            return script
    return SCRIPT


def _given(table: Mapping[str, Any], found: Imported, script: Script) -> dict[str, Any]:
    """The fields that are arguments of the script."""
    given: dict[str, Any] = {}
    known, prefix = known_to(script), PREFIXES.get(script, "")
    skipped = without_effect("kohya_ss") | {*BLOCKS, *SWITCHES, *OF_SD3, *FLUX_PAIRS, *OTHER_MODELS, "flux1_checkbox"}
    own = {f"{prefix}{name}": name for name in known} if prefix else {}
    if script == "flux_train_network":
        skipped -= set(OF_FLUX)
    else:
        skipped |= set(OF_FLUX)
    for name, value in table.items():
        argument = own.get(name, RENAMED.get(name, name))
        if (
            name in skipped
            or value in OFF
            or argument in NO_EFFECT
            or name.removesuffix("_checkbox") in ("anima", "sdxl")
        ):
            continue
        if argument in known:
            _give(given, argument, value, found)
        else:
            found.leave(name, value)
    return given


def _frozen_text(given: dict[str, Any], found: Imported) -> None:
    """Text encoders of FLUX.1 and Anima are not trained here."""
    if not given.get("network_train_unet_only"):
        rates = given.pop("text_encoder_lr", None)
        found.values.pop("network_train_text_encoder_only", None)
        if rates:
            found.leave("text_encoder_lr", rates[0])
    given["network_train_unet_only"] = True
    given.pop("text_encoder_lr", None)


def _give(given: dict[str, Any], name: str, value: Any, found: Imported) -> None:
    """An argument with its value as sd-scripts reads it from a command line."""
    argument = arguments()[name]
    if argument.is_list and isinstance(value, str):
        value = value.split()
    elif argument.kind == "integer":
        value = whole(value) if whole(value) is not None else value
    try:
        given[name] = converted(argument, value, name)
    except ConfigError:
        found.leave(name, value, "value")


def _steps(source: Source, given: dict[str, Any]) -> None:
    """The form's epochs count where it names neither steps nor a limit of epochs."""
    epochs = whole(source.read("epoch"))
    if "max_train_epochs" not in given and "max_train_steps" not in given and epochs:
        given["max_train_epochs"] = epochs
    if "max_train_epochs" in given:
        given.pop("max_train_steps", None)
    percent = source.read("lr_warmup")
    if percent not in (*OFF, "0") and "lr_warmup_steps" not in given:
        given["lr_warmup_steps"] = float(percent) / 100


def _rates(source: Source, given: dict[str, Any], found: Imported) -> None:
    """A rate of 0 means that a part is not trained; if both are 0, the common rate counts."""
    rate, unet, text = (_number(source.read(name)) for name in ("learning_rate", "unet_lr", "text_encoder_lr"))
    given["learning_rate"] = rate or unet or text
    if unet and not text:
        given |= {"unet_lr": unet, "network_train_unet_only": True}
    elif text and not unet:
        given["text_encoder_lr"] = [text]
        found.values["network_train_text_encoder_only"] = True
    elif unet and text:
        given |= {"unet_lr": unet, "text_encoder_lr": [text]}


def _noise(source: Source, given: dict[str, Any]) -> None:
    """The form passes on one kind of noise alone."""
    is_multires = source.read("noise_offset_type") == "Multires"
    dropped = ("noise_offset", "adaptive_noise_scale") if is_multires else ("multires_noise_iterations",)
    for name in (*dropped, *(() if is_multires else ("multires_noise_discount",))):
        given.pop(name, None)


def _network(source: Source, given: dict[str, Any]) -> None:
    kind = str(source.read("LoRA_type") or "Standard")
    pairs, sizes = _pairs(source, *DROPOUTS, *BLOCKS), _pairs(source, "conv_dim", "conv_alpha")
    if kind == "Kohya LoCon":
        pairs += sizes
    elif kind in ALGORITHMS:
        given["network_module"] = "lycoris.kohya"
        algorithm = ALGORITHMS[kind]
        pairs += [f"algo={algorithm}", f"preset={source.read('LyCORIS_preset') or 'full'}", *sizes]
        pairs += [f"{name}=True" for name in SWITCHES if source.read(name) is True]
        if algorithm == "lokr":
            pairs.append(f"factor={whole(source.read('factor', -1))}")
    elif kind == "Flux1":
        pairs = _pairs(source, *DROPOUTS, *FLUX_PAIRS)
        if source.read("split_mode"):
            pairs.append("train_blocks=single")
    elif kind not in ("Standard", "Anima"):
        raise ConfigError("import_adapter", kind=kind)
    if pairs:
        given["network_args"] = pairs


def _pairs(source: Source, *names: str) -> list[str]:
    return [f"{name}={value}" for name in names if (value := source.read(name)) not in OFF]


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0


def _translate(given: dict[str, Any], found: Imported, script: Script) -> None:
    """Translates what can be, one refused argument after another left out."""
    keys = {(option.section, option.field_name): key for key, option in options().items()}
    made = _translation(given, found, script)
    found.values |= {keys[place]: value for place, value in made.values.items() if place in keys}
    _full_matrices(found.values)
    for place, share in made.shares.items():
        steps = found.values.get("steps")
        if steps is None:
            found.leave(keys[place], f"{share:.0%}", "share_of_steps")
        else:
            found.values[keys[place]] = int(share * steps)
    if subsets := made.values.get(("dataset", "subsets")):
        found.subsets = list(subsets)
    found.notes = [note for note in made.notes if note[0] != "sd_default_steps"]


def _full_matrices(values: dict[str, Any]) -> None:
    """A LoKr of a rank beyond every layer is one of whole matrices, which have neither rank nor alpha."""
    if values.get("adapter") == "lokr" and values.get("rank", 0) > LARGEST_RANK:
        for key in ("rank", "alpha", "conv_rank", "conv_alpha", "lokr_decompose_both"):
            values.pop(key, None)
        values["lokr_full_matrix"] = True


def _translation(given: dict[str, Any], found: Imported, script: Script) -> Translation:
    while True:
        try:
            return translated(Given(given, script=script))
        except ConfigError as error:
            name = _blamed(error, given)
            if not name:
                raise
            argument, _, key = name.partition(".")
            if not key:
                found.leave(name, given.pop(argument), "refused")
                continue
            pair = next(pair for pair in given[argument] if pair.partition("=")[0].strip() == key)
            given[argument] = [other for other in given[argument] if other != pair]
            found.leave(name, pair.partition("=")[2], "refused")


def _blamed(error: ConfigError, given: Mapping[str, Any]) -> str:
    """The argument that an error is about, or a pair of it as "network_args.unit"; "" where it names none."""
    key = str(error.fields.get("key", ""))
    for argument in ("network_args", "optimizer_args", "lr_scheduler_args"):
        if any(pair.partition("=")[0].strip() == key for pair in given.get(argument, ())):
            return f"{argument}.{key}"
    names = [str(error.fields.get(field, "")).lstrip("-") for field in ("argument", "option")]
    return next((name for name in names if name in given), "")
