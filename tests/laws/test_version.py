"""The version is one number, wherever it stands."""

import re
from pathlib import Path

import lorasmith

ROOT = Path(__file__).resolve().parents[2]
HEADING = re.compile(r"^## \[(?P<version>[^\]]+)\]", re.MULTILINE)


def test_the_newest_version_in_the_changelog_is_the_codes() -> None:
    headings = HEADING.findall((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    versions = [one for one in headings if one != "Unreleased"]
    assert versions[0] == lorasmith.__version__


def test_versions_go_down_the_page() -> None:
    headings = HEADING.findall((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    versions = [tuple(map(int, one.split("."))) for one in headings if one != "Unreleased"]
    assert versions == sorted(set(versions), reverse=True)
