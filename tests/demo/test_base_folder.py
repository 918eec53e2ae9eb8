from lorasmith.demo.base_folder import WORDS, demo_tokenizer
from lorasmith.demo.lesson import lesson_scenes
from lorasmith.demo.scenes import all_scenes


def test_every_word_of_every_caption_is_one_token() -> None:
    tokenizer = demo_tokenizer()
    for scene in [*all_scenes()[::50], *lesson_scenes()]:
        assert len(tokenizer(scene.caption).input_ids) == len(scene.caption.split()) + 2, scene.caption
    assert len(set(WORDS)) == len(WORDS)


def test_other_words_are_spelt_out_and_nothing_is_unknown() -> None:
    tokenizer = demo_tokenizer()
    ids = tokenizer("a quixotic 貓").input_ids
    assert len(ids) > 6
    assert str(tokenizer.decode(ids[1:-1])).replace(" ", "") == "aquixotic貓"
