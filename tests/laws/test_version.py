"""The version is one number, wherever it stands; so is that of the torch to install."""

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


def test_the_torch_of_the_readmes_is_the_one_that_the_constraints_keep() -> None:
    """Any other is replaced by the next line of the installation, on Windows by a torch without CUDA."""
    pinned = re.search(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned is not None
    for name in ("README.md", "README.zh-TW.md"):
        found = re.findall(r"pip install torch==(\S+)", (ROOT / name).read_text(encoding="utf-8"))
        assert len(found) == 2 and set(found) == {pinned[1]}
