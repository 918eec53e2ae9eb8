"""A run folder that is a link to a larger disk: what both commands put beside it lies beside the link."""

from pathlib import Path

import pytest

from lorasmith.errors import ExitCode, InputError
from lorasmith.runs.durable import map_write_errors
from lorasmith.runs.locks import FolderLock
from tests.end_to_end.workshop import Workshop

BESIDE = [".lorasmith_cache", "lora_train_set", "linked", "linked_backup", "there"]


@pytest.fixture
def linked(workshop: Workshop) -> Workshop:
    workshop.output = "linked"
    (workshop.folder / "there").mkdir()
    (workshop.folder / "linked").symlink_to("there")
    return workshop


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_both_commands_agree(linked: Workshop) -> None:
    """--continue has an export to back up and --new a whole run; neither follows the link to find a place for them."""
    assert linked.new(1).exit_code == ExitCode.FINISHED
    assert linked.go_on(1).exit_code == ExitCode.FINISHED
    assert linked.new(1).exit_code == ExitCode.FINISHED
    assert (linked.folder / "linked").readlink() == Path("there")
    assert names(linked.folder) == sorted(BESIDE)
    backup = names(linked.folder / "linked_backup")
    assert [name.split("_2")[0] for name in backup] == ["last_backup", "last_backup", "run"]
    assert linked.states() == [1, 0]


def test_a_state_is_found_by_the_path_that_is_typed(linked: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    linked.new(2, {("cadence", "save_every"): 1})
    monkeypatch.chdir(linked.folder)
    assert linked.go_on(1, from_state=f"linked/{linked.state_folder().name}").exit_code == ExitCode.FINISHED
    assert max(linked.states()) == 3


def test_a_lock_that_is_a_link_to_nowhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.lock").symlink_to("nowhere")
    with pytest.raises(InputError), map_write_errors(tmp_path), FolderLock(tmp_path / "run.lock"):
        pass
