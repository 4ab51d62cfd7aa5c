# `make` lists what there is. PYTHON chooses the interpreter for .venv: make env PYTHON=python3.12
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help env repro app screenshots test lint crossval label-audit compare pretrained ood repro-check kill-fetch bench-data lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

env: $(VENV)/.installed  ## create .venv from the pinned lock file (about 2.7 GB)

# Stamped only once all is in, so that an interrupted installation is taken up again.
$(VENV)/.installed: requirements.lock
ifdef UV
	test -x $(BIN)/python || $(UV) venv --python $(PYTHON) $(VENV)
	$(UV) pip install --python $(BIN)/python --require-hashes -r requirements.lock
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
crossval: env  ## cross-validate by patient, a DVC experiment a fold
	python -m experiments.crossval

label-audit: export PATH := $(CURDIR)/$(BIN):$(PATH)
label-audit: env  ## after crossval: rank every label by how likely it is wrong
	python -m experiments.label_audit

pretrained: export PATH := $(CURDIR)/$(BIN):$(PATH)
pretrained: env  ## after crossval: train on every patient, into models/pretrained
	dvc repro pack
	python -m experiments.pretrained

compare: export PATH := $(CURDIR)/$(BIN):$(PATH)
compare: env  ## after crossval: against another model's predictions, OTHER=file.csv
	python -m experiments.compare $(OTHER)

ood: export PATH := $(CURDIR)/$(BIN):$(PATH)
ood: env  ## give the bundle pictures that are no cell, and count what it turns away
	python -m experiments.ood

repro-check: export PATH := $(CURDIR)/$(BIN):$(PATH)
repro-check: env  ## run twice in fresh clones and compare every output's hash
	python -m experiments.repro_check

kill-fetch: export PATH := $(CURDIR)/$(BIN):$(PATH)
kill-fetch: env  ## kill the fetch 50 times and check what the next run leaves
	python -m experiments.kill_fetch

bench-data: export PATH := $(CURDIR)/$(BIN):$(PATH)
bench-data: env  ## time fetch, audit, split and pack on a set of the real size
	python -m benchmarks.data

lock:  ## resolve pyproject.toml into requirements.lock (needs uv)
	uv pip compile --universal --python-version 3.11 --all-extras --generate-hashes --no-annotate --no-header \
		--no-emit-index-url --no-emit-find-links pyproject.toml -o requirements.lock

clean:  ## remove what the pipeline and the tools made; .venv and DVC's cache stay
	rm -rf data/raw data/packed data/cells.csv data/splits.csv models/model.keras models/malaria-cells
	rm -rf reports/train reports/plots reports/predictions.csv reports/audit.html
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
	find data models reports -name '.*.part*' -prune -exec rm -rf {} +
