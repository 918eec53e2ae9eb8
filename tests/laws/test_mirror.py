"""Tests mirror the tree: what tests a module is found without a search."""

from __future__ import annotations

from tests.laws.source_tree import PACKAGE, ROOT, modules

# Module -> why it has no test file of its own.
EXCEPTIONS = {
    "__main__.py": "one line; tests/ui/test_cli.py runs it",
    "adapters/base.py": "a Protocol; every kind is held to it by tests/contracts",
    "config/sections/evaluation.py": "fields only; tests/config/test_run.py knows every field",
    "config/sections/watch.py": "fields only; tests/config/test_run.py knows every field",
    "sd_scripts/settings.py": "tests/sd_scripts/test_translate.py reads what it collects",
    "evaluation/limits.py": "two numbers; tests of the modules that use them",
    "families/base.py": "a Protocol; every family is held to it by tests/contracts",
    "families/forward_work.py": "tuples; tests/families/test_unet_work.py checks their numbers",
    "families/footprint.py": "a dataclass; tests/families/test_unet_footprint.py checks its numbers",
    "families/ldm_recognition.py": "tests/families/sd15/test_recognize.py goes through all of it",
    "families/stable_diffusion.py": "tests/families/sd15 and sd2 test all of it",
    "families/loading.py": "tests/families/sd15/test_family.py loads every component through it",
}


def without_test() -> set[str]:
    missing = set()
    for path in modules():
        module = path.relative_to(PACKAGE)
        if path.name == "__init__.py":
            # A package that is more than its docstring is tested under its own name.
            if any(line.startswith(("def ", "class ")) for line in path.read_text(encoding="utf-8").splitlines()):
                test = ROOT / "tests" / module.parent / f"test_{module.parent.name}.py"
                if not test.exists():
                    missing.add(module.as_posix())
            continue
        if not (ROOT / "tests" / module.parent / f"test_{module.name}").exists():
            missing.add(module.as_posix())
    return missing


def test_every_module_has_its_test_file() -> None:
    assert without_test() - set(EXCEPTIONS) == set()


def test_no_exception_has_outlived_its_reason() -> None:
    assert set(EXCEPTIONS) <= without_test()


def test_no_test_is_for_a_module_that_is_gone() -> None:
    own = {"abuse", "faults", "laws", "contracts", "conventions", "end_to_end", "golden", "benchmarks", "simulated_gpu"}
    orphans = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        module = path.relative_to(ROOT / "tests")
        if module.parts[0] in own:
            continue
        name = module.name.removeprefix("test_")
        package = PACKAGE / module.parent / "__init__.py"
        if not (PACKAGE / module.parent / name).exists() and not (
            package.exists() and name.removesuffix(".py") == module.parent.name
        ):
            orphans.append(module.as_posix())
    assert orphans == []
