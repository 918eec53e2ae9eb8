# `just` lists nothing and does the usual: lint and test. Needs the development set of packages (see CONTRIBUTING.md).

default: lint test

# The default suite: four and a half minutes on two cores.
test:
    pytest -n 2 --dist loadfile

# What else must hold on every push: .ci/run has it too.
ci:
    pytest -n 2 --dist loadfile -m ci

# Without the runs: a minute.
test-fast:
    pytest -n 2 --dist loadfile --ignore=tests/end_to_end --ignore=tests/contracts

lint: types
    ruff check .
    ruff format --check .
    lint-imports
    codespell

types:
    mypy

# The laws of the house: who may import what, one version, both languages, sizes.
laws:
    pytest tests/laws tests/messages

# The long fault runs; counts from FAULT_RUNS.
long:
    pytest -m long

# What needs a CUDA device.
gpu:
    pytest -m gpu

# What takes minutes: full-size random models, the demo from start to end.
slow:
    pytest -n 2 --dist loadfile -m slow
