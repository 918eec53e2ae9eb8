"""The languages of messages, and the names that people and systems have for them."""

import re

ENGLISH, TRADITIONAL_CHINESE = "en", "zh-TW"
LANGUAGES = (ENGLISH, TRADITIONAL_CHINESE)
# Regions and scripts in which Chinese is written in traditional characters.
TRADITIONAL = frozenset({"tw", "hk", "mo", "hant"})


def language_named(text: str) -> str:
    """The member of LANGUAGES that is named as a tag (`zh-Hant`), a locale (`zh_TW.UTF-8`) or as Windows does (`Chinese
    (Traditional)_Taiwan.950`), in any case; "" where the text names none of them."""
    name = re.split(r"[.@]", text.strip(), maxsplit=1)[0].lower().replace("_", "-")
    if name.startswith("chinese (traditional)"):
        return TRADITIONAL_CHINESE
    language, *parts = name.split("-")
    if language in ("en", "english"):
        return ENGLISH
    if language == "zh" and TRADITIONAL.intersection(parts) and "hans" not in parts:
        return TRADITIONAL_CHINESE
    return ""
