# `make tune` and `make test` do all the set-up themselves, on a fresh machine too.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# With an NVIDIA GPU, PyTorch brings the Triton it was built for; without one the constraints give a CPU set-up.
CONSTRAINTS := $(if $(shell command -v nvidia-smi 2>/dev/null),,-c constraints-cpu.txt)
STAMP := $(VENV)/.installed
TUNE ?= --seq 2048 --heads 32

.PHONY: help install tune test lint types unit soak clean

help:
	@echo 'make tune    set up $(VENV) and run: tune $(TUNE)'
	@echo 'make test    set up $(VENV) and run the linters, the type checker and the tests'
	@echo 'make soak    the long versions of the property tests'
	@echo 'make clean   remove $(VENV) and build leftovers'

$(STAMP): pyproject.toml constraints-cpu.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(not (3, 11) <= v[:2] <= (3, 13) and f"eintune needs Python 3.11 to 3.13, but $(PYTHON) is {v[0]}.{v[1]}: set PYTHON=…")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(CONSTRAINTS) --editable '.[dev]'
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

soak: $(STAMP)
	$(BIN)/pytest -m soak

clean:
	rm -rf $(VENV) build dist *.egg-info src/*.egg-info
