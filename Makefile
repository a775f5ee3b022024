# Everything a developer runs. Needs Python 3.11 or later and make; the test servers also need Node and a JDK with Maven.
# The first target makes .venv from the locked dependencies; later ones find it there.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
UV := $(shell command -v uv)
# the lock is written by uv, wherever it is; installing falls back to pip
LOCKER = $(or $(UV),$(wildcard $(BIN)/uv))
PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11 python; do \
  "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$name" && break; done)
# each worker starts servers of its own, so more workers than processors only slow one another
WORKERS ?= $(shell "$(PYTHON)" -c 'import os; print(min(os.cpu_count() or 1, 4))')
SELECT := $(if $(filter-out 0 false,$(CI)),not long,not ci and not long)

export UV_PYTHON_DOWNLOADS := never
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long lint format lock docs wheel clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY) ## make .venv with the project and its locked dependencies

demo: $(READY) ## a hospital's morning, from first message to checked proof (ARGS=--keep leaves it running)
	@$(BIN)/hiebridge demo $(ARGS)

test: $(READY) ## the short tests; CI=1 adds those marked ci; ARGS are for pytest
	@$(BIN)/pytest -q -m "$(SELECT)" -n $(WORKERS) --dist loadfile --durations=20 --durations-min=0.5 $(ARGS)

test-long: $(READY) ## the tests of minutes to hours
	@$(BIN)/pytest -q -m long --durations=20 $(ARGS)

lint: $(READY) ## style, formatting, types and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## rewrite the code in the one format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix-only .

lock: ## write the lock files anew from pyproject.toml (ARGS=--upgrade takes newer versions)
	@test -n "$(LOCKER)" || { echo 'uv writes the lock files: install it first (python3 -m pip install uv)' >&2; exit 1; }
	$(LOCKER) pip compile -q pyproject.toml --universal --generate-hashes --no-header $(ARGS) \
	  -o requirements.lock
	$(LOCKER) pip compile -q pyproject.toml --group dev --universal --generate-hashes --no-header $(ARGS) \
	  -c requirements.lock -o requirements-dev.lock

docs: $(READY) ## the documentation as HTML, in build/docs; a warning is an error
	$(BIN)/sphinx-build -q -W --keep-going -b html docs build/docs

wheel: $(READY) ## the distribution, in dist
	$(BIN)/python -m hatchling build -t wheel

clean: ## remove what the other targets made, .venv included
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

$(VENV)/pyvenv.cfg:
	@test -n "$(PYTHON)" || { echo 'no Python 3.11 or later on PATH' >&2; exit 1; }
	$(if $(UV),$(UV) venv -q --python "$(PYTHON)" $(VENV),"$(PYTHON)" -m venv $(VENV))

$(READY): requirements-dev.lock pyproject.toml $(VENV)/pyvenv.cfg
ifdef UV
	$(UV) pip install -q --python $(BIN)/python --require-hashes -r requirements-dev.lock
	$(UV) pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .
else
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip
	$(BIN)/python -m pip install -q --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
endif
	@touch $@
