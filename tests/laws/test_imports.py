"""Who may import what: the contracts of `.importlinter` hold, can break, and mean what happens when Python imports."""

import ast
import configparser
import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from lorasmith.adapters import ADAPTERS
from lorasmith.families import FAMILIES

ROOT = Path(__file__).resolve().parents[2]
CONTRACTS = ROOT / ".importlinter"
LINT = "from importlinter.cli import lint_imports_command as lint; lint(['--no-cache'])"
# Of torch, what only three files of the engine may know: the machine, repeatability, other processes.
MACHINE = ("distributed", "compile", "autocast", "use_deterministic_algorithms", "cuda", "set_num_threads")


def contract(name: str) -> dict[str, list[str]]:
    parser = configparser.ConfigParser()
    parser.read(CONTRACTS, encoding="utf-8")
    return {key: value.split() for key, value in parser[f"importlinter:contract:{name}"].items()}


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LINT], cwd=folder, capture_output=True, text=True, encoding="utf-8", check=False
    )


def modules_in(place: str) -> list[str]:
    """`place` and, where it is a package, all modules below it."""
    found = find_spec(place)
    assert found is not None
    if not found.submodule_search_locations:
        return [place]
    folder = Path(found.submodule_search_locations[0])
    below = [path.relative_to(folder).with_suffix("").parts for path in sorted(folder.rglob("*.py"))]
    return [place, *(".".join([place, *parts]) for parts in below if parts[-1] != "__init__")]


def module_of(entry: str) -> str:
    return entry.partition(":")[0]


def test_the_contracts_hold() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.ci
def test_each_contract_can_break(tmp_path: Path) -> None:
    shutil.copy(CONTRACTS, tmp_path)
    shutil.copytree(ROOT / "lorasmith", tmp_path / "lorasmith", ignore=shutil.ignore_patterns("__pycache__"))
    crimes = {
        "One direction of knowledge": ("data/order.py", "import lorasmith.session.loop"),
        "A reading goes from events": ("reading/fold.py", "import lorasmith.reading.summary"),
        "The step uses an execution": ("engine/execution.py", "import lorasmith.engine.step"),
        "Numbers are drawn before": ("diffusion/process.py", "import lorasmith.diffusion.sampling"),
        "No torch above the worker, by no detour": ("runs/events.py", "import torch"),
        "The supervisor shares files": ("runtime/supervisor.py", "import lorasmith.data.folder"),
        "The engine does not speak to people": ("reading/summary.py", "import lorasmith.messages"),
        "A family answers questions": ("families/sd15/family.py", "import lorasmith.runs.ledger"),
        "The engine knows families": ("engine/step.py", "import lorasmith.families.sd15"),
        "Only session.build sees all parts": ("session/loop.py", "import lorasmith.session.build"),
        "Only session finds and recognises": ("engine/state.py", "import lorasmith.inputs"),
        "Adapters and their files know no model": ("exporting/names.py", "import lorasmith.families.sd15.family"),
        "The mathematics of diffusion": ("diffusion/objective.py", "import lorasmith.config"),
    }
    for file, line in crimes.values():
        path = tmp_path / "lorasmith" / file
        path.write_text(path.read_text(encoding="utf-8") + f"\n\ndef hidden():\n    {line}\n", encoding="utf-8")
    result = lint_imports(tmp_path)
    assert result.returncode != 0
    broken = [line for line in result.stdout.splitlines() if line.endswith("BROKEN")]
    for name in crimes:
        assert any(line.startswith(name) for line in broken), f"{name}: {result.stdout}{result.stderr}"


def test_nothing_above_the_worker_loads_torch_when_imported() -> None:
    # The contracts do not see that importing a module runs the __init__ of its packages.
    rule = contract("no-torch-above-the-worker")
    modules = [module for place in rule["source_modules"] for module in modules_in(place)]
    program = f"import importlib, json, sys\nfor one in {modules!r}: importlib.import_module(one)\n"
    program += f"print(json.dumps(sorted(set({rule['forbidden_modules']!r}) & set(sys.modules))))"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == []


def test_every_family_and_adapter_of_the_tables_is_in_the_contracts() -> None:
    families = {module_of(entry.family).rpartition(".")[0] for entry in FAMILIES.values()}
    adapters = {module_of(entry) for entry in ADAPTERS.values()}
    assert set(contract("families")["modules"]) == families
    assert families | adapters <= set(contract("the-engine-knows-protocols")["forbidden_modules"])


def test_three_files_know_the_machine() -> None:
    # Import contracts see `torch` as a whole, not what is taken from it.
    knowing = {}
    for path in sorted((ROOT / "lorasmith").rglob("*.py")):
        parts = torch_parts(path.read_text(encoding="utf-8"))
        found = [part for part in MACHINE if part in parts]
        if found:
            knowing[path.relative_to(ROOT).as_posix()] = found
    # The demo's base model is made outside any run, on a CPU.
    making = {"lorasmith/demo/base_parts.py", "lorasmith/demo/make_base.py"}
    machine = {f"lorasmith/engine/{name}.py" for name in ("capture", "compiled", "device")}
    assert set(knowing) == machine | making, knowing


@pytest.mark.parametrize(
    "source",
    [
        "import torch.distributed as dist",
        "from torch import distributed",
        "from torch.distributed import all_reduce",
        "import torch\n\ndef f():\n    torch.distributed.barrier()",
    ],
)
def test_a_second_file_that_knows_it_is_seen(source: str) -> None:
    assert "distributed" in torch_parts(source)


def torch_parts(source: str) -> set[str]:
    """What `source` takes from torch, by its first name below it."""
    parts = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "torch":
            parts.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and node.module == "torch":
            parts.update(one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch."):
            parts.add((node.module or "").split(".")[1])
        elif isinstance(node, ast.Import):
            parts.update(one.name.split(".")[1] for one in node.names if one.name.startswith("torch."))
    return parts
