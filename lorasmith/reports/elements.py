"""HTML and SVG put together so that nothing a person typed can be taken for markup. Knows no report."""

from __future__ import annotations

from html import escape

VOID = frozenset({"meta", "img", "br", "link"})


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def element(name: str, /, *children: str, **attributes: object) -> Markup:
    """One element. A child that is no Markup is escaped; an attribute that is None or "" is left out, `cls` is
    `class`, and `_` in a name is `-`."""
    shown = []
    for attribute, value in attributes.items():
        if value is None or value == "":
            continue
        named = "class" if attribute == "cls" else attribute.rstrip("_").replace("_", "-")
        shown.append(f' {named}="{escape(_plain(value))}"')
    begin = f"<{name}{''.join(shown)}>"
    return Markup(begin if name in VOID else f"{begin}{joined(*children)}</{name}>")


def joined(*children: str) -> Markup:
    """Children one after the other."""
    return Markup("".join(one if isinstance(one, Markup) else escape(one) for one in children))


def prose(text: str) -> Markup:
    """A sentence of the catalogs, in which `this` is code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return joined(text)
    return joined(*(element("code", part) if number % 2 else part for number, part in enumerate(parts)))


def _plain(value: object) -> str:
    """Coordinates need no more than two decimals; several classes stand side by side."""
    if isinstance(value, tuple):
        return " ".join(filter(None, value))
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
