# `just` lists nothing and does the usual: lint and test. Needs the development set of packages (see CONTRIBUTING.md).

default: lint test

# The whole suite that needs no GPU.
test:
    pytest -n 2 --dist loadfile

# What else must hold on every push.
ci:
    pytest -n 2 --dist loadfile -m ci

# The part to run all day.
test-fast:
    pytest -n 2 --dist loadfile --ignore=tests/runs --ignore=tests/contracts

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

# What takes minutes: full-size random models.
slow:
    pytest -m slow
