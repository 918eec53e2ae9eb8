from __future__ import annotations

from lorasmith.reports.elements import Markup, element, joined, prose


def test_what_a_person_typed_is_never_markup() -> None:
    made = element("p", "<script>", Markup("<b>x</b>"), title='a"b')
    assert made == '<p title="a&quot;b">&lt;script&gt;<b>x</b></p>'
    assert joined("&", Markup("&amp;")) == "&amp;&amp;"


def test_attributes() -> None:
    assert element("img", src="x", alt="", cls="a b", http_equiv="y", width=1.5, height=2.0, x=None) == (
        '<img src="x" class="a b" http-equiv="y" width="1.5" height="2">'
    )
    assert element("i") == "<i></i>"


def test_code_in_sentences() -> None:
    assert prose("do `a<b` now") == "do <code>a&lt;b</code> now"
    assert prose("one ` alone") == "one ` alone"
