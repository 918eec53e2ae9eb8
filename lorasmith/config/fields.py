"""Declarations of a config's fields: an option of `train` or a recorded value, and what it changes.

Everything that is made from the config (the command line, its help, docs/options.md, the identity of a run, the paths
that are kept relative) reads these declarations; no second list of options exists.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from lorasmith.file_names import is_beyond_locale, is_text

BEYOND_LOCALE = "beyond_locale"  # type of the complaint about a name that the locale's encoding has no bytes for

Effect = Literal["identity", "learning", "cadence"]
"""The effect of another value:

- `identity`: the meaning of the tensors of a state. --continue refuses another value: it would be another run.
- `learning`: what is learned from then on. --continue takes another value, but for two that it refuses by name
  (--hold-out and --init-from, which act at --new only).
- `cadence`: nothing that is learned; only when, where and how something is saved, measured or shown.
"""


@dataclass(frozen=True, slots=True)
class Facts:
    """The declarations of a field beside its type, its default and its range."""

    effect: Effect
    name: str  # of the option, without dashes; of a recorded value: its name in the identity, "" where it has none
    is_option: bool = True
    common: bool = False  # shown by --help; --help-all shows every option
    holds: Literal["", "path", "file_name"] = ""  # a path inside the project is kept relative to it in run.toml
    identified_by: str = ""  # the recorded field of the same section that stands for this field in the identity
    free_keys: tuple[str, ...] = ()  # keys of a table of options that are no part of the identity
    per_subset: bool = False  # a subset of the dataset may have another value
    bare: str = ""  # the value of the option where it is typed without one; "": it must have one


class Section(BaseModel):
    """A part of a config: frozen, with no unknown key and no number that is not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuses what pydantic alone would take: `true` for 1, and text that no file can hold. Accepts a choice in
        capitals."""
        field = cls.model_fields[str(info.field_name)]
        if isinstance(value, bool) and field.annotation is not bool:
            raise ValueError("must not be true or false")
        if isinstance(value, str):
            _check_text(value, facts_of(field))
        return _as_listed(field.annotation, value)


@dataclass(frozen=True, slots=True)
class Option:
    """An option of the command line, which is a key of a flat TOML file too."""

    section: str  # "cadence"; "" for the run's own fields
    field: FieldInfo
    field_name: str  # "save_every"
    facts: Facts

    @property
    def name(self) -> str:
        """Its name on the command line, without dashes: "save-every"."""
        return self.facts.name

    @property
    def key(self) -> str:
        """Its key in `lorasmith.toml` and `--config`: "save_every"."""
        return self.name.replace("-", "_")

    def value_in(self, config: BaseModel) -> Any:
        """Its value in a run's config; None for an option of a start, which is no part of it."""
        part = getattr(config, self.section, None) if self.section else config
        return getattr(part, self.field_name, None)

    @property
    def kinds(self) -> list[type | tuple[Any, ...]]:
        """The types it takes, `None` aside; a tuple stands for a choice of values."""
        return [kind for kind in _alternatives(self.field.annotation) if kind is not type(None)]

    @property
    def items(self) -> type:
        """The type of each value of a list; str for other options."""
        arguments = get_args(self.field.annotation)
        first = arguments[0] if self.kinds == [tuple] else str
        return get_args(first)[0] if get_origin(first) is Annotated else first

    @property
    def is_flag(self) -> bool:
        return self.kinds == [bool]

    @property
    def is_repeated(self) -> bool:
        """Whether it may be given several times, with a K=V or a value each."""
        return self.kinds in ([dict], [tuple])


def option(  # noqa: PLR0913 - each is a declaration, and only a few are made of a field
    name: str,
    default: Any,
    *,
    effect: Effect,
    common: bool = False,
    holds: Literal["", "path", "file_name"] = "",
    identified_by: str = "",
    free_keys: tuple[str, ...] = (),
    per_subset: bool = False,
    bare: str = "",
    **limits: Any,
) -> Any:
    """A field that is the option `--name`; its help is the message `option.<name with _>`.

    Args:
        limits: of the value, as pydantic's `Field` takes them: `ge`, `lt`, `max_length`.
    """
    facts = Facts(effect, name, True, common, holds, identified_by, free_keys, per_subset, bare)
    return Field(default, json_schema_extra={"facts": facts}, **limits)  # type: ignore[dict-item]


def recorded(default: Any, *, effect: Effect, name: str = "") -> Any:
    """A field that the program fills in and run.toml keeps. `name` is its name in the identity."""
    return Field(default, json_schema_extra={"facts": Facts(effect, name, is_option=False)})  # type: ignore[dict-item]


def facts_of(field: FieldInfo) -> Facts | None:
    """The declarations of a field; None for a whole section, and for a field without any."""
    extra = field.json_schema_extra
    facts = extra.get("facts") if isinstance(extra, dict) else None
    return facts if isinstance(facts, Facts) else None


def declared(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo, Facts]]:
    """The fields of `model` with declarations, in order: (name of the field, field, declarations)."""
    for name, field in model.model_fields.items():
        facts = facts_of(field)
        if facts is not None:
            yield name, field, facts


def options_of(section: str, model: type[BaseModel]) -> list[Option]:
    """The options among the fields of `model`, in order."""
    return [Option(section, field, name, facts) for name, field, facts in declared(model) if facts.is_option]


def _alternatives(annotation: Any) -> list[Any]:
    """The types of a union, each without its arguments; a Literal becomes the tuple of its values."""
    if get_origin(annotation) in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in _alternatives(part)]
    if get_origin(annotation) is Literal:
        return [get_args(annotation)]
    return [get_origin(annotation) or annotation]


def _check_text(value: str, facts: Facts | None) -> None:
    """Raises where no UTF-8 file can hold the text (undecoded bytes of a file name, a zero), or where a path or file
    name has no bytes in the locale's encoding."""
    is_name = facts is not None and facts.holds != ""
    if is_beyond_locale(value) and (is_name or not is_text(value)):
        raise PydanticCustomError(BEYOND_LOCALE, "must be a name that the locale can encode")
    if "\0" in value or not is_text(value):
        raise ValueError("must be text")


def _as_listed(annotation: Any, value: Any) -> Any:
    """A choice in small letters where all choices are: `BF16` is `bf16`. Names of languages have capitals."""
    parts = (annotation, *get_args(annotation))
    choices = [choice for part in parts if get_origin(part) is Literal for choice in get_args(part)]
    is_small = all(choice == choice.lower() for choice in choices)
    return value.lower() if is_small and isinstance(value, str) and value.lower() in choices else value
