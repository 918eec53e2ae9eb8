import pytest

from lorasmith.families.caption_weights import unweighted, weighted_parts


@pytest.mark.parametrize(
    ("caption", "parts"),
    [
        ("a cat", [("a cat", 1.0)]),
        ("", []),
        ("a (cat)", [("a ", 1.0), ("cat", 1.1)]),
        ("((a:1.5) b)", [("a", 1.65), (" b", 1.1)]),
        ("[a] b", [("a", 1 / 1.1), (" b", 1.0)]),
        ("[a:2]", [("a:2", 1 / 1.1)]),
        ("(a (b", [("a ", 1.1), ("b", 1.21)]),
        (r"\(a\) b\\", [("(a) b\\", 1.0)]),
        ("a) :1.2) ]", [("a) :1.2) ]", 1.0)]),
        ("(a:1.2.3) b", [("a:1.2.3", 1.1), (" b", 1.0)]),
        ("(a:-1)", [("a", -1.0)]),
    ],
)
def test_weights(caption: str, parts: list[tuple[str, float]]) -> None:
    found = weighted_parts(caption)
    assert [text for text, _ in found] == [text for text, _ in parts]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in parts])
    assert unweighted(caption) == "".join(text for text, _ in parts)
