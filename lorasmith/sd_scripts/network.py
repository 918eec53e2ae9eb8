"""The adapter of a command line of sd-scripts: `--network_module`, its sizes and `--network_args`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lorasmith.config import RunConfig
from lorasmith.errors import ConfigError
from lorasmith.option_names import closest
from lorasmith.sd_scripts.blocks import RATES, THRESHOLD, block_ranks, block_rates
from lorasmith.sd_scripts.command_line import Given
from lorasmith.sd_scripts.flow_layers import UNREAD, known_pairs, set_layers
from lorasmith.sd_scripts.pairs import number, pairs, truth, whole
from lorasmith.sd_scripts.settings import Settings

RANK = 4  # of sd-scripts, where --network_dim is not given
MAX_RANK = 1024  # a LoKr of more is of whole matrices: people write 10000 for that
OF_LOW_RANK = ("rank", "alpha", "conv-rank", "conv-alpha")
CONV_ALPHA = 1.0
MODULES = {"networks.lora": "lora", "networks.loha": "loha", "networks.lokr": "lokr"}
OF_LYCORIS = {"networks.loha": "loha", "networks.lokr": "lokr"}
OF_FLOW = {
    "flux_train_network": {"networks.lora_flux": "lora"},
    "anima_train_network": {"networks.lora_anima": "lora", **OF_LYCORIS},
    "zimage_train_network": {"networks.lora_zimage": "lora", **OF_LYCORIS},
    "krea2_train_network": {"networks.lora_krea2": "lora", **OF_LYCORIS},
    "flux_2_train_network": {"networks.lora_flux_2": "lora", **OF_LYCORIS},
}
"""Script -> its modules, where they are not those of MODULES."""
LYCORIS = "lycoris.kohya"
ALGORITHMS = {"lora": "lora", "locon": "lora", "loha": "loha", "lokr": "lokr"}
"""Algorithms of LyCORIS that are kinds of adapters here."""
PRESETS = {
    "full": "full",
    "attn-mlp": "attn-mlp",
    "attn-only": "attn-only",
    "unet-only": "full",
    "unet-transformer-only": "attn-mlp",
    "unet-convblock-only": "unet-convblock-only",
}
"""Preset of LyCORIS -> our targets. Those of the U-Net alone train no text encoder."""
ARG = "--network_args"
SIMPLE = {
    "rank_dropout": ("rank-dropout", number),
    "module_dropout": ("module-dropout", number),
    "loraplus_lr_ratio": ("loraplus-lr-ratio", number),
    "loraplus_unet_lr_ratio": ("loraplus-unet-lr-ratio", number),
    "loraplus_text_encoder_lr_ratio": ("loraplus-text-encoder-lr-ratio", number),
    "factor": ("lokr-factor", whole),
    "decompose_both": ("lokr-decompose-both", truth),
    "full_matrix": ("lokr-full-matrix", truth),
    "rs_lora": ("rslora", truth),
}
"""Key of a pair -> the option with the same meaning, and how its value is read."""
PLUS = ("loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio")
OWN_KEYS = ("conv_dim", "conv_alpha", "rank_dropout", "module_dropout", "block_dims", *RATES, THRESHOLD, *PLUS)
LYCORIS_KEYS = (
    *("conv_dim", "conv_alpha", "rank_dropout", "module_dropout", *PLUS, "algo", "preset", "dropout"),
    *("factor", "decompose_both", "full_matrix", "dora_wd", "rs_lora"),
)
REFUSED_KEYS = frozenset(
    {
        *("block_alphas", "conv_block_dims", "conv_block_alphas"),
        *("use_tucker", "use_scalar", "train_norm", "rank_dropout_scale", "block_size", "constraint", "rescaled"),
        *("wd_on_output", "bypass_mode", "unbalanced_factorization", "use_cp", "constrain"),
        *("train_on_input", "unit"),
    }
)
"""Keys that are known there and have no counterpart here; kohya_ss writes many of them with the value False."""
NEEDLESS = (("algo", "lora"), ("algo", "locon"))
"""Pairs that sd-scripts' own LoRA ignores, as they describe what it is."""
OFF = frozenset({"", "false", "none", "0", "0.0"})


def network(given: Given, settings: Settings) -> None:
    """Sets kind, sizes and dropouts of the adapter."""
    is_flow = given.script in OF_FLOW
    modules = OF_FLOW.get(given.script, MODULES)
    module = given.value("network_module") or next(iter(modules))
    texts = pairs(given.value("network_args") or (), ARG)
    is_lycoris = module == LYCORIS
    takes_lycoris = not is_flow or given.script == "flux_train_network"  # it does not know the blocks of other models
    if is_lycoris and takes_lycoris:
        kind = _algorithm(texts)
    elif module in modules:
        kind = modules[module]
    else:
        possible = [*modules, *([LYCORIS] if takes_lycoris else [])]
        raise ConfigError("sd_network_module", module=module, known=possible)
    settings.set("adapter", kind, "network_module")
    _sizes(given, settings)
    dropout = given.value("network_dropout")
    if dropout is not None:
        settings.set("dropout", dropout, "network_dropout")
    own = known_pairs(given.script) if is_flow else OWN_KEYS
    known = LYCORIS_KEYS if is_lycoris else (*own, "factor") if kind == "lokr" else own
    _arguments(texts, settings, known)
    if is_flow:
        set_layers(texts, settings, given.script)
    else:
        _convolutions(texts, settings, is_lycoris=is_lycoris)
        _blocks(texts, settings, given)
    if kind == "lokr" and settings.values.get("rank", RANK) > MAX_RANK:
        for option in (*OF_LOW_RANK, "lokr-decompose-both"):
            settings.values.pop(option, None)
        settings.set("lokr-full-matrix", True, "network_dim")


def _algorithm(texts: Mapping[str, str]) -> str:
    algorithm = texts.get("algo", "lora").lower()
    if algorithm not in ALGORITHMS:
        raise ConfigError("sd_algorithm", algorithm=algorithm, known=list(ALGORITHMS))
    kind = ALGORITHMS[algorithm]
    if truth(texts.get("dora_wd", "false"), argument=ARG, key="dora_wd"):
        if kind != "lora":
            raise ConfigError("sd_dora_kind", algorithm=algorithm)
        return "dora"
    return kind


def _sizes(given: Given, settings: Settings) -> None:
    if given.has("dim_from_weights"):  # rank and alpha of each layer are those of the file
        return
    rank = given.value("network_dim") or RANK
    settings.set("rank", rank, "network_dim")
    settings.set("alpha", given.value("network_alpha") or float(rank), "network_alpha")  # 0 stands for the rank


def _arguments(texts: Mapping[str, str], settings: Settings, known: Sequence[str]) -> None:
    for key in texts:
        if key in known or (key, texts[key]) in NEEDLESS:
            continue
        if key in REFUSED_KEYS or key in UNREAD:
            if texts[key].lower() in OFF:
                continue
            raise ConfigError("sd_network_arg_refused", key=key)
        nearest = closest(key, known)
        if nearest:
            raise ConfigError("sd_network_arg_mistyped", key=key, nearest=nearest)
        raise ConfigError("sd_network_arg_unknown", key=key, known=list(known))
    for key, (option, read) in SIMPLE.items():
        if key in texts:
            settings.set(option, read(texts[key], argument=ARG, key=key), "network_args")
    if "dropout" in texts:
        settings.set("dropout", number(texts["dropout"], argument=ARG, key="dropout"), "network_args")


def _convolutions(texts: Mapping[str, str], settings: Settings, *, is_lycoris: bool) -> None:
    """LyCORIS trains convolutions unless its preset leaves them out, with the sizes of the other layers."""
    targets = ""
    if is_lycoris:
        preset = texts.get("preset", "full")
        if preset not in PRESETS:
            raise ConfigError("sd_preset", preset=preset, known=list(PRESETS))
        targets = PRESETS[preset]
        settings.set("targets", targets, "network_args")
        if preset.startswith("unet-"):
            settings.set("train-text-encoder", False, "network_args")
    rank = whole(texts.get("conv_dim") or "0", argument=ARG, key="conv_dim")
    alpha = number(texts.get("conv_alpha") or "0", argument=ARG, key="conv_alpha")
    if targets in ("full", "unet-convblock-only"):
        rank, alpha = rank or settings.values.get("rank", RANK), alpha or settings.values.get("alpha", 1.0)
    elif not rank and alpha and not is_lycoris:
        settings.note("sd_conv_alpha_unused")
    if rank and (targets in ("full", "unet-convblock-only") or not is_lycoris):
        settings.set("conv-rank", rank, "network_args")
        settings.set("conv-alpha", _alpha(texts, alpha, rank), "network_args")


def _alpha(texts: Mapping[str, str], alpha: float, rank: int) -> float:
    """The alpha of convolutions: 1 where none is given, and the rank for 0."""
    return alpha or (float(rank) if texts.get("conv_alpha") else CONV_ALPHA)


def _blocks(texts: Mapping[str, str], settings: Settings, given: Given) -> None:
    """Ranks and rates of blocks. A rate of 0 leaves the block out."""
    adapter = RunConfig().adapter.model_copy(
        update={
            "rank": settings.values.get("rank", RANK),
            "conv_rank": settings.values.get("conv-rank"),
            "targets": settings.values.get("targets", ""),
        }
    )
    ranks: dict[str, int] = {}
    if texts.get("block_dims"):
        ranks = block_ranks(texts["block_dims"], adapter)
    if any(texts.get(key) for key in RATES):
        rates = block_rates(texts, adapter, is_sdxl=given.script == "sdxl_train_network")
        ranks |= {block: 0 for block, rate in rates.items() if not rate}
        if trained := {block: rate for block, rate in rates.items() if rate}:
            settings.set("block-lr", trained, "network_args")
    if ranks:
        settings.set("block-rank", ranks, "network_args")
