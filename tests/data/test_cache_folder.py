"""Where the cache of a data folder lies."""

import os
from pathlib import Path

import pytest

from lorasmith.data.cache_folder import cache_folder
from lorasmith.errors import InputError


def test_the_cache_lies_beside_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = {"XDG_CACHE_HOME": str(tmp_path / "user"), "LOCALAPPDATA": str(tmp_path / "user")}
    (tmp_path / "data").mkdir()
    assert cache_folder(tmp_path / "data", user) == tmp_path / ".lorasmith_cache"
    monkeypatch.chdir(tmp_path)
    assert cache_folder(Path("data"), user) == tmp_path / ".lorasmith_cache"
    assert cache_folder(Path("data/../data"), user) == tmp_path / ".lorasmith_cache"
    (tmp_path / "link").symlink_to(tmp_path / "data" / "deeper")
    assert cache_folder(tmp_path / "link", user) == tmp_path / ".lorasmith_cache"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "link"]  # asking makes nothing


def test_else_in_the_users_cache_folder(tmp_path: Path) -> None:
    user = {"XDG_CACHE_HOME": str(tmp_path / "user"), "LOCALAPPDATA": str(tmp_path / "user")}
    (tmp_path / "run" / "samples" / "data").mkdir(parents=True)
    (tmp_path / "run" / "run.toml").touch()
    assert cache_folder(tmp_path / "run" / "samples" / "data", user) == tmp_path / "user" / "lorasmith"
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / ".lorasmith_cache").touch()  # a file where the folder would be
    assert cache_folder(tmp_path / "beside" / "data", user) == tmp_path / "user" / "lorasmith"
    (tmp_path / "user").touch()
    with pytest.raises(InputError) as caught:
        cache_folder(tmp_path / "beside" / "data", user)
    assert caught.value.code == "cache_not_writable"


@pytest.mark.skipif(os.name == "nt", reason="Windows has its own variable")
def test_a_relative_cache_home_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".lorasmith_cache").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    found = cache_folder(tmp_path / "data", {"XDG_CACHE_HOME": "relative"})
    assert found == tmp_path / "home" / ".cache" / "lorasmith"
