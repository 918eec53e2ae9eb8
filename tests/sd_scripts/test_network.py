from __future__ import annotations

from typing import Any

import pytest

from tests.sd_scripts.translating import refusal, settings, translation

LYCORIS = "--network_module lycoris.kohya --network_dim 8 --network_alpha 4 --network_args"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", {"adapter": "lora", "rank": 4, "alpha": 1.0}),
        ("--network_dim 16 --network_alpha 0", {"rank": 16, "alpha": 16.0}),
        ("--network_module networks.loha", {"adapter": "loha"}),
        ("--network_dropout 0.1", {"dropout": 0.1}),
        ("--network_args loraplus_lr_ratio=16", {"loraplus-lr-ratio": 16.0}),
        (
            "--network_dim 8 --network_args conv_dim=4 rank_dropout=0.2 module_dropout=0.3",
            {"rank": 8, "conv-rank": 4, "conv-alpha": 1.0, "rank-dropout": 0.2, "module-dropout": 0.3},
        ),
        ("--network_args conv_dim=4 conv_alpha=2", {"conv-rank": 4, "conv-alpha": 2.0}),
        (
            f"{LYCORIS} algo=lokr factor=8 decompose_both=True",
            {"adapter": "lokr", "lokr-factor": 8, "lokr-decompose-both": True},
        ),
        (f"{LYCORIS} algo=locon", {"adapter": "lora", "targets": "full", "conv-rank": 8, "conv-alpha": 4.0}),
        (f"{LYCORIS} algo=loha preset=attn-mlp", {"adapter": "loha", "targets": "attn-mlp"}),
        (f"{LYCORIS} conv_dim=0 rs_lora=True", {"conv-rank": 8, "conv-alpha": 4.0, "rslora": True}),
        (f"{LYCORIS} preset=unet-only", {"targets": "full", "train-text-encoder": False}),
        ("--network_args conv_dim=4 conv_alpha=0", {"conv-alpha": 4.0}),
        ("--network_args algo=lora conv_dim=4", {"adapter": "lora", "conv-rank": 4}),  # which sd-scripts ignores
        (f"{LYCORIS} algo=locon use_tucker=False train_norm=False use_scalar=", {"adapter": "lora"}),
        (f"{LYCORIS} dora_wd=True conv_dim=2 conv_alpha=1", {"adapter": "dora", "conv-rank": 2, "conv-alpha": 1.0}),
    ],
)
def test_kind_and_sizes(line: str, expected: dict[str, Any]) -> None:
    found = settings(line)
    assert {name: found[name] for name in expected} == expected


def test_a_lokr_of_a_huge_rank_is_one_of_whole_matrices() -> None:
    line = "--network_module lycoris.kohya --network_dim 10000 --network_alpha 1 --network_args algo=lokr factor=8"
    found = settings(line)
    assert (found["lokr-full-matrix"], found["lokr-factor"]) == (True, 8)
    assert not {"rank", "alpha", "conv-rank", "conv-alpha"} & set(found)
    assert settings("--network_module networks.lokr --network_args factor=4")["lokr-factor"] == 4


def test_sizes_may_come_from_the_weights() -> None:
    found = settings("--network_weights w.safetensors --dim_from_weights --network_dim 8")
    assert (found["init-from"], found["dim-from-weights"]) == ("w.safetensors", True)
    assert not {"rank", "alpha"} & set(found)


def test_convolutions_are_trained_only_where_they_are_asked_for() -> None:
    for line in ("--network_dim 8", f"{LYCORIS} preset=attn-mlp conv_dim=4", "--network_args conv_dim=0"):
        assert not {"conv-rank", "conv-alpha"} & set(settings(line))
    assert ("sd_conv_alpha_unused", {}) in translation("--network_args conv_alpha=1").notes


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("--network_module networks.oft", "sd_network_module"),
        ("--network_args convdim=4", "sd_network_arg_mistyped"),
        ("--network_args block_alphas=1", "sd_network_arg_refused"),
        ("--network_args zzz=1", "sd_network_arg_unknown"),
        ("--network_args algo=loha", "sd_network_arg_unknown"),
        ("--network_args block_dims=1,2", "sd_block_dims"),
        ("--network_args conv_dim=x", "sd_pair_no_number"),
        (f"{LYCORIS} algo=boft", "sd_algorithm"),
        (f"{LYCORIS} algo=loha dora_wd=True", "sd_dora_kind"),
        (f"{LYCORIS} preset=mine", "sd_preset"),
    ],
)
def test_what_has_no_counterpart_is_refused(line: str, code: str) -> None:
    assert refusal(line).code == code
