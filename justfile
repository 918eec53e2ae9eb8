# `just` lists nothing and does the usual: lint and test. Needs the development set of packages (see CONTRIBUTING.md).

default: lint test

# The whole suite that needs no GPU.
test:
    pytest -m "not slow and not gpu and not long and not special"

# The part to run all day.
test-fast:
    pytest -m "not slow and not gpu and not long and not special" --ignore=tests/runs --ignore=tests/contracts

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

# What needs a CUDA device.
gpu:
    pytest -m gpu

# What takes minutes: full-size random models.
slow:
    pytest -m slow
