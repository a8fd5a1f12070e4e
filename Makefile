# `make tune` and `make test` do all the set-up themselves, on a fresh machine too.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# PyTorch as the package index has it brings CUDA and its own Triton, with or without a GPU: gigabytes. Without one, a
# CPU build that lies at hand (in a folder of pip's `find-links`) does as well; it brings no Triton, and gets the oldest.
AT_HAND := $(if $(shell command -v nvidia-smi 2>/dev/null),,yes)
STAMP := $(VENV)/.installed
TUNE ?= --seq 2048 --heads 32

.PHONY: help install tune test lint types unit site soak clean

help:
	@echo 'make tune    set up $(VENV) and run: tune $(TUNE)'
	@echo 'make test    set up $(VENV) and run the linters, the type checker and the tests'
	@echo 'make site    build the documentation in build/site; a broken link is an error'
	@echo 'make soak    the long versions of the property tests; installs from the package index, in gigabytes'
	@echo 'make clean   remove $(VENV) and build leftovers'

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(not (3, 11) <= v[:2] <= (3, 14) and f"eintune needs Python 3.11 to 3.14, but $(PYTHON) is {v[0]}.{v[1]}: set PYTHON=…")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(if $(AT_HAND),$(BIN)/python -m pip install --quiet --no-index --no-deps torch 2>/dev/null && $(BIN)/python -m pip install --quiet 'triton==3.6.*' || true)
	$(BIN)/python -m pip install --quiet --editable '.[tune,dev,docs]'
	@touch $@

install: $(STAMP)

tune: $(STAMP)
	$(BIN)/tune $(TUNE)

test: lint types unit

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

unit: $(STAMP)
	$(BIN)/pytest -n 2 -m 'not soak' --durations=15

site: $(STAMP)
	$(BIN)/python -m sphinx -W --keep-going -q docs build/site
	@echo 'build/site/index.html'

soak: $(STAMP)
	$(BIN)/pytest -m soak

clean:
	rm -rf $(VENV) build dist *.egg-info src/*.egg-info
