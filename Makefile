# Everything sets itself up: a virtual environment with pinned packages, and the real models, checked by digest.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
READY := .venv/installed
BENCH ?=
FUZZ ?= 20000
GUIDED ?= 300
READERS := configurations configurations_of_transformers side_files safetensors indices pickles gguf hdf5 adapters \
	patterns settings_for_clients calibrations
JOBS ?= 2
TOOLS := build/tools
NEXT := .venv/transformers-5.25
NEXT_TESTS := tests/conformance/test_matrix_sample.py tests/unit/test_forward.py tests/unit/test_grids.py \
	tests/unit/test_states.py tests/integration/test_runtime.py tests/policy/test_patches.py
TIMED = trap 'echo "make $@ took $$((SECONDS / 60)) min $$((SECONDS % 60)) s"' EXIT;

.PHONY: help demo test lint types format fuzz fuzz-guided bench clients conformance real-models lock sbom

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/'

demo: $(READY) ## export all-MiniLM-L6-v2, validate it, compare sentences with it
	$(BIN)/python scripts/fetch_real_models.py minilm
	$(BIN)/python scripts/demo.py

test: $(READY) real-models $(NEXT) ## run the tests, and a sample with the next Transformers (their time is in CONTRIBUTING.md)
	@$(TIMED) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal; \
	PYTHONPATH=$(NEXT) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(NEXT_TESTS)

lint: $(READY) ## check style and formatting
	@$(TIMED) $(BIN)/ruff check .; $(BIN)/ruff format --check .

types: $(READY) ## check types
	@$(TIMED) $(BIN)/mypy

format: $(READY) ## fix style and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

fuzz: $(READY) ## read files that differ from valid ones, FUZZ of each kind (an hour; FUZZ=100000)
	@$(TIMED) FUZZ_EXAMPLES=$(FUZZ) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal --timeout 0 tests/fuzz

fuzz-guided: $(READY) ## the same, guided by the code that an input reaches (atheris): GUIDED seconds for each reader
	$(PIP) atheris
	mkdir -p build
	@for reader in $(READERS); do \
		$(BIN)/python -m tests.fuzz.guided test_$$reader -max_total_time=$(GUIDED) -artifact_prefix=build/; \
	done

bench: $(READY) ## measure time and memory of exports, beside other exporters (hours; BENCH="--rows a,b")
	$(BIN)/python -m benchmarks measure $(BENCH)

clients: $(READY) real-models ## try other software with exported directories, and write docs/clients.md (5 minutes; needs Node and Chromium)
	@$(TIMED) $(BIN)/python -m clients

conformance: $(READY) ## compare all stamped graphs, export all 265 pairs of 4.37.2 and all of today's (hours)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m wide
	$(BIN)/python -m conformance run --jobs 2
	$(BIN)/python -m conformance matrix --jobs 2

real-models: $(READY) ## fetch the trained models that tests use
	$(BIN)/python scripts/fetch_real_models.py

$(NEXT): $(READY)
	$(PIP) --no-deps --upgrade --target $@ transformers==5.25.0
	touch $@

lock: $(TOOLS) ## write requirements.lock, the digests of the packages in constraints.txt (not torch: it has a build per device)
	$(TOOLS)/bin/uv pip compile --quiet --generate-hashes --no-deps --no-header --no-annotate --no-emit-package torch \
		constraints.txt --output-file requirements.lock

sbom: $(READY) $(TOOLS) ## write build/sbom.json, a software bill of materials (CycloneDX) of the installed packages
	$(TOOLS)/bin/cyclonedx-py environment .venv --pyproject pyproject.toml --output-reproducible --output-file build/sbom.json

$(TOOLS):
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet --disable-pip-version-check uv cyclonedx-bom

$(READY): pyproject.toml constraints.txt requirements.lock
	$(PYTHON) -m venv .venv
	$(PIP) --require-hashes --no-deps --requirement requirements.lock
	$(PIP) --constraint constraints.txt --editable '.[dev]'
	touch $@
