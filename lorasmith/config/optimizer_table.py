"""The optimizers that have a name here, and what a start must know of them before any library is loaded."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True)
class KnownOptimizer:
    """The class of an optimizer, and how it is used."""

    path: str  # "torch.optim:AdamW"
    package: str = ""  # to install; "": comes with this program's own dependencies
    options: Mapping[str, Any] = field(default_factory=dict)  # in place of the constructor's defaults
    always: Mapping[str, Any] = field(default_factory=dict)  # what makes it this optimizer: no option of its own
    finds_rate: bool = False  # its learning rate is a factor on a rate that it finds, so it expects 1
    one_rate: bool = False  # its groups may only differ by a rate of 0
    has_own_schedule: bool = False  # --lr-schedule and --lr-warmup would undo what it does

    @property
    def module(self) -> str:
        """The module at the top, which is found if the package is installed."""
        return self.path.partition(":")[0].partition(".")[0]


_NESTEROV: dict[str, Any] = {"options": {"momentum": 0.9}, "always": {"nesterov": True}}
_ADAPTATION: dict[str, Any] = {"package": "dadaptation", "finds_rate": True, "one_rate": True}
_FREE: dict[str, Any] = {"package": "schedulefree", "has_own_schedule": True}


def _bitsandbytes(name: str, **facts: Any) -> KnownOptimizer:
    return KnownOptimizer(f"bitsandbytes.optim:{name}", "bitsandbytes", **facts)


OPTIMIZERS: Mapping[str, KnownOptimizer] = MappingProxyType(
    {
        "adamw": KnownOptimizer("torch.optim:AdamW"),
        "adamw8bit": _bitsandbytes("AdamW8bit"),
        "pagedadamw": _bitsandbytes("PagedAdamW"),
        "pagedadamw8bit": _bitsandbytes("PagedAdamW8bit"),
        "pagedadamw32bit": _bitsandbytes("PagedAdamW32bit"),
        "ademamix8bit": _bitsandbytes("AdEMAMix8bit"),
        "pagedademamix8bit": _bitsandbytes("PagedAdEMAMix8bit"),
        "adafactor": KnownOptimizer("torch.optim:Adafactor"),
        "transformers.adafactor": KnownOptimizer("transformers:Adafactor"),
        "lion": KnownOptimizer("lion_pytorch:Lion", "lion-pytorch"),
        "lion8bit": _bitsandbytes("Lion8bit"),
        "pagedlion8bit": _bitsandbytes("PagedLion8bit"),
        "sgdnesterov": KnownOptimizer("torch.optim:SGD", **_NESTEROV),
        "sgdnesterov8bit": _bitsandbytes("SGD8bit", **_NESTEROV),
        "prodigy": KnownOptimizer("prodigyopt:Prodigy", "prodigyopt", finds_rate=True, one_rate=True),
        "prodigyplusschedulefree": KnownOptimizer(
            "prodigyplus:ProdigyPlusScheduleFree", "prodigy-plus-schedule-free", finds_rate=True, has_own_schedule=True
        ),
        "dadaptation": KnownOptimizer("dadaptation.experimental:DAdaptAdamPreprint", **_ADAPTATION),
        "dadaptadampreprint": KnownOptimizer("dadaptation.experimental:DAdaptAdamPreprint", **_ADAPTATION),
        "dadaptadagrad": KnownOptimizer("dadaptation:DAdaptAdaGrad", **_ADAPTATION),
        "dadaptadam": KnownOptimizer("dadaptation:DAdaptAdam", **_ADAPTATION),
        "dadaptadan": KnownOptimizer("dadaptation:DAdaptAdan", **_ADAPTATION),
        "dadaptadanip": KnownOptimizer("dadaptation.experimental:DAdaptAdanIP", **_ADAPTATION),
        "dadaptlion": KnownOptimizer("dadaptation:DAdaptLion", **_ADAPTATION),
        "dadaptsgd": KnownOptimizer("dadaptation:DAdaptSGD", **_ADAPTATION),
        "adamwschedulefree": KnownOptimizer("schedulefree:AdamWScheduleFree", **_FREE),
        "radamschedulefree": KnownOptimizer("schedulefree:RAdamScheduleFree", **_FREE),
        "sgdschedulefree": KnownOptimizer("schedulefree:SGDScheduleFree", **_FREE),
        "came": KnownOptimizer("came_pytorch:CAME", "came-pytorch"),
        **{
            name.lower(): KnownOptimizer(f"torch.optim:{name}")
            for name in ("Adadelta", "Adagrad", "Adam", "Adamax", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD")
        },
    }
)
"""By name, in small letters. `transformers.adafactor` is the Adafactor of sd-scripts; `adafactor` is torch's."""

_SAME = {"transformers.optimization.adafactor": "transformers.adafactor"}
_CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)
_PACKAGES = {
    **{known.module: known.package for known in OPTIMIZERS.values() if known.package},
    "pytorch_optimizer": "pytorch-optimizer",
}
"""Module -> package, for packages with another name than their module."""


def canonical_name(name: str) -> str:
    """A name of the table in small letters; that of a class as it is."""
    small = name.lower()
    small = _SAME.get(small, small)
    return small if small in OPTIMIZERS or not _CLASS.fullmatch(name) else name


def known_optimizer(name: str) -> KnownOptimizer | None:
    """The optimizer of a canonical name, which may be `package.module.Class`; None for any other name."""
    if name in OPTIMIZERS or not _CLASS.fullmatch(name):
        return OPTIMIZERS.get(name)
    module, _, kind = name.rpartition(".")
    top = module.partition(".")[0]
    same = next((known for known in OPTIMIZERS.values() if known.path == f"{module}:{kind}" and not known.always), None)
    if same is not None:
        return same
    package = "" if top in ("torch", "transformers") else _PACKAGES.get(top, top)
    return KnownOptimizer(f"{module}:{kind}", package, has_own_schedule="schedulefree" in kind.lower())


def optimizer_package(name: str) -> str:
    """The package that the optimizer of a canonical name is from; "" for those that come with this program."""
    known = known_optimizer(name)
    return "" if known is None else known.package


def uses_relative_steps(name: str, options: Mapping[str, Any]) -> bool:
    """Whether the optimizer ignores every learning rate: transformers' Adafactor unless `relative_step` is false."""
    return name == "transformers.adafactor" and bool(options.get("relative_step", True))
