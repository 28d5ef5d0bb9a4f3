# Two commands do everything on a machine that has Python >= 3.11, pip and make:
#   make demo    trains a radiance field of the scene in this repository, and says where the pictures are
#   make test    lint, types, layers and tests, as continuous integration runs them
# Variables: PYTHON (interpreter that makes .venv), TORCH (which torch to install first), FLOOR_TORCH (the same of test-floors), MINUTES (of the demo), WORKERS (tests at once), PYTEST_ARGS.

SHELL := /bin/sh
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
TORCH ?= torch==2.13.0
# Used only where torch's own requirements bring no triton (its CPU builds): the interpreter that tests the GPU kernels.
TRITON := triton==3.9.0
MINUTES ?= 4
WORKERS ?= logical
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Most tests keep one core busy. Threads that wait are not to spin on the cores of the neighbour.
TESTS = OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist worksteal
FLOORS := .venv-floors
FLOOR_TORCH ?= torch==2.9
SCENE := examples/scenes/workbench
DEMO := runs/demo

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-floors lint types layers format docs docs-serve bench build clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

demo: $(VENV)/.installed ## train on the embedded scene, render a video, write a report
	@echo "Training on $(SCENE) for $(MINUTES) minutes (make demo MINUTES=1 for a quick look)."
	$(BIN)/voxfield train grid-ngp $(SCENE) --output $(DEMO) --minutes $(MINUTES) $$(test -e $(DEMO)/experiment.json && echo --resume)
	$(BIN)/voxfield eval $(DEMO)
	$(BIN)/voxfield render $(DEMO) --path orbit
	$(BIN)/voxfield report $(DEMO)
	@echo
	@echo "Done. Open in a browser:  $(DEMO)/report.html"
	@echo "Video and frames:         $(DEMO)/renders/"
	@echo "Test pictures, metrics:   $(DEMO)/eval/test/"

test: lint types layers ## what continuous integration runs: lint, types, layers, quick tests
	$(TESTS) -m "not slow" $(PYTEST_ARGS)

test-all: lint types layers ## also the slow tests, and the GPU tests where there is a GPU
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-floors: ## quick tests with the lowest versions that pyproject.toml allows, in an environment of their own
	test -x $(FLOORS)/bin/python || $(PYTHON) -m venv $(FLOORS)
	$(FLOORS)/bin/python -m pip install "$(FLOOR_TORCH)"
	grep -v '^torch==' constraints-floor.txt > $(FLOORS)/floors.txt
	$(FLOORS)/bin/python -m pip install -c $(FLOORS)/floors.txt -e ".[dev]"
	OMP_WAIT_POLICY=PASSIVE $(FLOORS)/bin/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist worksteal -m "not slow" $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev ## ruff: rules and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check --quiet || { echo "Run: make format"; exit 1; }

types: $(VENV)/.installed-dev ## mypy on src
	$(BIN)/mypy

# Without its cache, which has reported imports as gone that are there; a run takes seconds.
layers: $(VENV)/.installed-dev ## import-linter: who may import whom
	$(BIN)/lint-imports --no-logo --no-cache

format: $(VENV)/.installed-dev ## rewrite the sources in the project's format
	$(BIN)/ruff check --fix-only --quiet
	$(BIN)/ruff format

docs: $(VENV)/.installed-docs ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Open site/index.html"

docs-serve: $(VENV)/.installed-docs ## the documentation, rebuilt as it is edited
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

bench: $(VENV)/.installed-dev ## every kernel and small runs of all jobs beside the committed rates; kernels' tests run first
	$(BIN)/python -m pytest tests/kernels -m "not slow" -q --ignore tests/kernels/test_triton_interpreter.py
	$(BIN)/python benchmarks/run.py regression

build: $(VENV)/.installed-dev ## source archive and wheel in dist/
	$(PIP) install --quiet "build>=1.2"
	$(BIN)/python -m build

clean: ## remove the environment and everything that can be made again; runs/ stays
	rm -rf $(VENV) $(FLOORS) build dist site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# --- The environment. Stamps inside it make a second `make` start at once. ---------------------------------------------
# torch goes first and alone: resolved together with the rest, pip may take a build for another device.
# Where Python came without ensurepip (Debian splits it off), the interpreter's own pip fills the environment.
$(VENV)/.torch: constraints.txt
	@test -n "$(PYTHON)" || { echo "Voxfield needs Python 3.11 or newer. Install it, or name one: make PYTHON=/path/to/python3.11"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
		{ $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install pip; }
	$(PIP) install -c constraints.txt "$(TORCH)"
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(PIP) install -c constraints.txt -e ".[video,tensorboard]"
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.torch pyproject.toml
	$(BIN)/python -c 'import triton' 2>/dev/null || test "$$(uname -s)" != Linux || $(PIP) install "$(TRITON)"
	$(PIP) install -c constraints.txt -e ".[dev]"
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: $(VENV)/.torch pyproject.toml
	$(PIP) install -c constraints.txt -e ".[docs]"
	@touch $@
