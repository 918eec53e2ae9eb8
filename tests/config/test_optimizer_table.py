"""Names of optimizers: in any case, or as a class."""

import pytest

from lorasmith.config.optimizer_table import OPTIMIZERS, canonical_name, known_optimizer, uses_relative_steps

# The names that sd-scripts (commit 48d368fa) compares with, and those that its help lists.
THEIRS = [
    *("AdamW", "AdamW8bit", "PagedAdamW", "PagedAdamW8bit", "PagedAdamW32bit", "Lion8bit"),
    *("PagedLion8bit", "Lion", "SGDNesterov", "SGDNesterov8bit", "DAdaptation", "DAdaptAdamPreprint"),
    *("DAdaptAdaGrad", "DAdaptAdam", "DAdaptAdan", "DAdaptAdanIP", "DAdaptLion", "DAdaptSGD"),
    *("AdaFactor", "Prodigy", "RAdamScheduleFree", "AdamWScheduleFree", "SGDScheduleFree"),
]


@pytest.mark.parametrize("name", THEIRS)
def test_every_name_of_sd_scripts(name: str) -> None:
    assert known_optimizer(canonical_name(name)) is OPTIMIZERS[name.lower()]


@pytest.mark.parametrize(
    ("name", "path", "package"),
    [
        ("torch.optim.RMSprop", "torch.optim:RMSprop", ""),
        ("pytorch_optimizer.CAME", "pytorch_optimizer:CAME", "pytorch-optimizer"),
        ("bitsandbytes.optim.AdEMAMix8bit", "bitsandbytes.optim:AdEMAMix8bit", "bitsandbytes"),
        ("mine.Own", "mine:Own", "mine"),
    ],
)
def test_a_class(name: str, path: str, package: str) -> None:
    known = known_optimizer(canonical_name(name))
    assert known is not None
    assert (canonical_name(name), known.path, known.package) == (name, path, package)


def test_a_class_that_has_a_name_is_what_it_is_by_that_name() -> None:
    assert known_optimizer("prodigyopt.Prodigy") is OPTIMIZERS["prodigy"]
    assert known_optimizer("torch.optim.SGD") is OPTIMIZERS["sgd"]  # without a momentum
    for name in ("transformers.Adafactor", "transformers.optimization.Adafactor"):
        assert canonical_name(name) == "transformers.adafactor"


def test_a_schedule_free_class_of_another_library() -> None:
    known = known_optimizer("pytorch_optimizer.ScheduleFreeAdamW")
    assert known is not None
    assert known.has_own_schedule


@pytest.mark.parametrize("name", ["adamv", "", "a..b", "torch.optim.", "x y.z", "1.a"])
def test_no_name(name: str) -> None:
    assert known_optimizer(canonical_name(name)) is None


def test_relative_steps() -> None:
    assert uses_relative_steps("transformers.adafactor", {})
    assert not uses_relative_steps("transformers.adafactor", {"relative_step": False})
    assert not uses_relative_steps("adafactor", {"relative_step": True})
