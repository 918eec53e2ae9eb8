"""Captions as sd-scripts writes them (commit 48d368fa, `train_network.py`)."""

from lorasmith.exporting.caption_metadata import CaptionFacts, caption_metadata


def test_plain_runs_have_the_values_of_sd_scripts_defaults() -> None:
    assert caption_metadata(CaptionFacts()) == {
        "ss_max_token_length": "None",
        "ss_shuffle_caption": "False",
        "ss_keep_tokens": "0",
        "ss_caption_dropout_rate": "0.0",
        "ss_caption_dropout_every_n_epochs": "0",
        "ss_caption_tag_dropout_rate": "0.0",
    }


def test_every_setting_is_there() -> None:
    facts = CaptionFacts(
        shuffles=True, keep_tokens=2, dropout=0.05, dropout_every_n_epochs=3, tag_dropout=0.1, max_tokens=225
    )
    assert list(caption_metadata(facts).values()) == ["225", "True", "2", "0.05", "3", "0.1"]
