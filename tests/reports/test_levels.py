from xml.etree.ElementTree import fromstring

from lorasmith.reports.levels import levels_svg


def test_bars_are_as_high_as_their_shares() -> None:
    svg = fromstring(levels_svg((0.1, 0.3, 0.6, 0.0), "a < b"))
    bars = svg.findall("rect")
    assert [float(bar.attrib["height"]) for bar in bars] == [20, 60, 120, 0]
    assert [bar.findtext("title") for bar in bars][2] == "0.50–0.75: 60.0%"
    assert svg.attrib["aria-label"] == "a < b"
