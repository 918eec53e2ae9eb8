"""Reports a library that cannot be imported: its name, the last line of its error, and the command to type.

The commonest failure is a library that was built for another torch. Diffusers and transformers import the libraries
that they find and pass on their errors: an ImportError, a RuntimeError, or anything else.
"""

from __future__ import annotations

import errno
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import PurePath
from types import ModuleType
from typing import Any

from lorasmith.errors import InputError

# Errors of importing an installed library that cannot be loaded, as issues of other trainers show.
FAILURES = (
    ImportError,
    OSError,
    RuntimeError,
    TypeError,
    AttributeError,
    ValueError,
    LookupError,
    NameError,
    AssertionError,
    SyntaxError,
    SystemError,
)
PACKAGES = {
    "PIL": "pillow",
    "flash_attn": "flash-attn",
    "google": "protobuf",
    "huggingface_hub": "huggingface-hub",
    "skimage": "scikit-image",
    "tomli_w": "tomli-w",
    "yaml": "pyyaml",
}
"""Module -> package, for packages with another name than their module."""

UNNEEDED = frozenset(
    {
        "apex", "deepspeed", "flash_attn", "flash_attn_interface", "flax", "jax", "jaxlib", "keras", "kernels", "onnx",
        "onnxruntime", "optimum", "peft", "sageattention", "tensorflow", "torchao", "torchaudio", "torchvision",
        "triton", "xformers",
    }
)  # fmt: skip
"""Libraries that this program does not need: uninstalling a broken one of them is the quickest remedy."""

LEFT_OUT = UNNEEDED | {"accelerate", "bitsandbytes", "gguf", "scipy", "transformers"}
"""Libraries that diffusers imports, in two seconds, only because they are installed."""
_LOOK_FOR_LIBRARIES = frozenset({"diffusers.utils.import_utils", "diffusers.quantizers.pipe_quant_config"})
_COMPILER = "torch._dynamo"
_MARK_FOR_COMPILER = re.compile(r"diffusers\.(utils\.torch_utils|hooks\.\w+)")
"""Modules of diffusers that import torch's compiler, in 1.5 s, to mark functions and classes that are never called in
compiled code here."""
_FETCHERS = frozenset(
    {"diffusers.loaders.single_file_utils", "diffusers.utils.loading_utils", "diffusers.utils.remote_utils"}
)
"""Modules of diffusers that import requests for functions that fetch a file by its URL: no model calls them."""
_COLLECTIONS = frozenset(f"diffusers.models.{kind}" for kind in ("autoencoders", "transformers", "unets"))
"""Packages of diffusers whose `__init__` imports a module for each of some 150 models."""

_PACKAGE = PurePath(__file__).parent
_FRAMEWORKS = frozenset({"torch", "transformers", "diffusers", "accelerate", "numpy"})  # they import the others
_NO_MEMORY = re.compile(r"can't allocate memory|out of memory|paging file is too small|Cannot allocate memory")
_MAX_SHOWN = 200  # letters of a reason


@contextmanager
def importing_library() -> Iterator[None]:
    """Converts a failed import within the `with` block into an error that a user can act on. A failure of this
    program's own modules is re-raised unchanged.

    Raises:
        InputError: `dependency_missing`, `library_broken`, both with `module`, `reason` and `command`;
            `torch_lacks_dll`.
        MemoryError: there was too little memory.
    """
    try:
        yield
    except FAILURES as error:
        root = _root(error)
        if is_memory_error(root):
            raise MemoryError(str(root)) from error
        if is_our_own(root):
            raise
        raise as_input_error(root) from error


def import_diffusers_lean() -> None:
    """Has diffusers, when it is imported later, take the libraries in LEFT_OUT for not installed: it then has models,
    but no pipelines.

    For a process that needs nothing else of diffusers. All other modules import these libraries as ever.
    """
    sys.meta_path.insert(0, _LeanDiffusers())


class _LeanDiffusers(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        instead: dict[str, ModuleType | None] = {}
        if name in _LOOK_FOR_LIBRARIES:
            instead = dict.fromkeys(LEFT_OUT)  # None: there is no such module
        elif _MARK_FOR_COMPILER.fullmatch(name):
            instead = {_COMPILER: _compiler_that_marks_nothing()}
        elif name in _FETCHERS:
            instead = {"requests": _requests_that_fetches_nothing()}
        elif name not in _COLLECTIONS:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module
            spec.loader.exec_module = (  # type: ignore[method-assign]
                partial(_executed_when_used, execute)
                if name in _COLLECTIONS
                else partial(_executed_with, instead, execute)
            )
        return spec


def _executed_when_used(execute: Callable[[ModuleType], None], package: ModuleType) -> None:
    """Leaves a package empty until a name is looked up in it that is none of the modules imported from it so far."""

    def found(name: str) -> Any:
        if name.startswith("__"):  # the import system asks for some that a package need not have
            raise AttributeError(name)
        del package.__getattr__
        execute(package)
        return getattr(package, name)

    package.__getattr__ = found  # type: ignore[method-assign]


def _executed_with(
    instead: Mapping[str, ModuleType | None], execute: Callable[[ModuleType], None], module: ModuleType
) -> None:
    """Executes a module while others seem to be those of `instead`, as far as they are not imported already."""
    added = {name: other for name, other in instead.items() if name not in sys.modules}
    sys.modules.update(added)  # type: ignore[arg-type]
    try:
        execute(module)
    finally:
        for name in added:
            del sys.modules[name]


def _compiler_that_marks_nothing() -> ModuleType:
    def unchanged(marked: Any = None, *_: object, **__: object) -> Any:
        return unchanged if marked is None else marked  # without arguments it is called for the decorator

    module = ModuleType(_COMPILER)
    vars(module).update(allow_in_graph=unchanged, disable=unchanged)
    return module


def _requests_that_fetches_nothing() -> ModuleType:
    module = ModuleType("requests")
    module.Response = object  # type: ignore[attr-defined]  # of annotations
    return module


def is_our_own(error: BaseException) -> bool:
    """Whether a module of this program is at fault. The frame in which a library is imported proves nothing: an
    ImportError names its module."""
    if isinstance(error, ImportError) and error.name:
        return error.name.split(".")[0] == "lorasmith"
    if isinstance(error, SyntaxError):
        file = error.filename or ""
    else:
        file = next((frame.filename for frame in reversed(traceback.extract_tb(error.__traceback__))), "")
    return PurePath(file).is_relative_to(_PACKAGE)


def is_memory_error(error: BaseException) -> bool:
    """Whether the error is torch's or the system's report that memory ran out."""
    if isinstance(error, OSError) and (error.errno == errno.ENOMEM or getattr(error, "winerror", None) == 1455):
        return True
    return isinstance(error, RuntimeError | OSError) and _NO_MEMORY.search(str(error)) is not None


def _root(error: BaseException) -> BaseException:
    """The first error of the chain that led to a library's own error."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def as_input_error(error: BaseException) -> InputError:
    """`dependency_missing`, `torch_lacks_dll` or `library_broken`, from the error of an import."""
    name = (error.name or "") if isinstance(error, ImportError) else ""
    module = name.split(".")[0]
    if isinstance(error, ModuleNotFoundError) and module and not _is_installed(module):
        command = f"pip install {PACKAGES.get(module, module)}"
        return InputError("dependency_missing", module=module, reason=_last_line(error), command=command)
    if not (module and isinstance(error, ImportError) and "cannot import name" in str(error)):
        module = _culprit(error) or module
    if module == "torch" and "WinError" in str(error):  # reinstalled from PyPI it would have no CUDA
        return InputError("torch_lacks_dll", reason=_last_line(error))
    package = PACKAGES.get(module, module)
    how = "uninstall" if module in UNNEEDED else "install --force-reinstall"
    return InputError(
        "library_broken", module=module or "?", reason=_last_line(error), command=f"pip {how} {package}".strip()
    )


def lacks_all() -> bool:
    """Whether this Python has nothing that the program needs: it is another one than that of the installation."""
    return not (_is_installed("pydantic") or _is_installed("torch"))


def _is_installed(module: str) -> bool:
    try:
        return sys.modules.get(module) is not None or find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _culprit(error: BaseException) -> str:
    """The library that raised the error: the innermost of the traceback that is not a framework, if there is any."""
    found = [_library_of(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    named = [library for library in found if library]
    others = [library for library in named if library not in _FRAMEWORKS]
    return (others or named or [""])[-1]


def _library_of(file: str) -> str:
    """ ".../site-packages/xformers/ops.py" -> "xformers"; "" for a file that belongs to no installed library."""
    parts = PurePath(file).parts
    for number, part in enumerate(parts[:-1]):
        if part in ("site-packages", "dist-packages"):
            return PurePath(parts[number + 1]).stem
    return ""


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__)[:_MAX_SHOWN]
