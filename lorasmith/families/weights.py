"""Values that describe a base model: what lies at its path, and what a family's recognizer found there.

Needs no torch and reads no file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from lorasmith.errors import ModelError
from lorasmith.families.caption_weights import unweighted
from lorasmith.families.places import Finder, Place

INDEXES = ("model_index.json", "modular_model_index.json")
"""The file of a diffusers folder that names its pipeline: of the usual pipelines, and of those made of blocks."""
Layout = Literal["diffusers", "single_file", "pickle"]
Prediction = Literal["epsilon", "v_prediction", "flow"]
RequestedPrediction = Literal["auto", "epsilon", "v_prediction", "flow"]
RequestedSwitch = Literal["auto", "on", "off"]
RequestedForm = Literal["auto", "base", "distilled"]
PredictionSource = Literal["asked", "scheduler_config", "header_key", "yaml", "modelspec", "weights", "default"]
Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of tensors by name."""


@dataclass(frozen=True, slots=True)
class NoiseRequest:
    """Settings of the noise process that the user or the run asks for; auto: as the model's files state."""

    prediction: RequestedPrediction = "auto"
    zero_terminal_snr: RequestedSwitch = "auto"


AS_STATED = NoiseRequest()

CONFIGS_KEY = "lorasmith.configs"
"""Metadata of a single file that describe it: JSON {component: config, …}, with "scheduler", "pipeline" (what a folder
has in `model_index.json`) and, by tokenizer, {file name: text}."""


@dataclass(frozen=True, slots=True)
class PartFiles:
    """Files or folders that the user names for components, in place of those of the base model or beside it."""

    vae: Path | None = None
    text_encoders: tuple[Path, ...] = ()


NO_PARTS = PartFiles()


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Facts of a model before any tensor is read: the question that each family's recognizer answers."""

    path: Path
    layout: Layout
    requested: NoiseRequest
    shapes: Shapes = field(default_factory=dict)  # of the tensors of a single file or a pickle
    metadata: Mapping[str, str] = field(default_factory=dict)  # of a safetensors file
    index: Mapping[str, Any] = field(default_factory=dict)  # model_index.json of a diffusers folder
    is_examined: bool = True  # False: a pickle, whose tensors are known only after loading
    numbers: Callable[[str], Sequence[float]] = field(default=lambda _: (), compare=False)
    """The numbers of a small tensor of the file by its name; none where they cannot be read."""
    parts: PartFiles = NO_PARTS
    form: RequestedForm = "auto"  # what the user states of a model whose files do not tell it


@dataclass(frozen=True, slots=True)
class ComponentNames:
    """The places of components in a family's checkpoints, in a diffusers folder and in a single file."""

    weight_stems: Mapping[str, str]  # component -> stem of its weight files in a folder; the keys are all components
    config_files: Mapping[str, str]  # config -> its file in a folder
    tokenizers: Mapping[str, str]  # text encoder -> folder of its tokenizer
    from_single_file: Finder  # where a single file has the tensors of a component
    from_folder: Finder  # the same for the component's files of a folder

    @property
    def components(self) -> tuple[str, ...]:
        return tuple(self.weight_stems)


@dataclass(frozen=True, slots=True)
class NoiseSettings:
    """The noise process that the model was trained with, as far as runs record it."""

    prediction: Prediction
    zero_terminal_snr: bool
    source: PredictionSource  # where `prediction` was found; "default": nowhere, so it is the family's usual one
    requested: NoiseRequest = AS_STATED


@dataclass(frozen=True, slots=True)
class OtherFile:
    """A file of its own for a component, or several that belong together, in place of the base model's."""

    asked: Path  # as the user names it: the file, or the folder that it lies in
    paths: tuple[Path, ...]
    find: Callable[[Iterable[str]], dict[str, Place]]  # names in a file -> canonical name: its place


@dataclass(frozen=True, slots=True)
class AddedPair:
    """The change that a pair of matrices in a LoRA file makes to a weight of the denoiser."""

    weight: str  # its canonical name
    down: str  # key in the file
    up: str
    scale: float
    part: int = 0  # which of `parts` equal parts of the rows of `up`, where the file has several layers as one
    parts: int = 1


@dataclass(frozen=True, slots=True)
class AddedLora:
    """A LoRA that is part of the denoiser while it is trained."""

    path: Path
    component: str  # that of the denoiser
    pairs: tuple[AddedPair, ...]


@dataclass(frozen=True, slots=True)
class BaseWeights:
    """A base model that can be trained on."""

    path: Path
    layout: Layout
    family: str  # a key of FAMILIES; "" while a pickle is unexamined
    noise: NoiseSettings
    resolution: int  # pixels, the model's own
    size_multiple: int  # pixels: both sides of a picture must be multiples of it
    bucket_step: int  # pixels: of which they are multiples unless the user asks for another number
    denoiser_parameters: int | None  # None where only loading tells
    max_clip_skip: int | None  # layers of the text encoder; None where a family has no such setting
    configs: Mapping[str, Any]  # by component; "scheduler"; by tokenizer: texts by file name, or None
    names: ComponentNames
    distilled: str = ""  # the method that made it work in a few steps, "Turbo" …, as far as its names tell
    assumed: str = (
        ""  # the form that it is taken for where neither header nor name tells, "Krea 2 Raw"; "": it is known
    )
    replaced: Mapping[str, OtherFile] = field(default_factory=dict)  # by component
    depths: Mapping[str, int] = field(default_factory=dict)  # list of blocks -> their number, where it differs
    needs_adapter: bool = False  # distilled: it is trained with a training adapter alone
    added: AddedLora | None = None  # the training adapter

    def source(self, component: str) -> Path:
        """The file or folder that holds a component."""
        return self.replaced[component].asked if component in self.replaced else self.path


def in_part(weights: BaseWeights, component: str, is_read: Callable[[str], bool]) -> BaseWeights:
    """The weights, of whose component only those tensors are read for whose canonical name `is_read` is true."""

    def narrowed(find: Finder) -> Finder:
        def found(of: str, names: Iterable[str]) -> dict[str, Place]:
            return {name: place for name, place in find(of, names).items() if of != component or is_read(name)}

        return found

    names, replaced = weights.names, dict(weights.replaced)
    if component in replaced:
        theirs = replaced[component].find
        find = narrowed(lambda _, names: theirs(names))
        replaced[component] = replace(replaced[component], find=partial(find, component))
    names = replace(names, from_folder=narrowed(names.from_folder), from_single_file=narrowed(names.from_single_file))
    return replace(weights, names=names, replaced=replaced)


@dataclass(frozen=True, slots=True)
class TextSettings:
    """Settings by which the text encoders read captions."""

    clip_skip: int = 1  # which layer of CLIP is taken, counted from the end; 1 is the last
    max_tokens: int | None = None  # of a caption, without start and end; None: as many as a text encoder reads at once
    has_weights: bool = False  # whether `(x:1.3)` in a caption is a weight, or text as any other

    def identity(self) -> dict[str, int]:
        """The parts of a cache key that depend on these settings."""
        tokens = {} if self.max_tokens is None else {"max_tokens": self.max_tokens}
        return {"clip_skip": self.clip_skip, **tokens, **({"has_weights": True} if self.has_weights else {})}

    def words_of(self, caption: str) -> str:
        """The words of a caption that become tokens."""
        return unweighted(caption) if self.has_weights else caption


DEFAULT_TEXT = TextSettings()


def check_plain_text(text: TextSettings) -> None:
    """Returns where the settings are none of CLIP alone, as language models that read captions need.

    Raises:
        ModelError: `model_without_clip`.
    """
    if text.clip_skip != 1 or text.has_weights:
        raise ModelError("model_without_clip", option="weighted-captions" if text.has_weights else "clip-skip")


def check_clip_skip(weights: BaseWeights, clip_skip: int) -> None:
    """Returns where the text encoder has that many layers, or their number is not known.

    Raises:
        ModelError: `model_clip_skip`.
    """
    if weights.max_clip_skip is not None and clip_skip > weights.max_clip_skip:
        raise ModelError("model_clip_skip", asked=clip_skip, layers=weights.max_clip_skip)
