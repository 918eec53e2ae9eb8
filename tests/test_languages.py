import pytest

from lorasmith.languages import language_named


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("zh-TW", "zh-TW"),
        ("zh_TW", "zh-TW"),
        ("zh-tw", "zh-TW"),
        ("ZH_TW", "zh-TW"),
        ("zh_TW.UTF-8", "zh-TW"),
        ("zh_TW.Big5@radical", "zh-TW"),
        ("zh-Hant", "zh-TW"),
        ("zh_Hant_HK", "zh-TW"),
        ("zh-HK", "zh-TW"),
        ("Chinese (Traditional)_Taiwan.950", "zh-TW"),
        ("en", "en"),
        ("EN_us.UTF-8", "en"),
        ("English_United States.1252", "en"),
        ("zh", ""),  # whose characters?
        ("zh-CN", ""),
        ("zh-Hans-HK", ""),
        ("zhtw", ""),
        ("enormous", ""),
        ("de", ""),
        ("C.UTF-8", ""),
        ("", ""),
    ],
)
def test_names_of_languages(text: str, language: str) -> None:
    assert language_named(text) == language
