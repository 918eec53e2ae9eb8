"""How a field of a section says that it is an option of `train`, and what every section has in common."""

from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.fields import FieldInfo


class Section(BaseModel):
    """A part of a config: frozen, no key it does not know, no number that is not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any, info: ValidationInfo) -> Any:
        """pydantic alone takes `true` for 1, and text that no file could hold; and a choice in capitals for none."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("must not be true or false")
        if isinstance(value, str) and not _is_text(value):
            raise ValueError("must be text")
        return _as_listed(cls.model_fields[str(info.field_name)].annotation, value)


@dataclass(frozen=True, slots=True)
class Option:
    """One option of the command line, and one key of a flat TOML file."""

    name: str  # "save-every"
    section: str  # "cadence"; "" for the run's own fields
    field: FieldInfo
    field_name: str  # "save_every"

    @property
    def key(self) -> str:
        """Its key in `lorasmith.toml` and `--config`."""
        return self.name.replace("-", "_")


def option(name: str, default: Any, **limits: Any) -> Any:
    """A field that is the option `--name`; its help is the message `option.<name with _>`."""
    return Field(default, json_schema_extra={"option": name}, **limits)


def options_of(section: str, model: type[BaseModel]) -> list[Option]:
    """The options among the fields of `model`, in order."""
    found = []
    for field_name, field in model.model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and "option" in extra:
            found.append(Option(str(extra["option"]), section, field, field_name))
    return found


def _as_listed(annotation: Any, value: Any) -> Any:
    """A name of a list in small letters: `BF16` is `bf16`. The names of languages have letters of their own."""
    parts = (annotation, *get_args(annotation))
    choices = [choice for part in parts if get_origin(part) is Literal for choice in get_args(part)]
    is_small = all(choice == choice.lower() for choice in choices)
    return value.lower() if is_small and isinstance(value, str) and value.lower() in choices else value


def _is_text(value: str) -> bool:
    """Whether UTF-8 has bytes for it, as it has none for the lone surrogates of a file name, and none is zero."""
    if "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
