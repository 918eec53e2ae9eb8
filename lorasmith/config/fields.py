"""How a field of a section says that it is an option of `train`, and what every section has in common."""

from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from lorasmith.file_names import is_beyond_locale, is_text

BEYOND_LOCALE = "beyond_locale"  # type of the complaint about a name that the locale's encoding has no bytes for


class Section(BaseModel):
    """A part of a config: frozen, no key it does not know, no number that is not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any, info: ValidationInfo) -> Any:
        """pydantic alone takes `true` for 1, and text that no file could hold; and a choice in capitals for none."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("must not be true or false")
        if isinstance(value, str):
            _check_text(value, is_path=_is_path(cls.model_fields[str(info.field_name)]))
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


def option(name: str, default: Any, *, is_path: bool = False, **limits: Any) -> Any:
    """A field that is the option `--name`; its help is the message `option.<name with _>`. A path must be one that the
    locale of this process can encode."""
    return Field(default, json_schema_extra={"option": name, "is_path": is_path}, **limits)


def options_of(section: str, model: type[BaseModel]) -> list[Option]:
    """The options among the fields of `model`, in order."""
    found = []
    for field_name, field in model.model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and "option" in extra:
            found.append(Option(str(extra["option"]), section, field, field_name))
    return found


def _check_text(value: str, *, is_path: bool) -> None:
    """Raises where no UTF-8 file can hold the text, as it can hold no undecoded bytes of a file name and no zero."""
    if is_beyond_locale(value) and (is_path or not is_text(value)):
        raise PydanticCustomError(BEYOND_LOCALE, "must be a name that the locale can encode")
    if "\0" in value or not is_text(value):
        raise ValueError("must be text")


def _is_path(field: FieldInfo) -> bool:
    extra = field.json_schema_extra
    return isinstance(extra, dict) and extra.get("is_path") is True


def _as_listed(annotation: Any, value: Any) -> Any:
    """A name of a list in small letters: `BF16` is `bf16`. The names of languages have letters of their own."""
    parts = (annotation, *get_args(annotation))
    choices = [choice for part in parts if get_origin(part) is Literal for choice in get_args(part)]
    is_small = all(choice == choice.lower() for choice in choices)
    return value.lower() if is_small and isinstance(value, str) and value.lower() in choices else value
