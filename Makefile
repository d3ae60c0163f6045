# Everything sets itself up: a virtual environment with pinned packages, and the real models, checked by digest.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/installed
BENCH ?=

.PHONY: help demo test lint types format bench conformance real-models

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/'

demo: $(READY) ## export all-MiniLM-L6-v2, prove it, compare sentences with it
	$(BIN)/python scripts/fetch_real_models.py minilm
	$(BIN)/python scripts/demo.py

test: $(READY) real-models ## run every test
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(READY) ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## check types
	$(BIN)/mypy

format: $(READY) ## put style and formatting right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) ## measure time and memory of exports, beside other exporters (hours; BENCH="--rows a,b")
	$(BIN)/python -m benchmarks measure $(BENCH)

conformance: $(READY) ## export all 265 pairs of 4.37.2, then all that today's Auto classes reach (hours)
	$(BIN)/python -m conformance run --jobs 2
	$(BIN)/python -m conformance matrix --jobs 2

real-models: $(READY) ## fetch the trained models that tests use
	$(BIN)/python scripts/fetch_real_models.py

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@
