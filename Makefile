# The two commands of the README are `make demo` and `make test`; `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip -qq --disable-pip-version-check
PACKAGES := dslm wire trainer_agent server dashboard migrations evenkeel
SCRIPTS := dashboard/assets/js tests/dashboard/js
DEMO_ARGS ?=
TEST_ARGS ?=

export OMP_NUM_THREADS ?= 1

.PHONY: help demo test check check-js format wheels docs bench bench-theory bench-agent bench-alerts bench-harmless bench-faults bench-repair bench-page docs-theory clean
.DEFAULT_GOAL := help

help:  ## list the commands
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "evenkeel needs Python 3.11 or newer; set PYTHON=/path/to/python3"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-demo: $(BIN)/python pyproject.toml packaging/agent/pyproject.toml constraints.txt
	@echo "Installing evenkeel into $(VENV) (once)"
	@$(PIP) install -c constraints.txt torch==2.13.0
	@$(PIP) install -c constraints.txt -e './packaging/agent[torch]' -e '.[export,notify]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-demo
	@echo "Installing the development tools into $(VENV) (once)"
	@$(PIP) install -c constraints.txt -e ./packaging/agent -e '.[dev]'
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed-dev
	@$(PIP) install -c constraints.txt -e ./packaging/agent -e '.[bench]'
	@touch $@

demo: $(VENV)/.installed-demo  ## train three transformers and open the live dashboard
	@$(BIN)/evenkeel demo $(DEMO_ARGS)

test: $(VENV)/.installed-dev  ## install what the tests need and run them all
	@.ci/system-packages
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(TEST_ARGS)

node_modules/.installed: package.json package-lock.json
	@.ci/system-packages node npm
	@echo "Installing the scripts' tools into node_modules (once)"
	@npm ci --silent --no-audit --no-fund
	@touch $@

check: $(VENV)/.installed-dev check-js  ## format, lint, types, imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check-js: node_modules/.installed  ## format, lint and types of the pages' scripts
	node_modules/.bin/biome ci --error-on-warnings $(SCRIPTS)
	node_modules/.bin/tsc

format: $(VENV)/.installed-dev node_modules/.installed  ## rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	node_modules/.bin/biome check --write $(SCRIPTS)
	$(BIN)/python docs/list_files.py

wheels: $(VENV)/.installed-dev  ## build both distributions into dist/
	rm -rf build/lib build/bdist.* packaging/agent/build dist
	$(BIN)/pip wheel -q --no-deps --no-build-isolation -w dist ./packaging/agent .
	@ls dist

docs: $(VENV)/.installed-dev  ## build the documentation site into build/docs; a broken link fails
	$(BIN)/python -m sphinx -q -W --keep-going -b html -d build/doctrees docs build/docs
	@echo "build/docs/index.html"

bench-theory: $(VENV)/.installed-dev  ## prediction against measurement, and what it costs
	$(BIN)/python -m benchmarks.components
	$(BIN)/python -m benchmarks.theory
	$(BIN)/python -m benchmarks.theory --families
	$(BIN)/python -m benchmarks.theory --deep
	$(BIN)/python -m benchmarks.theory --extremes
	$(BIN)/python -m benchmarks.theory --trained
	$(BIN)/python -m benchmarks.theory --absolute
	$(BIN)/python -m benchmarks.attribution
	$(BIN)/python -m benchmarks.innovations
	$(BIN)/python -m benchmarks.theory_cost

docs-theory: $(VENV)/.installed-dev  ## draw the figures of docs/theory.md again, and print their errors
	$(BIN)/python -m benchmarks.theory_figures

bench-agent: $(VENV)/.installed-bench  ## what the agent costs a training step, beside hooks and wandb.watch
	$(BIN)/python -m benchmarks.agent
	$(BIN)/python -m benchmarks.agent --long 2000
	$(BIN)/python -m benchmarks.agent --all-sites --batch 4 --context 128
	$(BIN)/python -m benchmarks.cuda_kernel
	$(BIN)/python -m benchmarks.agent --device cuda --layers 24 --width 1024 --batch 16 --context 1024

bench-alerts: $(VENV)/.installed-dev  ## what the alert rules say of a corpus of runs, beside other tools' rules
	$(BIN)/python -m benchmarks.alerts

bench-harmless: $(VENV)/.installed-dev  ## 10,000 random training jobs, with and without the agent
	$(BIN)/python -m benchmarks.harmless 10000

bench-repair: $(VENV)/.installed-dev  ## which repair helps which kind of model
	$(BIN)/python -m benchmarks.repair

bench-faults: $(VENV)/.installed-dev  ## random schedules of faults: nothing acknowledged is lost
	$(BIN)/python -m benchmarks.fault_schedules

bench-page: $(VENV)/.installed-dev  ## page load and live updates in headless Chromium
	@.ci/system-packages
	$(BIN)/python -m benchmarks.page

bench: bench-theory bench-agent bench-page  ## every benchmark
	$(BIN)/python -m benchmarks.ingest
	$(BIN)/python -m benchmarks.judging
	$(BIN)/python -m benchmarks.live

clean:  ## remove the virtual environment and the demo's data
	rm -rf $(VENV) node_modules .evenkeel
