"""File names and the encoding of the locale: which names this process can read, and which it can write.

A system whose locale is not UTF-8 has names that it cannot decode; Python keeps their bytes as lone surrogates, which
no TOML or JSON file can hold.
"""

import sys

from lorasmith.errors import ConfigError


def is_text(name: str) -> bool:
    """Whether a name is Unicode: on Linux it may be any bytes."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def limited_encoding() -> str:
    """The encoding of file names where it lacks characters; "" where it is UTF-8."""
    encoding = sys.getfilesystemencoding()
    return "" if encoding.lower().replace("-", "") == "utf8" else encoding


def is_beyond_locale(name: str) -> bool:
    """Whether the locale is why this process cannot use the name."""
    encoding = limited_encoding()
    if not encoding:
        return False
    try:
        name.encode(encoding)
    except UnicodeEncodeError:  # undecoded bytes among them
        return True
    return False


def readable(name: str) -> str:
    """The name as the user knows it: undecoded bytes read as UTF-8, and as \\xNN where they are not UTF-8."""
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a lone surrogate that is no byte: a name of Windows
        return name.encode("utf-8", "backslashreplace").decode("utf-8")


def name_beyond_locale(name: str) -> ConfigError:
    """The error for a name that this process cannot use because of the locale."""
    return ConfigError("name_beyond_locale", name=readable(name), encoding=limited_encoding())
