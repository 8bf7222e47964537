# Every target sets up what it needs: .venv is made once, and filled again only when the files that say
# what belongs into it have changed.
#
#   make iris     reproduce the tutorial's Figure 4 from the Iris data (ARGS="--trials 200" and the like)
#   make test     lint, types, tests and doctests
#   make docs     the manual, in build/docs
#   make upstream CHAINER=DIR   Chainer's own tests on our layers, from a checkout of Chainer v7.8.1
#
# Another interpreter: make PYTHON=python3.12 test

PYTHON ?= python3
ARGS ?=

BIN := .venv/bin
REQUIREMENTS := setup.cfg pyproject.toml constraints.txt
# Paths relative to this folder: pip splits these variables at spaces.
PIP := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
	$(BIN)/python -m pip --disable-pip-version-check --quiet
# uv takes half the time. It reads none of pip's settings: where it finds less, pip installs.
INSTALL = $(BIN)/uv pip install --python $(BIN)/python --quiet --editable '$(1)' 2>/dev/null || \
	$(PIP) install --editable '$(1)'
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
# Byte code is kept, whatever the environment says: tests start many interpreters.
TESTING := $(ONE_THREAD) PYTHONDONTWRITEBYTECODE=
TORCH := torch ==2.13.0

.PHONY: help iris test lint types kernels torch upstream docs notebooks format clean

help:
	@sed -n 's/^#   //p' Makefile

iris: .venv/installed
	$(BIN)/chainrob iris $(ARGS)

# Kernels are compiled and types are checked while PyTorch is installed; then two processes test, and
# compile nothing.
test: .venv/installed-test
	@$(MAKE) --no-print-directory --jobs=4 kernels torch lint types
	@$(TESTING) $(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

lint: .venv/installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/installed-test
	$(BIN)/mypy

kernels: .venv/installed-test
	@$(TESTING) $(BIN)/python -m tests.kernels.compile_ahead

torch: .venv/installed-torch

upstream: .venv/installed-test
	$(BIN)/python tests/upstream/run.py "$(CHAINER)"

docs: .venv/installed-docs
	$(BIN)/python -m sphinx -b html -W --keep-going -q docs build/docs
	@echo "open build/docs/index.html"

notebooks: .venv/installed-notebook .venv/installed-torch
	$(BIN)/jupyter-execute --inplace notebooks/*.ipynb

format: .venv/installed-test
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

.venv/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("chainrob needs Python 3.10 \
	or newer, and this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	@$(PIP) install uv || echo 'without uv the installation takes longer'

.venv/installed: $(REQUIREMENTS) | .venv/pyvenv.cfg
	@$(call INSTALL,.)
	@touch $@

.venv/installed-test: $(REQUIREMENTS) | .venv/pyvenv.cfg
	@$(call INSTALL,.[test])
	@touch $@ .venv/installed

# PyTorch only where that is cheap: its builds for CUDA, several GB, are those that require triton.
# Another build that is in .venv already stays.
.venv/installed-torch: .venv/installed-test
	@$(BIN)/python -c 'import torch' 2>/dev/null || \
		echo 'triton <0' | $(PIP) install --no-compile --constraint /dev/stdin '$(TORCH)' 2>/dev/null || \
		echo 'torch is not installed: its tests are skipped'
	@touch $@

.venv/installed-docs: $(REQUIREMENTS) | .venv/pyvenv.cfg
	@$(call INSTALL,.[docs])
	@touch $@ .venv/installed

.venv/installed-notebook: $(REQUIREMENTS) | .venv/pyvenv.cfg
	@$(call INSTALL,.[notebook])
	@touch $@ .venv/installed
