# `make` lists what there is. PYTHON chooses the interpreter for .venv: make env PYTHON=python3.12
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help env repro app screenshots test lint crossval ablate label-audit pretrained repro-check kill-fetch bench-batch bench-data bench-training lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

env: $(VENV)/.installed  ## create .venv from the pinned lock file (about 2.7 GB)

# Stamped only once all is in, so that an interrupted installation is taken up again.
$(VENV)/.installed: requirements.lock
ifdef UV
	test -x $(BIN)/python || $(UV) venv --python $(PYTHON) $(VENV)
	$(UV) pip install --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock
else
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --require-hashes -r requirements.lock
endif
	touch $@

# In the Makefile's environment plain `python` and `dvc` are those of .venv, also for DVC's stages.
repro: export PATH := $(CURDIR)/$(BIN):$(PATH)
repro: env  ## run the pipeline on the synthetic sample, or on what params.yaml names
	dvc repro
	@python -m experiments.where_to_look

app: export PATH := $(CURDIR)/$(BIN):$(PATH)
app: env  ## serve the newest model bundle as a web page on this machine
	python -m app

screenshots: export PATH := $(CURDIR)/$(BIN):$(PATH)
screenshots: env  ## take the README's picture of the app (needs chromium)
	python -m experiments.screenshots

test: export PATH := $(CURDIR)/$(BIN):$(PATH)
test: env  ## run the whole test suite
	pytest

lint: export PATH := $(CURDIR)/$(BIN):$(PATH)
lint: env  ## check style, format and types
	ruff check .
	ruff format --check .
	mypy malaria stages experiments benchmarks app

crossval: export PATH := $(CURDIR)/$(BIN):$(PATH)
crossval: env  ## cross-validate by patient, a DVC experiment a fold; OPTIONS='--engine dask --workers 2'
	python -m experiments.crossval $(OPTIONS)

ablate: export PATH := $(CURDIR)/$(BIN):$(PATH)
ablate: env  ## change one thing of the recipe at a time, and cross-validate each change
	dvc repro pack
	python -m experiments.ablate $(OPTIONS)

label-audit: export PATH := $(CURDIR)/$(BIN):$(PATH)
label-audit: env  ## after crossval: rank every label by how likely it is wrong
	python -m experiments.label_audit

pretrained: export PATH := $(CURDIR)/$(BIN):$(PATH)
pretrained: env  ## after crossval: train on every patient, into models/pretrained
	dvc repro pack
	python -m experiments.pretrained

repro-check: export PATH := $(CURDIR)/$(BIN):$(PATH)
repro-check: env  ## run twice in fresh clones and compare every output's hash
	python -m experiments.repro_check

kill-fetch: export PATH := $(CURDIR)/$(BIN):$(PATH)
kill-fetch: env  ## kill the fetch 50 times and check what the next run leaves
	python -m experiments.kill_fetch

bench-batch: export PATH := $(CURDIR)/$(BIN):$(PATH)
bench-batch: env  ## count rows and time predict's engine, with workers and drivers killed on the way
	python -m benchmarks.batch

bench-data: export PATH := $(CURDIR)/$(BIN):$(PATH)
bench-data: env  ## time fetch, audit, split and pack on a set of the real size
	python -m benchmarks.data

bench-training: export PATH := $(CURDIR)/$(BIN):$(PATH)
bench-training: env  ## time the original's way of training against ours, to the same mark
	dvc repro pack split
	python -m benchmarks.training

lock:  ## resolve pyproject.toml into requirements.lock (needs uv)
	uv pip compile --universal --python-version 3.11 --all-extras --generate-hashes --no-annotate --no-header \
		--no-emit-index-url --no-emit-find-links pyproject.toml -o requirements.lock

clean:  ## remove what the pipeline and the tools made; .venv and DVC's cache stay
	rm -rf data/raw data/packed data/cells.csv data/splits.csv models/model.keras models/malaria-cells
	rm -rf .running reports/train reports/plots reports/predictions.csv reports/audit.html
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
	find data models reports -name '.*.part*' -prune -exec rm -rf {} +
