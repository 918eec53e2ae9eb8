from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lorasmith import __version__
from lorasmith.errors import LockedError
from lorasmith.ui import cli

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "matplotlib", "tensorboard", "PIL", "rich", "numpy", "transformers", "diffusers", "huggingface_hub")


def script(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "train_lora.py"), *arguments],
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "PYTHONUTF8": "1", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
    )


NAMES_OF_NOTHING = ["--optimizer sdg", "--device foo", "--init-from nope"]


TYPED = (
    ["--help", "--version", "--stepz 3", "--steps 0", "--new --continue", "--lr x", ""]
    + ["--new --steps 5 --base-model /no/such/model", "--new --steps 5 --base-model owner/name"]
    + ["--new --steps 5 --base-model demo", "--continue --steps 5"]
    + [f"--new --steps 5 --base-model demo {one}" for one in NAMES_OF_NOTHING]
)
ANSWERED = """
import ast, os, sys
from lorasmith.ui.cli import main

for typed in ast.literal_eval(sys.argv[1]):
    if not os.fork():
        sys.stdout = open(os.devnull, "w")
        status = main(["train", *typed.split()])
        loaded = [name for name in ast.literal_eval(sys.argv[2]) if name in sys.modules]
        os.write(1, f"{[typed, status, loaded]}\\n".encode())
        os._exit(0)
    os.wait()
"""


# `python -m benchmarks.start_up` measures what that makes of the answer's time.
def test_help_and_bad_arguments_load_nothing_heavy(tmp_path: Path) -> None:
    """Each in a process of its own, forked from one that has imported the program: starting Python is most of it."""
    done = subprocess.run(
        [sys.executable, "-c", ANSWERED, repr(TYPED), repr(HEAVY)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    answers = {
        typed: (status, set(loaded)) for typed, status, loaded in map(ast.literal_eval, done.stdout.splitlines())
    }
    assert answers.keys() == set(TYPED), done.stderr
    for typed, (status, loaded) in answers.items():
        expected = 0 if typed in ("--help", "--version") else 2
        expected = 4 if typed.startswith("--continue") else expected
        # What is said of a data folder comes from what reads pictures.
        allowed = {"PIL", "numpy"} if typed.endswith("demo") else set()
        assert (status, loaded - allowed) == (expected, set()), typed
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("typed", NAMES_OF_NOTHING)
def test_a_name_of_nothing_is_refused_with_nothing_changed(typed: str, tmp_path: Path) -> None:
    done = script("--new", "--steps", "5", "--base-model", "demo", *typed.split(), cwd=tmp_path)
    assert done.returncode == 2
    assert typed.split()[1] in done.stderr
    assert not list(tmp_path.iterdir())


def test_an_error_is_on_stderr_in_the_readers_language(tmp_path: Path) -> None:
    done = script("--stepz", "3", cwd=tmp_path, LANG="zh_TW.UTF-8")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "錯誤：沒有這個選項：`--stepz`\n提示：是不是要用 `--steps`？\n"
    done = script("--steps", "0", cwd=tmp_path, LANG="zh_TW.UTF-8")
    assert done.stderr == "錯誤：`--steps` 不能是 '0'：整數，至少 1，最多 1000000000\n"


def test_a_terminal_that_cannot_show_chinese_gets_english(tmp_path: Path) -> None:
    done = script("--help", "--lang", "zh-TW", cwd=tmp_path, PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: ") and "--steps N" in done.stdout
    assert done.stderr.startswith("Messages are in English")


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there, whatever the locale")
@pytest.mark.parametrize(
    ("here", "typed"),
    [
        (".", ["--new", "--steps", "1", "--base-model", "demo", "--data", "訓練 資料"]),
        (".", ["--new", "--steps", "1", "--base-model", "demo", "--config", "mine.toml"]),
        ("訓練 資料", ["--new", "--steps", "1", "--base-model", "demo"]),
    ],
)
def test_a_path_that_the_locale_cannot_decode(tmp_path: Path, here: str, typed: list[str]) -> None:
    """By arguments, by a config, by the current folder: the name as it is, the cause, and what to type."""
    (tmp_path / "訓練 資料").mkdir()
    (tmp_path / "mine.toml").write_text('data = "訓練 資料"\n', encoding="utf-8")
    done = script(*typed, cwd=tmp_path / here, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.returncode == 2
    told = done.stderr.splitlines()
    assert "訓練 資料" in told[0] and "locale" in told[0] and "ascii" in told[0]
    assert "PYTHONUTF8=1" in told[1] and len(told) == 2
    assert not list((tmp_path / "訓練 資料").iterdir())


def test_a_reader_that_leaves_ends_quietly(tmp_path: Path) -> None:
    command = f"{sys.executable} {ROOT / 'train_lora.py'} --help | true"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == ""


def test_the_module_is_the_program(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lorasmith", "--version"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"lorasmith {__version__}\n"


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORASMITH_LANG", "en")


@pytest.mark.usefixtures("words")
@pytest.mark.parametrize(
    ("typed", "status", "text"),
    [
        ("", 2, "Usage: lorasmith COMMAND"),
        ("--help", 0, "Usage: lorasmith COMMAND"),
        ("trian", 2, "did you mean `train`?"),
        ("--stepz", 2, "`--stepz`"),
        ("train --version", 0, __version__),
        ("train --rank 0", 2, "`--rank` cannot be '0': a whole number, at least 1, at most 1024"),
        ("train --config", 2, "`--config` needs a value: FILE"),
        ("train --steps", 2, "`--steps` needs a value: a whole number, at least 1"),
    ],
)
def test_commands(typed: str, status: int, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(typed.split()) == status
    captured = capsys.readouterr()
    assert text in captured.out + captured.err


def raising(error: BaseException) -> object:
    def command(*_: object) -> int:
        raise error

    return command


@pytest.mark.usefixtures("words")
@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (LockedError("folder_locked", folder="x"), 3, "Another run is using `x`"),
        (ModuleNotFoundError("", name="PIL.Image"), 2, "pip install pillow"),
        (ModuleNotFoundError("", name="rich"), 2, "pip install rich"),
        (OSError(5, "Input/output error", "x"), 70, "Input/output error: 'x'"),
        (KeyboardInterrupt(), 2, ""),
        (cli.AbandonedError(), 2, ""),
    ],
)
def test_failures_are_sentences_and_exit_codes(
    error: BaseException, status: int, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lorasmith.ui.train.train", raising(error))
    assert cli.main(["train"]) == status
    captured = capsys.readouterr()
    assert text in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("kind", [ModuleNotFoundError, ImportError])
def test_a_missing_module_of_our_own_is_a_bug_and_not_hidden(
    monkeypatch: pytest.MonkeyPatch, kind: type[ImportError]
) -> None:
    monkeypatch.setattr("lorasmith.ui.train.train", raising(kind("", name="lorasmith.nothing")))
    with pytest.raises(kind):
        cli.main(["train"])


@pytest.mark.parametrize(
    ("lacking", "told"),
    [
        (["pydantic"], "Error: The package pydantic is not installed\nhint: install it with `pip install pydantic`\n"),
        (
            ["pydantic", "torch"],
            f"Error: The program is not installed in this Python: {sys.executable}\nhint: activate",
        ),
    ],
)
def test_a_missing_dependency_is_told_even_where_it_is_the_first_one_needed(
    tmp_path: Path, lacking: list[str], told: str
) -> None:
    """Nor is each package of a Python that is not that of the installation named in turn."""
    block = f"import sys; sys.modules.update(dict.fromkeys({lacking!r}))"
    program = f"{block}; from lorasmith.ui.cli import main; sys.exit(main(['train']))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "LORASMITH_LANG": "en"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr[: len(told)] == told


@pytest.mark.parametrize(
    ("arguments", "environment", "settings", "language"),
    [
        ("--lang zh-TW", {"LORASMITH_LANG": "en"}, 'lang = "en"', "zh-TW"),
        ("--lang=zh-TW", {}, "", "zh-TW"),
        ("", {"LORASMITH_LANG": "zh-TW", "LANG": "en_US.UTF-8"}, 'lang = "en"', "zh-TW"),
        ("", {"LANG": "en_US.UTF-8"}, 'lang = "zh-TW"', "zh-TW"),
        ("", {"LANG": "zh_TW.UTF-8"}, "", "zh-TW"),
        ("", {"LANG": "zh_TW.UTF-8", "LC_ALL": "C"}, "", "en"),
        ("", {"LANG": "zh_HK"}, "steps = [", "zh-TW"),  # what is wrong with the file is reported later
        ("", {"LANG": "zh_TW"}, "lang = 3", "zh-TW"),
        ("--lang", {}, "", "en"),
        ("", {"LANG": "de_DE.UTF-8"}, "", "en"),
    ],
)
def test_the_language_is_found_before_arguments_are_checked(
    tmp_path: Path, arguments: str, environment: dict[str, str], settings: str, language: str
) -> None:
    if settings:
        (tmp_path / "lorasmith.toml").write_text(settings, encoding="utf-8")
    assert cli.language_of(arguments.split(), environment, tmp_path) == language
