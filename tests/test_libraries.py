"""A library that is there and cannot be loaded: it is named, with its last line and what to type."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

import lorasmith
from lorasmith.demo.miniature import make_model
from lorasmith.errors import InputError
from lorasmith.libraries import LEFT_OUT, importing_library, is_memory_error

DLL = "raise ImportError('DLL load failed while importing _C: The specified module could not be found.')"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


def library(site: Path, name: str, text: str) -> None:
    (site / name).mkdir()
    (site / name / "__init__.py").write_text(text)


def refused(name: str) -> InputError:
    with pytest.raises(InputError) as caught, importing_library():
        __import__(name)
    return caught.value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (DLL, "ImportError: DLL load failed while importing _C: The specified module could not be found."),
        (
            "raise RuntimeError('a\\n\\noperator torchvision::nms does not exist')",
            "RuntimeError: operator torchvision::nms",
        ),
        ("raise OSError('libcudart.so.11.0: cannot open shared object file')", "OSError: libcudart.so.11.0"),
        ("import numpy\nnumpy.nothing_there", "AttributeError: module 'numpy' has no attribute"),
        ("1 +", "SyntaxError: invalid syntax"),
    ],
)
def test_it_is_named_with_its_last_line(site: Path, text: str, reason: str) -> None:
    library(site, "lsm_broken", text)
    error = refused("lsm_broken")
    assert (error.code, error.fields["reason"][: len(reason)]) == ("library_broken", reason)
    if not text.endswith("+"):  # a file that is no Python has no frame of its own
        assert error.fields["module"] == "lsm_broken"
        assert error.fields["command"] == "pip install --force-reinstall lsm_broken"


@pytest.mark.parametrize(("name", "code"), [("torch", "torch_lacks_dll"), ("lsm_other", "library_broken")])
def test_a_library_of_windows_that_torch_lacks(site: Path, name: str, code: str) -> None:
    """`pip install --force-reinstall torch` would put one without CUDA in its place."""
    library(site, name, "")
    text = "raise OSError('[WinError 126] not found. Error loading \"fbgemm.dll\" or one of its dependencies.')"
    with pytest.raises(InputError) as caught, importing_library():
        exec(compile(text, str(site / name / "__init__.py"), "exec"))
    assert caught.value.code == code


def test_one_that_is_not_needed_is_to_be_taken_away(site: Path) -> None:
    library(site, "xformers", DLL)
    assert refused("xformers").fields["command"] == "pip uninstall xformers"


def test_the_error_below_a_library_s_own_counts(site: Path) -> None:
    """As diffusers passes on what it met."""
    library(site, "triton", DLL)
    library(
        site,
        "lsm_outer",
        "try:\n    import triton\nexcept ImportError as error:\n"
        "    raise RuntimeError('Failed to import lsm_outer (look up to see its traceback)') from error",
    )
    error = refused("lsm_outer")
    assert (error.fields["module"], error.fields["reason"][:28]) == ("triton", "ImportError: DLL load failed")


def test_what_is_not_there_is_to_be_installed(site: Path) -> None:
    error = refused("lsm_nowhere")
    assert (error.code, error.fields["command"]) == ("dependency_missing", "pip install lsm_nowhere")
    library(site, "lsm_half", "import lsm_half.ops")
    error = refused("lsm_half")
    assert (error.code, error.fields["module"]) == ("library_broken", "lsm_half")


def test_a_name_that_another_library_no_longer_has(site: Path) -> None:
    library(site, "lsm_old", "")
    library(site, "lsm_new", "from lsm_old import cached_download")
    error = refused("lsm_new")
    assert (error.fields["module"], "cached_download" in error.fields["reason"]) == ("lsm_old", True)


def test_too_little_memory_is_no_damage(site: Path) -> None:
    library(site, "lsm_big", "raise OSError('The paging file is too small for this operation to complete')")
    with pytest.raises(MemoryError), importing_library():
        __import__("lsm_big")
    assert is_memory_error(OSError(errno.ENOMEM, "no"))
    assert is_memory_error(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"))
    assert not is_memory_error(RuntimeError("Trying to create tensor with negative dimension"))


def test_our_own_mistakes_are_not_hidden() -> None:
    with pytest.raises(ImportError), importing_library():
        __import__("lorasmith.nothing")
    with pytest.raises(ZeroDivisionError), importing_library():
        _ = 1 / 0


@pytest.mark.parametrize(
    ("text", "error"),
    [("1 +", SyntaxError), ("lsm_undefined", NameError), ("from lorasmith import lsm_nothing", ImportError)],
)
def test_a_module_of_ours_that_cannot_be_imported_is_no_broken_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, error: type[Exception]
) -> None:
    (tmp_path / "lsm_own.py").write_text(f"import numpy\n{text}\n")
    monkeypatch.setattr(lorasmith, "__path__", [*lorasmith.__path__, str(tmp_path)])
    monkeypatch.setattr("lorasmith.libraries._PACKAGE", tmp_path)
    with pytest.raises(error), importing_library():
        __import__("lorasmith.lsm_own")


@pytest.mark.ci
def test_a_broken_xformers_beside_diffusers_is_named_and_not_the_model(tmp_path: Path) -> None:
    """Diffusers imports it because its package says that it is there."""
    site = tmp_path / "site-packages"
    site.mkdir()
    library(site, "xformers", DLL)
    info = site / "xformers-0.0.30.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: xformers\nVersion: 0.0.30\n")
    model = make_model(tmp_path / "model")
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import torch\nfrom pathlib import Path\nfrom lorasmith.errors import InputError\n"
        "from lorasmith.families import load_family\nfrom lorasmith.families.recognize import recognize\n"
        "try: load_family(recognize(Path(sys.argv[2]))).load_models(trained=[], dtype=torch.float32,"
        " to=torch.device('cpu'))\n"
        "except InputError as error: print(error.code, error.fields['module'], error.fields['command'], sep='|')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(site), str(model)], capture_output=True, text=True, check=False
    )
    assert done.stdout.split("\n")[-2:] == ["library_broken|xformers|pip uninstall xformers", ""], done.stderr


@pytest.mark.ci
def test_diffusers_imported_lean_has_the_same_models_and_hides_nothing_from_others(base_model: Path) -> None:
    """In processes of their own: how diffusers is imported is decided once."""
    program = (
        "import json, sys; from pathlib import Path; from torch import device, float32;"
        "from lorasmith.families import load_family; from lorasmith.families.recognize import recognize;"
        "from lorasmith.libraries import import_diffusers_lean;"
        "{lean}"
        "family = load_family(recognize(Path(sys.argv[1])));"
        "models = family.load_models(trained=(), dtype=float32, to=device('cpu'));"
        "models |= family.load_encoders(device('cpu'), only=('vae',));"
        "print(json.dumps([[name, [str(type(part)) for part in model.modules()]] for name, model in models.items()]));"
        "print(json.dumps(sorted(sys.modules)));"
        "import transformers, peft.tuners, torch; transformers.CLIPTextModel; torch.compile(abs);"
        "torch._dynamo.reset(); from diffusers.models.transformers import FluxTransformer2DModel, no_such_model"
    )
    ended = [
        subprocess.run(
            [sys.executable, "-c", program.format(lean=lean), str(base_model)],
            capture_output=True,
            text=True,
            check=False,
        )
        for lean in ("", "import_diffusers_lean();")
    ]
    for done in ended:
        assert done.stderr.splitlines()[-1].startswith("ImportError: cannot import name 'no_such_model'"), done.stderr
    plain, lean = (done.stdout.splitlines() for done in ended)
    assert lean[0] == plain[0]
    assert {"peft", "transformers"} <= LEFT_OUT.intersection(json.loads(plain[1]))
    assert LEFT_OUT.isdisjoint(json.loads(lean[1]))
    later = {"torch._dynamo", "requests", "diffusers.models.transformers.transformer_flux"}
    assert later <= set(json.loads(plain[1]))
    assert later.isdisjoint(json.loads(lean[1]))
